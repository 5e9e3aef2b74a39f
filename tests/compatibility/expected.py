"""The differences from TorchServe that are meant, read from where its users read of them."""

import re
from collections.abc import Mapping, Set
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"
HEADING = "## Recorded answers that differ on purpose"
#: Cases whose answer hangs on which of two requests, sent at the same time, comes first; so it does with
#: TorchServe. On whether the client or the server says first that the time is over. And on whether a worker
#: that kills itself takes its last part with it.
RACES = frozenset(
    {
        ("batching", "process_exit_in_a_batch"),
        ("grpc-inference", "deadline"),
        ("grpc-inference", "stream_that_dies"),
    }
)
#: A row of that section's table begins with a case, as `transcript/case`.
_ROW = re.compile(r"^\| `([^`/]+)/([^`]+)` \|", re.MULTILINE)


def differences(document: str) -> dict[str, Set[str]]:
    """Return the cases that differ, by the name of their transcript."""
    section = document.partition(HEADING)[2].partition("\n## ")[0]
    found: dict[str, set[str]] = {}
    for transcript, case in _ROW.findall(section):
        found.setdefault(transcript, set()).add(case)
    return dict(found)


EXPECTED = differences(DOCUMENT.read_text(encoding="utf-8"))


def check(transcript: str, found: Mapping[str, str]) -> None:
    """Fail if other cases of a transcript differ than those that are meant to."""
    wanted = EXPECTED.get(transcript, frozenset())
    races = {case for name, case in RACES if name == transcript}
    unexpected = {case: how for case, how in found.items() if case not in wanted | races}
    assert not unexpected, unexpected
    assert not wanted - found.keys(), "these differ no more: take them off the list in the documentation"
