"""Every recorded answer of TorchServe 0.12, asked of our `torchserve` command as most of them were."""

from pathlib import Path

import pytest

from tests.compatibility import expected, replaying
from tests.integration.fleet import own_address

pytestmark = pytest.mark.integration


@pytest.mark.timeout(300)
@pytest.mark.parametrize("transcript", replaying.transcripts(usual=True), ids=lambda path: path.stem)
def test_answers_are_torchserves_but_for_those_that_differ_on_purpose(
    transcript: Path, store: Path, tmp_path: Path
) -> None:
    expected.check(transcript.stem, replaying.replay(transcript, store, own_address(), tmp_path))
