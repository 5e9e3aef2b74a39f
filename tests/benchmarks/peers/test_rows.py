import json

import pytest

from benchmarks.peers import rows
from benchmarks.peers.__main__ import EXTRA_S
from benchmarks.peers.programs import served_models
from benchmarks.peers.rows import LOOP, OURS, PLAN, QUICK_PLAN, QUICK_ROWS, ROWS, chosen, items
from benchmarks.results import RunPlan


def test_each_row_has_a_name_of_its_own_and_ours_takes_part() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)
    assert all(row.takes_part[0] == OURS for row in ROWS)
    assert {row.model for row in ROWS if LOOP in row.takes_part} == {"encoder", "layers"}


def test_the_queue_holds_every_client_so_that_nothing_is_refused() -> None:
    assert max(max(row.connections) for row in ROWS) < PLAN.job_queue_size


def test_rows_are_chosen_by_their_names() -> None:
    assert [row.key for row in chosen(QUICK_ROWS)] == [*QUICK_ROWS]
    assert [row.key for row in chosen(("mlp", "echo-1"))] == ["echo-1", "mlp"]


def test_a_row_is_measured_at_those_of_its_connections_that_the_plan_has() -> None:
    (row,) = chosen(["5m"])
    assert rows.connections_of(row, RunPlan(connections=(1, 64, 16))) == [1, 16]


@pytest.mark.parametrize("row", [row for row in ROWS if row.body_bytes < 1_000_000], ids=lambda row: row.key)
def test_all_questions_of_a_row_differ(row: rows.ComparisonRow) -> None:
    made = items(row, 20)
    assert len({item.question for item in made}) == 20


def test_a_body_is_as_long_as_the_row_says_and_comes_back_as_it_is() -> None:
    for row in ROWS:
        if row.model == "echo":
            (item,) = items(row, 1)
            assert len(item.question) == row.body_bytes
            assert item.answer == item.question


def test_the_right_answers_are_those_of_the_models() -> None:
    (perceptron,) = items(chosen(["mlp"])[0], 1)
    numbers = json.loads(perceptron.question)
    assert perceptron.answer == (*served_models.Perceptron().answers([numbers])[0],)
    (stream,) = items(chosen(["stream"])[0], 1)
    assert str(stream.answer).count("\n") == served_models.PARTS


def test_a_sentence_has_so_many_words() -> None:
    (item,) = items(chosen(["encoder"])[0], 1)
    assert len(item.question.split()) == rows.SENTENCE_WORDS


def test_the_published_run_and_the_quick_one_take_no_longer_than_they_should() -> None:
    assert rows.seconds_expected(ROWS, (*rows.SERVERS, LOOP), PLAN, EXTRA_S) < 30 * 60
    assert rows.seconds_expected(chosen(QUICK_ROWS), rows.SERVERS, QUICK_PLAN, EXTRA_S) < 5 * 60
