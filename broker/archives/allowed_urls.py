r"""What allowed_urls says: which urls may be fetched, and which hosts an operator has named. Pure.

Patterns are TorchServe's: regexes for the whole url, in which `.*` runs over slashes. So what a pattern has
between `://` and the next slash is matched against host and port as well: with `https://.*\.example\.com/.*`
nobody means https://elsewhere/x.example.com/.

A matcher tries every way to divide a url among the `.*` of a pattern: where what stands between them has one
length, as names do, the first place for each is as good as any other. For other patterns there is a limit of
time, which `re` has not, and other threads run meanwhile.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

import regex

from torchrelay.broker.models.origins import BadUrl, File, Http, InStore, ObjectStore

#: How long a url is matched against one pattern. One that its operator means is found in a millisecond.
MATCH_LIMIT_S = 1.0
#: A host that is spelled, with dots escaped or not, and whatever is said of the port behind it.
_SPELLED = re.compile(
    r"(?P<host>(?:[a-z0-9_-]|\\?\.|\\-)+|\\\[[0-9a-f:.]+\\?\])(?P<port>(?:\((?:\?:)?)?:[\\0-9d\[\]|.*+?{},()-]*)?",
    re.IGNORECASE,
)
#: What ties parts of a pattern together: a reference to a group, a condition, the flag for comments.
_TIE = re.compile(r"\\[1-9]|\(\?P=|\(\?\(|\(\?[a-z]*x")
#: What was taken apart, and so can be matched.
Readable = InStore | File | Http | ObjectStore


def is_allowed(origin: Readable, patterns: Iterable[str]) -> bool:
    """Tell whether a pattern allows the url of an archive. Raises BadUrl where telling takes too long."""
    return any(_allowing(origin.matched, patterns))


def is_host_named(origin: Http, patterns: Iterable[str]) -> bool:
    """Tell whether a pattern that allows a url of http(s) spells its host, and so means no other.

    Raises BadUrl where telling takes too long.
    """
    hosts = (_host_part(pattern) for pattern in _allowing(origin.matched, patterns))
    spelled = (_SPELLED.fullmatch(host) for host in hosts if host is not None)
    return any(
        match["host"].replace("\\", "").strip("[]").lower() == origin.host for match in spelled if match
    )


def _allowing(text: str, patterns: Iterable[str]) -> Iterator[str]:
    """Yield the alternatives that match what was rebuilt of a url."""
    authority = text.partition("://")[2].partition("/")[0]
    for pattern in patterns:
        for alternative in _alternatives(pattern):
            host = _host_part(alternative)
            # The host first: it is short, and a regex may take long with much text.
            if (host is None or _matches(host, authority)) and _matches(alternative, text):
                yield alternative


def _matches(pattern: str, text: str) -> bool:
    pattern = _in_one_way(pattern)
    try:
        found = regex.fullmatch(pattern, text, regex.IGNORECASE, concurrent=True, timeout=MATCH_LIMIT_S)
    except TimeoutError as error:
        raise BadUrl(
            f"a pattern of allowed_urls takes more than {MATCH_LIMIT_S:.0f} s to match it"
        ) from error
    return found is not None


@lru_cache
def _in_one_way(pattern: str) -> str:
    """Return a pattern for the same texts that tries one way to divide a text among its `.*`, if it can."""
    pieces = _between_wildcards(pattern)
    if len(pieces) < 3 or _TIE.search(pattern):
        return pattern
    first, *middle, last = pieces
    if not (_compiles(first) and _compiles(last) and all(map(_has_one_length, middle))):
        return pattern
    return first + "".join(f"(?>.*?{piece})" for piece in middle) + f".*{last}"


def _between_wildcards(pattern: str) -> list[str]:
    """Split at each `.*` and `.*?` outside of groups; what has alternatives is left whole."""
    pieces, start = [], 0
    for index, depth in _outside_of_classes(pattern):
        if depth == 0 and pattern[index] == "|":
            return [pattern]
        if depth == 0 and index >= start and pattern.startswith(".*", index):
            pieces.append(pattern[start:index])
            start = index + (3 if pattern.startswith("?", index + 2) else 2)
            if pattern.startswith(("+", "{"), start):
                return [pattern]
    return [*pieces, pattern[start:]]


def _has_one_length(pattern: str) -> bool:
    return _compiles(pattern) and _compiles(f"(?<={pattern})")


def _alternatives(pattern: str) -> list[str]:
    """Split at each `|` outside of groups; one that is then no regex of its own is left whole."""
    ends = [index for index, depth in _outside_of_classes(pattern) if pattern[index] == "|" and depth == 0]
    found = [
        pattern[start:end] for start, end in zip([0, *(end + 1 for end in ends)], [*ends, None], strict=True)
    ]
    return found if all(map(_compiles, found)) else [pattern]


def _host_part(pattern: str) -> str | None:
    """Return what a pattern has between `://` and the next slash; None where that can't be told."""
    pattern = pattern.replace(r"\/", "/")
    before, slashes, rest = pattern.partition("://")
    if not slashes or not _compiles(before):
        return None
    end = next((index for index, _ in _outside_of_classes(rest) if rest[index] == "/"), None)
    return rest[:end] if _compiles(rest[:end]) else None


def _outside_of_classes(pattern: str) -> Iterator[tuple[int, int]]:
    """Yield each place that is neither escaped nor in brackets, and how many groups it is in."""
    depth = index = 0
    while index < len(pattern):
        letter = pattern[index]
        if letter == "\\":
            index += 1
        elif letter == "[":
            # A bracket that comes first in a class belongs to it.
            first = index + (2 if pattern.startswith("^", index + 1) else 1)
            end = pattern.find("]", first + 1)
            while end > 0 and _is_escaped(pattern, end):
                end = pattern.find("]", end + 1)
            index = end if end > 0 else len(pattern)
        else:
            depth += {"(": 1, ")": -1}.get(letter, 0)
            yield index, depth
        index += 1


def _is_escaped(pattern: str, index: int) -> bool:
    before = pattern[:index]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
