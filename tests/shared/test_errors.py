"""The tree of errors is what its drawing says."""

import re

import pytest

from torchrelay.shared import errors


def drawn() -> dict[str, tuple[int, str]]:
    rows = re.findall(r"── (\w+)\s+(\d{3}) (\w+)$", errors.__doc__ or "", re.MULTILINE)
    return {name: (int(status), kind) for name, status, kind in rows}


def test_the_drawing_and_the_classes_agree() -> None:
    assert drawn() == {name: (cls.status, cls.type) for name, cls in errors.BY_NAME.items()}


@pytest.mark.parametrize("cls", errors.BY_NAME.values())
def test_our_faults_are_never_4xx_and_theirs_never_5xx(cls: type[errors.RelayError]) -> None:
    assert (cls.blame == "caller") == (cls.status < 500)


@pytest.mark.parametrize("name", errors.BY_NAME)
def test_an_error_survives_the_wire(name: str) -> None:
    error = errors.rebuild(name, "what", "why")
    assert (error.name, error.message, error.details, str(error)) == (name, "what", "why", "what (why)")


def test_an_error_of_a_newer_peer_is_still_an_error() -> None:
    assert errors.rebuild("FromTheFuture", "what").status == 500


def test_when_to_try_again_survives_the_way_between_processes() -> None:
    error = errors.ServiceUnavailable("busy", retry_after_s=7)
    assert errors.rebuild(error.name, error.message, "", error.retry_after_s).retry_after_s == 7
    assert errors.rebuild("ServiceUnavailable", "busy").retry_after_s == 1
