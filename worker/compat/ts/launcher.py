"""Starts and stops a server from a test or a notebook, as TorchServe's `ts.launcher` does.

Nothing here is for handlers. The server is the `torchserve` command of this very installation.
"""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from queue import Empty, Full, Queue
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from requests import Response

_COMMAND = (sys.executable, "-P", "-m", "torchrelay.cli.torchserve.command")
_READY = "Model server started"
_MANAGEMENT = "http://localhost:8081"
#: Lines of a server that nobody reads; what comes after them is dropped.
_LINES_KEPT = 1000

Params = Mapping[str, object] | Sequence[tuple[str, object]]


def start(
    model_store: str | None = None,
    snapshot_file: str | None = None,
    no_config_snapshots: bool = False,
    plugin_folder: str | None = None,
    disable_token: bool = False,
    models: str | None = None,
    enable_model_api: bool = False,
) -> "Queue[str | None]":
    """Stop what runs, start a server, and wait until it is ready or gone.

    The queue returned gets each line that it prints from then on, and None at its end.
    """
    stop()
    options = {
        "--model-store": model_store,
        "--plugins-path": plugin_folder,
        "--ts-config": snapshot_file,
        "--models": models,
    }
    switches = {
        "--no-config-snapshots": no_config_snapshots,
        "--disable-token-auth": disable_token,
        "--enable-model-api": enable_model_api,
    }
    said = [word for option, value in options.items() if value for word in (option, value)]
    said += [switch for switch, is_on in switches.items() if is_on]
    server = subprocess.Popen(
        [*_COMMAND, "--start", *said],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    assert server.stdout is not None  # PIPE was asked for
    for line in server.stdout:
        print(line.rstrip())  # noqa: T201  # tests show it
        if _READY in line:
            break
    lines: Queue[str | None] = Queue(_LINES_KEPT)
    threading.Thread(target=_follow, args=(server.stdout, lines), daemon=True).start()
    return lines


def stop(wait: bool = True) -> None:
    """Stop the server, if one runs; without `wait`, say so."""
    subprocess.run([*_COMMAND, "--stop", *(["--foreground"] if wait else [])], check=False)


def register_model(model_name: str, url: str) -> "Response":
    """Register an archive under a name, with one worker, and wait for it."""
    return register_model_with_params(
        [("model_name", model_name), ("url", url), ("initial_workers", "1"), ("synchronous", "true")]
    )


def register_model_with_params(params: Params) -> "Response":
    """Register a model with these parameters of the management API."""
    import requests  # what callers expect an answer of; no part of the server needs it

    return requests.post(f"{_MANAGEMENT}/models", params=params, timeout=None)  # type: ignore[arg-type]  # as there


def _follow(output: IO[str], lines: "Queue[str | None]") -> None:
    """Pass on what the server prints; never let it wait for somebody who doesn't read."""
    for line in output:
        print(line.rstrip())  # noqa: T201  # tests show it
        with contextlib.suppress(Full):
            lines.put_nowait(line)
    if lines.full():  # make room for the end
        with contextlib.suppress(Empty):
            lines.get_nowait()
    lines.put_nowait(None)
