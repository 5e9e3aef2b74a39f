"""Prints the line that repeats a failing simulation; pytest shows it with the failure."""

import pytest


@pytest.fixture(autouse=True)
def _show_how_to_repeat(request: pytest.FixtureRequest) -> None:
    print(f"to repeat: .venv/bin/pytest '{request.node.nodeid}'")  # noqa: T201
