"""The `torchserve` command as scripts use it: real processes, TorchServe's messages, nothing left behind."""

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.installation import command
from tests.integration.archives import make_store
from tests.integration.fleet import own_address
from tests.support import eventually
from torchrelay.cli.torchserve import pid_file
from torchrelay.shared.settings import environment

pytestmark = pytest.mark.integration

#: Top folders of the repository; projects have packages of these names, too.
FOLDERS = ("broker", "cli", "gateway", "shared", "worker")


class TorchServe:
    """The command in a folder of its own, with a temporary folder and addresses that nobody else has."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.folder = folder
        self.temporary = temporary
        self.pid_path = self.temporary / pid_file.NAME
        host = own_address()
        self.urls = {
            api: f"http://{host}:{port}"
            for api, port in {"inference": 8080, "management": 8081, "metrics": 8082}.items()
        }
        #: Found without being named, as long as there is no snapshot.
        self.config = folder / "config.properties"
        self.configure()
        #: What each command has said, and the server that it may have left in the background.
        self.outputs: list[Path] = []
        self.command = [command("torchserve")]
        self.http = httpx2.Client(timeout=60)
        self._started: list[psutil.Process] = []

    def configure(self, *lines: str) -> None:
        addresses = [f"{api}_address={url}" for api, url in self.urls.items()]
        self.config.write_text("\n".join([*addresses, "default_workers_per_model=1", *lines]))

    def run(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run the command to its end; a server that it starts writes on to the same file."""
        own = {"TMPDIR": str(self.temporary), "XDG_CACHE_HOME": str(self.folder / "cache")}
        # stdout is a file: a pipe would stay open for as long as the server in the background lives.
        self.outputs.append(self.folder / f"output-{len(self.outputs)}")
        with self.outputs[-1].open("wb") as output:
            done = subprocess.run(
                [*self.command, *arguments],
                cwd=self.folder,
                env={**environment(), **own, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=60,
                check=False,
            )
        return subprocess.CompletedProcess(done.args, done.returncode, self.outputs[-1].read_text())

    def start(self, *arguments: str, **variables: str) -> int:
        """Start a server in the background, wait until it says that it is there, and return its pid."""
        before = self.said().count("Model server started.")
        done = self.run("--start", "--model-store", "models", *arguments, **variables)
        assert done.returncode == 0, done.stdout
        pid = int(self.pid_path.read_text())
        self._started.append(psutil.Process(pid))
        eventually(lambda: self.said().count("Model server started.") > before)
        return pid

    def said(self) -> str:
        return "".join(output.read_text() for output in self.outputs)

    def family(self) -> list[psutil.Process]:
        """Every process of every server that was started, as far as it lives."""
        for process in list(self._started):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._started += [c for c in process.children(recursive=True) if c not in self._started]
        return [process for process in self._started if _lives(process)]

    def key(self, api: str) -> str:
        keys = json.loads((self.folder / "key_file.json").read_text())
        return f"Bearer {keys[api]['key']}"


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def torchserve(tmp_path: Path) -> Iterator[TorchServe]:
    make_store(tmp_path / "models", "echo")
    # A path that is short enough for a socket's, which that of a test needn't be.
    with tempfile.TemporaryDirectory() as temporary:
        made = TorchServe(tmp_path, Path(temporary))
        try:
            yield made
        finally:
            made.http.close()
            left = made.family()
            made.run("--stop", "--foreground")
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill() if _lives(process) else None


def test_it_starts_in_the_background_serves_and_stops(torchserve: TorchServe) -> None:
    pid = torchserve.start("--models", "all")
    for api, url in torchserve.urls.items():
        assert f"{api.capitalize()} API bind to: {url}\n" in torchserve.said()
    assert psutil.Process(pid).ppid() != os.getpid()
    assert f"\nConfig file: {torchserve.config}\n" in torchserve.said()
    again = torchserve.run("--start", "--model-store", "models")
    text = "TorchServe is already running, please use torchserve --stop to stop TorchServe.\n"
    assert again.returncode == 1
    assert again.stdout == text
    with httpx2.Client(headers={"authorization": torchserve.key("inference")}, timeout=60) as http:
        eventually(
            lambda: http.post(f"{torchserve.urls['inference']}/predictions/echo", content=b"hi").text == "hi",
        )
    family = torchserve.family()
    assert len(family) >= 5
    stopped = torchserve.run("--stop")
    assert stopped.returncode == 0
    assert stopped.stdout.endswith("TorchServe has stopped.\n")
    eventually(lambda: not torchserve.family())
    assert not (torchserve.folder / "key_file.json").exists()
    assert not torchserve.pid_path.exists()
    assert list(torchserve.temporary.iterdir()) == []
    assert torchserve.run("--stop").stdout == "TorchServe is not currently running.\n"


@pytest.mark.parametrize("start", [["torchserve"], ["python", "-m", "ts.model_server"]], ids="_".join)
def test_a_project_may_have_packages_called_like_folders_of_ours(
    torchserve: TorchServe, start: list[str]
) -> None:
    """On PYTHONPATH, and in the folder that it is started in, which `python -m` searches first."""
    for name in FOLDERS:
        (torchserve.folder / name).mkdir()
        (torchserve.folder / name / "__init__.py").write_text(f"WORD = {name!r}\n")
    make_store(torchserve.folder / "models", "imports_project")
    torchserve.command = [command(start[0]), *start[1:]]
    torchserve.start("--models", "all", "--disable-token-auth", PYTHONPATH=str(torchserve.folder))
    predict = f"{torchserve.urls['inference']}/predictions/imports_project"
    eventually(lambda: torchserve.http.post(predict, content=b"hi").text == "brokershared")


def test_its_defaults_are_torchserves(torchserve: TorchServe) -> None:
    torchserve.start("--ncs")
    management = torchserve.urls["management"]
    refused = torchserve.http.get(f"{management}/models")
    assert (refused.status_code, refused.json()["type"]) == (400, "InvalidKeyException")
    headers = {"authorization": torchserve.key("management")}
    assert torchserve.http.get(f"{management}/models", headers=headers).json() == {"models": []}
    locked = torchserve.http.post(f"{management}/models", params={"url": "echo.mar"}, headers=headers)
    assert (locked.status_code, locked.json()["type"]) == (405, "MethodNotAllowedException")
    logs = {path.name for path in (torchserve.folder / "logs").iterdir()}
    assert logs >= {"access_log.log", "model_log.log", "ts_log.log", "ts_metrics.log", "model_metrics.log"}
    assert (torchserve.folder / "key_file.json").stat().st_mode & 0o077 == 0


def test_its_switches_switch_on(torchserve: TorchServe) -> None:
    torchserve.start("--ncs", "--disable-token-auth", "--enable-model-api")
    management = torchserve.urls["management"]
    assert torchserve.http.post(f"{management}/models", params={"url": "echo.mar"}).status_code == 200
    assert not (torchserve.folder / "key_file.json").exists()


def test_logs_lie_where_the_environment_says(torchserve: TorchServe) -> None:
    torchserve.start(LOG_LOCATION="elsewhere", METRICS_LOCATION=str(torchserve.folder / "figures"))
    assert "Model server started" not in (torchserve.folder / "elsewhere" / "ts_log.log").read_text()
    assert "broker.started" in (torchserve.folder / "elsewhere" / "ts_log.log").read_text()
    assert {path.name for path in (torchserve.folder / "figures").iterdir()} >= {"ts_metrics.log"}
    assert not (torchserve.folder / "logs").exists()


def test_logs_that_can_not_be_written_stop_nobody(torchserve: TorchServe) -> None:
    (torchserve.folder / "file").touch()
    torchserve.start(LOG_LOCATION="file")
    assert "No log is written to file" in torchserve.said()


def test_a_log_that_can_not_be_opened_stops_nobody(torchserve: TorchServe) -> None:
    log = torchserve.folder / "logs" / "ts_log.log"
    log.parent.mkdir()
    log.symlink_to(log)
    torchserve.start()
    assert f"No log is written to logs: {os.strerror(errno.ELOOP)}: logs/ts_log.log\n" in torchserve.said()


@pytest.mark.parametrize(
    "arguments", [["--stop"], ["--start", "--model-store", "models"]], ids=["stop", "start"]
)
def test_a_pid_file_that_can_not_be_opened_is_one_line(torchserve: TorchServe, arguments: list[str]) -> None:
    torchserve.pid_path.symlink_to(torchserve.pid_path)
    done = torchserve.run(*arguments)
    assert done.returncode == 1
    why = os.strerror(errno.ELOOP)
    assert done.stdout == f"The pid file {torchserve.pid_path} can't be read: {why}\n"
    torchserve.pid_path.unlink()


@pytest.mark.parametrize(
    "arguments", [["--stop"], ["--start", "--model-store", "models"]], ids=["stop", "start"]
)
def test_a_pid_file_that_can_not_be_removed_is_one_line_that_says_what_to_do(
    torchserve: TorchServe, arguments: list[str]
) -> None:
    torchserve.pid_path.mkdir()
    done = torchserve.run(*arguments)
    assert done.returncode == 1
    assert done.stdout == (
        f"The pid file {torchserve.pid_path}, of a server that has ended, can't be removed: "
        f"{os.strerror(errno.EISDIR)}; remove it, or name another temporary folder with TMPDIR\n"
    )
    torchserve.pid_path.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")
def test_another_users_pid_file_neither_has_a_process_stopped_nor_keeps_a_server_back(
    torchserve: TorchServe,
) -> None:
    path = torchserve.pid_path
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as victim:
        path.write_text(str(victim.pid))
        os.chown(path, 54321, 54321)
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            stopped = torchserve.run("--stop")
            assert stopped.stdout == f"{path} is another user's\nTorchServe is not currently running.\n"
            assert torchserve.run("--start", "--model-store", "models", "--ncs").returncode == 0
            (own,) = torchserve.temporary.glob(".model_server-*.pid")
            assert (
                f"{path} is another user's: the pid file of this user's server is {own}\n"
                in torchserve.said()
            )
            eventually(lambda: "Model server started." in torchserve.said(), within_s=60)
            assert psutil.pid_exists(int(own.read_text()))
            again = torchserve.run("--start", "--model-store", "models", "--ncs").stdout
            assert "TorchServe is already running" in again
            assert torchserve.run("--stop").stdout.endswith("TorchServe has stopped.\n")
            assert not own.exists()
        assert victim.poll() is None
        victim.kill()
    assert path.read_text() == str(victim.pid)


def test_a_killed_server_leaves_no_process_and_can_be_started_again(torchserve: TorchServe) -> None:
    pid = torchserve.start("--models", "all")
    assert len(torchserve.family()) >= 4
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not torchserve.family())
    torchserve.start()
    assert "Removing orphan pid file.\n" in torchserve.said()
    # What the killed one kept in the temporary folder went with the next start.
    kept = [path.name for path in torchserve.temporary.iterdir() if path.name.startswith("torchrelay-")]
    assert len(kept) == 1


def start_with_console(torchserve: TorchServe, console: int) -> None:
    """Start a server whose console is an fd, and wait until it answers."""
    own = {"TMPDIR": str(torchserve.temporary), "XDG_CACHE_HOME": str(torchserve.folder / "cache")}
    subprocess.run(
        [command("torchserve"), "--start", "--model-store", "models", "--dt", "--models", "all"],
        cwd=torchserve.folder,
        env={**environment(), **own},
        stdout=console,
        stderr=console,
        check=True,
        timeout=60,
    )
    os.close(console)


def answers(torchserve: TorchServe) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return torchserve.http.get(f"{torchserve.urls['management']}/models").status_code == 200
    return False


def test_a_reader_that_goes_away_ends_no_server(torchserve: TorchServe) -> None:
    reader, writer = os.pipe()
    start_with_console(torchserve, writer)
    os.close(reader)
    eventually(lambda: answers(torchserve))
    assert torchserve.run("--stop").stdout.endswith("TorchServe has stopped.\n")


def test_a_reader_that_stops_reading_holds_up_no_server(torchserve: TorchServe) -> None:
    """Neither its start, nor its workers, nor its end: not one byte can be written."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"\0" * 512)
    os.set_blocking(writer, True)
    start_with_console(torchserve, writer)
    eventually(lambda: answers(torchserve))
    predict = f"{torchserve.urls['inference']}/predictions/echo"
    eventually(lambda: torchserve.http.post(predict, content=b"x").status_code == 200)
    assert torchserve.run("--stop").stdout.endswith("TorchServe has stopped.\n")
    os.close(reader)


def test_in_the_foreground_it_runs_until_it_is_told_to_stop(torchserve: TorchServe) -> None:
    own = {"TMPDIR": str(torchserve.temporary), "XDG_CACHE_HOME": str(torchserve.folder / "cache")}
    arguments = ["--foreground", "--model-store", "models", "--ts-config", str(torchserve.config)]
    with subprocess.Popen(
        [command("torchserve"), *arguments],
        cwd=torchserve.folder,
        env={**environment(), **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert any("Model server started." in line for line in server.stdout)
        assert torchserve.pid_path.read_text() == str(server.pid)
        server.terminate()
        assert server.wait(10) == 0


def test_a_port_that_is_taken_ends_the_server_with_the_reason(torchserve: TorchServe) -> None:
    port = int(torchserve.urls["management"].rpartition(":")[2])
    host = torchserve.urls["management"].removeprefix("http://").rpartition(":")[0]
    with socket.create_server((host, port)):
        done = torchserve.run("--start", "--model-store", "models", "--ts-config", str(torchserve.config))
        assert done.returncode == 0  # as TorchServe's command, which doesn't wait for its server
        eventually(lambda: pid_file.running_pid(torchserve.pid_path) is None)
    assert f"can't listen on {torchserve.urls['management']}" in torchserve.said()
    assert "Model server started" not in torchserve.said()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--start"], "Missing mandatory parameter --model-store"),
        (["--model-store", "no"], "--model-store directory not found: no"),
        (["--model-store", "models", "--ts-config", "no"], "--ts-config file not found: no"),
        (["--model-store", "models", "--workflow-store", "no"], "--workflow-store directory not found: no"),
        (["--model-store", "models", "--log-config", "no"], "--log-config file not found: {folder}/no"),
        (["--model-store", "models", "--cpp-log-config", "x"], "--cpp-log-config file not found: {folder}/x"),
        (["--model-store", "models", "--ts-config", "broken"], "Invalid configuration: broken:\nInvalid"
                                                               " Environment Variable NOWHERE"),
        (["--model-store", "models", "--ts-config", "snapshot.cfg"], None),
    ],
)  # fmt: skip
def test_what_can_not_be_is_told_in_torchserves_words(
    torchserve: TorchServe, arguments: list[str], text: str | None
) -> None:
    (torchserve.folder / "broken").write_text("model_store=$$NOWHERE$$")
    (torchserve.folder / "snapshot.cfg").write_text("model_snapshot=junk")
    done = torchserve.run(*arguments)
    assert done.returncode == 1
    if text is not None:
        assert done.stdout == text.format(folder=torchserve.folder.resolve()) + "\n"
    assert not torchserve.pid_path.exists()


def test_the_environments_file_wins_over_the_options(torchserve: TorchServe) -> None:
    done = torchserve.run(
        "--model-store", "models", "--ts-config", str(torchserve.config), TS_CONFIG_FILE="no"
    )
    assert done.stdout == "--ts-config file not found: no\n"


def test_a_model_store_of_the_file_is_enough(torchserve: TorchServe) -> None:
    torchserve.configure("model_store=nowhere")
    done = torchserve.run("--ts-config", str(torchserve.config))
    assert done.stdout == "--model-store directory not found: nowhere\n"


def test_start_stop_and_version_exclude_each_other(torchserve: TorchServe) -> None:
    done = torchserve.run("--start", "--stop")
    assert done.returncode == 2
    assert "not allowed with argument" in done.stdout


@pytest.mark.parametrize("flag", ["-v", "--version"])
def test_it_says_whose_place_it_takes(torchserve: TorchServe, flag: str) -> None:
    assert torchserve.run(flag).stdout == "TorchServe Version is 0.12.0\n"


def test_stop_with_foreground_is_silent(torchserve: TorchServe) -> None:
    torchserve.start()
    said = torchserve.run("--stop", "--foreground").stdout
    assert "TorchServe" not in "".join(line for line in said.splitlines() if not line.startswith("20"))
    eventually(lambda: not torchserve.family())


def test_what_was_registered_comes_back_with_the_newest_snapshot(torchserve: TorchServe) -> None:
    torchserve.start("--dt", "--enable-model-api")
    management = torchserve.urls["management"]
    with httpx2.Client(timeout=60) as http:
        http.post(f"{management}/models", params={"url": "echo.mar", "model_name": "kept", "batch_size": 3})
        http.put(f"{management}/models/kept", params={"min_worker": 2, "synchronous": "true"})
        before = http.get(f"{management}/models/kept").json()[0]
        torchserve.run("--stop")
        kinds = [
            path.stem.rpartition("-")[2] for path in sorted((torchserve.folder / "logs/config").iterdir())
        ]
        assert (kinds[0], kinds[-1], kinds.count("snapshot")) == ("startup", "shutdown", 2)
        torchserve.config.unlink()  # the snapshot says all that it said
        torchserve.start()
        after = http.get(f"{management}/models/kept").json()[0]
    assert re.search(r"^Config file: logs/config/\d+-shutdown\.cfg$", torchserve.said(), re.MULTILINE)
    same = ("modelUrl", "minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout")
    assert [after[key] for key in same] == [before[key] for key in same]
    assert (after["minWorkers"], after["loadedAtStartup"]) == (2, False)
    torchserve.run("--stop")
    torchserve.configure()
    torchserve.start("--ncs", "--dt")
    assert torchserve.http.get(f"{management}/models").json() == {"models": []}


def test_a_snapshot_whose_archive_is_gone_keeps_the_server_from_starting(torchserve: TorchServe) -> None:
    models = {"models": {"gone": {"1.0": {"marName": "gone.mar", "minWorkers": 1, "maxWorkers": 1}}}}
    torchserve.configure(f"model_snapshot={json.dumps(models)}")
    torchserve.run("--model-store", "models", "--ts-config", str(torchserve.config))
    text = "Model archive file for model :gone, version :1.0 not found in model store"
    eventually(lambda: text in torchserve.said())
    eventually(lambda: pid_file.running_pid(torchserve.pid_path) is None)


def test_a_home_that_can_not_be_used_and_temp_on_another_disk_are_coped_with(
    torchserve: TorchServe, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    large = tmp_path / ("large" * 30)  # too long for a socket's path
    large.mkdir()
    homeless = {"HOME": str(tmp_path / "file" / "home"), "XDG_CACHE_HOME": ""}
    arguments = ("--models", "all", "--ncs", "--disable-token-auth")
    url = f"{torchserve.urls['inference']}/predictions/echo"
    for variables, unpacked_in in ((homeless, torchserve.temporary), ({"TEMP": str(large)}, large)):
        torchserve.start(*arguments, **variables)
        eventually(lambda: torchserve.http.post(url, content=b"hi", timeout=60).text == "hi")
        assert len(list(unpacked_in.glob("torchrelay-*/cache/models"))) == 1
        assert torchserve.run("--stop").stdout == "TorchServe has stopped.\n"
        assert list(unpacked_in.iterdir()) == []
    assert torchserve.said().count("Unpacked models are in") == 1
    assert list(torchserve.temporary.iterdir()) == []


def test_its_logs_are_moved_away_when_they_are_long(torchserve: TorchServe) -> None:
    torchserve.start("--ncs", "--disable-token-auth", TORCHRELAY_LOG_FILE_MB="1", TORCHRELAY_LOG_FILES="2")
    logs = torchserve.folder / "logs"
    with httpx2.Client() as http:
        for _ in range(1100):
            assert http.get(f"{torchserve.urls['inference']}/ping", params="q" * 3000).status_code == 200
    eventually(lambda: (logs / "access_log.log.2").exists())
    assert torchserve.run("--stop").stdout == "TorchServe has stopped.\n"
    written = sorted(logs.glob("access_log.log*"))
    assert [path.name for path in written] == ["access_log.log", "access_log.log.1", "access_log.log.2"]
    assert all(path.stat().st_size <= 1 << 20 for path in written)


def test_no_model_is_left_in_the_cache_not_even_by_a_killed_server(torchserve: TorchServe) -> None:
    models = torchserve.folder / "cache" / "torchrelay" / "models"
    url = f"{torchserve.urls['inference']}/predictions/echo"
    arguments = ("--models", "all", "--ncs", "--disable-token-auth")
    torchserve.start(*arguments)
    eventually(lambda: torchserve.http.post(url, content=b"hi", timeout=60).text == "hi")
    (killed,) = models.iterdir()
    family = torchserve.family()
    for process in family:
        process.suspend()  # none of them sees another die
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):  # it ends with the one before it
            process.kill()
    eventually(lambda: not [process for process in family if _lives(process)])
    assert killed.exists()
    torchserve.pid_path.unlink(missing_ok=True)
    torchserve.start(*arguments)
    eventually(lambda: torchserve.http.post(url, content=b"hi", timeout=60).text == "hi")
    (ours,) = models.iterdir()
    assert ours != killed
    assert torchserve.run("--stop").stdout == "TorchServe has stopped.\n"
    assert list(models.iterdir()) == []


def test_a_folder_named_at_start_is_served_as_sagemakers_toolkit_starts_it(torchserve: TorchServe) -> None:
    model = torchserve.folder / "opt" / "ml" / "model"
    with zipfile.ZipFile(torchserve.folder / "models" / "echo.mar") as archive:
        archive.extractall(model)
    (torchserve.folder / "log4j2.xml").write_text("<Configuration/>")
    torchserve.configure("enable_envvars_config=true", "load_models=ALL", "default_response_timeout=60")
    arguments = ("--ts-config", str(torchserve.config), "--log-config", str(torchserve.folder / "log4j2.xml"))
    pid = torchserve.start(*arguments, "--disable-token-auth", "--models", f"model={model}")
    named = [p.pid for p in torchserve.family() if "org.pytorch.serve.ModelServer" in p.cmdline()]
    assert named == [pid]
    url = f"{torchserve.urls['inference']}/invocations"
    eventually(lambda: torchserve.http.post(url, content=b"hi", timeout=60).text == "hi")
    (described,) = torchserve.http.get(f"{torchserve.urls['management']}/models/model").json()
    assert described["modelUrl"] == str(model)
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not torchserve.family())
    torchserve.start("--disable-token-auth")  # from the snapshot that was written last
    listed = torchserve.http.get(f"{torchserve.urls['management']}/models").json()["models"]
    assert [model["modelName"] for model in listed] == ["model"]
