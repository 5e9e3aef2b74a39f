"""Nothing that a server or an archive says reaches the terminal as more than text."""

import json
import os
import pty
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from rich.console import RenderableType

from tests.cli.fake_server import serving
from tests.cli.remote.test_fleet_view import READ, as_read
from torchrelay.cli import faults
from torchrelay.cli.commands import predict
from torchrelay.cli.faults import Fault
from torchrelay.cli.remote import rendering
from torchrelay.cli.remote.client import ModelLine
from torchrelay.gateway.api import presenting
from torchrelay.shared.archives.model_archive import ArchiveInfo, Manifest
from torchrelay.shared.wire import messages as m

ATTACK = "\x1b[2J\x1b]0;t\x07\x9b\u202e\rx"
replace = msgspec.structs.replace
VERSION = replace(
    READ.versions[0], model=ATTACK, version=ATTACK, last_error=ATTACK, explanation=ATTACK, url=ATTACK
)
NODE = m.NodeFacts(ATTACK, (m.Device(ATTACK, "gpu", ATTACK, 1),), 32, 1, 0)
HOSTILE = as_read(replace(READ, nodes=(NODE,), versions=(VERSION,)))
DESCRIBED = [{"modelName": ATTACK, "handler": ATTACK, ATTACK: {ATTACK: ATTACK},
              "workers": [{"id": ATTACK, "status": ATTACK, "note": ATTACK}]}]  # fmt: skip
INFO = ArchiveInfo(
    manifest=Manifest(model_name=ATTACK, handler=ATTACK, raw={ATTACK: ATTACK}),
    entries=1,
    total_bytes=1,
    notes=(ATTACK,),
)


def is_harmless(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("data", "view"),
    [
        (HOSTILE, lambda seen: rendering.fleet(seen, "http://host")),
        ([ModelLine(ATTACK, ATTACK)], rendering.model_list),
        (DESCRIBED, rendering.description),
        ([{"api": ATTACK, "expires": ATTACK}], rendering.keys),
        (INFO, rendering.archive_info),
        (ATTACK, str),
    ],
    ids=["fleet", "models", "description", "keys", "archive", "text"],
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


def test_texts_reach_the_terminal_by_one_way() -> None:
    source = Path(rendering.__file__).read_text()
    assert len(re.findall(r"(?<![\w.])Text\(", source)) == 1


@pytest.mark.parametrize("fault", [Fault(ATTACK), OSError(2, ATTACK, ATTACK), Fault(f"a\n{ATTACK}")])
def test_a_fault_is_shown_as_text(fault: faults.Reported) -> None:
    assert is_harmless(faults.written(faults.text_of(fault)))


@pytest.mark.parametrize("answer", [ATTACK.encode(), b"\xff\x1b[2J", {"class": ATTACK}])
def test_an_answer_on_a_terminal_is_text_too(answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, terminal = pty.openpty()
    with serving({"POST /predictions/m": (200, answer)}) as server, os.fdopen(terminal, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        predict.predict("m", None, None, "a/b", server.url)
        stdout.flush()
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert is_harmless(shown.replace("\r\n", "\n"))
    assert "1b[2J" in shown


def test_what_the_gateway_says_of_a_fleet_is_unchanged() -> None:
    assert presenting.fleet(replace(READ, versions=(VERSION,)))
