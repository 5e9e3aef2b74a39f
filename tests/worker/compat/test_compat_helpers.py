"""Micro batches, streamers, and the helpers of handlers whose packages may be missing."""

import logging
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any  # what handlers and other packages take and return

import pytest
import torch
from ts.context import Context, RequestProcessor
from ts.handler_utils.distributed.deepspeed import create_checkpoints_json, get_ds_engine
from ts.handler_utils.distributed.pt_pippy import get_pipeline_driver
from ts.handler_utils.micro_batching import MicroBatching
from ts.handler_utils.preprocess.dali import get_dali_pipeline
from ts.metrics.metrics_cache import MetricsCache
from ts.model_service.model_service import SingleNodeService
from ts.service import Service, emit_metrics
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.distributed.base_deepspeed_handler import BaseDeepSpeedHandler
from ts.torch_handler.distributed.base_pippy_handler import BasePippyHandler
from ts.torch_handler.unit_tests.models.base_model import save_pt_file
from ts.torch_handler.unit_tests.test_utils.mock_context import MockContext
from ts.torch_handler.unit_tests.test_utils.model_dir import copy_files, download_model
from ts.utils.hf_utils import download_model as download_from_hub
from ts.utils.timeit_decorator import timeit
from ts.utils.util import require

from tests.worker.vision import import_torchvision

pytestmark = pytest.mark.usefixtures("imports")


def context_of(requests: int = 1, config: dict[str, Any] | None = None, **headers: str) -> Context:
    context = Context(
        "m", "/dir", None, requests, None, "0", metrics=MetricsCache("m"), model_yaml_config=config
    )
    context.request_processor = [RequestProcessor(dict(headers)) for _ in range(requests)]
    return context


class Doubling(BaseHandler):
    """Remembers which micro batches its steps saw, and in which threads."""

    def __init__(self, size: int, parallelism: dict[str, int] | None = None) -> None:
        super().__init__()
        self.seen: list[tuple[str, int | None, int]] = []
        self.threads: set[str] = set()
        self.micro_batching = MicroBatching(self, size, parallelism)

    def _note(self, step: str, rows: Any) -> None:
        self.seen.append((step, self.micro_batching.get_micro_batch_idx(), len(rows)))
        self.threads.add(threading.current_thread().name)

    def preprocess(self, data: Any) -> Any:
        self._note("preprocess", data)
        return [row["body"] for row in data]

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        self._note("inference", data)
        return [2 * row for row in data]

    def postprocess(self, data: Any) -> Any:
        self._note("postprocess", data)
        if -2 in data:
            raise ValueError("a row of minus one")
        return data

    def get_insights(self, data: Any, inputs: Any, target: Any) -> Any:
        return [(data, inputs, target)]

    def describe_handle(self) -> Any:
        return "described"


@pytest.fixture
def doubling() -> Iterator[Doubling]:
    handler = Doubling(2, {"inference": 2})
    yield handler
    handler.micro_batching.shutdown()


def test_a_batch_is_answered_in_order_by_micro_batches(doubling: Doubling) -> None:
    context = context_of(5)
    answers = doubling.micro_batching([{"body": number} for number in range(5)], context)
    assert answers == [0, 2, 4, 6, 8]
    for step in ("preprocess", "inference", "postprocess"):
        assert sorted(item[1:] for item in doubling.seen if item[0] == step) == [(0, 2), (1, 2), (2, 1)]
    assert all(name.startswith("micro-batch-") for name in doubling.threads)
    assert doubling.micro_batching.get_micro_batch_idx() is None
    assert context.metrics is not None
    assert [point.name for point in context.metrics.take_points()] == ["HandlerTime"]


def test_a_micro_batch_that_fails_fails_the_batch_and_leaves_the_next_alone(doubling: Doubling) -> None:
    with pytest.raises(ValueError, match="a row of minus one"):
        doubling.micro_batching([{"body": number} for number in (0, 1, -1, 2)], context_of(4))
    assert doubling.micro_batching([{"body": 3}], context_of()) == [6]


def test_micro_batching_describes_and_explains_the_batch_as_one(doubling: Doubling) -> None:
    assert doubling.micro_batching([{}], context_of(describe="True")) == ["described"]
    rows = [{"body": 1, "target": 4}, {"body": 2}]
    assert doubling.micro_batching(rows, context_of(2, explain="True")) == [([1, 2], 1, 4)]
    assert doubling.seen == [("preprocess", None, 2)]


def test_threads_of_a_step_can_be_changed_while_it_runs(doubling: Doubling) -> None:
    assert doubling.micro_batching.parallelism == {"preprocess": 1, "inference": 2, "postprocess": 1}
    doubling.micro_batching.parallelism = {"preprocess": 3}
    assert doubling.micro_batching.parallelism == {"preprocess": 3, "inference": 2, "postprocess": 1}
    assert doubling.micro_batching([{"body": 1}, {"body": 2}, {"body": 3}], context_of(3)) == [2, 4, 6]


@pytest.mark.parametrize("parallelism", [{"training": 1}, {"inference": 0}, {"inference": -1}])
def test_threads_that_cannot_be_are_refused_and_nothing_changes(
    doubling: Doubling, parallelism: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="the steps are"):
        doubling.micro_batching.parallelism = parallelism
    assert doubling.micro_batching.parallelism["inference"] == 2


def test_two_micro_batches_are_inferred_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=30)

    class Meeting(Doubling):
        def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            meeting.wait()
            return data

    handler = Meeting(1, {"inference": 2})
    assert handler.micro_batching([{"body": 1}, {"body": 2}], context_of(2)) == [1, 2]
    handler.micro_batching.shutdown()


def test_a_streamer_yields_one_text_for_each_row_at_a_time() -> None:
    transformers = pytest.importorskip("transformers")
    import_torchvision()  # transformers' models import it where it is installed
    from ts.handler_utils.hf_batch_streamer import TextIteratorStreamerBatch

    class Words:
        """A tokenizer of as much as a streamer asks for."""

        def decode(self, tokens: Any, **options: object) -> str:
            assert options == {"skip_special_tokens": True}
            return "".join(f"w{int(token)} " for token in tokens)

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=9, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=None
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    prompt = torch.tensor([[1, 2], [3, 4]])
    streamer = TextIteratorStreamerBatch(Words(), 2, skip_prompt=True, skip_special_tokens=True)
    tokens = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False, streamer=streamer
    )
    parts = list(streamer)
    assert all(len(part) == 2 for part in parts)
    for row in range(2):
        expected = "".join(f"w{token} " for token in tokens[row, 2:].tolist())
        assert "".join(part[row]["text"] for part in parts) == expected
    with pytest.raises(ValueError, match="the batch size is 2"):
        streamer.put(torch.tensor([1, 2, 3]))


def test_a_missing_package_is_named_with_who_needs_it() -> None:
    with pytest.raises(ImportError, match="a test needs the package not_there, which is not installed"):
        require("not_there.part", "a test")


def test_a_package_that_misses_another_one_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "half_there.py").write_text("import quarter_there\n")
    sys.path.insert(0, str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="No module named 'quarter_there'"):
        require("half_there", "a test")


class FakePackages:
    """Packages that stand in for ones which need a GPU or a network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        #: (function, arguments, named arguments) in order.
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def add(self, name: str, **members: Any) -> ModuleType:
        module = ModuleType(name)
        vars(module).update(members)
        self._monkeypatch.setitem(sys.modules, name, module)
        return module

    def function(self, name: str, result: Any = None) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            return result

        return call


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> FakePackages:
    return FakePackages(monkeypatch)


def test_models_are_fetched_from_the_hub_without_its_documentation(packages: FakePackages) -> None:
    packages.add("huggingface_hub", snapshot_download=packages.function("fetch", "/cache/snapshot"))
    assert download_from_hub("org/model", "v2", "/cache", use_auth_token=False) == "/cache/snapshot"
    ((_, _, arguments),) = packages.calls
    assert arguments["repo_id"] == "org/model"
    assert arguments["revision"] == "v2"
    assert arguments["cache_dir"] == "/cache"
    assert arguments["token"] is False
    assert "*.safetensors" in arguments["allow_patterns"]
    assert "*.md" not in arguments["allow_patterns"]


def test_functions_tell_how_long_they_took(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    @timeit
    def double(value: int) -> int:
        return 2 * value

    assert double(3) == 6
    assert re.search(r"func: 'double' took a total of \d+\.\d{4} sec to run", caplog.text)


def test_deepspeed_gets_the_models_config_and_its_list_of_checkpoints(
    tmp_path: Path, packages: FakePackages
) -> None:
    for name in ("a.bin", "deep/b.pt", "c.txt"):
        file = tmp_path / "weights" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (tmp_path / "ds.json").write_text("{}")
    weights = str(tmp_path / "weights")
    context = context_of(
        config={
            "handler": {"model_path": weights},
            "deepspeed": {"config": "ds.json", "checkpoint": "list.json"},
        }
    )
    context.system_properties["model_dir"] = str(tmp_path)
    with pytest.raises(ImportError, match="a DeepSpeed handler needs the package deepspeed"):
        get_ds_engine("model", context)
    packages.add("deepspeed", init_inference=packages.function("engine", "the engine"))
    assert get_ds_engine("model", context) == "the engine"
    (call,) = packages.calls
    listed = str(tmp_path / "list.json")
    settings = {"config": str(tmp_path / "ds.json"), "base_dir": weights, "checkpoint": listed}
    assert call == ("engine", ("model",), settings)
    create_checkpoints_json(weights, listed)
    assert Path(listed).read_text() == (
        f'{{"type": "ds_model", "checkpoints": ["{weights}/a.bin", "{weights}/deep/b.pt"], "version": 1.0}}'
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "m has no deepspeed config in model config yaml file"),
        (
            {"handler": {"model_path": "w"}, "deepspeed": {"config": "none.json"}},
            "config file /dir/none.json",
        ),
    ],
)
def test_deepspeed_without_its_config_is_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        get_ds_engine("model", context_of(config=config))


def test_handlers_of_spread_models_take_the_gpu_of_their_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    handler = BaseDeepSpeedHandler()
    handler.initialize(context_of())
    assert handler.device == 3
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(KeyError, match="WORLD_SIZE"):
        BasePippyHandler().initialize(context_of())


PIPPY = {"pippy": {"input_names": ["x"], "model_type": "HF", "chunks": 2}, "handler": {"model_path": "w"}}


def test_pippy_splits_a_model_among_the_processes(packages: FakePackages) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Any, scale: int = 3) -> Any:
            return x * scale

    model = Model().train()
    context = context_of(config=PIPPY)
    with pytest.raises(ImportError, match="a PiPPy handler needs the package pippy"):
        get_pipeline_driver(model, 2, context)
    compiled = packages.function("compile", ("the driver", "mode"))
    packages.add("pippy", all_compile=compiled, split_into_equal_size=lambda size: f"split by {size}")
    inject = packages.function("inject")
    packages.add("pippy.hf", PiPPyHFTracer=lambda: "tracer", inject_pipeline_forward=inject)
    assert get_pipeline_driver(model, 2, context) is model
    (_, compile_arguments, options), injected = packages.calls
    assert compile_arguments == (model,)
    assert options["num_ranks"] == options["num_chunks"] == 2
    assert options["concrete_args"] == {"scale": 3}
    assert (options["split_policy"], options["tracer"]) == ("split by 2", "tracer")
    assert injected == ("inject", (model, "the driver"), {})
    assert not model.training
    plain = {**PIPPY, "pippy": {"input_names": ["x"], "model_type": "other"}}
    assert get_pipeline_driver(model, 2, context_of(config=plain)) == "the driver"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "lacks 'input_names' under 'pippy'"),
        ({"pippy": {"input_names": []}}, "lacks 'model_type' under 'pippy'"),
        ({"pippy": PIPPY["pippy"]}, "lacks 'model_path' under 'handler'"),
        ({**PIPPY, "handler": {"model_path": "w", "index_filename": "i.json"}}, r"Index file 'w/i\.json'"),
    ],
)
def test_pippy_without_its_config_is_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        get_pipeline_driver(torch.nn.Linear(1, 1), 2, context_of(config=config))


DALI = {"batch_size": 4, "num_threads": 2, "device_id": 0, "seed": 7}


def test_a_dali_pipeline_comes_from_the_archives_file(tmp_path: Path, packages: FakePackages) -> None:
    context = context_of(config={"dali": {**DALI, "pipeline_file": "p.dali"}})
    context.system_properties["model_dir"] = str(tmp_path)
    with pytest.raises(RuntimeError, match="Missing dali pipeline file"):
        get_dali_pipeline(context)
    (tmp_path / "p.dali").write_text("")
    with pytest.raises(ImportError, match="a DALI handler needs the package nvidia"):
        get_dali_pipeline(context)
    packages.add("nvidia.dali")
    pipeline = SimpleNamespace(deserialize=packages.function("deserialize", "the pipeline"))
    packages.add("nvidia.dali.pipeline", Pipeline=pipeline)
    assert get_dali_pipeline(context) == "the pipeline"
    arguments = {"filename": str(tmp_path / "p.dali"), "prefetch_queue_depth": 1, **DALI}
    assert packages.calls == [("deserialize", (), arguments)]


def test_without_a_dali_config_there_is_no_pipeline() -> None:
    with pytest.raises(ValueError, match="m has no dali config"):
        get_dali_pipeline(context_of(config={}))


def test_metrics_of_the_old_store_are_emitted_for_the_server_to_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    emit_metrics(["C.Count:1|#Level:Model|#hostname:h,1"])
    assert caplog.messages == ["[METRICS]C.Count:1|#Level:Model|#hostname:h,1"]


def test_a_service_splits_requests_as_the_server_does() -> None:
    request = {
        "requestId": b"r",
        "parameters": [{"name": "a", "value": b"1", "contentType": "text/csv"}],
        "headers": [{"name": b"X-Own", "value": b"2"}],
    }
    headers, rows, ids = Service.retrieve_data_for_inference([request])
    assert headers[0].get_request_properties() == {"a": {"content-type": "text/csv"}, "X-Own": "2"}
    assert (rows, ids) == ([{"a": b"1"}], {0: "r"})
    with pytest.raises(ValueError, match="Received invalid inputs"):
        Service.retrieve_data_for_inference(None)


class Adding(SingleNodeService):
    def _inference(self, data: Any) -> Any:
        return sum(data[0])


def test_services_of_the_time_before_handlers_answer_by_their_signature(tmp_path: Path) -> None:
    signature = '{"inputs": [{"data_name": "numbers"}], "input_type": "application/json"}'
    context = context_of()
    context.system_properties["model_dir"] = str(tmp_path)
    context.manifest = {"Model": {"Signature": "signature.json"}}
    service = Adding("m", str(tmp_path), None)
    with pytest.raises(ValueError, match="Signature file is not found"):
        service.initialize(context)
    (tmp_path / "signature.json").write_text(signature)
    service.initialize(context)
    assert service.handle([{"numbers": b"[1, 2]"}], context) == [3]
    assert service.handle([{"body": [3, 4]}], context) == [7]
    assert service.signature()["input_type"] == "application/json"
    with pytest.raises((ValueError, SyntaxError)):
        service.handle([{"body": b"__import__('os')"}], context)


def test_a_handler_can_be_tested_with_a_mock_context(tmp_path: Path) -> None:
    (tmp_path / "argmax.py").write_text(
        "import ts.torch_handler.unit_tests.models.base_model as base\n\n\n"
        "class Net(base.ArgmaxModel):\n    pass\n"
    )
    save_pt_file(str(tmp_path / "model.pt"))
    (tmp_path / "config.yaml").write_text("handler: {answer: 42}")
    sys.path.insert(0, str(tmp_path))
    context: Any = MockContext(
        model_dir=str(tmp_path), model_file="argmax.py", model_yaml_config_file="config.yaml"
    )
    assert context.model_yaml_config == {"handler": {"answer": 42}}
    handler = BaseHandler()
    handler.initialize(context)
    assert handler.handle([[1.0, 2.0], [4.0, 3.0]], context) == [1, 0]
    assert [metric.name for metric in context.metrics.store] == ["HandlerTime"]
    context.explain = True
    assert [context.get_request_header(idx, "explain") for idx in range(2)] == [False, True]


def test_a_mock_contexts_model_folder_is_filled_from_files_and_urls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights-1.pt").write_text("weights")
    (tmp_path / "target").mkdir()
    for _ in range(2):  # the second time from the cache
        download_model((tmp_path / "weights-1.pt").as_uri(), tmp_path / "target")
        assert (tmp_path / "target" / "model.pt").read_text() == "weights"
        (tmp_path / "weights-1.pt").unlink(missing_ok=True)
    copy_files(tmp_path / "target", tmp_path, {"model.pt": "copy.pt"})
    assert (tmp_path / "copy.pt").read_text() == "weights"
