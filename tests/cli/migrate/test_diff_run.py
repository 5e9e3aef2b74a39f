"""The same requests for both servers; what changes something only where it is wanted."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.migrate.small_server import Said, Sent, SmallServer, answering
from tests.support import eventually
from torchrelay.cli.migrate import asked_server, diff_run
from torchrelay.cli.migrate.answer_differences import ServerAnswer, Tolerance
from torchrelay.cli.migrate.diff_run import Recorder
from torchrelay.cli.migrate.replayed_request import ReplayedRequest, parse_line
from torchrelay.cli.migrate.request_files import Item, LeftOut
from torchrelay.cli.migrate.side_by_side import SideBySide

PREDICT = ReplayedRequest(api="inference", method="POST", path="/predictions/m", body=b"1", source="x:1")
REGISTER = ReplayedRequest(api="management", method="POST", path="/models?url=a.mar", source="x:2")


class Pair:
    """Two servers, and what they are asked by."""

    def __init__(self, stack: ExitStack, old: Callable[[Sent], Said], new: Callable[[Sent], Said]) -> None:
        self.servers: list[SmallServer] = [stack.enter_context(answering(one)) for one in (old, new)]
        self.old, self.new = (
            stack.enter_context(asked_server.asking(one.url, one.url, None, timeout_s=10.0, body_limit_mib=1))
            for one in self.servers
        )
        self.into = SideBySide("old", "new", Tolerance())
        for server in self.servers:
            server.sent.clear()  # whether it is there has been asked

    def asked_paths(self) -> list[list[str]]:
        return [[sent.path for sent in server.sent] for server in self.servers]


def same(_: Sent) -> Said:
    return Said(200, b"{}")


def test_both_get_the_same_and_differences_are_counted() -> None:
    with ExitStack() as stack:
        pair = Pair(stack, same, lambda sent: Said(200, sent.body))
        watched: list[str] = []
        items: list[Item] = [PREDICT, PREDICT, LeftOut("x:3", "why")]
        diff_run.send_all(items, pair.old, pair.new, pair.into, changes=False, watch=watched.append)
        report = pair.into.report()
        assert (report.sent, report.differing, report.left_out) == (2, 2, 1)
        assert pair.asked_paths() == [["/predictions/m"] * 2] * 2
        assert watched == ["1: POST /predictions/m", "2: POST /predictions/m"]


@pytest.mark.parametrize("changes", [False, True])
def test_what_changes_something_is_sent_only_if_it_is_wanted(changes: bool) -> None:
    with ExitStack() as stack:
        pair = Pair(stack, same, same)
        diff_run.send_all([REGISTER], pair.old, pair.new, pair.into, changes=changes, watch=lambda _: None)
        assert pair.asked_paths() == ([["/models?url=a.mar"]] * 2 if changes else [[], []])
        assert pair.into.report().left_out == (not changes)


@pytest.mark.parametrize("changes", [False, True])
def test_what_is_recorded_is_replayed_and_saved(tmp_path: Path, changes: bool) -> None:
    with ExitStack() as stack:
        pair = Pair(stack, same, lambda _: Said(500))
        recorder = Recorder(pair.new, pair.into, changes=changes, save=tmp_path / "saved")
        recorder.record(PREDICT, ServerAnswer(status=200))
        recorder.record(REGISTER, ServerAnswer(status=200))
        recorder.record(PREDICT, None)
        recorder.close()
        report = pair.into.report()
        assert (report.sent, report.differing, report.left_out) == (1 + changes, 1 + changes, 2 - changes)
        assert pair.asked_paths()[0] == []
    lines = (tmp_path / "saved").read_bytes().splitlines()
    assert [parse_line(line, "").label for line in lines] == ["POST /predictions/m", "POST /models"]
    assert (tmp_path / "saved").stat().st_mode & 0o077 == 0
    with pytest.raises(FileExistsError):
        Recorder(pair.new, pair.into, changes=changes, save=tmp_path / "saved")


def test_a_new_server_that_is_behind_holds_nobody_up_and_fills_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diff_run, "WAITING_LIMIT", 3)
    monkeypatch.setattr(diff_run, "REPLAYS", 1)
    go_on = threading.Event()

    def slow(sent: Sent) -> Said:
        assert sent.path == "/ping" or go_on.wait(10)
        return Said()

    with ExitStack() as stack:
        pair = Pair(stack, same, slow)
        recorder = Recorder(pair.new, pair.into, changes=False)
        recorder.record(PREDICT, ServerAnswer(status=200))
        eventually(lambda: bool(pair.servers[1].sent), within_s=10)
        for _ in range(10):
            recorder.record(PREDICT, ServerAnswer(status=200))
        assert "3 waiting" in recorder.summary() or "4 waiting" in recorder.summary()
        go_on.set()
        recorder.close()
        assert (pair.into.report().sent, pair.into.report().left_out) == (4, 7)


def test_what_waits_at_the_end_is_left_out_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff_run, "DRAIN_S", 0.05)
    monkeypatch.setattr(diff_run, "REPLAYS", 1)
    go_on = threading.Event()

    def slow(sent: Sent) -> Said:
        assert sent.path == "/ping" or go_on.wait(10)
        return Said()

    with ExitStack() as stack:
        pair = Pair(stack, same, slow)
        recorder = Recorder(pair.new, pair.into, changes=False)
        for _ in range(3):
            recorder.record(PREDICT, ServerAnswer(status=200))
        eventually(lambda: bool(pair.servers[1].sent), within_s=10)
        recorder.close()
        go_on.set()
        report = pair.into.report()
        assert report.sent == 0
        assert [reason.why for reason in report.reasons] == ["the end came first"] * report.left_out
        assert report.left_out >= 2
