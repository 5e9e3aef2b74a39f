"""Starts the three processes of `torchrelay serve`, restarts those that end, and stops them in order.

Each child leads a process group of its own: Ctrl-C in the terminal reaches only this process, and the
processes that a dead child has left can be ended with its group. A child notices the end of this process by
its stdin.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence

import msgspec

from torchrelay.cli.faults import Fault
from torchrelay.cli.start.child import Launch, Role
from torchrelay.cli.start.progress import ServerWatcher

#: -P: a folder called `shared` where serve was started must not shadow ours.
CHILD_COMMAND = (sys.executable, "-P", "-m", "torchrelay.cli.start.child")
#: A child that was killed so often before the server was up is given up. One that exits by itself with an
#: error is given up at once: it would fail again.
START_LIMIT = 3
#: The first restart is at once, then twice as long each time.
BACKOFF_FIRST_S = 0.1
BACKOFF_LIMIT_S = 5.0
#: After a child has lived so long, its next restart is at once again.
STEADY_S = 10.0
#: Each child's time to stop after SIGTERM, in the order in which they are stopped; under 5 s together, unless
#: the gateway's requests are given more.
STOP_GRACE_S = {"gateway": 2.5, "worker": 1.5, "broker": 0.8}
#: What a gateway needs beside the time that its requests have.
GATEWAY_END_S = 0.5


class Supervisor(ServerWatcher):
    """Starts, watches, restarts and stops child processes; `report` takes one line for the operator.

    It is told of the start: once the models are registered, `later` replaces the launch of its role.
    """

    def __init__(
        self,
        launches: Sequence[Launch],
        report: Callable[[str], None],
        command: Sequence[str] = CHILD_COMMAND,
        later: Launch | None = None,
        *,
        requests_grace_s: float = 0.0,
    ) -> None:
        self._launches = {launch.role: launch for launch in launches}
        self._report = report
        self._command = command
        self._later = later
        gateway_s = max(STOP_GRACE_S["gateway"], requests_grace_s + GATEWAY_END_S)
        self._stop_grace_s = {**STOP_GRACE_S, "gateway": gateway_s}
        self._processes: dict[str, Process] = {}
        self._is_up = False
        self._is_stopping = False

    def answers(self) -> None:
        """Take note that the server is up: from now on a child is restarted without a limit."""
        self._is_up = True

    def registered(self) -> None:
        """Use the launch `later` if the process of its role is started again."""
        if self._later:
            self._launches[self._later.role] = self._later

    async def run(self) -> None:
        """Keep every child running until `stop`.

        Raises:
            Fault: a child can't be started at all.
        """
        await asyncio.gather(*(self._keep(role) for role in self._launches))

    async def stop(self) -> None:
        """Stop every child, in an order in which each can finish its work."""
        self._is_stopping = True
        for role, grace_s in self._stop_grace_s.items():
            # The gateway first, so that no new work comes. The broker last, since answers go through it.
            process = self._processes.get(role)
            if process is not None and process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), grace_s)
                except TimeoutError:
                    _kill_group(process.pid)
        self.kill()

    def kill(self) -> None:
        """Kill every child that is left, with its group."""
        self._is_stopping = True
        for process in self._processes.values():
            _kill_group(process.pid)

    async def _keep(self, role: Role) -> None:
        loop = asyncio.get_running_loop()
        deaths = 0
        delay_s = 0.0
        while not self._is_stopping:
            started_at = loop.time()
            process = await self._start(self._launches[role])
            code = await process.wait()
            _kill_group(process.pid)
            del self._processes[role]
            if self._is_stopping:
                return
            deaths += 1
            why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            if not self._is_up and (code > 0 or deaths >= START_LIMIT):
                raise Fault(f"the {role} can't start ({why}); its last words are above")
            delay_s = _next_delay(delay_s, loop.time() - started_at)
            self._report(f"{role} ended ({why}); starting it again")
            await asyncio.sleep(delay_s)

    async def _start(self, launch: Launch) -> Process:
        process = await asyncio.create_subprocess_exec(
            *self._command, launch.role, stdin=PIPE, process_group=0
        )
        self._processes[launch.role] = process
        assert process.stdin is not None  # PIPE was asked for
        process.stdin.write(msgspec.json.encode(launch) + b"\n")
        return process


def _next_delay(last_s: float, lived_s: float) -> float:
    if lived_s >= STEADY_S or (last_s == 0 and lived_s > 1):
        return 0.0
    return min(max(BACKOFF_FIRST_S, last_s * 2), BACKOFF_LIMIT_S)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # PermissionError: macOS raises it for zombies
        return
