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
    for number in range(refusals.NAMES_LIMIT + 100):
        lines.log(f"{number:064x}", "127.0.0.1", "why", 100.0)
    assert len(caplog.records) == refusals.NAMES_LIMIT + 1


def test_an_address_is_told_once_whatever_its_connections_fail_for(caplog: pytest.LogCaptureFixture) -> None:
    lines = refusals.Refusals()
    caplog.set_level(logging.WARNING)
    lines.log("ab" * 32, "10.0.0.1", "its key is unknown", 0.0)
    lines.log_failed_handshake("10.0.0.1", 1.0)  # the connection of that key
    for at in (1.0, 2.0, 60.9, 61.0):
        lines.log_failed_handshake("10.0.0.2", at)
    told = [(record.__dict__["address"], record.__dict__["reason"]) for record in caplog.records]
    assert told == [("10.0.0.1", "its key is unknown"), *[("10.0.0.2", refusals.WHY_FAILED)] * 2]
