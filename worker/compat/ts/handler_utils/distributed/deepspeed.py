"""Makes DeepSpeed's engine of a model; needs the package deepspeed."""

import json
import os
from pathlib import Path
from typing import Any  # models and engines

from ts.context import Context
from ts.utils.util import require


def create_checkpoints_json(model_path: str | os.PathLike[str], checkpoints_json: str) -> None:
    """Write the list of a folder's checkpoint files, in the form that DeepSpeed reads."""
    files = sorted(
        str(path) for path in Path(model_path).rglob("*") if path.is_file() and path.suffix in (".bin", ".pt")
    )
    content = {"type": "ds_model", "checkpoints": files, "version": 1.0}
    Path(checkpoints_json).write_text(json.dumps(content), encoding="utf-8")


def get_ds_engine(model: Any, ctx: Context) -> Any:
    """Make the engine that model-config.yaml asks for under `deepspeed`. Raises ValueError if it is bad."""
    config = ctx.model_yaml_config or {}
    if "deepspeed" not in config:
        raise ValueError(f"{ctx.model_name} has no deepspeed config in model config yaml file")
    options = config["deepspeed"]
    model_dir = ctx.system_properties["model_dir"]
    model_path = config["handler"]["model_path"]
    engine_config = checkpoint = None
    if "config" in options:
        engine_config = os.path.join(model_dir, options["config"])
        if not os.path.exists(engine_config):
            raise ValueError(f"{ctx.model_name} has no deepspeed config file {engine_config}")
    if "checkpoint" in options:
        checkpoint = os.path.join(model_dir, options["checkpoint"])
        create_checkpoints_json(model_path, checkpoint)
    deepspeed = require("deepspeed", "a DeepSpeed handler")
    return deepspeed.init_inference(model, config=engine_config, base_dir=model_path, checkpoint=checkpoint)
