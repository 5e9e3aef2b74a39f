"""Sends the same requests to two servers, from files or as they come to a recording proxy.

Requests that change something go to the new server only where that is wanted; from a file to neither.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from torchrelay.cli.migrate.answer_differences import ServerAnswer
from torchrelay.cli.migrate.asked_server import AskedServer
from torchrelay.cli.migrate.recording_proxy import RecordingProxy
from torchrelay.cli.migrate.replayed_request import ReplayedRequest, write_line
from torchrelay.cli.migrate.request_files import FILE_LIMIT_BYTES, Item, LeftOut
from torchrelay.cli.migrate.side_by_side import SideBySide
from torchrelay.shared import private_files

#: What waits to be replayed; the new server may be slower than the old one.
WAITING_LIMIT = 1000
WAITING_LIMIT_BYTES = 256 << 20
#: Requests that are replayed at the same time where none of them changes anything; else their order counts.
REPLAYS = 8
#: How long replays may take to end once nothing more is recorded.
DRAIN_S = 10.0
CHANGES = "it changes something: say --changes to send it"

Watch = Callable[[str], None]


def send_all(
    items: Iterable[Item],
    old: AskedServer,
    new: AskedServer,
    into: SideBySide,
    *,
    changes: bool,
    watch: Watch,
) -> None:
    """Send requests to both, one after the other, the first one to each in turn."""
    for number, item in enumerate(items, start=1):
        if isinstance(item, LeftOut):
            into.leave_out(item)
            continue
        if item.changes_something and not changes:
            into.leave_out(LeftOut(f"{item.source}: {item.label}", CHANGES))
            continue
        watch(f"{number}: {item.label}")
        if number % 2:
            before, after = old.ask(item), new.ask(item)
        else:  # whoever is asked second finds caches warm
            after, before = new.ask(item), old.ask(item)
        into.add(item, before, after)


class Recorder:
    """Keeps what a proxy records, and replays it to the new server by threads of its own."""

    def __init__(
        self, new: AskedServer, into: SideBySide, *, changes: bool, save: Path | None = None
    ) -> None:
        self._new = new
        self._into = into
        self._changes = changes
        self._lock = threading.Condition()
        self._waiting: deque[tuple[ReplayedRequest, ServerAnswer]] = deque()
        self._waiting_bytes = 0
        self._running = 0
        self._saved_bytes = 0
        self._is_closed = False
        # Closed by `close`; bodies are the clients' own affair.
        self._file = open(save, "xb", opener=private_files.opener) if save else None  # noqa: SIM115
        self._threads = [
            threading.Thread(target=self._replay, daemon=True) for _ in range(1 if changes else REPLAYS)
        ]
        for thread in self._threads:
            thread.start()

    def record(self, request: ReplayedRequest, answer: ServerAnswer | None) -> None:
        """Take a request and the old server's answer."""
        with self._lock:
            reason = self._why_not(request, answer)
            if answer is not None:
                self._save(request)
            if reason or answer is None:
                self._into.leave_out(LeftOut(request.label, reason))
                return
            self._waiting.append((request, answer))
            self._waiting_bytes += _size(request, answer)
            self._lock.notify()

    def summary(self) -> str:
        """Say in a line how far it is."""
        with self._lock:
            return f"{self._into.summary()}, {len(self._waiting) + self._running} waiting"

    def close(self) -> None:
        """Replay what waits, within a while, and end."""
        with self._lock:
            self._lock.wait_for(lambda: not self._waiting and not self._running, timeout=DRAIN_S)
            self._is_closed = True
            for request, _ in self._waiting:
                self._into.leave_out(LeftOut(request.label, "the end came first"))
            self._waiting.clear()
            self._lock.notify_all()
            if self._file:
                self._file.close()

    def _why_not(self, request: ReplayedRequest, answer: ServerAnswer | None) -> str:
        if answer is None:
            return "its body is larger than --body-limit"
        if request.changes_something and not self._changes:
            return CHANGES
        is_full = len(self._waiting) >= WAITING_LIMIT
        if is_full or self._waiting_bytes + _size(request, answer) > WAITING_LIMIT_BYTES:
            return "the new server is behind, and too many wait already"
        return ""

    def _save(self, request: ReplayedRequest) -> None:
        if self._file is None or self._saved_bytes > FILE_LIMIT_BYTES:
            return
        self._saved_bytes += self._file.write(write_line(request))
        self._file.flush()

    def _replay(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
                request, old = self._waiting.popleft()
                self._running += 1
            new = self._new.ask(request)
            found = self._into.compare(request, old, new)
            with self._lock:
                self._running -= 1
                self._waiting_bytes -= _size(request, old)
                if not self._is_closed:
                    self._into.count(request, old, new, found)
                self._lock.notify_all()


def record(proxy: RecordingProxy, recorder: Recorder, wait: Callable[[], bool], watch: Watch) -> None:
    """Run a proxy until `wait`, which returns whether to go on, says no or Ctrl-C comes."""
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        while wait():
            watch(recorder.summary())
    except KeyboardInterrupt:
        pass
    finally:
        proxy.shutdown()
        proxy.server_close()
        recorder.close()


def _size(request: ReplayedRequest, answer: ServerAnswer) -> int:
    return len(request.body) + len(answer.body)
