"""Undoes what whoever starts the tests has passed on to them and to all that they start."""

import signal


def _pass_none_on(number: int) -> None:
    """Go on ignoring a signal, but have what is started here begin with its default."""
    if signal.getsignal(number) is signal.SIG_IGN:
        # A handler doesn't outlive an exec; that a signal is ignored does.
        signal.signal(number, lambda *_: None)


def pytest_configure() -> None:
    # Shells ignore the one in what they start in the background, nohup the other.
    _pass_none_on(signal.SIGINT)
    _pass_none_on(signal.SIGHUP)
