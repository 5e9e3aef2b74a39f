"""`torchrelay predict`: one call of a model."""

import codecs
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.faults import Fault

if TYPE_CHECKING:
    from torchrelay.client.request_bodies import Data


File = Annotated[str | None, typer.Argument(metavar="[FILE|-]", help="The request's body; - is stdin.")]
ContentType = Annotated[
    str | None, typer.Option(metavar="TYPE", help="The body's type. [default: by the file's name]")
]


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    file: File = None,
    version: options.Version = None,
    content_type: ContentType = None,
    inference: options.Inference = options.DEFAULT_INFERENCE,
) -> None:
    """Send a request to a model and print its answer: JSON for reading, anything else as it is.

    On a terminal, control characters are escaped.
    """
    from torchrelay.cli.remote.connected import connected

    with (
        connected("inference", inference) as client,
        opened(file) as data,
        client.stream(model, data, version=version, content_type=content_type) as answer,
    ):
        show(answer, answer.headers.get("content-type", ""))


def show(answer: Iterable[bytes], content_type: str) -> None:
    """Print an answer as `predict` does."""
    import msgspec

    from torchrelay.shared.terminal import printable_json

    if content_type.startswith("application/json"):
        text = b"".join(answer)
        try:
            typer.echo(printable_json(msgspec.json.format(text, indent=2).decode()))
            return
        except (
            msgspec.DecodeError,
            UnicodeDecodeError,
            RecursionError,
        ):  # a handler may announce JSON and send something else
            _write([text])
    else:
        _write(answer)
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


@contextmanager
def opened(file: str | None) -> "Iterator[Data | None]":
    """Open what is sent. Raises Fault for a file that can't be read."""
    if file is None:
        yield None
    elif file == "-":
        yield sys.stdin.buffer.read()
    else:
        with ExitStack() as stack:
            try:
                opened = stack.enter_context(Path(file).open("rb"))
            except OSError as error:
                raise Fault(f"{file} can't be read: {error.strerror}") from error
            yield opened
