"""`python -m ts.llm_launcher`: serve one language model with vLLM, without making an archive first.

TorchServe's also builds engines of TensorRT-LLM, by cloning its repository; we leave that to its own tools.
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


def parser() -> argparse.ArgumentParser:
    """Make the parser, with TorchServe's options and defaults."""
    made = argparse.ArgumentParser(prog="ts.llm_launcher", description="Serve a language model with vLLM")
    made.add_argument("--model_name", default="model", help="The name it is served by")
    made.add_argument("--model_store", default="model_store", help="Folder of archives; made if need be")
    made.add_argument("--model_id", default="meta-llama/Meta-Llama-3.1-8B-Instruct", help="On Hugging Face")
    made.add_argument("--disable_token_auth", action="store_true", help="Let callers in without keys")
    made.add_argument("--vllm_engine.max_num_seqs", type=int, default=256, help="Requests at the same time")
    made.add_argument("--vllm_engine.max_model_len", type=int, help="Length of the context")
    made.add_argument("--vllm_engine.download_dir", help="Where the weights are kept")
    made.add_argument("--startup_timeout", type=int, default=1200, help="Seconds that loading may take")
    made.add_argument("--engine", default="vllm", choices=["vllm"], help="What runs the model")
    made.add_argument("--dtype", default="bfloat16", help="Taken, and without effect for vLLM, as there")
    return made


def model_config(given: argparse.Namespace, gpus: int) -> dict[str, object]:
    """Return the model's configuration: one worker with all GPUs, and as many requests as it takes."""
    options = vars(given)
    download_dir = options["vllm_engine.download_dir"]
    engine = {
        "max_num_seqs": options["vllm_engine.max_num_seqs"],
        "max_model_len": options["vllm_engine.max_model_len"],
        "download_dir": str(Path(download_dir).resolve()) if download_dir else None,
        "tensor_parallel_size": max(1, gpus),
    }
    return {
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 1,
        "maxBatchDelay": 100,
        "responseTimeout": 1200,
        "startupTimeout": given.startup_timeout,
        "deviceType": "gpu" if gpus else "cpu",
        "asyncCommunication": True,
        "handler": {"model_path": given.model_id, "vllm_engine_config": engine},
    }


@contextlib.contextmanager
def archive(given: argparse.Namespace, gpus: int) -> Iterator[Path]:
    """Lay a model's folder into the store, for as long as it is served; one that is there is kept."""
    from shared import archive as archives

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
                handler="vllm_handler",
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
    if importlib.util.find_spec("vllm") is None:
        sys.exit("vLLM is not installed here: pip install vllm, into the environment of the server")
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
