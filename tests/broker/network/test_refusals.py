"""Lines about those that are refused: few, however many come."""

import logging

import pytest

from torchrelay.broker.network import refusals


def test_what_is_logged_is_bounded_by_key_and_by_time(caplog: pytest.LogCaptureFixture) -> None:
    lines = refusals.Refusals()
    caplog.set_level(logging.WARNING)
    for at in (0.0, 1.0, 59.0, 60.0):
        lines.log("ab" * 32, "127.0.0.1", "why", at)
    assert len(caplog.records) == 2
    caplog.clear()
    lines = refusals.Refusals()
    for number in range(refusals.KEYS_LIMIT + 100):
        lines.log(f"{number:064x}", "127.0.0.1", "why", 100.0)
    assert len(caplog.records) == refusals.KEYS_LIMIT + 1
