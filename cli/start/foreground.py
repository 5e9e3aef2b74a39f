"""Runs the three processes of a server in the foreground until it is told to stop."""

import asyncio
import signal
from collections.abc import Callable

import msgspec

from torchrelay.cli.start.checks import client_url
from torchrelay.cli.start.child import Launch, LogTarget, Role, packed
from torchrelay.cli.start.fork_server_start import ForkServerStart
from torchrelay.cli.start.part_settings import Plan
from torchrelay.cli.start.progress import ServerWatcher, Startup
from torchrelay.cli.start.supervisor import Supervisor
from torchrelay.gateway.grpc import listen_addresses
from torchrelay.shared import ids
from torchrelay.shared.processes import private_memory
from torchrelay.shared.settings import GatewaySettings, Settings, StaticKey, environment

#: The name of the key by which this command asks its own server.
OWN_KEY_NAME = "torchrelay serve"


class _StopAsked(Exception):
    """Ctrl-C was pressed, or SIGTERM came."""


def run(
    plan: Plan, log: Callable[[Role], LogTarget], watcher: ServerWatcher, starting: ForkServerStart
) -> None:
    """Run the three processes, forked by what `starting` starts, until a signal stops them.

    `log` says where each one logs what.

    Raises:
        Fault: a process can't be started.
    """
    private_memory.keep_memory_private()
    gateway = msgspec.structs.replace(plan.gateway, server_id=ids.secret())
    broker, key = plan.broker, None
    if gateway.token_authorization:
        key = StaticKey("management", OWN_KEY_NAME, ids.secret())
        broker = msgspec.structs.replace(broker, static_keys=(*broker.static_keys, key))

    variables = packed(environment())

    def launch(role: Role, settings: Settings) -> Launch:
        settings_json = msgspec.Raw(settings.to_json())
        return Launch(role=role, settings=settings_json, log=log(role), variables=variables)

    # The node first: what its workers are forked from takes the longest to import.
    launches = [launch("worker", plan.node), launch("broker", broker), launch("gateway", gateway)]
    # What was registered, scaled or unregistered since the start is in the registry, which then counts.
    later = launch("broker", msgspec.structs.replace(broker, load_models=(), snapshot=None))
    supervisor = Supervisor(
        launches, watcher.process_ended, starting, later=later, requests_grace_s=gateway.graceful_timeout_s
    )
    url = client_url(plan.gateway.management_address, "management")
    startup = Startup(
        url, (supervisor, watcher), key.key if key else None, gateway.server_id, _grpc_listeners(gateway)
    )
    asyncio.run(_run(supervisor, startup, watcher))


def _grpc_listeners(gateway: GatewaySettings) -> list[tuple[str, int]]:
    """Return where gRPC can be reached from this host."""
    found = map(listen_addresses.split, listen_addresses.all_of(gateway).values())
    return [({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port) for host, port in found]


async def _run(supervisor: Supervisor, startup: Startup, watcher: ServerWatcher) -> None:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():  # the second time: at once
            supervisor.kill()
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # What `nohup`, or a shell's `&`, has us ignore stays so; SIGTERM is how it is stopped.
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, on_signal)
    tasks = [asyncio.create_task(part) for part in (supervisor.run(), startup.follow(), _until(asked))]
    try:
        await asyncio.gather(*tasks)
    except _StopAsked:
        watcher.stopping()
    finally:
        tasks[1].cancel()
        await supervisor.stop()


async def _until(asked: asyncio.Event) -> None:
    await asked.wait()
    raise _StopAsked
