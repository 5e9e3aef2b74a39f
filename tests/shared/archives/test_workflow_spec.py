"""Specs of workflows: what they say, what is refused and why, and which steps can follow one another."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared.archives import workflow_spec
from torchrelay.shared.archives.workflow_spec import check, dag_text, parse
from torchrelay.shared.errors import InvalidDag, InvalidWorkflow

MODELS = "models:\n  m: {url: m.mar}\n"


def test_what_is_said_for_all_models_counts_where_one_says_nothing() -> None:
    spec = parse(
        b"models:\n  min-workers: 2\n  max-workers: 4\n  batch-size: 8\n  retry-attempts: 3\n"
        b"  a: {url: a.mar, batch-size: 1}\n  b: {url: b.mar, timeout-ms: 5}\ndag:\n  a: [b]\n"
    )
    a, b = (step.settings for step in spec.steps)
    assert (a.min_workers, a.max_workers, a.batch_size, a.retry_attempts, a.timeout_ms) == (2, 4, 1, 3, 10000)
    assert (b.batch_size, b.timeout_ms, b.max_batch_delay_ms) == (8, 5, 50)


def test_a_function_has_one_worker_and_the_tries_and_the_time_of_all() -> None:
    (step,) = (
        one for one in parse(b"models:\n  min-workers: 3\n  retry-attempts: 2\n  timeout-ms: 7\n"
                             b"  m: {url: m.mar}\ndag: {m: [f]}").steps if one.is_function
    )  # fmt: skip
    settings = step.settings
    assert (step.name, step.url, settings.min_workers, settings.max_workers) == ("f", "", 1, 1)
    assert (settings.batch_size, settings.max_batch_delay_ms) == (1, 0)
    assert (settings.retry_attempts, settings.timeout_ms) == (2, 7)


def test_models_that_no_step_names_are_left_out() -> None:
    spec = parse(b"models:\n  m: {url: m.mar}\n  other: {url: other.mar}\ndag: {m: }\n")
    assert [step.name for step in spec.steps] == ["m"]
    assert spec.dag == (("m", ()),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [\n", "Failed to parse yaml."),
        ("- a", "Failed to parse yaml."),
        ("models: !!python/object/apply:os.system [id]\ndag: {m: []}", "Failed to parse yaml."),
        ("models:\n  m: {url: a.mar}\n  m: {url: b.mar}\ndag: {m: []}", "Failed to parse yaml."),
        (MODELS + "dag:\n  m: []\n  m: [f]\n", "Failed to parse yaml."),
        ("&a [*a]", "Failed to parse yaml."),
        ("", "The workflow's spec has no models."),
        ("dag: {a: [b]}", "The workflow's spec has no models."),
        (MODELS, "The workflow's spec has no dag."),
        (MODELS + "dag: []", "The workflow's spec has no dag."),
        (MODELS + "dag: {m: f}", "What follows m in the dag must be a list of steps."),
        (MODELS + "dag: {m: [{a: b}]}", "A step's name must be a text"),
        (MODELS + "dag: {1: [m]}", "A step's name must be a text"),
        (MODELS + "dag: {a/b: [m]}", "can't have a slash"),
        (MODELS + "dag: {m: ['" + "n" * 101 + "']}", "A step's name must be a text"),
        ("models: {m: {url: 5}}\ndag: {m: []}", "The url of m is no text."),
        ("models: {min-workers: x, m: {url: m.mar}}\ndag: {m: []}", "min-workers of models must be"),
        ("models: {m: {url: m.mar, batch-size: 0}}\ndag: {m: []}", "batch-size of m must be"),
        ("models: {m: {url: m.mar, batch-size: true}}\ndag: {m: []}", "batch-size of m must be"),
        ("models: {m: {url: m.mar, retry-attempts: 101}}\ndag: {m: []}", "from 0 to 100"),
        ("models: {m: {url: m.mar, min-workers: 2, max-workers: 1}}\ndag: {m: []}", "less than"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InvalidWorkflow) as refused:
        parse(text.encode())
    assert said in refused.value.message


def test_a_spec_with_more_steps_than_there_may_be_is_refused() -> None:
    names = ", ".join(f"f{number}" for number in range(workflow_spec.STEPS_LIMIT))
    parse(f"{MODELS}dag: {{m: [{names[: names.rindex(',')]}]}}".encode())
    with pytest.raises(InvalidWorkflow, match="the limit is 64"):
        parse(f"{MODELS}dag: {{m: [{names}]}}".encode())


@pytest.mark.parametrize(
    ("dag", "said"),
    [
        ({"a": ("a",)}, "Self loop exception"),
        ({"a": ("b", "b")}, "loop exception"),
        ({"a": ("c",), "b": ("c",)}, "DAG should have only one start node"),
        ({"a": ("b",), "b": ("a",)}, "DAG should have only one start node"),
        ({"s": ("a",), "a": ("b",), "b": ("a",)}, "Not a valid DAG"),
    ],
)
def test_steps_that_can_not_follow_one_another_are_refused_in_torchserves_words(
    dag: dict[str, tuple[str, ...]], said: str
) -> None:
    with pytest.raises(InvalidDag) as refused:
        check(tuple(dag.items()))
    assert (refused.value.message, refused.value.status) == (said, 400)


NAMES = st.sampled_from("abcdef")
DAGS = st.dictionaries(NAMES, st.lists(NAMES, max_size=4).map(tuple), min_size=1, max_size=6)


@given(DAGS)
def test_what_is_let_in_has_an_order_from_one_first_step_to_all_others(
    dag: dict[str, tuple[str, ...]],
) -> None:
    before = workflow_spec.predecessors(tuple(dag.items()))
    done: set[str] = set()
    for _ in before:
        done |= {name for name, names in before.items() if set(names) <= done}
    firsts = [name for name, names in before.items() if not names]
    repeats = any(len(set(names)) < len(names) for names in dag.values())
    is_good = done == before.keys() and len(firsts) == 1 and not repeats
    try:
        check(tuple(dag.items()))
    except InvalidDag:
        assert not is_good
    else:
        assert is_good


@given(
    st.binary(max_size=200) | st.text(alphabet="models:dag[]{}&*!-\n ab,'\"1", max_size=80).map(str.encode)
)
def test_any_bytes_are_a_spec_or_refused(content: bytes) -> None:
    with contextlib.suppress(InvalidWorkflow, InvalidDag):
        parse(content)


def test_a_dag_is_written_as_java_writes_maps() -> None:
    assert dag_text((("pre", ("m1", "m2")), ("m1", ()))) == "{pre=[m1, m2], m1=[]}"
