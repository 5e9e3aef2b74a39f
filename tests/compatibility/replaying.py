"""Runs the replayer of `tests/golden` against a server that it starts, and reads what it prints."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.installation import PRELOAD, command
from torchrelay.shared.settings import environment

GOLDEN = Path(__file__).parents[1] / "golden"
#: Options of `torchserve`; the replayer fills them in.
START_OPTIONS = "--start --foreground --model-store {store} --ts-config {config} {flags}"
#: With what most transcripts have their server started.
USUAL_OPTIONS = {
    "config": ["disable_system_metrics=true"],
    "env": {},
    "flags": ["--ncs", "--disable-token-auth", "--enable-model-api"],
}
#: In the names of archives whose handlers import torch.
WITH_TORCH = ("tiny_", "mixed_output", "describes_itself")
#: What our answers may have beyond TorchServe's: a 5xx says why.
EXTRA_FIELDS = "details"

_DIFFERENCE = re.compile(r"^FAIL [^/\s]+\.jsonl/([^:\s]+): (.*)$", re.MULTILINE)


def transcripts(*, usual: bool) -> list[Path]:
    """Return the transcripts of servers with the usual options, or those of all others."""
    return [path for path in sorted((GOLDEN / "transcripts").glob("*.jsonl"))
            if (_options(path) == USUAL_OPTIONS) == usual]  # fmt: skip


def _options(transcript: Path) -> object:
    with transcript.open(encoding="utf-8") as lines:
        return json.loads(next(lines))["server"]


def build_store(folder: Path) -> None:
    """Build every archive that the transcripts name, with PyPI's archiver."""
    subprocess.run([sys.executable, GOLDEN / "build_store.py", folder], check=True, stdout=subprocess.DEVNULL)


def listeners(address: str) -> list[str]:
    """Return the replayer's options for a server on a loopback address of its own."""
    return [
        "--inference", f"http://{address}:8080",
        "--management", f"http://{address}:8081",
        "--metrics", f"http://{address}:8082",
    ]  # fmt: skip


def replay(transcript: Path, store: Path, address: str, scratch: Path) -> dict[str, str]:
    """Replay one transcript against a fresh server of ours; return what differs, by case."""
    start = f"{command('torchserve')} {START_OPTIONS}"
    done = subprocess.run(
        [sys.executable, GOLDEN / "replay.py", "--quiet", "--extra", EXTRA_FIELDS, "--keep",
         "--scratch", scratch, "--store", store, "--start-cmd", start, *listeners(address), transcript],
        capture_output=True, text=True, check=False, env=_variables(transcript),
    )  # fmt: skip
    found = dict(_DIFFERENCE.findall(done.stdout))
    # Whatever else made it fail, a server that didn't start for one, must not pass for agreement.
    if done.returncode and not found:
        raise AssertionError(f"{done.stdout}{done.stderr}{_log(scratch)}")
    return found


def _variables(transcript: Path) -> dict[str, str]:
    """Let workers share torch, as they do unless told otherwise, where one needs it."""
    preload = "torch" if any(name in transcript.read_text() for name in WITH_TORCH) else "none"
    return {**environment(), PRELOAD: preload}


def _log(scratch: Path) -> str:
    return "".join(path.read_text(errors="replace")[-4000:] for path in scratch.glob("*/server.log"))
