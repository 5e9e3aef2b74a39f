"""Nothing that a server or an archive says reaches the terminal as more than text."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from rich.console import RenderableType

from tests.cli import bodies
from torchrelay.cli import faults
from torchrelay.cli.faults import Fault
from torchrelay.cli.migrate import check_view, diff_view, findings, side_by_side
from torchrelay.cli.migrate.answer_differences import ServerAnswer, Tolerance
from torchrelay.cli.migrate.replayed_request import ReplayedRequest
from torchrelay.cli.migrate.request_files import LeftOut
from torchrelay.cli.remote import rendering
from torchrelay.shared.api_bodies import DeviceBody, ModelsEntryBody, QuarantinedBody
from torchrelay.shared.archives.model_archive import ArchiveInfo, Manifest

ATTACK = "\x1b[2J\x1b]0;t\x07\x9b\u202e\rx"
QUARANTINED = QuarantinedBody(request_id=ATTACK, reason=ATTACK, workers_lost=2, refused=5, left_ms=1)
MODEL = bodies.model(
    model_name=ATTACK, model_version=ATTACK, last_error=ATTACK, explanation=ATTACK, model_url=ATTACK,
    quarantined=(QUARANTINED,),
)  # fmt: skip
DEVICE = DeviceBody(name=ATTACK, kind="gpu", description=ATTACK, memory_bytes=1)
HOSTILE = bodies.fleet(MODEL, nodes=(bodies.node(name=ATTACK, devices=(DEVICE,), labels={ATTACK: ATTACK}),))
WORKER = bodies.worker(id=ATTACK, status=ATTACK, start_time=ATTACK, gpu_usage=ATTACK)
DESCRIBED = [bodies.version(model_name=ATTACK, model_url=ATTACK, parallel_type=ATTACK, workers=(WORKER,))]
ENTRY = ModelsEntryBody(model_name=ATTACK, model_url=ATTACK)
INFO = ArchiveInfo(
    manifest=Manifest(model_name=ATTACK, handler=ATTACK, raw={ATTACK: ATTACK}),
    entries=1,
    total_bytes=1,
    notes=(ATTACK,),
)
CHECKED = findings.check_report(
    [findings.file_report(ATTACK, "script", [findings.Finding("fails", ATTACK, ATTACK, 1, ATTACK)])]
)


def _compared() -> side_by_side.DiffReport:
    into = side_by_side.SideBySide(ATTACK, ATTACK, Tolerance())
    request = ReplayedRequest(api="inference", method="GET", path=f"/{ATTACK}", source=ATTACK)
    into.add(request, ServerAnswer(status=200, headers=((ATTACK, ATTACK),)), ServerAnswer(status=500))
    into.leave_out(LeftOut(ATTACK, ATTACK))
    return into.report()


COMPARED = _compared()


def is_harmless(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("data", "view"),
    [
        (HOSTILE, lambda seen: rendering.fleet(seen, "http://host")),
        ([ENTRY], rendering.model_list),
        (DESCRIBED, rendering.description),
        ([{"api": ATTACK, "expires": ATTACK}], rendering.keys),
        (INFO, rendering.archive_info),
        (CHECKED, lambda seen: rendering.styled_lines(check_view.lines(seen, 80))),
        (COMPARED, lambda seen: rendering.make_table(diff_view.COLUMNS, diff_view.rows(seen))),
        (COMPARED, lambda seen: rendering.styled_lines(diff_view.lines(seen, 80))),
        (ATTACK, str),
    ],
    ids=["fleet", "models", "description", "keys", "archive", "check", "diff", "differences", "text"],
)
def test_a_view_shows_escapes_and_obeys_none(
    data: object,
    view: Callable[[object], RenderableType],
    as_json: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rendering.show(data, as_json, view)
    shown = capsys.readouterr().out
    assert is_harmless(shown)
    assert "\\x1b" in shown or "\\u001b" in shown
    if as_json:
        assert json.loads(shown) == json.loads(msgspec.json.encode(data))


def test_progress_is_said_to_a_terminal_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with rendering.progress_line() as say:
        say("1 of 2")
    assert capsys.readouterr() == ("", "")


def test_texts_reach_the_terminal_by_one_way() -> None:
    source = Path(rendering.__file__).read_text()
    assert len(re.findall(r"(?<![\w.])Text\(", source)) == 1


@pytest.mark.parametrize("fault", [Fault(ATTACK), OSError(2, ATTACK, ATTACK), Fault(f"a\n{ATTACK}")])
def test_a_fault_is_shown_as_text(fault: faults.Reported) -> None:
    assert is_harmless(faults.written(faults.text_of(fault)))
