"""Undoes what whoever starts the tests has passed on to all that they start, and says what comes first."""

import gc
import signal
from collections import Counter

import pytest


def _pass_none_on(number: int) -> None:
    """Go on ignoring a signal, but have what is started here begin with its default."""
    if signal.getsignal(number) is signal.SIG_IGN:
        # A handler doesn't outlive an exec; that a signal is ignored does.
        signal.signal(number, lambda *_: None)


def pytest_configure() -> None:
    # Shells ignore the one in what they start in the background, nohup the other.
    _pass_none_on(signal.SIGINT)
    _pass_none_on(signal.SIGHUP)
    # PERF: what is imported and collected stays. Looking for garbage in it took a third of that time.
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)  # of those that were chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that start most processes, where several are run at a time.

    A file goes to one of them. Those of a few quick tests come last, so that none waits long for another.
    """
    if hasattr(config, "workerinput"):
        starts = Counter(item.path for item in items if item.get_closest_marker("integration"))
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (-starts[item.path], -tests[item.path]))
