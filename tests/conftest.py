"""Undoes what whoever starts the tests has passed on to all that they start, and says what comes first."""

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.installation import GRPC, PRELOAD


def _pass_none_on(number: int) -> None:
    """Go on ignoring a signal, but have what is started here begin with its default."""
    if signal.getsignal(number) is signal.SIG_IGN:
        # A handler doesn't outlive an exec; that a signal is ignored does.
        signal.signal(number, lambda *_: None)


def pytest_configure() -> None:
    # Shells ignore the one in what they start in the background, nohup the other.
    _pass_none_on(signal.SIGINT)
    _pass_none_on(signal.SIGHUP)
    # How long an example takes says how busy the machine is.
    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")
    # PERF: torch takes 1.3 of the 3.3 s of cpu that a server takes to start. Few handlers of tests need it;
    # tests that do, and those of `serve` as users have it, ask for `preloaded_torch`.
    os.environ.setdefault(PRELOAD, "none")
    # PERF: a process of its own, which takes 0.3 s to start: those that are about gRPC ask for it.
    os.environ.setdefault(GRPC, "no")
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


@pytest.fixture(scope="module")
def preloaded_torch() -> Iterator[None]:
    """Let workers of what a module starts share torch, as they do unless told otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(PRELOAD)
        yield
