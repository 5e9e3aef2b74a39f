"""vLLM's own OpenAI server as a child process on a unix socket; needs the package vllm (with `--uds`).

Its command line and its HTTP API are what vLLM keeps stable; the classes behind them move with each
release. The child is in the worker's process group, and ends with it.
"""

import json
import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any  # what a model's config holds

import httpx2

from ts.utils.util import visible_to

logger = logging.getLogger(__name__)

#: What an engine spreads over GPUs: the product of their sizes is how many it takes.
_PARALLEL = ("tensor", "pipeline", "data")
_POLL_S = 0.2
#: What the kernel takes as a socket's path, less our own folder in it.
_PARENT_LIMIT_BYTES = 107 - len("/vllm-12345678/http")
_TERM_GRACE_S = 10.0


def engine_arguments(config: Mapping[str, Any], model_dir: str) -> list[str]:
    """Return the arguments of `vllm serve` for what model-config.yaml has under `handler`.

    Raises ValueError where neither `vllm_engine_config: {model: ...}` nor `model_path` names a model.
    """
    engine = dict(config.get("vllm_engine_config") or {})
    model = engine.pop("model", None) or _model_path(config.get("model_path"), model_dir)
    if not model:
        raise ValueError("please define model in vllm_engine_config or model_path in handler")
    arguments = [str(model)]
    for key, value in engine.items():
        arguments += _option(key, value)
    adapters = [f"{name}={path}" for name, path in (config.get("adapters") or {}).items()]
    return [
        *arguments,
        *_option("lora_modules", adapters),
        *_option("chat_template", config.get("chat_template")),
    ]


def gpus(config: Mapping[str, Any]) -> int:
    """Return how many GPUs an engine of this configuration takes, which vLLM numbers from 0 on."""
    engine = config.get("vllm_engine_config") or {}
    return math.prod(int(engine.get(f"{kind}_parallel_size") or 1) for kind in _PARALLEL)


def _model_path(path: str | None, model_dir: str) -> str | None:
    """Return a model in the archive by its full path; any other is a name that vLLM knows what to do with."""
    local = Path(model_dir, path) if path else None
    return str(local) if local is not None and local.exists() else path


def _option(key: str, value: object) -> Iterator[str]:
    flag = key.replace("_", "-")
    if value is None or value == []:
        return
    if isinstance(value, bool):
        yield f"--{flag}" if value else f"--no-{flag}"
        return
    yield f"--{flag}"
    if isinstance(value, Mapping):
        yield json.dumps(value)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield from map(str, value)
    else:
        yield str(value)


class VllmServer:
    """The child, from its start until its end; `socket_path` is where it listens."""

    def __init__(self, arguments: Sequence[str], gpu_id: int | None) -> None:
        program = _command()
        folder = tempfile.mkdtemp(prefix="vllm-", dir=_socket_parent(tempfile.gettempdir()))
        self.socket_path = os.path.join(folder, "http")
        command = [program, "serve", *arguments, "--uds", self.socket_path]
        logger.info("vllm.started: %s", command)
        environment = {**os.environ, "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
        if gpu_id is not None:  # of the GPUs that this process sees, the child sees the worker's one
            visible = environment.get("CUDA_VISIBLE_DEVICES")
            environment["CUDA_VISIBLE_DEVICES"] = visible_to([gpu_id], visible)
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
        #: Ends the child; also when this object, or the interpreter, goes.
        self.close = weakref.finalize(self, _end, self._process, folder)

    def wait_until_ready(self) -> None:
        """Return once the model is loaded; the worker's startup timeout bounds it. Raises RuntimeError."""
        transport = httpx2.HTTPTransport(uds=self.socket_path)
        with httpx2.Client(transport=transport, base_url="http://vllm") as client:
            while not _is_healthy(client):
                if self.exit_code is not None:
                    self.close()
                    raise RuntimeError(
                        f"vllm ended with code {self.exit_code} before it was ready; see its output"
                    )
                time.sleep(_POLL_S)

    @property
    def exit_code(self) -> int | None:
        """The child's exit code, None while it runs."""
        return self._process.poll()


def _socket_parent(temporary: str) -> str:
    """Return the temporary folder, unless a socket in it would have a path above 107 bytes."""
    return temporary if len(os.fsencode(temporary)) <= _PARENT_LIMIT_BYTES else "/tmp"


def _command() -> str:
    """Find the program that came with this interpreter's vllm, or any on the path."""
    beside = os.path.dirname(sys.executable)
    found = shutil.which("vllm", path=beside) or shutil.which("vllm")
    if found is None:
        raise ImportError("VLLMHandler needs the package vllm, which is not installed here")
    return found


def _is_healthy(client: httpx2.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx2.TransportError:
        return False


def _end(process: "subprocess.Popen[bytes]", folder: str) -> None:
    process.terminate()
    try:
        process.wait(_TERM_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)
