"""Recorded answers of TorchServe 0.12 to a server with other options, asked of our `torchserve` command."""

from pathlib import Path

import pytest

from tests.compatibility import expected, replaying
from tests.integration.fleet import own_address

pytestmark = pytest.mark.integration


@pytest.mark.timeout(300)
@pytest.mark.parametrize("transcript", replaying.transcripts(usual=False), ids=lambda path: path.stem)
def test_answers_are_torchserves_whatever_the_options(transcript: Path, store: Path, tmp_path: Path) -> None:
    expected.check(transcript.stem, replaying.replay(transcript, store, own_address(), tmp_path))
