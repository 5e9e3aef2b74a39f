"""Every recorded answer of TorchServe 0.12, asked of our `torchserve` command."""

from pathlib import Path

import pytest

from tests.compatibility import expected, more_cases, replaying
from tests.integration.fleet import own_address

TRANSCRIPTS = sorted((replaying.GOLDEN / "transcripts").glob("*.jsonl"))
EXPECTED = expected.differences(expected.DOCUMENT.read_text(encoding="utf-8"))

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "store"
    replaying.build_store(folder)
    return folder


@pytest.mark.timeout(300)
@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda path: path.stem)
def test_answers_are_torchserves_but_for_those_that_differ_on_purpose(
    transcript: Path, store: Path, tmp_path: Path
) -> None:
    found = replaying.replay(transcript, store, own_address(), tmp_path)
    wanted = EXPECTED.get(transcript.stem, frozenset())
    races = {case for name, case in expected.RACES if name == transcript.stem}
    unexpected = {case: how for case, how in found.items() if case not in wanted | races}
    assert not unexpected
    assert not wanted - found.keys(), "these differ no more: take them off the list in the documentation"


def test_the_documented_differences_are_of_cases_that_are_asked() -> None:
    asked = {(group, case["name"]) for group, _, listed in more_cases.FILES for case in listed}
    named = {(transcript, case) for transcript, found in EXPECTED.items() for case in found}
    assert named <= asked


def test_differences_are_read_from_their_own_table_alone() -> None:
    document = (
        f"# C\n| `elsewhere/case` | x |\n{expected.HEADING}\n\n| case | why |\n|---|---|\n"
        "| `scale/one` | a |\n| `scale/two` | b |\n\n## Next\n| `scale/three` | c |\n"
    )
    assert expected.differences(document) == {"scale": {"one", "two"}}
