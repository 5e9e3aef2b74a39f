"""The handler that most archives subclass: loads eager, TorchScript, exported, AOT-compiled or ONNX models.

Weights are read with `weights_only=True` unless the archive asks otherwise (ts.utils.weights). Importing
this brings torch and nothing heavier. `Any` stands for what subclasses choose: their models, inputs and
outputs.
"""

import importlib
import importlib.util
import logging
import os
import stat
import tempfile
import time
from abc import ABC
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from typing import Any

import torch
from torch.profiler import profile, record_function

from ts.context import Context
from ts.handler_utils.timer import record_handler_time, timed
from ts.utils.util import check_valid_pt2_backend, list_classes_from_module, load_label_mapping, require
from ts.utils.weights import load_weights

logger = logging.getLogger(__name__)

#: True for every torch that this runs on; handlers ask for them.
PROFILER_AVAILABLE = PT2_AVAILABLE = PT230_AVAILABLE = True
ONNX_AVAILABLE = importlib.util.find_spec("onnxruntime") is not None
XLA_AVAILABLE = importlib.util.find_spec("torch_xla") is not None
IPEX_AVAILABLE = (
    os.environ.get("TS_IPEX_ENABLE") == "true"
    and importlib.util.find_spec("intel_extension_for_pytorch") is not None
)

#: Backends of torch.compile that another package brings, and the module that registers them.
_BACKEND_MODULES = {
    "openvino": "openvino.torch",
    "tensorrt": "torch_tensorrt",
    "ipex": "intel_extension_for_pytorch",
    "torchxla_trace_once": "torch_xla.core.xla_model",
    "hpu_backend": "habana_frameworks.torch.core",
}
#: Makes a context for a step's name.
_Naming = Callable[[str], AbstractContextManager[object]]
_TRACE_FOLDER = "/tmp/pytorch_profiler"


@cache
def own_folder(path: str) -> str:
    """Make a folder for this user alone; where another user has laid something there, one of another name."""
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    facts = os.lstat(path)
    if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid():
        return path
    return tempfile.mkdtemp(prefix=f"{os.path.basename(path)}-", dir=os.path.dirname(path))


def setup_ort_session(model_pt_path: str, map_location: str | None) -> Any:  # onnxruntime has no types
    """Open an ONNX model with all of the host's cores, on the GPU if the model belongs there."""
    onnxruntime = require("onnxruntime", "an ONNX model")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    providers = ["CPUExecutionProvider"]
    if map_location == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    return onnxruntime.InferenceSession(model_pt_path, providers=providers, sess_options=options)


class BaseHandler(ABC):  # noqa: B024  # subclasses list ABC after it
    """Loads a model by its manifest, and runs preprocess, inference, postprocess on each batch."""

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: dict[str, Any] | None = None
        self.device: torch.device | None = None
        self.initialized = False
        self.context: Context | None = None
        self.model_pt_path: str | None = None
        self.manifest: dict[str, Any] | None = None
        #: Kind of device; None where torch can't map to it.
        self.map_location: str | None = None
        #: Whether the batch at hand is to be explained.
        self.explain = False
        self.target = 0
        #: Arguments of torch.profiler.profile; a subclass may set its own.
        self.profiler_args: dict[str, Any] = {}
        self.model_yaml_config: dict[str, Any] = {}

    def initialize(self, context: Context) -> None:
        """Load the model that the manifest names. Raises RuntimeError where it names none that can be."""
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = getattr(context, "model_yaml_config", None) or {}
        properties = context.system_properties
        self.map_location, self.device = _pick_device(properties.get("gpu_id"))
        model_dir = properties["model_dir"]
        facts = (self.manifest or {}).get("model") or {}
        if facts.get("serializedFile"):
            self.model_pt_path = os.path.join(model_dir, facts["serializedFile"])
        self.model = self._load_model(model_dir, facts.get("modelFile"))
        self._compile_model()
        self.mapping = load_label_mapping(os.path.join(model_dir, "index_to_name.json"))
        self.initialized = True

    def _load_model(self, model_dir: str, model_file: str | None) -> Any:
        path = self.model_pt_path or ""
        if model_file:
            model = self._load_pickled_model(model_dir, model_file, self.model_pt_path)
            model.to(self.device)
            model.eval()
            return model
        if path.endswith(".pt"):
            model = self._load_torchscript_model(path)
            model.eval()
            return model
        if path.endswith(".onnx"):
            return setup_ort_session(path, self.map_location)
        is_compiled = bool(self._pt2_options("export").get("aot_compile"))
        if path.endswith((".so", ".pt2")) and is_compiled:
            return self._load_torch_export_aot_compile(path)
        if path.endswith(".pt2"):
            return torch.export.load(path).module().to(self.device)
        raise RuntimeError("No model weights could be loaded")

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return torch.jit.load(model_pt_path, map_location=self.device)  # type: ignore[no-untyped-call]  # torch's

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        """Load what AOTInductor compiled: a package (.pt2) or a bare library (.so)."""
        if self.device is not None and self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # a library has no say in where it runs
        if model_so_path.endswith(".pt2"):
            return torch._inductor.aoti_load_package(model_so_path)
        return torch._export.aot_load(model_so_path, str(self.map_location))

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> Any:
        """Make the one class of the model file, and load its state dict where there is one."""
        if not os.path.isfile(os.path.join(model_dir, model_file)):
            raise RuntimeError(f"Missing the model file {model_file}")
        module = importlib.import_module(os.path.splitext(os.path.basename(model_file))[0])
        classes = list_classes_from_module(module)
        if len(classes) != 1:
            names = ", ".join(cls.__name__ for cls in classes) or "none"
            raise ValueError(f"{model_file} must define exactly one class, the model; it defines {names}")
        model = classes[0]()
        if model_pt_path:
            # XLA devices are none that torch.load maps to.
            location = self.device if self.map_location else None
            state = load_weights(model_pt_path, location, self.model_yaml_config)
            model.load_state_dict(state)
        return model

    def _pt2_options(self, part: str) -> dict[str, Any]:
        pt2 = self.model_yaml_config.get("pt2")
        options = pt2.get(part) if isinstance(pt2, dict) else None
        return options if isinstance(options, dict) else {}

    def _compile_options(self) -> dict[str, Any] | None:
        """Return the arguments of torch.compile, or None where the config doesn't ask for it."""
        pt2 = self.model_yaml_config.get("pt2")
        if isinstance(pt2, str):
            return {"backend": pt2}
        if not isinstance(pt2, dict) or not pt2:
            return None
        if "compile" in pt2:
            options = dict(self._pt2_options("compile"))
            return options if options.pop("enable", False) else None
        return None if "export" in pt2 else dict(pt2)

    def _compile_model(self) -> None:
        """Compile the model if the config asks; one that can't be compiled runs as it is."""
        options = self._compile_options()
        if options is None or ("backend" in options and not check_valid_pt2_backend(options["backend"])):
            if IPEX_AVAILABLE:
                self._optimize_for_intel()
            return
        asked = ", ".join(f"{key} {value}" for key, value in options.items())
        try:
            if options.get("backend") in _BACKEND_MODULES:
                importlib.import_module(_BACKEND_MODULES[options["backend"]])
            self.model = torch.compile(self.model, **options)
            logger.info("Compiled model with %s", asked)
        except (RuntimeError, TypeError, ValueError, ImportError) as error:
            logger.warning("Compiling model with %s has failed, proceeding without: %s", asked, error)

    def _optimize_for_intel(self) -> None:
        ipex = importlib.import_module("intel_extension_for_pytorch")
        model = self.model.to(memory_format=torch.channels_last).to(self.device)
        self.model = ipex.optimize(model)

    @timed
    def preprocess(self, data: Any) -> Any:
        """Make a tensor of the batch."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the batch."""
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> Any:
        """Make a list with one answer for each request."""
        return data.tolist()

    def handle(self, data: Any, context: Context) -> Any:
        """Answer a batch: describe, explain or predict."""
        start = time.perf_counter()
        self.context = context
        if self._is_describe():
            output: Any = [self.describe_handle()]
        elif os.environ.get("ENABLE_TORCH_PROFILER"):
            output, _ = self._infer_with_profiler(data)
        else:
            output = self._predict_or_explain(data)
        record_handler_time(context, start)
        return output

    def _predict_or_explain(self, data: Any, named: _Naming = nullcontext) -> Any:
        """Run the steps, each in what `named` makes of its name.

        PERF: torch's record_function costs some 10 us a step, profiled or not.
        """
        with named("preprocess"):
            prepared = self.preprocess(data)
        if self._is_explain():
            with named("explain"):
                return self.explain_handle(prepared, data)
        with named("inference"):
            output = self.inference(prepared)
        with named("postprocess"):
            return self.postprocess(output)

    def _infer_with_profiler(self, data: Any) -> tuple[Any, profile]:
        """Answer under torch's profiler; traces go to /tmp/pytorch_profiler/<model>. Return its table too."""
        arguments = dict(self.profiler_args) or {
            "activities": torch.profiler.supported_activities(),  # type: ignore[no-untyped-call]  # torch's
            "record_shapes": True,
        }
        if "on_trace_ready" not in arguments:
            folder = os.path.join(own_folder(_TRACE_FOLDER), self._model_name())
            arguments["on_trace_ready"] = torch.profiler.tensorboard_trace_handler(folder)
            logger.info("Saving chrome trace to : %s", folder)
        with profile(**arguments) as profiler:
            output = self._predict_or_explain(data, record_function)
        logger.info(profiler.key_averages().table(sort_by="cpu_time_total", row_limit=10))
        return output, profiler

    def _model_name(self) -> str:
        """Return the manifest's name of the model, as the name of a folder."""
        manifest = self.manifest or getattr(self.context, "manifest", None) or {}
        return os.path.basename(str((manifest.get("model") or {}).get("modelName", "")))

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """Answer an explanation by the subclass's `get_insights(tensor, inputs, target)`."""
        row = raw_data[0]
        inputs, target = None, 0
        if isinstance(row, dict):
            inputs = row.get("data") or row.get("body")
            target = row.get("target") or 0
        # A subclass brings it; without one the request fails, as it should.
        return self.get_insights(data_preprocess, inputs, target)  # type: ignore[attr-defined]

    def describe_handle(self) -> Any:
        """Return what a description shows of the model; a subclass says."""
        return None

    def get_device(self) -> torch.device | None:
        """Return the model's device."""
        return self.device

    def _is_explain(self) -> bool:
        self.explain = self._header("explain") == "True"
        return self.explain

    def _is_describe(self) -> bool:
        return bool(self._header("describe") == "True")

    def _header(self, name: str) -> Any:
        return self.context.get_request_header(0, name) if self.context else None


def _pick_device(gpu_id: int | None) -> tuple[str | None, torch.device]:
    """Return the kind of device to map to and the device: the assigned GPU, another accelerator, the cpu."""
    if gpu_id is not None and torch.cuda.is_available():
        device = torch.device(f"cuda:{gpu_id}")
        if torch.version.cuda and torch.cuda.get_device_capability(device) >= (8, 0):
            torch.set_float32_matmul_precision("high")  # tensor cores, as TorchServe has it
        return "cuda", device
    if (
        gpu_id is not None
        and os.environ.get("TS_IPEX_GPU_ENABLE", "false") == "true"
        and torch.xpu.is_available()
    ):
        return "xpu", torch.device(f"xpu:{gpu_id}")
    if gpu_id is not None and torch.backends.mps.is_available():
        return "mps", torch.device("mps")
    if XLA_AVAILABLE:
        return None, importlib.import_module("torch_xla.core.xla_model").xla_device()
    return "cpu", torch.device("cpu")
