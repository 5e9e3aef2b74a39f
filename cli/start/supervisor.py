"""Has the three processes of `torchrelay serve` started, and again when they end, and stops them in order.

Each child leads a process group of its own: Ctrl-C in the terminal reaches only this process, and what a dead
child has left is ended with its group. A child notices the end of this process by its stdin.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence

from torchrelay.cli.faults import Fault
from torchrelay.cli.start.child import Launch, Role
from torchrelay.cli.start.fork_server_start import ForkServerStart
from torchrelay.cli.start.progress import ServerWatcher
from torchrelay.cli.start.started_parts import StartedPart, StartedParts

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
STOP_GRACE_S: dict[Role, float] = {"gateway": 2.5, "worker": 1.5, "broker": 0.8}
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
        starting: ForkServerStart,
        later: Launch | None = None,
        *,
        requests_grace_s: float = 0.0,
    ) -> None:
        self._launches = {launch.role: launch for launch in launches}
        self._report = report
        self._later = later
        gateway_s = max(STOP_GRACE_S["gateway"], requests_grace_s + GATEWAY_END_S)
        self._stop_grace_s = {**STOP_GRACE_S, "gateway": gateway_s}
        self._parts = StartedParts(starting)
        self._processes: dict[Role, StartedPart] = {}
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
            if part := self._processes.get(role):
                self._parts.signal(role, signal.SIGTERM)
                try:
                    await asyncio.wait_for(asyncio.shield(part.end), grace_s)
                except TimeoutError:
                    self._parts.signal(role, signal.SIGKILL)
        self.kill()
        await self._parts.close()

    def kill(self) -> None:
        """Kill every child that is left, with its group."""
        self._is_stopping = True
        for role in self._processes:
            self._parts.signal(role, signal.SIGKILL)

    async def _keep(self, role: Role) -> None:
        loop = asyncio.get_running_loop()
        deaths = 0
        delay_s = 0.0
        while not self._is_stopping:
            started_at = loop.time()
            why, is_own_fault = await self._run(role)
            if self._is_stopping:
                return
            deaths += 1
            if not self._is_up and (is_own_fault or deaths >= START_LIMIT):
                raise Fault(f"the {role} can't start ({why}); its last words are above")
            delay_s = _next_delay(delay_s, loop.time() - started_at)
            self._report(f"{role} ended ({why}); starting it again")
            await asyncio.sleep(delay_s)

    async def _run(self, role: Role) -> tuple[str, bool]:
        """Run a child once; return why it ended, and whether that was by itself."""
        try:
            part = self._processes[role] = await self._parts.start(self._launches[role])
        except OSError as error:
            return f"no process can be started: {error.strerror}", False
        code = await part.end
        del self._processes[role]
        if part.is_orphan:
            return "with the fork server that all are started by", False
        if code < 0:
            return f"killed by {signal.Signals(-code).name}", False
        return f"exit status {code}", code > 0


def _next_delay(last_s: float, lived_s: float) -> float:
    if lived_s >= STEADY_S or (last_s == 0 and lived_s > 1):
        return 0.0
    return min(max(BACKOFF_FIRST_S, last_s * 2), BACKOFF_LIMIT_S)
