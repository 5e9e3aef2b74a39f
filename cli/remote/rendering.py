"""How answers are printed: as JSON, or as tables that fit 80 columns."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDone
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

import msgspec
import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from torchrelay.cli.remote.fleet_summaries import model_summary, quarantine_summary
from torchrelay.client.sync_client import Client
from torchrelay.shared import api_bodies, labels
from torchrelay.shared.archives.model_archive import ArchiveInfo
from torchrelay.shared.archives.workflow_archive import WorkflowInfo
from torchrelay.shared.errors import RelayError
from torchrelay.shared.terminal import one_line, printable, printable_json

T = TypeVar("T")
#: What `show` prints for people.
View = RenderableType
POLL_INTERVAL_S = 0.3
WATCH_INTERVAL_S = 1.0
#: Fields of a version that are shown even where they are 0.
ALWAYS_SHOWN = frozenset({"minWorkers", "maxWorkers", "maxBatchDelay", "jobQueueStatus"})
NO_MODEL = "No model is registered."


def show(data: T, as_json: bool, view: Callable[[T], RenderableType]) -> None:
    """Print data: as JSON for programs, else by `view` for people."""
    if as_json:
        typer.echo(printable_json(msgspec.json.format(msgspec.json.encode(data), indent=2).decode()))
    else:
        shown = view(data)
        Console(highlight=False).print(_text(shown) if isinstance(shown, str) else shown)


def keep_showing(look: Callable[[], RenderableType]) -> None:
    """Show something anew every second, until Ctrl-C."""
    with Live(look(), auto_refresh=False) as live:
        try:
            while not Event().wait(WATCH_INTERVAL_S):
                live.update(look(), refresh=True)
        except KeyboardInterrupt:
            return


def model_list(models: Sequence[api_bodies.ModelsEntryBody]) -> RenderableType:
    """Lay out the model list."""
    if not models:
        return NO_MODEL
    return make_table(("MODEL", "ARCHIVE"), ((model.model_name, model.model_url) for model in models))


def workflow_list(workflows: Sequence[api_bodies.WorkflowsEntryBody]) -> RenderableType:
    """Lay out the list of workflows."""
    if not workflows:
        return "No workflow is registered."
    rows = ((workflow.workflow_name, workflow.workflow_url) for workflow in workflows)
    return make_table(("WORKFLOW", "ARCHIVE"), rows)


def workflow(body: api_bodies.WorkflowBody) -> RenderableType:
    """Lay out what describe says of a workflow."""
    facts = _facts()
    for key, value in msgspec.json.decode(msgspec.json.encode(body), type=dict[str, object]).items():
        facts.add_row(_text(key), _text(_as_words(value)))
    return facts


def keys(entries: Sequence[dict[str, str]]) -> RenderableType:
    """Lay out the keys of a key file."""
    return make_table(("API", "EXPIRES"), ((entry["api"], entry["expires"]) for entry in entries))


def description(versions: Sequence[api_bodies.VersionBody]) -> RenderableType:
    """Lay out what describe says: a block of facts and a table of workers for each version.

    What is off or unlimited is left out: most versions use few of TorchServe's many features.
    """
    parts: list[RenderableType] = []
    for version in versions:
        facts = _facts()
        by_name = msgspec.json.decode(msgspec.json.encode(version), type=dict[str, object])
        for key, value in by_name.items():
            if key != "workers" and (value or key in ALWAYS_SHOWN):
                facts.add_row(_text(key), _text(_as_words(value)))
        parts += [facts, _workers(version.workers) if version.workers else _text("No worker.")]
    return Group(*parts)


def archive_info(info: ArchiveInfo) -> RenderableType:
    """Lay out the manifest of an archive, and the notes of its check."""
    facts = _facts()
    for key, value in msgspec.structs.asdict(info.manifest).items():
        if key != "raw" and value is not None:
            facts.add_row(key.replace("_", " "), _text(str(value)))
    facts.add_row("content", f"{info.entries} files and folders, {info.total_bytes:,} bytes unpacked")
    return Group(facts, *(_text(f"note: {note}", "yellow") for note in info.notes))


def workflow_info(info: WorkflowInfo) -> RenderableType:
    """Lay out the steps of a workflow's archive."""
    facts = _facts()
    facts.add_row("workflow name", _text(info.name))
    facts.add_row("handler", _text(info.handler or "none"))
    after = dict(info.spec.dag)
    for step in info.spec.steps:
        what = "a function" if step.is_function else step.url or "no archive"
        following = ", ".join(after.get(step.name, ()))
        facts.add_row(f"step {step.name}", _text(f"{what}; then {following}" if following else what))
    return facts


def fleet(seen: api_bodies.FleetBody, url: str) -> RenderableType:
    """Lay out the fleet on one screen."""
    nodes = f"{len(seen.nodes)} node{'' if len(seen.nodes) == 1 else 's'}"
    gateways = f"{seen.gateways} gateway{'' if seen.gateways == 1 else 's'}"
    head = f"{url}: up {duration(seen.uptime_s)}, {gateways}, {nodes}"
    models = [_models(seen.models), *_problems(seen.models)] if seen.models else [_text(NO_MODEL)]
    models += [_text(f"{url}: being registered", "yellow") for url in seen.loading]
    models += [_text(f"{one.model_name}: not loaded: {one.reason}", "red") for one in seen.not_loaded]
    hosts = node_table(seen.nodes) if seen.nodes else _text("No node has joined: no worker can start.")
    return Group(_text(head), _text(""), *models, _text(""), hosts)


def duration(seconds: float) -> str:
    """Write a duration in its two largest units."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def while_watching(change: Callable[[], T], client: Client) -> T:
    """Run a change that may take long; meanwhile show on a terminal which models are not ready."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return change()
    with ThreadPoolExecutor(max_workers=1) as pool, console.status("Waiting for workers") as status:
        pending = pool.submit(change)
        while True:
            try:
                return pending.result(timeout=POLL_INTERVAL_S)
            except NotDone:
                status.update(_in_motion(client))


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """Give out what shows on a terminal, in one line, what is being done."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("") as status:
        yield lambda text: status.update(_text(one_line(text)))


def _in_motion(client: Client) -> Text:
    try:
        moving = [
            f"{model.label}: {model_summary(model)}" for model in client.fleet().models if not model.is_ready
        ]
    except RelayError:  # the change itself fails for the same reason
        moving = []
    return _text("; ".join(moving) or "Waiting for workers")


def _text(shown: str, style: str = "") -> Text:
    """Make a text with control characters escaped; no text of a server or an archive is printed otherwise."""
    return Text(printable(shown), style)


def one_below_the_other(parts: Sequence[View]) -> View:
    """Make one view of several."""
    return Group(*parts)


def styled_lines(lines: Iterable[tuple[str, str]]) -> View:
    """Lay out lines of text, each with its style."""
    return Group(*(_text(line, style) for line, style in lines))


def make_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]] = (), *, widths: dict[str, int] | None = None
) -> Table:
    """Make a table; `widths` bounds the columns (in characters) whose text may be long."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=True, max_width=(widths or {}).get(column))
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def fact_list(rows: Mapping[str, str]) -> Table:
    """Lay out names and values."""
    made = _facts()
    for name, value in rows.items():
        made.add_row(_text(name), _text(value))
    return made


def _facts() -> Table:
    """Make a table of names and values; long values are wrapped."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _models(models: Sequence[api_bodies.FleetModelBody]) -> Table:
    columns = ("MODEL", "VERSION", "READY", "QUEUED", "OLDEST", "STATE")
    table = make_table(columns, widths={"MODEL": 26, "VERSION": 16})
    for model in models:
        style = "red" if model.has_failed else "" if model.is_ready else "yellow"
        table.add_row(
            _text(model.model_name),
            _text(model.model_version + (" *" if model.is_default else "")),
            f"{model.workers_ready}/{model.workers_wanted}",
            f"{model.queue_depth}/{model.queue_limit}",
            f"{model.oldest_wait_ms:.0f} ms",
            _text(model.status, style),
        )
    return table


def _problems(models: Sequence[api_bodies.FleetModelBody]) -> list[RenderableType]:
    """List for each model what is refused, why workers are missing, and the last error."""
    lines: list[RenderableType] = []
    for model in models:
        lines += [
            _text(f"{model.label}: {quarantine_summary(entry)}", "yellow") for entry in model.quarantined
        ]
        for text in (model.explanation if not model.is_ready else "", model.last_error):
            if text.strip():
                lines.append(
                    _text(f"{model.label}: {text.strip()}", "red" if text is model.last_error else "")
                )
    return [_text(""), *lines] if lines else []


def node_table(nodes: Sequence[api_bodies.NodeBody]) -> Table:
    """Lay out nodes that are here."""
    columns = ["NODE", "STATE", "DEVICES", "SLOTS USED"]
    rows = [
        [
            node.name,
            "draining" if node.is_draining else "here",
            _devices(node),
            f"{node.slots_used}/{node.slots}",
        ]
        for node in nodes
    ]
    if any(node.labels for node in nodes):
        columns.append("LABELS")
        for row, node in zip(rows, nodes, strict=True):
            row.append(labels.shown(tuple(sorted(node.labels.items()))))
    return make_table(columns, rows, widths={"NODE": 28, "DEVICES": 26})


def _devices(node: api_bodies.NodeBody) -> str:
    return ", ".join(
        f"{device.name} ({device.description})" if device.description else device.name
        for device in node.devices
    )


def _workers(workers: Sequence[api_bodies.WorkerBody]) -> Table:
    table = make_table(("WORKER", "STATUS", "PID", "MEMORY", "DEVICE", "SINCE"))
    for worker in workers:
        # `gpu` and `gpuUsage` say the same twice.
        gpu = re.search(r"gpuId::(\d+)", worker.gpu_usage)
        table.add_row(
            _text(worker.id),
            _text(worker.status),
            str(worker.pid),
            f"{worker.memory_usage >> 20:,} MiB",
            f"gpu {gpu[1]}" if gpu else "gpu" if worker.gpu else "cpu",
            _text(worker.start_time[:19].replace("T", " ")),
        )
    return table


def _as_words(value: object) -> str:
    """Write a value; of an object, the fields one after the other."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_as_text(part)}" for key, part in value.items())
    return _as_text(value)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
