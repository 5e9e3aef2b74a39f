import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from benchmarks import servers
from benchmarks.environments import ENVIRONMENTS, Unavailable
from benchmarks.peers import launches
from benchmarks.peers.launches import CONTESTANTS
from benchmarks.peers.rows import LOOP, OURS, PLAN, ROWS, SERVERS, chosen
from torchrelay.shared.torchserve import config_properties

ONE, SIXTEEN, FOUR, PERCEPTRON, STREAM = (
    chosen([key])[0] for key in ("echo-1", "echo-16", "echo-16-4w", "mlp", "stream")
)


def test_all_that_rows_name_are_contestants_and_ours_is_the_first() -> None:
    assert {key for row in ROWS for key in row.takes_part} == set(CONTESTANTS)
    assert next(iter(CONTESTANTS)) == OURS
    assert {name for server in CONTESTANTS.values() for name in server.needs} <= set(ENVIRONMENTS)


def test_the_encoders_weights_are_needed_by_its_row_alone() -> None:
    assert launches.needs("torchserve", chosen(["encoder"])[0]) == ("torchserve", "encoder")
    assert launches.needs(LOOP, chosen(["encoder"])[0]) == ("encoder",)
    assert launches.needs(OURS, ONE) == ()


@pytest.mark.parametrize("key", [OURS, "torchserve"])
def test_both_servers_of_archives_get_the_same_one_and_the_same_settings(key: str, tmp_path: Path) -> None:
    launch = CONTESTANTS[key].prepare(FOUR, tmp_path, PLAN)
    with zipfile.ZipFile(tmp_path / "store" / "model.mar") as archive:
        config = archive.read("model-config.yaml").decode()
        assert "echo_handler.py" in archive.namelist()
    assert config.split() == [
        "batchSize:",
        "16",
        "maxBatchDelay:",
        "1",
        "minWorkers:",
        "4",
        "maxWorkers:",
        "4",
    ]
    assert launch.command[-2:] == ["--models", "model=model.mar"]
    properties = config_properties.read((tmp_path / "config.properties").read_bytes(), {}).file
    assert properties.inference_address == f"http://127.0.0.1:{launch.port}"


def test_an_archive_that_does_more_than_echo_has_the_models(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with zipfile.ZipFile(launches.write_archive(PERCEPTRON, tmp_path / "store")) as archive:
        assert {"archive_handlers.py", "served_models.py"} <= set(archive.namelist())


def test_torchserve_logs_errors_alone(tmp_path: Path) -> None:
    launch = CONTESTANTS["torchserve"].prepare(ONE, tmp_path, PLAN)
    assert launch.command[launch.command.index("--log-config") + 1] == servers.QUIET_CONFIG
    assert (tmp_path / servers.QUIET_CONFIG).exists()


@pytest.mark.parametrize("key", ["mosec", "litserve"])
def test_programs_are_told_how_to_batch(key: str, tmp_path: Path) -> None:
    launch = CONTESTANTS[key].prepare(FOUR, tmp_path, PLAN)
    assert launch.command[0] == str(ENVIRONMENTS[key].python)
    assert Path(launch.command[1]).exists()
    assert {
        name: launch.variables[f"BENCHMARK_{name}"] for name in ("MODEL", "BATCH_SIZE", "DELAY_MS", "WORKERS")
    } == {
        "MODEL": "echo",
        "BATCH_SIZE": "16",
        "DELAY_MS": "1",
        "WORKERS": "4",
    }
    assert str(launch.port) in launch.variables.values()


def test_triton_batches_as_the_row_says() -> None:
    config = launches.triton_config(FOUR)
    assert "max_batch_size: 16" in config
    assert "max_queue_delay_microseconds: 1000 " in config
    assert "count: 4" in config


def test_triton_at_batch_1_has_no_batching() -> None:
    config = launches.triton_config(ONE)
    assert "max_batch_size: 0" in config
    assert "dynamic_batching" not in config
    assert "decoupled: true" in launches.triton_config(STREAM)


def test_tritons_stub_is_that_of_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "build" / ENVIRONMENTS["triton"].folder / "lib"
    monkeypatch.setattr("benchmarks.environments.ROOT", tmp_path)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    triton = packages / f"python{version}" / "site-packages" / "pytriton" / "tritonserver"
    stub = triton / "python_backend_stubs" / version / launches.STUB
    for file in (stub, triton / "backends" / "python" / "libtriton_python.so"):
        file.parent.mkdir(parents=True)
        file.touch()
    library = tmp_path / "libpython.so"
    monkeypatch.setattr(sysconfig, "get_config_var", {"LIBDIR": tmp_path, "INSTSONAME": library.name}.get)
    with pytest.raises(Unavailable, match="as a shared library"):
        CONTESTANTS["triton"].prepare(ONE, tmp_path / "first", PLAN)
    library.touch()
    launch = CONTESTANTS["triton"].prepare(SIXTEEN, tmp_path / "second", PLAN)
    made = tmp_path / "second" / "backends" / "python"
    assert {file.name for file in made.iterdir()} == {launches.STUB, "libtriton_python.so"}
    assert launch.variables["PATH"].startswith(str(ENVIRONMENTS["triton"].python.parent))
    assert any(launch.shared_memory in word for word in launch.command)


def test_the_loop_is_asked_by_no_port(tmp_path: Path) -> None:
    assert CONTESTANTS[LOOP].prepare(chosen(["encoder"])[0], tmp_path, PLAN).port is None


@pytest.mark.parametrize(
    ("key", "command", "role"),
    [
        ("mosec", ["/venv/bin/mosec", "/tmp/config.json"], "server (Rust)"),
        ("mosec", ["/venv/bin/python", "-c", "from multiprocessing.spawn import spawn_main"], "model worker"),
        ("mosec", ["python", "-c", "from multiprocessing.resource_tracker import main;main(3)"], "other"),
        ("triton", ["/home/triton_python_backend_stub", "model.py"], "model worker"),
    ],
)
def test_each_process_is_named_by_its_command(key: str, command: list[str], role: str) -> None:
    assert CONTESTANTS[key].role_of(command, "main") == role
    assert CONTESTANTS[key].role_of(command, None) != role


def test_every_server_of_every_row_has_its_turn() -> None:
    assert {key for row in ROWS if row.model == "echo" for key in row.takes_part} == set(SERVERS)
