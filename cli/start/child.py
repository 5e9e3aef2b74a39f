"""One process of `torchrelay serve`, a fork of its fork server.

It gets its settings as a Launch, one line on stdin. stdin then stays open: its end means that the process
that supervises it has ended, however that came, and this process ends too.
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from setproctitle import setproctitle

from torchrelay.shared.logs import logs
from torchrelay.shared.processes import private_memory
from torchrelay.shared.processes.lasting_imports import lasting_imports
from torchrelay.shared.settings import (
    BrokerSettings,
    GatewaySettings,
    LogLimits,
    NodeSettings,
    SettingsError,
    add_to_environment,
)
from torchrelay.shared.torchserve import torchserve_log

if TYPE_CHECKING:  # of the worker's package
    from torchrelay.worker.node.launcher_handle import Launcher

Role = Literal["broker", "gateway", "worker"]

#: What `ps` shows of a process is `torchrelay` and this; a worker is forked by its node's launcher.
TITLES: dict[Role, str] = {"broker": "broker", "gateway": "gateway", "worker": "node"}
#: A process whose supervisor has ended, and that has not stopped after so long, is killed with its children.
ORPHAN_GRACE_S = 6.0


class LogTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where a process writes its log, and how; `level` is that of the terminal."""

    level: str
    log_format: Literal["text", "json", "torchserve"]
    file: str | None = None
    limits: LogLimits = LogLimits()

    def configure(self, process: str) -> None:
        """Set up logging in this process."""
        file = Path(self.file) if self.file else None
        if self.log_format == "torchserve":
            torchserve_log.configure(process, level=self.level, log_file=file, limits=self.limits)
        else:
            logs.configure(
                process, level=self.level, log_format=self.log_format, log_file=file, limits=self.limits
            )


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What a child process gets; `settings` is the JSON of its role's settings.

    `variables` are its environment, beside what the fork server has in its own; see `packed`.
    """

    role: Role
    settings: msgspec.Raw
    log: LogTarget
    variables: tuple[tuple[bytes, bytes], ...] = ()


def packed(variables: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    """Write an environment as a launch has it: names and values may be of any bytes, and JSON's texts not."""
    return tuple((os.fsencode(name), os.fsencode(value)) for name, value in variables.items())


def unpacked(variables: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Read what `packed` has written."""
    return {os.fsdecode(name): os.fsdecode(value) for name, value in variables}


def main(role: Role) -> int:
    """Run the process, just forked; return its exit code."""
    setproctitle(f"torchrelay {TITLES[role]}")
    launcher = _launcher() if role == "worker" else None
    # Nothing follows this line but the end, which the thread sees: it reads past Python's buffer.
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return 0  # the supervisor has ended before it had sent it all
    launch = msgspec.json.decode(line, type=Launch)
    threading.Thread(target=_end_with_supervisor, args=(sys.stdin.fileno(),), daemon=True).start()
    add_to_environment(unpacked(launch.variables))
    launch.log.configure(role)
    try:
        return run(role, launch.settings, launcher)
    except SettingsError as error:
        faults = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
        sys.stderr.write(f"torchrelay {role}: {faults}\n")
        return 1


def _launcher() -> "Launcher":
    """Fork the node's launcher, before this process has anything in its memory that workers may not see."""
    with lasting_imports():
        from torchrelay.worker.node.launcher_handle import Launcher, forked

    return Launcher(forked)


def run(role: Role, settings: msgspec.Raw, launcher: "Launcher | None" = None) -> int:
    """Run one role; only that role's package is imported. A node may have its launcher already."""
    private_memory.keep_memory_private()  # first: the settings have keys, and handlers run as the same user
    if role == "broker":
        with lasting_imports():
            from torchrelay.broker.server import run as run_broker

        return run_broker(msgspec.json.decode(settings, type=BrokerSettings))
    if role == "gateway":
        with lasting_imports():
            from torchrelay.gateway.main import run as run_gateway

        return run_gateway(msgspec.json.decode(settings, type=GatewaySettings))
    from torchrelay.worker.node.node_start import run as run_node

    return run_node(msgspec.json.decode(settings, type=NodeSettings), launcher)


def _end_with_supervisor(fd: int) -> None:
    while os.read(fd, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(ORPHAN_GRACE_S)
    os.killpg(0, signal.SIGKILL)
