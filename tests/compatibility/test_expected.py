"""What differs from TorchServe on purpose is of its cases, and read from the table that users read."""

import pytest

from tests.compatibility import expected, more_cases, open_inference_cases, replaying, workflow_cases


def test_the_documented_differences_are_of_cases_that_are_asked() -> None:
    files = (*more_cases.FILES, *open_inference_cases.FILES)
    assert workflow_cases.GROUP in {group for group, _, _ in files}  # which adds its own to more_cases
    asked = {(group, case["name"]) for group, _, listed in files for case in listed}
    named = {(transcript, case) for transcript, found in expected.EXPECTED.items() for case in found}
    assert named <= asked


def test_differences_are_read_from_their_own_table_alone() -> None:
    document = (
        f"# C\n| `elsewhere/case` | x |\n{expected.HEADING}\n\n| case | why |\n|---|---|\n"
        "| `scale/one` | a |\n| `scale/two` | b |\n\n## Next\n| `scale/three` | c |\n"
    )
    assert expected.differences(document) == {"scale": {"one", "two"}}


def test_what_is_not_expected_or_no_more_so_fails() -> None:
    expected.check("no-such-transcript", {})
    with pytest.raises(AssertionError):
        expected.check("no-such-transcript", {"case": "200 is not 404"})
    with pytest.raises(AssertionError, match="off the list"):
        expected.check(next(iter(expected.EXPECTED)), {})


def test_each_transcript_is_replayed_by_one_of_the_two_files_of_tests() -> None:
    usual, others = (replaying.transcripts(usual=usual) for usual in (True, False))
    assert sorted(usual + others) == sorted((replaying.GOLDEN / "transcripts").iterdir())
    assert min(len(usual), len(others)) > 10
