"""Runs the three processes of `torchrelay serve` in the foreground and talks to whoever looks on."""

import asyncio
import signal
from pathlib import Path

import msgspec
import typer

from broker.store import startup_urls
from cli import fleet
from cli.child import Launch, Role
from cli.compose import Plan
from cli.prepare import DEFAULT_PORTS, client_url
from cli.startup import LineView, Startup
from cli.supervisor import Supervisor
from shared.logs import LogFormat
from shared.settings import BrokerSettings, Settings


class _StopAsked(Exception):
    """Somebody pressed Ctrl-C or sent SIGTERM."""


def run(plan: Plan, log_dir: Path, *, is_verbose: bool, log_format: LogFormat) -> None:
    """Run everything until it is told to stop.

    Raises:
        Fault: a process can't be started.
    """
    level = "INFO" if is_verbose else "WARNING"

    def launch(role: Role, settings: Settings) -> Launch:
        return Launch(
            role=role,
            settings=msgspec.Raw(settings.to_json()),
            level=level,
            log_format=log_format,
            log_file=str(log_dir / f"{role}.log"),
        )

    launches = [launch("broker", plan.broker), launch("gateway", plan.gateway), launch("worker", plan.node)]
    typer.echo(f"Starting broker, gateway and workers; all they log is in {log_dir}")
    # What was registered, scaled or unregistered since the start is in the registry, which then counts.
    later = launch("broker", msgspec.structs.replace(plan.broker, load_models=()))
    asyncio.run(_run(plan, Supervisor(launches, typer.echo), later))


async def _run(plan: Plan, supervisor: Supervisor, later_broker: Launch) -> None:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():  # the second time: at once
            supervisor.kill()
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    try:
        await asyncio.gather(supervisor.run(), _announce(plan, supervisor, later_broker), _until(asked))
    except _StopAsked:
        typer.echo("Stopping.")
    finally:
        await supervisor.stop()


async def _until(asked: asyncio.Event) -> None:
    await asked.wait()
    raise _StopAsked


async def _announce(plan: Plan, supervisor: Supervisor, later_broker: Launch) -> None:
    """Tell how far the start is, then what runs where and how to try it."""
    gateway = plan.gateway

    def came_up() -> None:
        supervisor.came_up()
        typer.echo("Model server started.")

    management = client_url(gateway.management_address, DEFAULT_PORTS["management"])
    startup = Startup(management, count_models(plan.broker), LineView(typer.echo), came_up)
    seen = await startup.follow()
    supervisor.change(later_broker)
    inference = client_url(gateway.inference_address, DEFAULT_PORTS["inference"])
    typer.echo(f"  inference   {inference}\n  management  {management}")
    if gateway.enable_metrics_api:
        typer.echo(f"  metrics     {client_url(gateway.metrics_address, DEFAULT_PORTS['metrics'])}")
    typer.echo(f"Try: {example_call(seen, inference)}\nCtrl-C stops everything.")


def count_models(broker: BrokerSettings) -> int:
    """Count the models that the broker will try to load; `all` stands for what lies in its store."""
    named = [load for load in broker.load_models if load.url.lower() != "all"]
    return len(named) + (len(startup_urls(broker)) if len(named) < len(broker.load_models) else 0)


def example_call(seen: fleet.Fleet, inference: str) -> str:
    """Write a curl command that works against what is loaded."""
    ready = [model.model_name for model in seen.models if model.workers_ready]
    target = (
        f"--unix-socket {inference.removeprefix('unix:')} http://localhost"
        if inference.startswith("unix:")
        else inference
    )
    return f"curl -T FILE {target}/predictions/{ready[0]}" if ready else f"curl {target}/ping"
