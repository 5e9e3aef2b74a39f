"""`torchrelay migrate ...`: what of an installation runs here, and whether two servers answer alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import Fault, FaultReportingGroup

if TYPE_CHECKING:
    from torchrelay.cli.migrate.asked_server import AskedServer
    from torchrelay.cli.migrate.side_by_side import DiffReport, SideBySide

#: How often the line that says how far it is changes.
LOOK_S = 0.5

app = typer.Typer(cls=FaultReportingGroup, help="Move from TorchServe.", no_args_is_help=True)


@app.command()
def check(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Archives, model stores, config.properties, scripts, manifests, or folders of them.",
        ),
    ],
    packages: Annotated[
        bool,
        typer.Option(
            help="Whether the packages that handlers import must be installed here, as they must where"
            " workers run."
        ),
    ] = True,
    as_json: options.Json = False,
) -> None:
    """Say for each file what runs unchanged, what differs and why, and what has no effect.

    Nothing of it is imported or run. Exits with 1 if something will not run.
    """
    import shutil

    from torchrelay.cli.migrate import check_view, installation_files, surroundings
    from torchrelay.cli.remote import rendering

    has_package = surroundings.is_installed if packages else lambda _: True
    with rendering.progress_line() as say:
        report = installation_files.check(paths, has_package, say)
    width = shutil.get_terminal_size().columns
    rendering.show(
        report, as_json, lambda found: rendering.styled_lines(check_view.lines(found, min(width, 100)))
    )
    if report.summary["fails"]:
        raise typer.Exit(1)


@app.command()
def diff(
    old: Annotated[str, typer.Option(metavar="URL", help="Inference address of the server that is in use.")],
    new: Annotated[str, typer.Option(metavar="URL", help="Inference address of the one to compare with it.")],
    requests: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A script with curl's requests, or JSON lines as --save writes; repeatable."
        ),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Listen there, pass all on to the old server and then send it to the new one, until Ctrl-C.",
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep what is recorded, for --requests.")
    ] = None,
    old_management: Annotated[
        str | None, typer.Option(metavar="URL", help="[default: the port after that of --old]")
    ] = None,
    new_management: Annotated[
        str | None, typer.Option(metavar="URL", help="[default: the port after that of --new]")
    ] = None,
    old_keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The old server's key_file.json.")
    ] = None,
    new_keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The new server's key_file.json.")
    ] = None,
    changes: Annotated[
        bool, typer.Option("--changes", help="Send requests that register, scale, unregister or renew, too.")
    ] = False,
    repeat: Annotated[int, typer.Option(min=1, help="Send the requests of the files so often.")] = 1,
    variables: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A variable of the scripts; repeatable."),
    ] = None,
    rtol: Annotated[float, typer.Option(min=0.0, help="How far numbers may differ, of their size.")] = 1e-5,
    atol: Annotated[float, typer.Option(min=0.0, help="How far numbers may differ besides.")] = 1e-8,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POINTER", help="A field of JSON not to compare, /0/score; * is any; repeatable."
        ),
    ] = None,
    ignore_header: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A header not to compare; repeatable.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, metavar="S", help="Seconds for one answer.")] = 120.0,
    body_limit: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Of a body, how much is kept to be compared.")
    ] = 16,
    as_json: options.Json = False,
) -> None:
    """Send two servers the same requests, and show in what their answers differ.

    Status, headers and bodies are compared, JSON by structure, and latencies shown side by side. Exits with 1
    if an answer differs.
    """
    if bool(requests) == bool(record):
        raise typer.BadParameter("name either --requests FILE or --record PORT")
    if save and not record:
        raise typer.BadParameter("--save needs --record")
    given = dict(word.partition("=")[::2] for word in variables or ())
    if bad := next((word for word in variables or () if "=" not in word), None):
        raise typer.BadParameter(f"--set {bad}: write NAME=VALUE")
    if bad := next((pointer for pointer in ignore or () if not pointer.startswith("/")), None):
        raise typer.BadParameter(f"--ignore {bad}: a pointer begins with a slash")

    from contextlib import ExitStack

    from torchrelay.cli.migrate import asked_server
    from torchrelay.cli.migrate.answer_differences import tolerance
    from torchrelay.cli.migrate.side_by_side import SideBySide

    into = SideBySide(old, new, tolerance(rtol, atol, ignore or (), ignore_header or ()))
    with ExitStack() as stack:
        asked = [
            stack.enter_context(
                asked_server.asking(url, management, key_file, timeout_s=timeout, body_limit_mib=body_limit)
            )
            for url, management, key_file in (
                (old, old_management, old_keys),
                (new, new_management, new_keys),
            )
        ]
        if record:
            was_interrupted = False
            _record(record, save, asked, into, changes, body_limit)
        else:
            was_interrupted = _send((requests or []) * repeat, given, asked, into, changes)
    _show(into.report(was_interrupted=was_interrupted), as_json)


def _send(
    files: Sequence[Path],
    variables: Mapping[str, str],
    asked: "Sequence[AskedServer]",
    into: "SideBySide",
    changes: bool,
) -> bool:
    """Send the requests of files to both servers; return whether Ctrl-C ended it."""
    from torchrelay.cli.migrate import diff_run, request_files
    from torchrelay.cli.remote import rendering
    from torchrelay.shared.settings import environment

    old, new = asked
    items = (item for path in files for item in request_files.read(path, variables, environment()))
    try:
        with rendering.progress_line() as say:
            diff_run.send_all(items, old, new, into, changes=changes, watch=say)
    except KeyboardInterrupt:
        return True
    return False


def _record(
    place: str,
    save: Path | None,
    asked: "Sequence[AskedServer]",
    into: "SideBySide",
    changes: bool,
    body_limit_mib: int,
) -> None:
    """Run the proxy until Ctrl-C or SIGTERM."""
    import signal
    from threading import Event

    from torchrelay.cli.migrate import diff_run
    from torchrelay.cli.migrate.recording_proxy import RecordingProxy
    from torchrelay.cli.remote import rendering
    from torchrelay.shared import clock

    host, _, port = place.rpartition(":")
    if not port.isascii() or not port.isdecimal() or int(port) >= 1 << 16:
        raise typer.BadParameter(f"--record {place}: write PORT or HOST:PORT")
    old, new = asked
    recorder = diff_run.Recorder(new, into, changes=changes, save=save)
    try:
        proxy = RecordingProxy(
            (host or "127.0.0.1", int(port)), old, recorder.record,
            clock=clock.monotonic, body_limit_bytes=body_limit_mib << 20,
        )  # fmt: skip
    except OSError as error:
        raise Fault(f"--record {place} can't be listened on: {error.strerror or error}") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    typer.echo(f"{proxy.url} passes all on to {old.url('inference')}; Ctrl-C ends it", err=True)
    pause = Event()
    with rendering.progress_line() as say:
        diff_run.record(proxy, recorder, lambda: not pause.wait(LOOK_S), say)


def _show(report: "DiffReport", as_json: bool) -> None:
    import shutil

    from torchrelay.cli.migrate import diff_view
    from torchrelay.cli.remote import rendering

    width = min(shutil.get_terminal_size().columns, 100)
    rendering.show(
        report,
        as_json,
        lambda found: rendering.one_below_the_other(
            [
                *([rendering.make_table(diff_view.COLUMNS, diff_view.rows(found), widths=diff_view.WIDTHS)]
                  if found.sent else []),
                rendering.styled_lines(diff_view.lines(found, width)),
            ]
        ),
    )  # fmt: skip
    if report.differing or not report.sent:
        raise typer.Exit(1)
    if report.was_interrupted:
        raise typer.Exit(130)
