"""Compares the real TorchServe with ours by `torchrelay migrate diff`: by a script, and by recording."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.compatibility import replaying
from tests.installation import command

sys.path[:0] = [str(replaying.GOLDEN)]

import replay  # isort: skip  # of tests/golden

NAME = "migrate"
#: What is asked, in the words of those who have such scripts.
SCRIPT = r"""
curl -s http://localhost:8080/ping
curl -s -X POST "http://localhost:8081/models?url=echo.mar&initial_workers=1"
curl -s -X POST "http://localhost:8081/models?url=tiny_script.mar&initial_workers=1&batch_size=2"
curl -s -X POST "http://localhost:8081/models?url=raises.mar&initial_workers=1"
curl -s -X POST "http://localhost:8081/models?url=nowhere.mar"
curl -s http://localhost:8081/models
curl -s http://localhost:8081/models/echo
curl -s http://localhost:8081/models/tiny_script
curl -s http://localhost:8080/predictions/echo -T $STORE/named.mar
curl -s http://localhost:8080/predictions/echo/1.0 -H 'Content-Type: application/json' -d '{"a": [1, 2.5]}'
curl -s http://localhost:8080/predictions/echo -F data=@$STORE/raises.mar -F more=text
curl -s http://localhost:8080/predictions/echo -d '{"sent": "as a form"}'
curl -s http://localhost:8080/predictions/tiny_script -H 'Content-Type: application/json' -d '[1, 2, 3]'
curl -s http://localhost:8080/predictions/raises -d x
curl -s http://localhost:8080/predictions/nobody -d x
curl -s http://localhost:8080/v1/models/echo:predict -H 'Content-Type: application/json' -d '[{}]'
curl -s "http://localhost:8080/invocations?model_name=echo" -d x=1
curl -s -X PUT "http://localhost:8081/models/echo?min_worker=2&synchronous=true"
curl -s -X PUT http://localhost:8081/models/echo/1.0/set-default
curl -s -X DELETE http://localhost:8081/models/tiny_script
curl -s http://localhost:8082/metrics
"""
#: The end of the line whose answers differ on purpose; docs/compatibility.md says why.
MEANT = """-d '{"sent": "as a form"}'"""
#: What clients ask through the recording proxy.
RECORDED = (
    ("GET", "/ping", b""),
    ("POST", "/predictions/echo", b"text"),
    ("POST", "/predictions/raises", b"x"),
    ("GET", "/models/echo", b""),
)


def unexpected(torchserve: str, store: Path, addresses: Sequence[str], scratch: Path) -> int:
    """Ask both by a script and by recording; print how they differ, and return how often they shouldn't."""
    script = scratch / "requests.sh"
    script.write_text(SCRIPT, encoding="utf-8")
    ours = f"env TORCHRELAY_GRPC=no {command('torchserve')} {replaying.START_OPTIONS}"
    theirs = f"{torchserve} {replaying.START_OPTIONS}"
    with (
        _serving(theirs, store, addresses[0], scratch) as old,
        _serving(ours, store, addresses[1], scratch) as new,
    ):
        urls = ["--old", old, "--new", new]
        by_script = _run([*urls, "--requests", str(script), "--set", f"STORE={store}", "--changes", "--json"])
        recorded = _record(
            [*urls, "--record", f"{addresses[2]}:8888", "--json"], f"http://{addresses[2]}:8888"
        )
    lines = SCRIPT.splitlines()
    found = 0
    for label in by_script["requests"]:
        for example in label["examples"]:
            line = lines[int(example["source"].rpartition(":")[2]) - 1]
            found += not (is_meant := line.endswith(MEANT))
            print(f"{'as documented' if is_meant else 'DIFFERENT'} {NAME}: {line}: {example['differences']}")
    for reason in [*by_script["reasons"], *recorded["reasons"]]:
        found += 1
        print(f"NOT SENT {NAME}: {reason['source']}: {reason['why']}")
    if recorded["differing"] or recorded["sent"] != len(RECORDED):
        found += 1
        print(f"DIFFERENT {NAME}: of what was recorded: {json.dumps(recorded['requests'])}")
    return found


@contextmanager
def _serving(start: str, store: Path, address: str, scratch: Path) -> Iterator[str]:
    options = replay.parser().parse_args(
        ["--scratch", str(scratch), "--store", str(store), *replaying.listeners(address), "-"]
    )
    server = replay.Server(start, replaying.USUAL_OPTIONS, options, NAME)
    try:
        server.wait_until_up()
        yield options.inference
    finally:
        server.stop()


def _run(arguments: Sequence[str]) -> Any:  # the command's JSON
    done = subprocess.run(
        [command("torchrelay"), "migrate", "diff", *arguments], capture_output=True, text=True, check=False
    )
    if not done.stdout:
        raise AssertionError(done.stderr)
    return json.loads(done.stdout)


def _record(arguments: Sequence[str], url: str) -> Any:
    """Ask through the proxy, and end it as a person does."""
    with subprocess.Popen(
        [command("torchrelay"), "migrate", "diff", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.readline()
        for method, path, body in RECORDED:
            replay.send(url, method, path, [], body)
        process.send_signal(signal.SIGINT)
        return json.loads(process.stdout.read())
