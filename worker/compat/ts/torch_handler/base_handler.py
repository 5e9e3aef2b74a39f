"""The handler that most archives subclass: loads eager, TorchScript, ONNX or AOT-compiled models.

Weights are read with `weights_only=True`: a state dict that is a program is refused. `Any` stands for what
subclasses choose: their models, inputs and outputs.
"""

import importlib
import importlib.util
import logging
import os
import time
from typing import Any

import torch

from ts.context import Context
from ts.handler_utils.timer import timed
from ts.utils.util import check_valid_pt2_backend, list_classes_from_module, load_label_mapping

logger = logging.getLogger(__name__)

PROFILER_AVAILABLE = hasattr(torch, "profiler")
ONNX_AVAILABLE = importlib.util.find_spec("onnxruntime") is not None
XLA_AVAILABLE = importlib.util.find_spec("torch_xla") is not None


def setup_ort_session(model_pt_path: str, map_location: str | None) -> Any:  # onnxruntime has no types
    """Open an ONNX model, on the GPU if the model belongs there."""
    onnxruntime = importlib.import_module("onnxruntime")
    providers = ["CPUExecutionProvider"]
    if map_location == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    return onnxruntime.InferenceSession(model_pt_path, providers=providers)


class BaseHandler:
    """Loads a model by its manifest, and runs preprocess, inference, postprocess on each batch."""

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: dict[str, Any] | None = None
        self.device: torch.device | None = None
        self.initialized = False
        self.context: Context | None = None
        self.model_pt_path: str | None = None
        self.manifest: dict[str, Any] | None = None
        self.map_location: str | None = None
        self.explain = False
        self.target = 0
        self.profiler_args: dict[str, Any] = {}
        self.model_yaml_config: dict[str, Any] = {}

    def initialize(self, context: Context) -> None:
        """Load the model that the manifest names. Raises RuntimeError where it names none that can be."""
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config or {}
        properties = context.system_properties
        self.map_location, self.device = _pick_device(properties.get("gpu_id"))
        model_dir = properties["model_dir"]
        model_facts = (self.manifest or {}).get("model") or {}
        if model_facts.get("serializedFile"):
            self.model_pt_path = os.path.join(model_dir, model_facts["serializedFile"])
        self.model = self._load_model(model_dir, model_facts.get("modelFile"))
        self._compile_model()
        self.mapping = load_label_mapping(os.path.join(model_dir, "index_to_name.json"))
        self.initialized = True

    def _load_model(self, model_dir: str, model_file: str | None) -> Any:
        path = self.model_pt_path
        if model_file:
            model = self._load_pickled_model(model_dir, model_file, path)
            model.to(self.device)
            model.eval()
            return model
        if path and path.endswith(".pt"):
            model = self._load_torchscript_model(path)
            model.eval()
            return model
        if path and path.endswith(".so") and self._pt2_options("export").get("aot_compile"):
            return self._load_torch_export_aot_compile(path)
        if path and path.endswith(".onnx") and ONNX_AVAILABLE:
            return setup_ort_session(path, self.map_location)
        raise RuntimeError("No model weights could be loaded")

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return torch.jit.load(model_pt_path, map_location=self.device)  # type: ignore[no-untyped-call]  # torch's

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        return torch._export.aot_load(model_so_path, str(self.device))

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
            state = torch.load(model_pt_path, map_location=self.device, weights_only=True)
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
        options = self._compile_options()
        if options is None or ("backend" in options and not check_valid_pt2_backend(options["backend"])):
            return
        try:
            self.model = torch.compile(self.model, **options)
        except (RuntimeError, TypeError, ValueError, ImportError) as error:
            logger.warning("torch.compile failed, the model runs as it is: %s", error)

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
        else:
            prepared = self.preprocess(data)
            if self._is_explain():
                output = self.explain_handle(prepared, data)
            elif os.environ.get("ENABLE_TORCH_PROFILER") and PROFILER_AVAILABLE:
                output = self._infer_with_profiler(prepared)
            else:
                output = self.postprocess(self.inference(prepared))
        if context.metrics is not None:
            elapsed_ms = round((time.perf_counter() - start) * 1000, 2)
            context.metrics.add_time("HandlerTime", elapsed_ms, None, "ms")
        return output

    def _infer_with_profiler(self, data: Any) -> Any:
        """Predict under torch's profiler; traces go to /tmp/pytorch_profiler/<model>."""
        name = self.context.model_name if self.context else "model"
        folder = os.path.join("/tmp/pytorch_profiler", os.path.basename(name))
        arguments = {"on_trace_ready": torch.profiler.tensorboard_trace_handler(folder), **self.profiler_args}
        with torch.profiler.profile(**arguments):
            return self.postprocess(self.inference(data))

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
        return bool(self._header("explain") == "True")

    def _is_describe(self) -> bool:
        return bool(self._header("describe") == "True")

    def _header(self, name: str) -> Any:
        return self.context.get_request_header(0, name) if self.context else None


def _pick_device(gpu_id: int | None) -> tuple[str, torch.device]:
    """Return the map location and the device: the assigned GPU, another accelerator, or the cpu."""
    if gpu_id is not None and torch.cuda.is_available():
        return "cuda", torch.device("cuda", gpu_id)
    if os.environ.get("TS_IPEX_GPU_ENABLE") == "true" and torch.xpu.is_available():
        return "xpu", torch.device("xpu", gpu_id or 0)
    if gpu_id is not None and torch.backends.mps.is_available():
        return "mps", torch.device("mps")
    if XLA_AVAILABLE:
        return "xla", torch.device("xla")
    return "cpu", torch.device("cpu")
