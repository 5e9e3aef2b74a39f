"""The base handler: each kind of model it loads, and how it answers."""

import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ts.context import Context, RequestProcessor
from ts.metrics.metrics_cache import MetricsCache
from ts.model_loader import ModelLoaderFactory
from ts.torch_handler import base_handler
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.weights import load_weights

from tests.worker.handlers import ask, load_handler, make_folder, saved

pytestmark = pytest.mark.usefixtures("imports")

NET = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x):
        return torch.relu(self.linear(x))
"""
#: The rows of `body` as one batch; otherwise the base handler itself.
HANDLER = """
from ts.torch_handler.base_handler import BaseHandler


class Handler(BaseHandler):
    def preprocess(self, data):
        return super().preprocess([row["body"] for row in data])
"""
ROWS = ({"body": [1.0, -2.0, 0.5]}, {"body": [0.0, 3.0, 1.0]})
INPUT = torch.tensor([row["body"] for row in ROWS])


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


def script(file: Path) -> None:
    torch.jit.save(torch.jit.trace(Net(), INPUT), file)  # type: ignore[no-untyped-call]  # torch's


def expected() -> list[list[float]]:
    weight, bias = Net().linear.weight, Net().linear.bias
    rows: list[list[float]] = (INPUT @ weight.T + bias).clamp(min=0).tolist()
    return rows


def assert_predicts(folder: Path) -> BaseHandler:
    """Load the folder's model, compare its answers with the network's; return the handler."""
    (folder / "h.py").write_text(HANDLER)
    service = load_handler(folder, "h.py")
    assert ask(service, *ROWS) == [pytest.approx(row) for row in expected()]
    handler: BaseHandler = service._entry_point.__self__
    assert handler.initialized
    assert handler.get_device() == torch.device("cpu")
    return handler


def test_an_eager_model_is_made_from_its_class_and_state_dict(tmp_path: Path) -> None:
    handler = assert_predicts(make_folder(tmp_path, Net(), NET, labels={"0": "cat"}))
    assert not handler.model.training
    assert handler.mapping == {"0": "cat"}
    assert handler.model_pt_path == str(tmp_path / "weights.pt")


def test_an_eager_model_without_weights_is_made_as_it_is(tmp_path: Path) -> None:
    source = NET.replace("super().__init__()", "super().__init__()\n        torch.manual_seed(0)")
    assert_predicts(make_folder(tmp_path, source=source))


def test_a_scripted_model_needs_no_class(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, serializedFile="net.pt")
    script(folder / "net.pt")
    assert_predicts(folder)


def test_an_exported_program_is_loaded(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, serializedFile="net.pt2")
    torch.export.save(torch.export.export(Net().eval(), (INPUT,)), folder / "net.pt2")
    assert_predicts(folder)


@pytest.mark.timeout(400)  # compiles C++
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor compiles with g++")
def test_a_model_compiled_ahead_of_time_is_loaded_packed_or_as_a_bare_library(tmp_path: Path) -> None:
    config = "pt2: {export: {aot_compile: true}}"
    packed = make_folder(tmp_path / "packed", config=config, serializedFile="net.pt2")
    program = torch.export.export(Net().eval(), (INPUT,))
    torch._inductor.aoti_compile_and_package(program, package_path=str(packed / "net.pt2"))
    assert_predicts(packed)
    bare = make_folder(tmp_path / "bare", config=config, serializedFile="net.so")
    with zipfile.ZipFile(packed / "net.pt2") as package:
        (library,) = [name for name in package.namelist() if name.endswith(".so")]
        (bare / "net.so").write_bytes(package.read(library))
    sys.modules.pop("h")
    assert_predicts(bare)


class Session(BaseHandler):
    """Runs an ONNX session, which is no callable, as handlers of ONNX models do."""

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        return torch.tensor(self.model.run(None, {"x": data.numpy()})[0])


def test_an_onnx_model_becomes_a_session(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = make_folder(tmp_path, serializedFile="net.onnx")
    net, helper = Net(), onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1), helper.make_node("Relu", ["y"], ["z"])],
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [None, 2])],
        [
            onnx.numpy_helper.from_array(net.linear.weight.detach().numpy(), "w"),
            onnx.numpy_helper.from_array(net.linear.bias.detach().numpy(), "b"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "net.onnx")
    handler = Session()
    context = Context("m", str(folder), {"model": {"serializedFile": "net.onnx"}}, 1, None, "0")
    handler.initialize(context)
    assert handler.handle(INPUT.tolist(), context) == [pytest.approx(row) for row in expected()]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, "No model weights could be loaded"),
        ({"serializedFile": "net.bin"}, "No model weights could be loaded"),
        ({"serializedFile": "net.so"}, "No model weights could be loaded"),
        ({"modelFile": "none.py"}, "Missing the model file none.py"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(
    tmp_path: Path, facts: dict[str, object], reason: str
) -> None:
    with pytest.raises(RuntimeError, match=reason):
        load_handler(make_folder(tmp_path, **facts), "base_handler")  # type: ignore[arg-type]  # a test's own


def test_a_model_file_with_two_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"exactly one class, the model; it defines Net, Other"):
        load_handler(make_folder(tmp_path, source=f"{NET}\nclass Other:\n    pass\n"), "base_handler")


class Marker:
    """Something that is no tensor; loading it calls what it is made with."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return (abs, (-7,))


def test_weights_that_are_a_program_are_refused_with_the_key_that_allows_them(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, source=NET, serializedFile="weights.pt")
    torch.save({"linear.weight": Marker()}, folder / "weights.pt")
    with pytest.raises(RuntimeError, match=r"`handler: \{weights_only: false\}` into the archive's"):
        load_handler(folder, "base_handler")


def test_weights_are_mapped_where_their_file_holds_them_as_they_are(tmp_path: Path) -> None:
    state = {"weight": torch.arange(100_000.0)}
    stored, zipped, old = (tmp_path / name for name in ("stored.pt", "zipped.pt", "old.pt"))
    torch.save(state, stored)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(stored) as first, zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as again:
        for name in first.namelist():
            again.writestr(name, first.read(name))
    for file in (stored, zipped, old, str(stored)):
        loaded = load_weights(file, "cpu", None)["weight"]
        assert torch.equal(loaded, state["weight"]), file
        is_mapped = str(file) in Path("/proc/self/maps").read_text()
        assert is_mapped == ("stored" in str(file))
        del loaded
    with stored.open("rb") as opened:
        assert torch.equal(load_weights(opened, "cpu", None)["weight"], state["weight"])


def test_an_archive_may_ask_for_full_unpickling_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "weights.pt"
    torch.save(Marker(), file)
    assert load_weights(file, None, {"handler": {"weights_only": False}}) == 7
    assert f"code inside {file} may run" in caplog.text


@pytest.mark.parametrize(
    "config", [None, {}, {"handler": None}, {"handler": "x"}, {"handler": {"weights_only": 0}}]
)
def test_nothing_but_a_plain_false_asks_for_full_unpickling(tmp_path: Path, config: dict[str, Any]) -> None:
    file = tmp_path / "weights.pt"
    torch.save(Marker(), file)
    with pytest.raises(RuntimeError, match="holds more than tensors"):
        load_weights(file, None, config)


@pytest.mark.parametrize(
    "config",
    [
        "pt2: {compile: {enable: true, backend: eager}}",
        "pt2: eager",
        "pt2: {backend: eager, dynamic: true}",
    ],
)
def test_torch_compile_is_asked_for_in_three_ways(tmp_path: Path, config: str) -> None:
    handler = assert_predicts(make_folder(tmp_path, Net(), NET, config=config))
    assert isinstance(handler.model, torch._dynamo.OptimizedModule)


@pytest.mark.parametrize(
    ("config", "logged"),
    [
        ("pt2: nonsense", "nonsense is not a supported backend"),
        ("pt2: {compile: {enable: true, backend: openvino}}", "Compiling model with backend openvino"),
        ("pt2: {compile: {enable: true, backend: eager, speed: 9}}", "has failed, proceeding without"),
        ("pt2: {compile: {enable: false, backend: eager}}", ""),
        ("pt2: {export: {aot_compile: true}}", ""),
    ],
)
def test_a_model_that_is_not_compiled_runs_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, config: str, logged: str
) -> None:
    handler = assert_predicts(make_folder(tmp_path, Net(), NET, config=config))
    assert not isinstance(handler.model, torch._dynamo.OptimizedModule)
    assert logged in caplog.text


def test_a_handle_is_timed_once_for_its_batch(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, Net(), NET)
    (folder / "h.py").write_text(HANDLER)
    service = load_handler(folder, "h.py")
    ask(service, *ROWS)
    assert service.context.metrics is not None
    (point,) = service.context.metrics.take_points()
    assert (point.name, point.kind, point.unit) == ("HandlerTime", "gauge", "Milliseconds")
    assert point.request_ids == ("request-0", "request-1")
    assert point.value > 0


def test_steps_are_timed_where_the_config_asks(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, Net(), NET, config="handler: {profile: true}")
    (folder / "h.py").write_text(HANDLER)
    service = load_handler(folder, "h.py")
    ask(service, *ROWS)
    assert service.context.metrics is not None
    names = [point.name for point in service.context.metrics.take_points()]
    steps = ["preprocess", "inference", "postprocess"]
    assert names == [*(f"ts_handler_{step}" for step in steps), "HandlerTime"]


class Explaining(BaseHandler):
    def preprocess(self, data: Any) -> Any:
        return data

    def get_insights(self, tensor: Any, inputs: Any, target: Any) -> list[Any]:
        return [inputs, target]

    def describe_handle(self) -> Any:
        return {"takes": "numbers"}


def context_of(**headers: str) -> Context:
    context = Context("m", "/", {"model": {"modelName": "m"}}, 1, None, "0", metrics=MetricsCache("m"))
    context.request_processor = [RequestProcessor(dict(headers))]
    return context


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"data": "d", "target": 2}, ["d", 2]),
        ({"body": "b"}, ["b", 0]),
        ({"body": "b", "target": None}, ["b", 0]),
        ("bare", [None, 0]),
    ],
)
def test_an_explanation_takes_input_and_target_of_the_first_row(row: object, answer: list[object]) -> None:
    handler = Explaining()
    assert handler.handle([row], context_of(explain="True")) == answer
    assert handler.explain
    assert handler.context is not None


def test_the_explain_header_has_to_be_true_in_these_letters() -> None:
    handler = Explaining()
    handler.model = lambda data: data
    for value in ("False", "true", ""):
        with pytest.raises(AttributeError):  # a prediction: the list is no tensor
            handler.handle([{"data": "d"}], context_of(explain=value))
        assert not handler.explain


def test_an_explanation_without_insights_fails() -> None:
    with pytest.raises(AttributeError, match="get_insights"):
        BaseHandler().handle([[1.0]], context_of(explain="True"))


def test_a_description_runs_no_model() -> None:
    assert Explaining().handle([{}], context_of(describe="True")) == [{"takes": "numbers"}]
    assert BaseHandler().handle([{}], context_of(describe="True")) == [None]


def test_the_profiler_writes_traces_and_answers_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    monkeypatch.setattr(base_handler, "_TRACE_FOLDER", str(tmp_path / "traces"))
    folder = make_folder(tmp_path / "model", Net(), NET, modelName="../../odd")
    assert_predicts(folder)
    (trace,) = (tmp_path / "traces" / "odd").iterdir()
    text = trace.read_text()
    assert all(f'"{step}"' in text for step in ("preprocess", "inference", "postprocess"))


def test_a_subclass_brings_its_own_arguments_of_the_profiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    profiles: list[Any] = []
    handler = Explaining()
    handler.profiler_args = {
        "activities": [torch.profiler.ProfilerActivity.CPU],
        "on_trace_ready": profiles.append,
    }
    assert handler.handle([{"data": "d"}], context_of(explain="True")) == ["d", 0]
    (profile,) = profiles
    assert "explain" in [event.key for event in profile.key_averages()]
    assert list(handler.profiler_args) == ["activities", "on_trace_ready"]


def test_a_context_without_config_or_metrics_will_do() -> None:
    bare = SimpleNamespace(
        manifest={"model": {"modelFile": "none.py"}},
        system_properties={"model_dir": "/nowhere"},
        get_request_header=lambda idx, name: None,
        metrics=None,
    )
    handler = BaseHandler()
    with pytest.raises(RuntimeError, match="Missing the model file"):
        handler.initialize(bare)  # type: ignore[arg-type]  # a test's own, as tests of archives have
    handler.model = lambda data: data * 2
    assert handler.handle([[1.0]], bare) == [[2.0]]  # type: ignore[arg-type]  # as above


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device; see CONTRIBUTING.md, how tests look"
)
def test_a_model_goes_to_the_gpu_that_it_was_given(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, Net(), NET)
    (folder / "h.py").write_text(HANDLER)
    service = load_handler(folder, "h.py", gpu_id=0)
    handler: BaseHandler = service._entry_point.__self__
    assert (handler.map_location, handler.device) == ("cuda", torch.device("cuda:0"))
    assert ask(service, *ROWS) == [pytest.approx(row, rel=1e-2) for row in expected()]


DENSE = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x)
"""


def test_the_oldest_handler_takes_tensors_and_answers_one(tmp_path: Path) -> None:
    net = Net()
    service = load_handler(make_folder(tmp_path, net, DENSE), "densenet_handler")
    (answer,) = ask(service, *({"body": saved(row)} for row in INPUT))
    assert torch.allclose(answer, net.linear(INPUT))
    with pytest.raises(RuntimeError, match="holds more than tensors"):
        ask(service, {"body": saved(Marker())})


def test_the_oldest_handler_takes_scripted_models_and_misses_absent_ones(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "scripted", serializedFile="net.pt")
    script(folder / "net.pt")
    (answer,) = ask(load_handler(folder, "densenet_handler"), {"body": saved(INPUT[0])})
    assert answer.tolist() == [pytest.approx(expected()[0])]
    with pytest.raises(RuntimeError, match=r"Missing the model.pt file"):
        load_handler(make_folder(tmp_path / "empty", serializedFile="net.pt"), "densenet_handler")


def test_the_loader_is_found_by_its_factory_and_takes_envelopes(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, Net(), NET)
    service = load_handler(folder, "base_handler", envelope="body")
    assert ask(service, *ROWS) == [pytest.approx(row) for row in expected()]
    assert type(ModelLoaderFactory.get_model_loader()).__name__ == "TsModelLoader"


def test_traces_go_to_a_folder_of_ones_own_where_another_user_has_laid_one(tmp_path: Path) -> None:
    assert base_handler.own_folder(f"{tmp_path}/ours") == f"{tmp_path}/ours"
    (tmp_path / "theirs").symlink_to(tmp_path / "victim")
    made = base_handler.own_folder(f"{tmp_path}/theirs")
    assert made.startswith(f"{tmp_path}/theirs-")
    assert Path(made).is_dir()
    assert not (tmp_path / "victim").exists()
