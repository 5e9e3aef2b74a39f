"""What others wrote can be seen, and does nothing else."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared.logs import logs
from torchrelay.shared.terminal import coloured_line, one_line, printable, printable_json
from torchrelay.shared.torchserve import torchserve_log

#: Clears the screen, titles the window, overwrites a line, rings, hides, turns around, parts lines.
ATTACKS = ["\x1b[2J", "\x1b]0;title\x07", "a\rb", "\x08\x08", "\x1b[8m", "\u202eexe.txt", "\u2028", "\x85",
           "\x9b2J", "\x0b", "\x0c", "\x00", "\x7f", "\ud800", "\ufeff", "\U000e0041", "\u2066"]  # fmt: skip
FORGED = "x\n2026-01-01T00:00:00.000Z ERROR broker forged\r\n\x1b[2J\u202e"


def harmless(text: str, more: str = "") -> bool:
    return all(character.isprintable() or character in "\u00a0\u200c\u200d" + more for character in text)


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_terminal_obeys_is_written_as_an_escape(attack: str) -> None:
    assert harmless(printable(f"ok {attack} ok"))
    assert printable(attack) == printable(printable(attack)) != attack
    printable(attack).encode()


def test_what_can_be_read_stays_as_it_is() -> None:
    text = "Gr\u00fc\u00dfe, \u4f60 \u0645\u0631\u062d \U0001f469\u200d\U0001f4bb\ta \\x1b\nb"
    assert printable(text) == text
    assert one_line(text) == text.replace("\n", "\\n")


@given(st.text(st.characters()))
def test_no_text_gets_through(text: str) -> None:
    assert harmless(printable(text), "\n\t")
    assert harmless(one_line(text), "\t")
    assert one_line(text).count("\n") == 0


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_says_the_same_and_harms_nobody(text: str) -> None:
    shown = printable_json(json.dumps([text], ensure_ascii=False))
    assert json.loads(shown) == [text]
    assert harmless(shown)


def test_colours_stay_where_they_are_allowed_and_end_with_their_line() -> None:
    assert coloured_line("\x1b[32mgreen\x1b[2J") == "\x1b[32mgreen\\x1b[2J\x1b[0m"
    assert coloured_line("plain\n") == "plain\\n"


def record(event: str, **extra: object) -> logging.LogRecord:
    try:
        raise ValueError(FORGED)
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    return logging.getLogger("test").makeRecord("test", 30, __file__, 1, event, (), info, extra=extra)


@pytest.mark.parametrize("event", ["worker.failed", "model.not_loaded", "worker.output", FORGED])
@pytest.mark.parametrize(
    "formatter", [logs.TextFormatter("p"), logs.JsonFormatter("p"), torchserve_log.TorchServeFormatter("p")]
)
def test_no_log_is_forged_whatever_an_event_says(formatter: logging.Formatter, event: str) -> None:
    facts = {"model": FORGED, "version": "1", "worker": 1, "reason": FORGED, "url": FORGED, "line": FORGED}
    text = formatter.format(record(event, **facts))
    assert harmless(text, "\n\t\x1b")
    assert "\x1b" not in text.replace("\x1b[0m", "")
    first, *below = text.splitlines()
    assert not [line for line in below if line.startswith("2026-01-01")]
    # Entries of the formatter's own, or what stands below one.
    assert all(line.startswith(("  ", first[:11])) for line in below)


def test_lines_of_a_worker_are_one_entry_each(tmp_path: object) -> None:
    entry = logging.makeLogRecord({"msg": "worker.output", "model": "m", "version": "1", "worker": 1,
                                   "lines": ["one\rtwo", "\x1b[31mred", "\x1b]0;t\x07"]})  # fmt: skip
    for formatter in (logs.TextFormatter("p"), torchserve_log.TorchServeFormatter("p")):
        lines = formatter.format(entry).split("\n")
        assert len(lines) == 3
        assert not any("\r" in line or "\x07" in line for line in lines)
