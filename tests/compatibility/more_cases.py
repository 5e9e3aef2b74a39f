"""What is asked of both servers beyond the transcripts of `tests/golden`, and the archives for it.

Written in the words of `tests/golden/tools/cases.py`, to whose FILES these groups are added: it has all.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from tests.compatibility.replaying import GOLDEN, listeners

sys.path[:0] = [str(GOLDEN), str(GOLDEN / "tools")]

import replay
from cases import FILES as FILES
from cases import WORKERS as WORKERS
from cases import I as I
from cases import M as M
from cases import P, X, ready, reg
from cases import group as group

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: Archive -> (handler, model-config.yaml); the handler's file has the archive's name without its suffix.
ARCHIVES: dict[str, tuple[str, dict[str, object]]] = {
    "codes": ("predicts_codes.py", {}),
    "sums": (
        "adds_up_sequence.py",
        {"sequenceBatching": True, "sequenceMaxIdleMSec": 2000, "maxNumSequence": 2,
         "maxSequenceJobQueueSize": 5, "batchSize": 2, "maxBatchDelay": 20, "minWorkers": 1, "maxWorkers": 1},
    ),
    "counting": (
        "counts_continuously.py",
        {"continuousBatching": True, "batchSize": 4, "maxBatchDelay": 20, "minWorkers": 1, "maxWorkers": 1},
    ),
    "waiting": (
        "waits_asynchronously.py",
        {"asyncCommunication": True, "batchSize": 1, "minWorkers": 1, "maxWorkers": 1},
    ),
    "parts": ("streams_parts.py", {}),
}  # fmt: skip

BYTES = {"Content-Type": "application/octet-stream"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def build(store: Path) -> None:
    """Build these archives into a store that has the transcripts' already."""
    build_archives(store, ARCHIVES)
    subprocess.run([sys.executable, ROOT / "examples" / "build.py", store], check=True)


def build_archives(store: Path, archives: Mapping[str, tuple[str, dict[str, object]]]) -> None:
    """Build archives as ARCHIVES has them."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, (handler, config) in archives.items():
            _build_one(store, Path(scratch), name, handler, config)


def _build_one(store: Path, scratch: Path, name: str, handler: str, config: dict[str, object]) -> None:
    archiver = Path(sys.executable).with_name("torch-model-archiver")
    command: list[str | Path] = [archiver, "--model-name", name, "--version", "1.0",
               "--handler", HERE / "handlers" / handler, "--export-path", scratch]  # fmt: skip
    if config:
        file = scratch / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        command += ["--config-file", file]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.move(scratch / f"{name}.mar", store / f"{name}.mar")


def recorder(torchserve: str, store: Path, recorded: Path, address: str) -> argparse.Namespace:
    """Return what `record` wants of its command line."""
    start = f"{torchserve} --start --foreground --model-store {{store}} --ts-config {{config}} {{flags}}"
    parser = replay.parser()
    parser.add_argument("--out")
    parser.add_argument("--width", type=int)
    options: argparse.Namespace = parser.parse_args(
        ["--quiet", "--out", str(recorded), "--store", str(store), "--start-cmd", start,
         *listeners(address), "-"]
    )  # fmt: skip
    return options


def _number(text: str) -> dict[str, object]:
    number: dict[str, object] = P("counting", text, BYTES)
    return number


case = group("more-statuses")
case("registered", M("/models?url=codes.mar&initial_workers=1", "POST"))
for code in (200, 204, 301, 400, 404, 413, 418, 429, 500, 503, 507, 599, 999):
    case(f"raised_{code}", P("codes", f"raise {code} so it is", BYTES), with_reason=True)
    case(f"set_{code}", P("codes", f"status {code} As It Is", BYTES), with_reason=True)
case("set_without_phrase", P("codes", "status 299 ", BYTES), with_reason=True)
case("not_a_verb", P("codes", "nonsense", BYTES))

case = group("more-sequences")
case("registered", M("/models?url=sums.mar", "POST"))
case("described", M("/models/sums"), [ready("sums")], volatile=WORKERS)
for step, number in enumerate(("1", "2", "39")):
    case(f"step_{step}", P("sums", number, {**BYTES, "ts_request_sequence_id": "first"}),
         with_headers=["x-sequence"])  # fmt: skip
case("another", P("sums", "5", {**BYTES, "ts_request_sequence_id": "second"}), with_headers=["x-sequence"])
case("one_too_many", P("sums", "5", {**BYTES, "ts_request_sequence_id": "third"}))
case("after_idling", P("sums", "8", {**BYTES, "ts_request_sequence_id": "third"}), [{"sleep_s": 3}])
case("made_up", P("sums", "7", BYTES), with_headers=["x-sequence"])

case = group("more-continuous")
case("registered", M("/models?url=counting.mar", "POST"))
case("described", M("/models/counting"), [ready("counting")], volatile=WORKERS)
case("counts", _number("5"))
case("counts_together", [_number(str(n)) for n in (3, 7, 5)])

case = group("more-asynchronous")
case("registered", M("/models?url=waiting.mar", "POST"))
case("described", M("/models/waiting"), [ready("waiting")], volatile=WORKERS)
case("waits", P("waiting", "0.05", BYTES))
case("together", [P("waiting", text, BYTES) for text in ("0.3", "0.1", "0.2")])

case = group("more-streams")
case("registered", M("/models?url=parts.mar&initial_workers=1", "POST"))
case("three", P("parts", "3", BYTES), with_chunks=True)
case("none", P("parts", "0", BYTES))
case("head", I("/predictions/parts", "3", BYTES, method="HEAD"))

case = group("more-names")
case("registered", M("/models?url=echo.mar&initial_workers=1", "POST"))
case("empty", I("/invocations?model_name=", "x", BYTES))
case("empty_and_a_field", I("/invocations?model_name=", "model_name=echo", FORM))
case("unregistered", M("/models/echo?synchronous=false&timeout=0", "DELETE"))
case("unregistered_twice", M("/models/echo", "DELETE"))

case = group("more-metrics", config=["metrics_mode=prometheus"])
case("counted", X(), [reg("echo.mar", 1), {"request": P("echo", "a", BYTES)},
                      {"request": P("echo/1.0", "b", BYTES)}, {"request": P("nobody", "c", BYTES)}],
     compare="prometheus")  # fmt: skip
case("picked", X("/metrics?name[]=Requests2XX&name[]=ts_inference_requests_total"), compare="prometheus")

case = group("more-real-models")
case("digits", M("/models?url=digits.mar&initial_workers=1", "POST"))
case(
    "a_digit",
    P("digits", (ROOT / "examples" / "digits" / "three.png").read_bytes(), {"Content-Type": "image/png"}),
)
case("voice", M("/models?url=voice.mar&initial_workers=1", "POST"))
case(
    "speech",
    P("voice", (ROOT / "examples" / "voice" / "hello.wav").read_bytes(), {"Content-Type": "audio/wav"}),
)
