"""`torchrelay predict`: one call of a model."""

import codecs
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import Fault


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE|-]", help="The request's body; - is stdin.")
    ] = None,
    version: options.Version = None,
    content_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="The body's type. [default: by the file's name]")
    ] = None,
    inference: options.Inference = options.DEFAULT_INFERENCE,
) -> None:
    """Send a request to a model and print its answer: JSON for reading, anything else as it is.

    On a terminal, control characters are escaped.
    """
    import mimetypes

    import msgspec

    from torchrelay.cli.remote.client import RestClient, path_of
    from torchrelay.shared.terminal import printable_json

    path = path_of("predictions", model, version)
    body = _read(file)
    content_type = content_type or (mimetypes.guess_type(file)[0] if file else None)
    client = RestClient("inference", inference, timeout_s=None)  # the server's response_timeout ends a wait
    with client.stream("POST", path, content=body, content_type=content_type) as answer:
        if answer.headers.get("content-type", "").startswith("application/json"):
            text = answer.read()
            try:
                typer.echo(printable_json(msgspec.json.format(text, indent=2).decode()))
                return
            except msgspec.DecodeError:  # a handler may announce JSON and send something else
                _write([text])
        else:
            _write(answer.iter_bytes())
    if sys.stdout.isatty():
        typer.echo()


def _write(answer: Iterable[bytes]) -> None:
    from torchrelay.shared.terminal import printable

    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    for part in answer:
        if sys.stdout.isatty():
            part = printable(decoder.decode(part)).encode()
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()


def _read(file: str | None) -> bytes | None:
    if file is None:
        return None
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise Fault(f"{file} can't be read: {error.strerror}") from error
