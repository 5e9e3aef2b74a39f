"""Spreads a model over processes with PiPPy; `get_pipeline_driver` needs the package pippy."""

import inspect
import logging
import os
from typing import Any  # models and drivers

import torch
from torch.distributed import rpc

from ts.context import Context
from ts.utils.util import require

logger = logging.getLogger(__name__)


def initialize_rpc_workers(local_rank: int, world_size: int, ctx: Context) -> None:
    """Join the processes of the model, as model-config.yaml says under `pippy`; each has a GPU."""
    config = (ctx.model_yaml_config or {})["pippy"]
    options = rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=config["num_worker_threads"], rpc_timeout=config["rpc_timeout"]
    )
    gpus = torch.cuda.device_count()
    for rank in range(world_size):
        options.set_device_map(f"worker{rank}", {local_rank % gpus: rank % gpus})
    logger.info("rank = %d pid/device = %d/%d", local_rank, os.getpid(), local_rank % gpus)
    rpc.init_rpc(  # type: ignore[no-untyped-call]  # torch's
        f"worker{local_rank}", rank=local_rank, world_size=world_size, rpc_backend_options=options
    )


def get_pipeline_driver(model: Any, world_size: int, ctx: Context) -> Any:
    """Split a model into as many stages as there are processes; return what runs it.

    Raises ValueError where model-config.yaml lacks `pippy` (input_names, model_type) or
    `handler` (model_path), or its index file does not exist.
    """
    pippy_config, handler_config = _configs(ctx)
    index_file = _index_file(handler_config)
    pippy = require("pippy", "a PiPPy handler")
    hf = require("pippy.hf", "a PiPPy handler")
    is_hugging_face = pippy_config["model_type"] == "HF"
    model.eval()
    concrete = {
        parameter.name: parameter.default
        for parameter in inspect.signature(model.forward).parameters.values()
        if parameter.name not in pippy_config["input_names"]
    }
    if is_hugging_face and "bloom" in str(type(model)):
        concrete.setdefault("deprecated_arguments", {})
    driver, _ = pippy.all_compile(
        model,
        num_ranks=world_size,
        num_chunks=pippy_config.get("chunks", 1),
        schedule="FillDrain",
        split_policy=pippy.split_into_equal_size(world_size),
        tracer=hf.PiPPyHFTracer() if is_hugging_face else None,
        concrete_args=concrete,
        index_filename=index_file,
        checkpoint_prefix=None,
    )
    if not is_hugging_face:
        return driver
    hf.inject_pipeline_forward(model, driver)
    return model


def _configs(ctx: Context) -> tuple[dict[str, Any], dict[str, Any]]:
    config = ctx.model_yaml_config or {}
    for section, keys in (("pippy", ("input_names", "model_type")), ("handler", ("model_path",))):
        for key in keys:
            if key not in (config.get(section) or {}):
                raise ValueError(f"model-config.yaml lacks {key!r} under {section!r}")
    return config["pippy"], config["handler"]


def _index_file(handler_config: dict[str, Any]) -> str | None:
    name = handler_config.get("index_filename")
    if name is None:
        return None
    path: str = os.path.join(handler_config["model_path"], name)
    if not os.path.exists(path):
        raise ValueError(f"Index file '{path}' not found")
    return path
