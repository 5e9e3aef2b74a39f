"""Ends a command that is told to stop before it serves; what it has made by then is removed as at any end."""

import signal
from types import FrameType


def heed() -> None:
    """Heed signals from here on, until a server does: a hangup that `nohup` has us ignore stays so."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
