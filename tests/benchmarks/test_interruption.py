import signal

import pytest

from benchmarks import interruption


def test_whoever_interrupts_twice_does_not_keep_servers_from_being_stopped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        interruption.interrupt_by_signals()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert [signal.getsignal(number) for number in handlers] == [signal.SIG_IGN] * 2
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert "Stopping all servers" in capsys.readouterr().err
