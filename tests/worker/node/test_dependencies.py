"""Real installations, of wheels made here: no index is asked."""

import asyncio
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.support import READER, eventually_async
from tests.worker.models import write_model
from tests.worker.wheels import write_wheel
from torchrelay.shared.settings import environment
from torchrelay.worker.common.worker_environment import for_installer
from torchrelay.worker.node.dependencies import (
    Environment,
    Installer,
    InstallFailed,
    Requirements,
    requirements,
)
from torchrelay.worker.node.worker_output import OutputReader, Stream

pytestmark = pytest.mark.integration

HASH = "a" * 64


def model(folder: Path, lines: str, *, wants_venv: bool = False, file: str = "h.py") -> Path:
    """Write an unpacked archive that requires something."""
    config = {"config.yaml": "useVenv: true\n"} if wants_venv else {}
    return write_model(
        folder,
        {file: "", "requirements.txt": lines, **config},
        requirementsFile="requirements.txt",
        **({"configFile": "config.yaml"} if wants_venv else {}),
    )


def wanted(model_dir: Path, archive: str = HASH) -> Requirements:
    found = requirements(model_dir, archive, READER)
    assert found is not None
    return found


def offline(wheels: Path, *names: str) -> str:
    return f"--no-index\n--find-links {wheels}\n" + "".join(f"{name}\n" for name in names)


class Host:
    """An installer, and what it said."""

    def __init__(
        self, root: Path, variables: Mapping[str, str] | None = None, timeout_s: float = 120
    ) -> None:
        self.root = root
        found = environment() if variables is None else variables
        self.installer = Installer(root, for_installer(found, ""), OutputReader(), timeout_s)
        self.lines: list[str] = []
        self.reports = 0

    async def provide(self, model_dir: Path) -> Environment:
        return await self.installer.provide(
            wanted(model_dir), model_dir, on_lines=self.heard, on_progress=self.reported
        )

    def heard(self, stream: Stream, lines: list[str]) -> None:
        self.lines += lines

    def reported(self) -> None:
        self.reports += 1


def says(environment: Environment, code: str) -> str:
    """Run code with an environment's interpreter and packages."""
    variables = {"PYTHONPATH": environment.packages} if environment.packages else {}
    done = subprocess.run(
        [environment.interpreter, "-P", "-c", code],
        capture_output=True,
        text=True,
        env=variables,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_archive_that_requires_nothing_needs_no_environment(tmp_path: Path) -> None:
    assert requirements(write_model(tmp_path, {}), HASH, READER) is None
    assert requirements(tmp_path / "without a manifest", HASH, READER) is None


@pytest.mark.parametrize("name", ["missing.txt", "../../outside.txt"])
def test_requirements_that_are_not_in_the_archive_are_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside.txt").touch()
    folder = write_model(tmp_path / "a" / "b", {}, requirementsFile=name)
    with pytest.raises(InstallFailed, match="the archive has no requirements file"):
        requirements(folder, HASH, READER)


def test_equal_requirements_share_an_environment_unless_they_name_the_archives_files(
    tmp_path: Path,
) -> None:
    plain = model(tmp_path / "1", "one==1.0\n")
    again = model(tmp_path / "2", "one==1.0\n")
    other = model(tmp_path / "3", "one==2.0\n")
    in_venv = model(tmp_path / "4", "one==1.0\n", wants_venv=True)
    assert wanted(plain).key == wanted(again, "b" * 64).key
    assert len({wanted(folder).key for folder in (plain, other, in_venv)}) == 3
    for number, line in enumerate(("own.whl", "./own.whl", "own @ file:own.whl", "--find-links=own.whl")):
        own = model(tmp_path / f"own-{number}", line + "\n", file="own.whl")
        assert wanted(own).key != wanted(own, "b" * 64).key, line


async def test_packages_are_put_beside_the_servers_and_found_first(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "tiny_one", "1.0", "WORD = 'one'\n")
    write_wheel(wheels, "msgspec", "99.0", "WORD = 'shadow'\n")
    host = Host(tmp_path / "cache")
    environment = await host.provide(model(tmp_path / "m", offline(wheels, "tiny_one", "msgspec")))
    code = "import tiny_one, msgspec, msgpack; print(tiny_one.WORD, msgspec.WORD)"
    assert says(environment, code) == "one shadow"
    assert any("Successfully installed" in line for line in host.lines)
    assert host.reports > 0


async def test_a_venv_has_its_own_packages_and_sees_the_servers_below_them(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "tiny_one", "1.0", "WORD = 'one'\n")
    write_wheel(wheels, "psutil", "99.0", "WORD = 'shadow'\n")
    host = Host(tmp_path / "cache")
    folder = model(tmp_path / "m", offline(wheels, "tiny_one", "psutil==99.0"), wants_venv=True)
    environment = await host.provide(folder)
    code = "import sys, tiny_one, psutil, msgspec; print(tiny_one.WORD, psutil.WORD, sys.prefix)"
    assert says(environment, code) == f"one shadow {environment.folder}"
    # The server's own copy has not been touched.
    assert psutil.__version__ != "99.0"
    assert psutil.cpu_count()


@pytest.mark.parametrize("wants_venv", [False, True])
async def test_a_wheel_of_the_archive_is_found_in_it(tmp_path: Path, wants_venv: bool) -> None:
    folder = model(
        tmp_path / "m", "--no-index\n./wheels/tiny_own-1.0-py3-none-any.whl\n", wants_venv=wants_venv
    )
    write_wheel(folder / "wheels", "tiny_own", "1.0", "WORD = 'own'\n")
    environment = await Host(tmp_path / "cache").provide(folder)
    assert says(environment, "import tiny_own; print(tiny_own.WORD)") == "own"


async def test_what_cannot_be_installed_is_told_with_its_cause_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    host = Host(tmp_path / "cache")
    folder = model(tmp_path / "m", offline(tmp_path, "nobody_has_this"))
    with pytest.raises(InstallFailed) as failure:
        await host.provide(folder)
    assert str(failure.value).startswith("Could not find a version that satisfies the requirement nobody_has")
    assert any("nobody_has_this" in line for line in failure.value.last_lines)
    assert failure.value.last_lines == tuple(host.lines[-len(failure.value.last_lines) :])
    assert not (host.root / "environments" / wanted(folder).key).exists()


async def test_a_failure_can_be_mended_and_tried_again(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    host = Host(tmp_path / "cache")
    folder = model(tmp_path / "m", offline(wheels, "tiny_one"))
    with pytest.raises(InstallFailed):
        await host.provide(folder)
    write_wheel(wheels, "tiny_one", "1.0", "WORD = 'one'\n")
    assert says(await host.provide(folder), "import tiny_one; print(tiny_one.WORD)") == "one"


async def test_an_environment_is_built_once_however_many_wait(tmp_path: Path) -> None:
    write_wheel(tmp_path / "wheels", "tiny_one", "1.0", "")
    here, there = Host(tmp_path / "cache"), Host(tmp_path / "cache")
    folder = model(tmp_path / "m", offline(tmp_path / "wheels", "tiny_one"))
    found = await asyncio.gather(*(host.provide(folder) for host in (here, here, there)))
    assert len({environment.folder for environment in found}) == 1
    installed = [line for line in here.lines + there.lines if "Successfully installed" in line]
    # Both of the one host heard of it, or the other host alone did it.
    assert len(installed) in (1, 2)
    assert here.lines == [] or there.lines == []


async def test_one_that_was_half_built_is_built_anew(tmp_path: Path) -> None:
    write_wheel(tmp_path / "wheels", "tiny_one", "1.0", "WORD = 'one'\n")
    host = Host(tmp_path / "cache")
    folder = model(tmp_path / "m", offline(tmp_path / "wheels", "tiny_one"))
    left = host.root / "environments" / wanted(folder).key / "packages" / "tiny_one.py"
    left.parent.mkdir(parents=True)
    left.write_text("WORD = 'half'")
    assert says(await host.provide(folder), "import tiny_one; print(tiny_one.WORD)") == "one"


async def test_when_the_last_who_waits_leaves_the_installer_ends(tmp_path: Path) -> None:
    host = Host(tmp_path / "cache")
    folder = model(tmp_path / "m", f"--no-index\n{endless_source(tmp_path)}\n")
    first = asyncio.create_task(host.provide(folder))
    second = asyncio.create_task(host.provide(folder))
    await eventually_async(lambda: _descendants("_in_process"))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert _descendants("_in_process")
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await eventually_async(lambda: not _descendants("_in_process") and not _descendants("pip"))
    await host.installer.close()
    assert not (host.root / "environments" / wanted(folder).key).exists()


@pytest.mark.parametrize("wants_venv", [False, True])
async def test_modules_of_an_archive_are_not_taken_for_the_installers(
    tmp_path: Path, wants_venv: bool
) -> None:
    write_wheel(tmp_path / "wheels", "tiny_one", "1.0", "WORD = 'one'\n")
    folder = model(tmp_path / "m", offline(tmp_path / "wheels", "tiny_one"), wants_venv=wants_venv)
    for name in ("pip", "venv", "json", "pathlib", "sysconfig"):
        (folder / f"{name}.py").write_text("raise SystemExit('the archive was asked')\n")
    environment_ = await Host(tmp_path / "cache").provide(folder)
    assert says(environment_, "import tiny_one; print(tiny_one.WORD)") == "one"


async def test_requirements_find_no_secret_to_send_to_an_index_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    lines = (
        f"--no-index\n--find-links {tmp_path}/index/${{SECRET}}${{AWS_SECRET_ACCESS_KEY}}/\nnobody_has_this\n"
    )
    secrets = {"SECRET": "open-sesame", "AWS_SECRET_ACCESS_KEY": "open-sesame"}
    host = Host(tmp_path / "cache", {**environment(), **secrets})
    with pytest.raises(InstallFailed):
        await host.provide(model(tmp_path / "m", lines))
    assert host.lines
    assert not [line for line in host.lines if "open-sesame" in line]


async def test_an_installer_that_takes_too_long_is_ended_with_what_it_has_started(tmp_path: Path) -> None:
    host = Host(tmp_path / "cache", timeout_s=6)
    folder = model(tmp_path / "m", f"--no-index\n{endless_source(tmp_path)}\n")
    provided = asyncio.create_task(host.provide(folder))
    with pytest.raises(InstallFailed, match="install_timeout_s of 6"):
        await provided
    await eventually_async(lambda: not _descendants("_in_process") and not _descendants("pip"))
    assert not (host.root / "environments" / wanted(folder).key).exists()


async def test_an_installer_that_is_killed_leaves_nothing_running(tmp_path: Path) -> None:
    host = Host(tmp_path / "cache")
    folder = model(tmp_path / "m", f"--no-index\n{endless_source(tmp_path)}\n")
    provided = asyncio.create_task(host.provide(folder))
    await eventually_async(lambda: _descendants("_in_process"))
    [tied] = _descendants("parent_death")
    family = [tied, *tied.children(recursive=True)]
    tied.kill()
    with pytest.raises(InstallFailed):
        await provided
    await eventually_async(lambda: not [process for process in family if _lives(process)])
    await host.installer.close()


def endless_source(folder: Path) -> Path:
    """Write a source distribution whose build never ends, in a process that pip starts."""
    source = folder / "endless"
    source.mkdir()
    build = '[build-system]\nrequires = []\nbuild-backend = "endless"\nbackend-path = ["."]\n'
    (source / "pyproject.toml").write_text(build)
    (source / "endless.py").write_text("import time\ntime.sleep(600)\n")
    return source


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _descendants(word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and any(word in part for part in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
