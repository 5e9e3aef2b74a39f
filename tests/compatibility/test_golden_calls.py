"""Every recorded answer of TorchServe 0.12, asked of our `torchserve` command as most of them were."""

from pathlib import Path

import pytest

from tests.compatibility import expected, grpc_cases, grpc_player, replaying, workflow_cases
from tests.integration.fleet import own_address

pytestmark = pytest.mark.integration


@pytest.mark.timeout(300)
@pytest.mark.parametrize("transcript", replaying.transcripts(usual=True), ids=lambda path: path.stem)
def test_answers_are_torchserves_but_for_those_that_differ_on_purpose(
    transcript: Path, store: Path, tmp_path: Path
) -> None:
    expected.check(transcript.stem, replaying.replay(transcript, store, own_address(), tmp_path))


@pytest.mark.timeout(300)
def test_answers_about_workflows_are_torchserves_but_for_those_that_differ_on_purpose(
    store: Path, tmp_path: Path
) -> None:
    workflow_cases.add_archives(store)
    transcript = workflow_cases.TRANSCRIPTS / f"{workflow_cases.GROUP}.jsonl"
    expected.check(transcript.stem, replaying.replay(transcript, store, own_address(), tmp_path))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("grpc_server", ["grpcio", "pygrpc-native"])
@pytest.mark.parametrize("name", sorted(path.stem for path in grpc_player.TRANSCRIPTS.glob("*.jsonl")))
def test_answers_by_grpc_are_torchserves_but_for_those_that_differ_on_purpose(
    name: str, grpc_server: str, store: Path, tmp_path: Path
) -> None:
    grpc_cases.add_archives(store)
    server, cases = grpc_player.load(grpc_player.TRANSCRIPTS / f"{name}.jsonl")
    found = grpc_player.replay_all(server, cases, store, tmp_path, f"grpc_server={grpc_server}")
    expected.check(name, found)
