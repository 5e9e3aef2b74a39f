"""`ts` as programs import it: the launcher, the parser, and how little an import costs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ts import llm_launcher
from ts.arg_parser import ArgParser

from torchrelay.shared.archives import model_archive, model_config

HEAVY = ("torch", "numpy", "torchrelay.cli", "httpx2", "requests", "zmq", "falcon")


@pytest.mark.parametrize("module", ["ts", "ts.launcher", "ts.arg_parser", "ts.version", "ts.model_server"])
def test_an_import_brings_in_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_parser_knows_torchserves_flags_by_its_names() -> None:
    given = ArgParser.extract_args(
        ["--start", "--model-store", "s", "--models", "a.mar", "b=c.mar", "--ncs", "--dt",
         "--enable-model-api", "--ppath", "p", "--log-config", "l",
         "--workflow-store", "w", "--ts-config", "c", "--foreground"]
    )  # fmt: skip
    assert (given.model_store, given.models, given.ts_config) == ("s", ["a.mar", "b=c.mar"], "c")
    assert (given.no_config_snapshots, given.token_auth, given.model_mode, given.foreground) == (True,) * 4
    assert (given.plugins_path, given.log_config, given.workflow_store) == ("p", "l", "w")
    assert (given.start, given.stop, given.version, given.cpp_log_config) == (True, False, False, None)


def test_the_server_starts_by_its_modules_name_too() -> None:
    command = [sys.executable, "-m", "ts.model_server", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "TorchServe Version is 0.12.0\n"


def test_a_language_model_is_laid_into_the_store_and_taken_out_again(tmp_path: Path) -> None:
    given = llm_launcher.parser().parse_args(
        [
            "--model_store",
            str(tmp_path / "store"),
            "--model_id",
            "org/tiny",
            "--vllm_engine.max_model_len",
            "64",
        ]
    )
    with llm_launcher.archive(given, gpus=2) as folder:
        manifest = json.loads((folder / model_archive.MANIFEST_NAME).read_text())["model"]
        content = (folder / manifest["configFile"]).read_bytes()
    config = json.loads(content)
    assert manifest["handler"] == "vllm_handler"
    assert model_config.parse(content)[1] == (), "the server takes all of it"
    assert (config["deviceType"], config["asyncCommunication"]) == ("gpu", True)
    assert config["handler"]["vllm_engine_config"]["tensor_parallel_size"] == 2
    assert config["handler"]["model_path"] == "org/tiny"
    assert config["handler"]["vllm_engine_config"]["max_model_len"] == 64
    assert list((tmp_path / "store").iterdir()) == []


def test_a_model_for_tensorrt_llm_is_named_to_it_and_not_built(tmp_path: Path) -> None:
    given = llm_launcher.parser().parse_args(
        [
            "--model_store", str(tmp_path),
            "--model_id", "org/tiny",
            "--engine", "trt_llm",
            "--dtype", "float16",
            "--trt_llm_engine.max_batch_size", "8",
            "--trt_llm_engine.kv_cache_free_gpu_memory_fraction", "0.3",
        ]
    )  # fmt: skip
    with llm_launcher.archive(given, gpus=1) as folder:
        manifest = json.loads((folder / model_archive.MANIFEST_NAME).read_text())["model"]
        content = (folder / manifest["configFile"]).read_bytes()
    assert manifest["handler"] == "trt_llm_handler"
    assert model_config.parse(content)[1] == ()
    assert json.loads(content)["handler"] == {
        "engine_dir": "org/tiny",
        "tokenizer_dir": "org/tiny",
        "kv_cache_config": {"free_gpu_memory_fraction": 0.3},
        "trt_llm_engine_config": {"dtype": "float16", "max_batch_size": 8},
    }


def test_a_folder_of_that_name_that_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    given = llm_launcher.parser().parse_args(["--model_store", str(tmp_path)])
    with llm_launcher.archive(given, gpus=0) as folder:
        assert list(folder.iterdir()) == []
    assert folder.is_dir()


@pytest.mark.parametrize(("engine", "package"), [("vllm", "vllm"), ("trt_llm", "tensorrt_llm")])
def test_without_its_engine_it_says_what_is_missing_and_leaves_nothing(
    tmp_path: Path, engine: str, package: str
) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    options = ["--model_store", str(tmp_path / "store"), "--engine", engine]
    command = [sys.executable, "-m", "ts.llm_launcher", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"pip install {package}," in done.stderr
    assert list(tmp_path.iterdir()) == []
