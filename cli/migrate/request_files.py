"""Reads the requests that two servers are to be sent: curl's of a script, or lines of JSON.

Of a script nothing is run. Variables are those that it sets, that are given, or of the environment, in the
other order; what only a shell could tell, such as `$(command)`, makes a request be left out, with the reason.
"""

import mimetypes
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import httpx2
import msgspec

from torchrelay.cli.migrate import curl_calls, known_routes, shell_commands
from torchrelay.cli.migrate.curl_calls import CurlCall, CurlData
from torchrelay.cli.migrate.replayed_request import HOP_HEADERS, ReplayedRequest, api_of, parse_line

#: Of one request; bodies of models have some MB.
BODY_LIMIT_BYTES = 256 << 20
FILE_LIMIT_BYTES = 1 << 30
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_REFERENCE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::-([^{}]*))?\})")
_BOUNDARY = "torchrelay-migrate-0b9d2f"


class LeftOut(msgspec.Struct, frozen=True):
    """A request that isn't sent, and why."""

    source: str
    why: str


Item = ReplayedRequest | LeftOut


def read(path: Path, variables: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[Item]:
    """Yield the requests of a file one by one. Raises OSError where it can't be read."""
    if path.stat().st_size > FILE_LIMIT_BYTES:
        raise OSError(0, f"has more than {FILE_LIMIT_BYTES >> 30} GiB", str(path))
    with path.open("rb") as file:
        is_json = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
        file.seek(0)
        if not is_json:
            yield from _of_script(file.read().decode("utf-8", "replace"), path, variables, environ)
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                source = f"{path}:{number}"
                try:
                    yield parse_line(line, source)
                except ValueError as error:
                    yield LeftOut(source, f"no request: {error}")


def _of_script(text: str, path: Path, given: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[Item]:
    known = {**environ, **given}
    for command in shell_commands.commands_in(text):
        words = command.words
        source = f"{path}:{command.line}"
        for word in words:
            # What is given on the command line wins over what the script sets.
            if (found := _ASSIGNMENT.fullmatch(word)) and found[1] not in given:
                known[found[1]] = _REFERENCE.sub(lambda match: _value(match, known) or match[0], found[2])
            elif word not in ("export", "declare", "local", "readonly"):
                break
        at = next((at for at, word in enumerate(words) if curl_calls.is_curl(word)), None)
        if at is None:
            continue
        try:
            calls = curl_calls.read([_expanded(word, known) for word in words[at + 1 :]])
        except ValueError as error:
            yield LeftOut(source, f"curl can't be read: {error}")
            continue
        for call in calls:
            if known_routes.target_of(call.url).is_servers:
                yield _request(call, path.parent, source)


def _expanded(word: str, known: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda match: _value(match, known) or match[0], word)


def _value(match: re.Match[str], known: Mapping[str, str]) -> str | None:
    return known.get(match[1] or match[2], match[3])


def _request(call: CurlCall, folder: Path, source: str) -> Item:
    url = call.url if "://" in call.url else f"http://{call.url}"
    headers = [(name, value) for name, value in call.headers if name.lower() not in HOP_HEADERS]
    # A key that only a shell could find out is replaced by that of each server.
    headers = [
        (name, value) for name, value in headers if name.lower() != "authorization" or "$" not in value
    ]
    unknown = [text for text in (url, *(value for _, value in headers), *call.form, call.upload,
                                 *(item.file or "" for item in call.data)) if "$" in text]  # fmt: skip
    if unknown:
        return LeftOut(source, f"only a shell knows {unknown[0]}: say --set NAME=VALUE")
    try:
        more, body = _body(call, folder)
    except (OSError, ValueError) as error:
        return LeftOut(source, f"{error}")
    target = known_routes.target_of(url)
    names = {name.lower() for name, _ in headers}
    return ReplayedRequest(
        api=api_of(target.path, target.port),
        method=call.method,
        path=target.path + (f"?{target.query}" if target.query else ""),
        headers=(*headers, *((name, value) for name, value in more if name.lower() not in names)),
        body=body,
        source=source,
    )


def _body(call: CurlCall, folder: Path) -> tuple[list[tuple[str, str]], bytes]:
    """Return the body that curl would send, and the headers that come with it."""
    if call.form:
        return _form(call.form, folder)
    if call.upload:
        return [], _content(call.upload, folder)
    return [], b"&".join(_data(item, folder) for item in call.data)


def _data(item: CurlData, folder: Path) -> bytes:
    if item.option == "--data-urlencode":
        name, equals, value = item.text.partition("=")
        return f"{name}={quote(value)}".lstrip("=").encode() if equals else quote(name).encode()
    if item.file is None:
        return item.text.encode()
    content = _content(item.file, folder)
    # As curl does for -d, which is for lines of text.
    return content if item.option in ("--data-binary", "--json") else re.sub(rb"[\r\n\0]", b"", content)


def _form(parts: tuple[str, ...], folder: Path) -> tuple[list[tuple[str, str]], bytes]:
    fields: list[tuple[str, tuple[str | None, bytes, str | None]]] = []
    for part in parts:
        name, _, value = part.partition("=")
        value, _, kind = value.partition(";type=")
        if value.startswith("@"):
            file = value[1:].partition(";")[0]
            guessed = kind or mimetypes.guess_type(file)[0] or "application/octet-stream"
            fields.append((name, (os.path.basename(file), _content(file, folder), guessed)))
        else:
            content = _content(value[1:], folder) if value.startswith("<") else value.encode()
            fields.append((name, (None, content, kind or None)))
    headers = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
    made = httpx2.Request("POST", "http://host", headers=headers, files=fields)
    return [("Content-Type", headers["content-type"])], made.read()


def _content(name: str, folder: Path) -> bytes:
    """Read a file that a script names: from the folder that this was started in, or that of the script."""
    if name in ("-", "."):
        raise ValueError("its body comes from a pipe")
    path = next((path for path in (Path(name), folder / name) if path.is_file()), None)
    if path is None:
        raise ValueError(f"the file {name} is not there")
    if path.stat().st_size > BODY_LIMIT_BYTES:
        raise ValueError(f"{name} has more than {BODY_LIMIT_BYTES >> 20} MiB")
    return path.read_bytes()
