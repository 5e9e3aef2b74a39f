"""Judges commands of scripts: `torchserve`, curl, containers, packages, variables. Pure."""

import argparse
import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import PurePosixPath

from torchrelay.cli.migrate import check_calls, check_variables, curl_calls, shell_commands
from torchrelay.cli.migrate.findings import Finding
from torchrelay.shared.torchserve import command_line

_IMAGE = re.compile(r"(?:[\w.:-]+/)*torchserve(?:-[\w.]+)*(?:[:@][\w.:@-]*)?")
_ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)", re.DOTALL)
_PACKAGE = re.compile(r"torchserve(?:-nightly)?(?:[=<>~!\[].*)?")
_MODULE = "ts.model_server"
_SERVER = "org.pytorch.serve.ModelServer"
OWN_IMAGE = (
    "build one from python:3.11-slim with `pip install 'torchrelay[all]'` and what handlers import;"
    " ports, mounts, variables and commands stay"
)


def judge_script(text: str) -> Iterator[Finding]:
    """Say what each command of a script does here."""
    for command in shell_commands.commands_in(text):
        yield from judge(command.words, command.line)


def judge(words: Sequence[str], line: int) -> Iterator[Finding]:
    """Say what a command does here, if it has to do with TorchServe."""
    if not words:
        return
    if words[0] == "FROM":
        yield from judge_image(words[1], line)
        return
    yield from _variables(words, line)
    for at, word in enumerate(words):
        if curl_calls.is_curl(word):
            yield from _curl(words[at + 1 :], line)
            return
        if PurePosixPath(word).name in ("pip", "pip3", "uv", "conda", "poetry") or word == "pip":
            yield from _packages(words[at + 1 :], line)
            return
        if PurePosixPath(word).name == "torchserve" or word == _MODULE:
            yield from _torchserve(words[at + 1 :], line)
            return
        if word == _SERVER:
            what = "starts TorchServe's Java server, which isn't here"
            yield Finding("fails", what, "start it by the `torchserve` command", line)
            return
        # Of NAME=IMAGE as well; without a slash or tag it is as likely the name of something else.
        named = word.rpartition("=")[2]
        if "/" in named or ":" in named:
            yield from judge_image(named, line)
    yield from _others(words, line)


def judge_image(image: str, line: int) -> Iterator[Finding]:
    """Say what to do about a container's image."""
    if _IMAGE.fullmatch(image):
        yield Finding("differs", f"the image {image} is TorchServe's", OWN_IMAGE, line)


def _variables(words: Sequence[str], line: int) -> Iterator[Finding]:
    for at, word in enumerate(words):
        found = _ASSIGNMENT.fullmatch(word)
        if found and check_variables.is_known(found[1]):
            yield from check_variables.judge(found[1], found[2], line)
        elif at and words[0] == "ENV" and check_variables.is_known(word):
            yield from check_variables.judge(word, " ".join(words[at + 1 :]), line)


def _curl(words: Sequence[str], line: int) -> Iterator[Finding]:
    try:
        calls = curl_calls.read(words)
    except ValueError as error:
        yield Finding("same", f"a curl command that can't be read: {error}", line=line)
        return
    for call in calls:
        yield from check_calls.judge(call, line)


def _packages(words: Sequence[str], line: int) -> Iterator[Finding]:
    for word in words:
        if _PACKAGE.fullmatch(word):
            what = f"installs {word}"
            yield Finding("differs", what, "install 'torchrelay[all]' in its place", line)


def _others(words: Sequence[str], line: int) -> Iterator[Finding]:
    program = PurePosixPath(words[0]).name
    if any(re.match(r"(openjdk-\d+|default)-j(re|dk)", word) for word in words):
        yield Finding("ignored", "installs Java, which isn't needed", line=line)
    elif program == "grpcurl" or any("torchserve_grpc_client" in word for word in words):
        yield Finding("same", "calls by gRPC, which needs the extra `grpc`, part of `all`", line=line)
    elif program == "torch-model-archiver":
        what = "torch-model-archiver works beside torchrelay; `torchrelay archive create` has its options"
        yield Finding("same", what, line=line)
    elif program == "torch-workflow-archiver":
        yield Finding("same", "torch-workflow-archiver's archives are taken", line=line)


def _torchserve(words: Sequence[str], line: int) -> Iterator[Finding]:
    given, unknown = _parsed(tuple(words))
    if given is None:
        if unknown:
            yield Finding("fails", f"torchserve {' '.join(words)}: {unknown[0]}", line=line)
        return
    for word in unknown:
        # What a variable holds may well be options.
        if word.startswith("-"):
            yield Finding("fails", f"torchserve has no option {word}", "leave it out", line)
    for option, why in command_line.WITHOUT_EFFECT.items():
        if getattr(given, option):
            yield Finding("ignored", f"--{option.replace('_', '-')}: {why}", line=line)
    if given.start or given.foreground or given.stop:
        yield Finding("same", f"torchserve {' '.join(words)}", line=line)


@cache
def _parsed(words: tuple[str, ...]) -> tuple[argparse.Namespace | None, tuple[str, ...]]:
    """Parse options; those that aren't known beside them, or why nothing could be parsed."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            given, unknown = command_line.parser().parse_known_args(words)
    except SystemExit:
        fault = said.getvalue().rpartition("error: ")[2].strip()
        return None, (fault,) if fault else ()  # --help has none
    return given, tuple(unknown)
