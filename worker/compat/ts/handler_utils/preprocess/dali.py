"""Pipelines of NVIDIA DALI; needs the package nvidia.dali."""

import os
from typing import Any  # DALI's

from ts.context import Context
from ts.utils.util import require

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def get_dali_pipeline(ctx: Context) -> Any:
    """Make the pipeline that model-config.yaml asks for under `dali`: the file's, or one for ImageNet.

    Raises ValueError where the config has no `dali`, RuntimeError where its `pipeline_file` is missing.
    """
    config = (ctx.model_yaml_config or {}).get("dali")
    if config is None:
        raise ValueError(f"{ctx.model_name} has no dali config in model config yaml file")
    arguments = {key: config[key] for key in ("batch_size", "num_threads", "device_id", "seed")}
    if "pipeline_file" not in config:
        return _imagenet_pipeline(arguments)
    path = os.path.join(ctx.system_properties["model_dir"], config["pipeline_file"])
    if not os.path.exists(path):
        raise RuntimeError("Missing dali pipeline file.")
    pipeline = require("nvidia.dali.pipeline", "a DALI handler").Pipeline
    return pipeline.deserialize(filename=path, prefetch_queue_depth=1, **arguments)


def _imagenet_pipeline(arguments: dict[str, int]) -> Any:
    """Decode, resize the shorter side to 256, crop 224 x 224 in the middle, normalize."""
    dali = require("nvidia.dali", "a DALI handler")
    fn = require("nvidia.dali.fn", "a DALI handler")
    pipeline = dali.pipeline.Pipeline(prefetch_queue_depth=1, **arguments)
    with pipeline:
        jpegs = fn.external_source(dtype=dali.types.UINT8, name="source")
        images = fn.decoders.image(jpegs, device="mixed")
        images = fn.resize(
            images, size=[256], mode="not_smaller", interp_type=dali.types.INTERP_LINEAR, antialias=True
        )
        images = fn.crop_mirror_normalize(
            images,
            crop=(224, 224),
            crop_pos_x=0.5,
            crop_pos_y=0.5,
            mean=[255 * value for value in _MEAN],
            std=[255 * value for value in _DEVIATION],
        )
        pipeline.set_outputs(images)
    pipeline.build()
    return pipeline
