"""The handlers of language models, against a program and packages that stand in for the engines."""

import asyncio
import json
import os
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any  # what clients send and engines answer

import pytest
from ts.context import Context, RequestProcessor
from ts.handler_utils.vllm_server import VllmServer, engine_arguments
from ts.metrics.metrics_cache import MetricsCache
from ts.protocol.otf_message_handler import PredictResponse
from ts.torch_handler.trt_llm_handler import TRTLLMHandler
from ts.torch_handler.vllm_handler import VLLMHandler
from ts.utils.util import PredictionException

from tests.support import eventually

#: Serves what a test needs of vLLM's API on the socket that it is told, and writes down how it was started.
FAKE_VLLM = """#!{python}
import http.server, json, os, socketserver, sys

arguments = sys.argv[1:]
if "--fail" in arguments:
    sys.exit(3)
with open("started.json", "w") as file:
    json.dump([arguments, os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid(), os.getpgrp()], file)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class Handler(http.server.BaseHTTPRequestHandler):
    def address_string(self):
        return "unix"

    def log_message(self, *args):
        pass

    def answer(self, content, status=200, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.answer(b"" if self.path == "/health" else json.dumps({{"data": [self.path]}}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body.get("end"):
            os._exit(9)
        if body.get("prompt") is None:
            self.answer(b'{{"message": "no prompt"}}', 400)
        elif body.get("stream"):
            events = [f"data: {{json.dumps(word)}}" for word in body["prompt"].split()] + ["data: [DONE]"]
            self.answer("".join(event + "\\n\\n" for event in events).encode(), 200, "text/event-stream")
        else:
            self.answer(json.dumps({{"path": self.path, "text": body["prompt"].upper()}}).encode())


Server(arguments[arguments.index("--uds") + 1], Handler).serve_forever()
"""


class Parts:
    """A context's sender of parts."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def sendall(self, response: PredictResponse) -> None:
        self.sent += response.ret


def context_of(folder: Path, config: dict[str, Any], gpu_id: int | None = None) -> Context:
    context = Context("m", str(folder), None, 1, gpu_id, "0", metrics=MetricsCache("m"))
    context.model_yaml_config = {"handler": config}
    context.cl_socket = Parts()
    return context


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the fake vllm on the path, ahead of any other; return the model's folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    file = folder / "vllm"
    file.write_text(FAKE_VLLM.format(python=sys.executable))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    model = tmp_path / "model"
    model.mkdir()
    monkeypatch.chdir(model)
    return model


def test_vllms_socket_has_a_path_that_the_kernel_takes_whatever_tmpdir_is(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    server = VllmServer(["m"], None)
    try:
        assert len(server.socket_path) <= 107
        server.wait_until_ready()
    finally:
        server.close()
    assert not Path(server.socket_path).parent.exists()


@pytest.fixture
def vllm(program: Path) -> Iterator[tuple[VLLMHandler, Context]]:
    context = context_of(program, {"model_path": "org/model"}, gpu_id=2)
    handler = VLLMHandler()
    handler.initialize(context)
    yield handler, context
    assert handler.vllm_engine is not None
    handler.vllm_engine.close()
    assert handler.vllm_engine.exit_code is not None


async def ask(vllm: tuple[VLLMHandler, Context], path: str, body: Any) -> Any:
    handler, context = vllm
    context.request_ids = {0: "r"}
    context.request_processor = [RequestProcessor({"url_path": path})]
    context.cl_socket.sent = []
    return await handler.handle([{"body": body}], context)


@pytest.mark.parametrize("path", ["v1/completions", "v1/chat/completions"])
@pytest.mark.parametrize("pack", [lambda body: body, lambda body: json.dumps(body).encode()])
async def test_a_request_is_answered_by_vllm_at_the_same_path(
    vllm: tuple[VLLMHandler, Context], path: str, pack: Any
) -> None:
    assert await ask(vllm, path, pack({"prompt": "hello"})) == [{"path": f"/{path}", "text": "HELLO"}]
    _, context = vllm
    assert context.get_response_status(0) == (200, "OK")
    assert context.get_response_content_type(0) == "application/json"
    assert context.metrics is not None
    assert [point.name for point in context.metrics.take_points()] == ["HandlerTime"]


async def test_a_stream_is_forwarded_event_by_event_and_ends_with_the_last(
    vllm: tuple[VLLMHandler, Context],
) -> None:
    answer = await ask(vllm, "v1/completions", {"prompt": "a bc", "stream": True})
    _, context = vllm
    assert context.cl_socket.sent == ['data: "a"\n\n', 'data: "bc"\n\n']
    assert answer == ["data: [DONE]\n\n"]
    assert context.get_response_content_type(0) == "text/event-stream"


@pytest.mark.parametrize("stream", [False, True])
async def test_vllms_refusal_keeps_its_status_and_body(
    vllm: tuple[VLLMHandler, Context], stream: bool
) -> None:
    assert await ask(vllm, "v1/completions", {"stream": stream}) == [{"message": "no prompt"}]
    assert vllm[1].get_response_status(0) == (400, "Bad Request")
    assert vllm[1].cl_socket.sent == []


async def test_the_models_are_listed_and_other_paths_unknown(vllm: tuple[VLLMHandler, Context]) -> None:
    assert await ask(vllm, "v1/models", None) == [{"data": ["/v1/models"]}]
    for path in ("v1/embeddings", "", "../health", None):
        with pytest.raises(PredictionException, match=f"Unknown API endpoint: {path}") as raised:
            await ask(vllm, path, {"prompt": "a"})  # type: ignore[arg-type]  # no path at all
        assert raised.value.error_code == 404


@pytest.mark.parametrize("body", [b"no json", b"\xff"])
async def test_a_body_that_is_no_json_fails_alone(vllm: tuple[VLLMHandler, Context], body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        await ask(vllm, "v1/completions", body)
    assert await ask(vllm, "v1/completions", {"prompt": "a"}) == [{"path": "/v1/completions", "text": "A"}]


async def test_several_requests_run_beside_one_another(vllm: tuple[VLLMHandler, Context]) -> None:
    handler, _ = vllm
    copies = [context_of(Path("/"), {}) for _ in range(5)]
    for index, own in enumerate(copies):
        own.request_processor = [RequestProcessor({"url_path": "v1/completions"})]
        own.request_ids = {0: str(index)}
    rows = [[{"body": {"prompt": f"p{index}"}}] for index in range(5)]
    answers = await asyncio.gather(*(handler.handle(row, own) for row, own in zip(rows, copies, strict=True)))
    assert [answer[0]["text"] for answer in answers] == [f"P{index}" for index in range(5)]


async def test_a_worker_whose_engine_died_ends_with_it(vllm: tuple[VLLMHandler, Context]) -> None:
    handler, _ = vllm
    engine = handler.vllm_engine
    assert engine is not None
    with pytest.raises(Exception, match=r"disconnected|closed|read"):
        await ask(vllm, "v1/completions", {"end": True})
    eventually(lambda: engine.exit_code is not None)
    with pytest.raises(SystemExit, match="vllm ended with code 9"):
        await ask(vllm, "v1/completions", {"prompt": "a"})


async def test_a_batch_of_several_is_refused(vllm: tuple[VLLMHandler, Context]) -> None:
    handler, context = vllm
    with pytest.raises(ValueError, match="a batch of 2 requests"):
        await handler.handle([{"body": {}}, {"body": {}}], context)


def test_the_engine_is_started_with_the_models_config_on_the_workers_gpu(
    vllm: tuple[VLLMHandler, Context], program: Path
) -> None:
    arguments, gpus, pid, group = json.loads((program / "started.json").read_text())
    assert arguments[:2] == ["serve", "org/model"]
    assert gpus == "2"
    assert group == os.getpgrp(), "the node ends a worker by its process group"
    engine = vllm[0].vllm_engine
    assert engine is not None
    engine.close()
    assert engine.exit_code == -15
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not os.path.exists(os.path.dirname(engine.socket_path))


@pytest.mark.parametrize(("visible", "seen"), [("4,5", "5"), ("GPU-aa, GPU-bb,GPU-cc", "GPU-bb")])
def test_the_workers_gpu_is_one_of_those_that_its_node_may_use(
    program: Path, monkeypatch: pytest.MonkeyPatch, visible: str, seen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    handler = VLLMHandler()
    handler.initialize(context_of(program, {"model_path": "m"}, gpu_id=1))
    assert handler.vllm_engine is not None
    handler.vllm_engine.close()
    assert json.loads((program / "started.json").read_text())[1] == seen


@pytest.mark.parametrize("kind", ["tensor", "pipeline", "data"])
@pytest.mark.parametrize(
    ("size", "visible", "seen"), [(2, None, None), (2, "GPU-bb,3", "GPU-bb,3"), (1, "GPU-bb,3", "GPU-bb")]
)
def test_an_engine_over_several_gpus_sees_what_the_worker_sees(
    program: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    size: int,
    visible: str | None,
    seen: str | None,
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = {"model_path": "m", "vllm_engine_config": {f"{kind}_parallel_size": size}}
    handler = VLLMHandler()
    handler.initialize(context_of(program, config, gpu_id=0))
    assert handler.vllm_engine is not None
    handler.vllm_engine.close()
    arguments, gpus, _, _ = json.loads((program / "started.json").read_text())
    assert (arguments[1:4], gpus) == (["m", f"--{kind}-parallel-size", str(size)], seen)


def test_an_engine_that_ends_before_it_is_ready_fails_the_load(program: Path) -> None:
    config = {"model_path": "m", "vllm_engine_config": {"fail": True}}
    with pytest.raises(RuntimeError, match="vllm ended with code 3 before it was ready"):
        VLLMHandler().initialize(context_of(program, config))
    assert os.listdir(program.parent / "tmp") == []


def test_without_vllm_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ImportError, match="VLLMHandler needs the package vllm"):
        VLLMHandler().initialize(context_of(tmp_path, {"model_path": "m"}))
    assert os.listdir(tmp_path) == []


def test_the_config_becomes_vllms_arguments(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    config = {
        "model_path": "weights",
        "vllm_engine_config": {
            "max_model_len": 250,
            "enable_lora": True,
            "enable_prefix_caching": False,
            "served_model_name": ["a", "b"],
            "download_dir": None,
            "speculative_config": {"method": "ngram"},
        },
        "adapters": {"adapter_1": "adapters/one"},
        "chat_template": "chat.jinja",
    }
    assert engine_arguments(config, str(tmp_path)) == [
        str(tmp_path / "weights"),
        "--max-model-len", "250",
        "--enable-lora",
        "--no-enable-prefix-caching",
        "--served-model-name", "a", "b",
        "--speculative-config", '{"method": "ngram"}',
        "--lora-modules", "adapter_1=adapters/one",
        "--chat-template", "chat.jinja",
    ]  # fmt: skip
    named = {"model_path": "weights", "vllm_engine_config": {"model": "org/other"}}
    assert engine_arguments(named, str(tmp_path)) == ["org/other"]


@pytest.mark.parametrize("config", [{}, {"vllm_engine_config": {"model": ""}}, {"model_path": None}])
def test_a_config_without_a_model_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="please define model in vllm_engine_config or model_path"):
        engine_arguments(config, "/")


class FakeLLM:
    """TensorRT-LLM's engine, which says one word of the prompt after another."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.asked: list[Any] = []

    async def generate_async(self, prompt: str, streaming: bool, sampling_params: Any) -> AsyncIterator[Any]:
        self.asked.append(sampling_params)
        words = prompt.split()
        for count in range(1, len(words) + 1) if streaming else [len(words)]:
            output = SimpleNamespace(text=" ".join(words[:count]), token_ids=list(range(count)))
            yield SimpleNamespace(outputs=[output])


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[TRTLLMHandler, Context]:
    loaded: dict[str, Any] = {}

    def from_pretrained(path: str, **options: Any) -> Any:
        loaded.update(options, path=path)
        return SimpleNamespace(pad_token_id=None, eos_token_id=7, decode=lambda ids: f"<{ids}>")

    modules: dict[str, dict[str, Any]] = {
        "tensorrt_llm": {"LLM": FakeLLM, "SamplingParams": dict},
        "tensorrt_llm.llmapi": {"KvCacheConfig": dict},
        "transformers": {"AutoTokenizer": SimpleNamespace(from_pretrained=from_pretrained)},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    config = {
        "engine_dir": "e",
        "tokenizer_dir": "t",
        "kv_cache_config": {"free_gpu_memory_fraction": 0.1},
        "trt_llm_engine_config": {"max_batch_size": 8},
    }
    context = context_of(tmp_path, config)
    handler = TRTLLMHandler()
    handler.initialize(context)
    assert (loaded["path"], loaded["trust_remote_code"]) == ("t", False)
    assert handler.tokenizer.pad_token_id == 7
    arguments = handler.trt_llm_engine.arguments
    assert (arguments["model"], arguments["max_batch_size"]) == ("e", 8)
    assert arguments["kv_cache_config"] == {"free_gpu_memory_fraction": 0.1}
    context.request_ids = {0: "r"}
    return handler, context


async def test_a_prompt_is_answered_in_one(trt: tuple[TRTLLMHandler, Context]) -> None:
    handler, context = trt
    body = {"prompt": "a b", "max_new_tokens": 4}
    assert await handler.handle([{"body": body}], context) == ["a b"]
    assert await handler.handle([{"data": json.dumps(body).encode()}], context) == ["a b"]
    assert handler.trt_llm_engine.asked == [{"end_id": 7, "pad_id": 7, "max_new_tokens": 4}] * 2
    assert body == {"prompt": "a b", "max_new_tokens": 4}
    with pytest.raises(ValueError, match="a batch of 2 requests"):
        await handler.handle([{}, {}], context)


async def test_a_prompt_is_answered_token_by_token(trt: tuple[TRTLLMHandler, Context]) -> None:
    handler, context = trt
    assert await handler.handle([{"body": {"prompt": "a b", "streaming": True}}], context) == [""]
    assert context.cl_socket.sent == ['{"text": "<[0]>"}', '{"text": "<[1]>"}']


def test_without_tensorrt_llm_the_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="TRTLLMHandler needs the package tensorrt_llm"):
        TRTLLMHandler().initialize(context_of(tmp_path, {}))
