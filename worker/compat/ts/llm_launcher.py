"""`python -m ts.llm_launcher`: serve one language model with vLLM or TensorRT-LLM, without an archive.

TorchServe's clones TensorRT-LLM's repository to build engines with its scripts; today's TensorRT-LLM takes
the model by its name, and does what is needed when it loads.
"""

import argparse
import contextlib
import importlib.util
import json
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ts.launcher import start, stop

#: What each engine's handler needs.
_PACKAGES = {"vllm": "vllm", "trt_llm": "tensorrt_llm"}


def parser() -> argparse.ArgumentParser:
    """Make the parser, with TorchServe's options and defaults."""
    made = argparse.ArgumentParser(prog="ts.llm_launcher", description="Serve a language model")
    made.add_argument("--model_name", default="model", help="The name it is served by")
    made.add_argument("--model_store", default="model_store", help="Folder of archives; made if need be")
    made.add_argument("--model_id", default="meta-llama/Meta-Llama-3.1-8B-Instruct", help="On Hugging Face")
    made.add_argument("--disable_token_auth", action="store_true", help="Let callers in without keys")
    made.add_argument("--vllm_engine.max_num_seqs", type=int, default=256, help="Requests at the same time")
    made.add_argument("--vllm_engine.max_model_len", type=int, help="Length of the context")
    made.add_argument("--vllm_engine.download_dir", help="Where the weights are kept")
    made.add_argument("--startup_timeout", type=int, default=1200, help="Seconds that loading may take")
    made.add_argument("--engine", default="vllm", choices=list(_PACKAGES), help="What runs the model")
    made.add_argument("--dtype", default="bfloat16", help="Of the weights; without effect for vLLM, as there")
    made.add_argument(
        "--trt_llm_engine.max_batch_size", type=int, default=4, help="Requests at the same time"
    )
    made.add_argument(
        "--trt_llm_engine.kv_cache_free_gpu_memory_fraction",
        type=float,
        default=0.1,
        help="Share of the GPU's free memory that its cache takes",
    )
    return made


def model_config(given: argparse.Namespace, gpus: int) -> dict[str, object]:
    """Return the model's configuration: one worker with all GPUs, and as many requests as it takes."""
    return {
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 1,
        "maxBatchDelay": 100,
        "responseTimeout": 1200,
        "startupTimeout": given.startup_timeout,
        "deviceType": "gpu" if gpus else "cpu",
        "asyncCommunication": True,
        "handler": _vllm(given, gpus) if given.engine == "vllm" else _trt_llm(given),
    }


def _vllm(given: argparse.Namespace, gpus: int) -> dict[str, object]:
    options = vars(given)
    download_dir = options["vllm_engine.download_dir"]
    engine = {
        "max_num_seqs": options["vllm_engine.max_num_seqs"],
        "max_model_len": options["vllm_engine.max_model_len"],
        "download_dir": str(Path(download_dir).resolve()) if download_dir else None,
        "tensor_parallel_size": max(1, gpus),
    }
    return {"model_path": given.model_id, "vllm_engine_config": engine}


def _trt_llm(given: argparse.Namespace) -> dict[str, object]:
    options = vars(given)
    fraction = options["trt_llm_engine.kv_cache_free_gpu_memory_fraction"]
    return {
        "engine_dir": given.model_id,
        "tokenizer_dir": given.model_id,
        "kv_cache_config": {"free_gpu_memory_fraction": fraction},
        "trt_llm_engine_config": {
            "dtype": given.dtype,
            "max_batch_size": options["trt_llm_engine.max_batch_size"],
        },
    }


@contextlib.contextmanager
def archive(given: argparse.Namespace, gpus: int) -> Iterator[Path]:
    """Lay a model's folder into the store, for as long as it is served; one that is there is kept."""
    from torchrelay.shared.archives import model_archive as archives

    folder = Path(given.model_store) / given.model_name
    is_ours = not folder.exists()
    if is_ours:
        folder.parent.mkdir(parents=True, exist_ok=True)
        config = folder.parent / f"{given.model_name}-config.yaml"
        try:
            config.write_text(json.dumps(model_config(given, gpus), indent=2))  # which is YAML, too
            archives.create(
                folder,
                model_name=given.model_name,
                version="1.0",
                handler=f"{given.engine}_handler",
                config_file=config,
                archive_format="no-archive",
            )
        finally:
            config.unlink(missing_ok=True)
    try:
        yield folder
    finally:
        if is_ours:
            shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    given = parser().parse_args(arguments)
    package = _PACKAGES[given.engine]
    if importlib.util.find_spec(package) is None:
        sys.exit(f"{package} is not installed here: pip install {package}, into the server's environment")
    import torch

    gpus = torch.cuda.device_count()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that what is below is cleared up
    with archive(given, gpus) as folder, contextlib.suppress(KeyboardInterrupt):
        try:
            lines = start(
                model_store=given.model_store,
                no_config_snapshots=True,
                models=folder.name,
                disable_token=given.disable_token_auth,
            )
            while lines.get() is not None:
                pass
        finally:
            stop(wait=False)


if __name__ == "__main__":
    main()
