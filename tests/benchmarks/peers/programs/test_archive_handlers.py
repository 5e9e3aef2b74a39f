import sys
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.peers.programs import served_models
from tests.benchmarks.peers.programs.conftest import Load


def test_rows_of_numbers_are_answered_whether_or_not_the_server_has_parsed_them(load: Load) -> None:
    handlers = load("archive_handlers")
    numbers = [0.5] * served_models.FEATURES
    parsed, text = handlers.perceptron([{"body": numbers}, {"body": str(numbers).encode()}], None)
    assert parsed == pytest.approx(text)
    assert handlers.perceptron(None, None) == []


def test_a_stream_sends_all_parts_but_the_last_and_returns_that(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def send(parts: list[str], ids: Any, message: str, code: int, context: Any) -> None:
        sent.extend(parts)

    given = SimpleNamespace(send_intermediate_predict_response=send)
    monkeypatch.setitem(sys.modules, "ts.handler_utils.utils", given)
    handlers = load("archive_handlers")
    last = handlers.stream([{"body": b"why"}], SimpleNamespace(request_ids={0: "x"}))
    assert [*sent, *last] == list(served_models.parts("why"))
    assert handlers.stream(None, None) == []
