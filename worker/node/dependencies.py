"""Installs the Python packages that archives require, once per host and set of requirements.

`environments/<key>/` holds the packages, or the virtual environment, of one set of requirements; the file
`whole` in it is written last, and a folder without it is removed and built again. The node that builds holds
the lock on `<key>.lock`. Paths inside a virtual environment are absolute, so it is built in its place.

The packages that an archive names, and what is built for them, run code of the person who registered it. So
an installer gets few variables of the environment, limited time, and a process group that ends with it.

Without a venv the packages come before the server's on the path, as in TorchServe. With one, the server's
packages come after the venv's own.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import signal
import site
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from torchrelay.shared import private_files
from torchrelay.shared.archives.reader import ArchiveReader
from torchrelay.shared.locks import try_lock
from torchrelay.shared.processes.parent_death import __file__ as parent_death_file
from torchrelay.shared.quoting import quoted
from torchrelay.worker.common.handler_errors import LINE_LIMIT
from torchrelay.worker.node.worker_output import LineReceiver, Output, OutputReader, Stream

logger = logging.getLogger(__name__)

#: How often it is looked whether another node has installed the same requirements.
LOCK_POLL_S = 0.5
#: How often `on_progress` is called.
REPORT_S = 1.0
#: A lock file of several hundred packages, with hashes, has some hundred KB.
REQUIREMENTS_LIMIT_BYTES = 1 << 20
_WHOLE = "whole"
#: Raised when environments are built in another way.
_FORMAT = "1"


class Requirements(msgspec.Struct, frozen=True):
    """The requirements of one archive; `key` names the environment that has them."""

    file: Path
    wants_venv: bool
    key: str


class Environment(msgspec.Struct, frozen=True):
    """An installed environment: its interpreter, and the folder of its packages or "" for a venv."""

    folder: Path
    interpreter: str
    packages: str


class InstallFailed(Exception):
    """Installing failed; `last_lines` are the installer's."""

    def __init__(self, reason: str, last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.last_lines = last_lines


def requirements(model_dir: Path, archive_hash: str, reader: ArchiveReader) -> Requirements | None:
    """Read what an unpacked archive requires; None if nothing. Raises InstallFailed for a missing file.

    Blocks; raises as `ArchiveReader.inspect_folder` does, too.
    """
    _, info = reader.inspect_folder(model_dir, is_inner_meant=False)
    name = info.manifest.requirements_file
    if not name:
        return None
    file = (model_dir / name).resolve()
    if not file.is_relative_to(model_dir.resolve()) or not file.is_file():
        raise InstallFailed(f"the archive has no requirements file {quoted(name)}")
    wants_venv = info.server_config is not None and info.server_config.use_venv
    if file.stat().st_size > REQUIREMENTS_LIMIT_BYTES:
        raise InstallFailed(f"the requirements file is larger than {REQUIREMENTS_LIMIT_BYTES} bytes")
    content = file.read_bytes()
    parts = [_FORMAT, sys.version, sys.prefix, str(wants_venv), content.decode(errors="replace")]
    if _names_a_file(content.decode(errors="replace"), model_dir):
        parts.append(archive_hash)
    return Requirements(file, wants_venv, hashlib.sha256("\0".join(parts).encode()).hexdigest())


def _names_a_file(text: str, model_dir: Path) -> bool:
    """Tell whether requirements refer to something in their archive, such as a wheel."""
    words = [
        word.removeprefix("file:")
        for line in text.splitlines()
        for word in line.partition("#")[0].replace("=", " ").split()
    ]
    return any((model_dir / word).exists() for word in words if len(word) < os.pathconf("/", "PC_NAME_MAX"))


class _Build(msgspec.Struct, eq=False):
    """An environment that is being built, and those that get its installer's output."""

    task: asyncio.Task[None]
    receivers: list[LineReceiver]


class Installer:
    """Provides environments; runs on the node's event loop, and one installer at a time for each key."""

    def __init__(
        self, root: Path, variables: Mapping[str, str], output: OutputReader, timeout_s: float
    ) -> None:
        self._root = root / "environments"
        private_files.make_folder(self._root)
        self._variables = dict(variables)
        self._output = output
        self._timeout_s = timeout_s
        self._builds: dict[str, _Build] = {}

    async def provide(
        self,
        wanted: Requirements,
        model_dir: Path,
        *,
        on_lines: LineReceiver,
        on_progress: Callable[[], None],
    ) -> Environment:
        """Return an environment, built if need be; its installer's output goes to `on_lines`.

        Raises InstallFailed. `on_progress` is called every REPORT_S while it is built.
        """
        folder = self._root / wanted.key
        if not (folder / _WHOLE).exists():
            build = self._builds.get(wanted.key) or self._begin_build(wanted, model_dir)
            build.receivers.append(on_lines)
            try:
                while not build.task.done():
                    on_progress()
                    await asyncio.wait({build.task}, timeout=REPORT_S)
                build.task.result()
            finally:
                build.receivers.remove(on_lines)
                # It ends when nobody waits for it any more.
                if self._builds.get(wanted.key) is build and (build.task.done() or not build.receivers):
                    del self._builds[wanted.key]
                    build.task.cancel()
        if wanted.wants_venv:
            return Environment(folder, str(folder / "bin" / "python"), "")
        return Environment(folder, sys.executable, str(folder / "packages"))

    async def close(self) -> None:
        """End every installer; unfinished environments are removed and built again next time."""
        tasks = [build.task for build in self._builds.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin_build(self, wanted: Requirements, model_dir: Path) -> _Build:
        receivers: list[LineReceiver] = []
        task = asyncio.create_task(self._build(wanted, model_dir, receivers))
        self._builds[wanted.key] = _Build(task, receivers)
        return self._builds[wanted.key]

    async def _build(self, wanted: Requirements, model_dir: Path, receivers: list[LineReceiver]) -> None:
        folder = self._root / wanted.key
        is_mine = False
        while not is_mine and not (folder / _WHOLE).exists():
            with try_lock(self._root / f"{wanted.key}.lock") as is_mine:
                if is_mine and not (folder / _WHOLE).exists():
                    await self._install(wanted, model_dir, folder, receivers)
            if not is_mine:
                await asyncio.sleep(LOCK_POLL_S)

    async def _install(
        self, wanted: Requirements, model_dir: Path, folder: Path, receivers: list[LineReceiver]
    ) -> None:
        logger.info("requirements.installing", extra={"environment": wanted.key, "folder": str(model_dir)})
        if folder.exists():
            await asyncio.to_thread(shutil.rmtree, folder)
        try:
            async with asyncio.timeout(self._timeout_s):
                for command in _commands(wanted, folder):
                    await self._run(command, model_dir, receivers)
            (folder / _WHOLE).touch()
        except TimeoutError as error:
            raise InstallFailed(f"it takes longer than install_timeout_s of {self._timeout_s:g} s") from error
        finally:
            if not (folder / _WHOLE).exists():
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        logger.info("requirements.installed", extra={"environment": wanted.key})

    async def _run(self, command: list[str], cwd: Path, receivers: list[LineReceiver]) -> None:
        """Run one step. Raises InstallFailed."""

        def pass_on(stream: Stream, lines: list[str]) -> None:
            for receiver in list(receivers):
                receiver(stream, lines)

        output = Output(self._output, pass_on)
        ends_with_us = [sys.executable, "-P", parent_death_file, str(os.getpid())]
        process = await asyncio.create_subprocess_exec(
            *ends_with_us, *command, cwd=cwd, env=self._variables, start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=output.stdout.writer, stderr=output.stderr.writer,
            umask=0o077,
        )  # fmt: skip
        output.follow()
        try:
            exit_code = await process.wait()
        finally:
            # However it ended: the processes that the installer has started end with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            last_lines = output.close()
        if exit_code:
            raise InstallFailed(_reason(exit_code, last_lines), last_lines)


def _commands(wanted: Requirements, folder: Path) -> list[list[str]]:
    """Return the commands that build an environment, in order."""
    # -P: a module of the archive may be called like one that the installer imports.
    pip = [
        "-P",
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar=off",
        "-U",
    ]
    file = ["-r", str(wanted.file)]
    if not wanted.wants_venv:
        return [[sys.executable, *pip, "-t", str(folder / "packages"), *file]]
    python = str(folder / "bin" / "python")
    # The server's packages, and those that it sees itself, come after the environment's own.
    see = "import pathlib, sysconfig, sys; "
    see += "pathlib.Path(sysconfig.get_path('purelib'), 'server.pth').write_text(sys.argv[1])"
    server = "".join(f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages())
    return [
        [sys.executable, "-P", "-m", "venv", "--without-pip", str(folder)],
        [python, "-P", "-c", see, server],
        [python, *pip, "--upgrade-strategy", "only-if-needed", *file],
    ]


def _reason(exit_code: int, last_lines: tuple[str, ...]) -> str:
    """Return the first line that the installer calls an error."""
    errors = [line for line in last_lines if line.startswith("ERROR:") or ": No module named" in line]
    said = errors[0].removeprefix("ERROR:").strip() if errors else f"the installer exited with {exit_code}"
    return said[:LINE_LIMIT]
