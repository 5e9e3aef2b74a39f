"""Finds the commands of scripts, Dockerfiles and unit files that may matter, with their lines. Pure.

Nothing is expanded: `$NAME` and `$(command)` stay as they are written. `shlex` splits words; what it doesn't
know of a shell (here documents, functions, loops) is passed over word by word.
"""

import json
import re
import shlex
from collections.abc import Iterator

import msgspec

#: A quote that isn't closed takes the lines below; one that never is, not the whole file.
OPEN_LINES_LIMIT = 100
LINE_LIMIT_CHARS = 16 << 10
#: How often, on the whole, each character may be looked at; quotes that are never closed cost most.
LOOKS_LIMIT = 50
#: Without any of these a line neither sends, starts nor sets anything.
_OF_INTEREST = re.compile(r"=|curl|grpc|serve|ModelServer|torch|jdk|jre|TS_|JAVA|LOG|METRICS|TEMP|ENABLE")
_SEPARATORS = re.compile(r"[;&|()<>\n]+")
_REDIRECTS = re.compile(r"\d*[<>]")
#: What stands before a command in a Dockerfile, in a unit file and in a Makefile's or compose file's line.
_PREFIX = re.compile(r"^\s*(?:RUN|CMD|ENTRYPOINT|ExecStart(?:Pre|Post)?=[-@:+!]*|ExecStop=[-@:+!]*|@)\s*")
_FROM = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)", re.IGNORECASE)


class ShellCommand(msgspec.Struct, frozen=True):
    """A command's words and the line on which it begins; variables that are set before it are words, too."""

    words: tuple[str, ...]
    line: int


def commands_in(text: str) -> Iterator[ShellCommand]:
    """Yield the commands of a script that may have to do with a model server, one after the other."""
    for line, logical in _logical_lines(text):
        if not _OF_INTEREST.search(logical):
            continue  # PERF: shlex reads a MB in ten seconds
        stripped = _PREFIX.sub("", logical)
        if image := _FROM.match(logical):
            yield ShellCommand(("FROM", image[1]), line)
        elif (words := _json_words(stripped)) is not None:
            yield ShellCommand(words, line)
        else:
            yield from (ShellCommand(words, line) for words in split(stripped) or [] if words)


def split(text: str) -> list[tuple[str, ...]] | None:
    """Split a line into its commands' words; None where a quote isn't closed."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[list[str]] = [[]]
    try:
        for word in lexer:
            if _SEPARATORS.fullmatch(word):
                found.append([])
            else:
                found[-1].append(word)
    except ValueError:
        return None
    return [tuple(words) for words in found]


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines with their numbers; what a backslash or an open quote joins is one line."""
    lines = text.splitlines()
    at, looked = 0, 0
    while at < len(lines):
        first, joined = at, lines[at][:LINE_LIMIT_CHARS]
        at += 1
        while at < len(lines) and at - first < OPEN_LINES_LIMIT and len(joined) < LINE_LIMIT_CHARS:
            looked += len(joined)
            if looked > LOOKS_LIMIT * len(text):
                break
            if joined.endswith("\\"):
                joined = f"{joined[:-1]} {lines[at]}"
            elif _has_open_quote(joined):
                joined = f"{joined}\n{lines[at]}"
            else:
                break
            at += 1
        if at - first > 1 and _has_open_quote(joined):
            at, joined = first + 1, lines[first]  # no quote after all: an apostrophe
        yield first + 1, joined


def _has_open_quote(text: str) -> bool:
    return ("'" in text or '"' in text) and split(text) is None


def _json_words(text: str) -> tuple[str, ...] | None:
    """Read the form `["word", "word"]` of a Dockerfile."""
    if not text.startswith("["):
        return None
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return tuple(words) if isinstance(words, list) and all(isinstance(word, str) for word in words) else None
