"""Judges a config.properties by the rows of `config_keys`, key by key, with their lines. Pure."""

import re
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import javaproperties
import msgspec

from torchrelay.cli.migrate.findings import Finding
from torchrelay.shared.settings import is_reachable_from_outside
from torchrelay.shared.torchserve import config_keys, config_properties
from torchrelay.shared.torchserve.config_keys import ConfigValues

#: What the server's environment replaces.
_REFERENCE = re.compile(r"\$\$[^$]+\$\$")
_ADDRESSES = ("inference_address", "management_address", "metrics_address")


def judge(content: bytes, first_line: int = 0) -> list[Finding]:
    """Say what each key of a file does here; its first line is `first_line` + 1 of what is shown."""
    text = config_properties.decoded(content)
    try:
        rows = list(_rows(text))
    except ValueError as error:
        return [Finding("fails", f"no properties file: {error}", line=first_line + 1)]
    found: list[Finding] = []
    for line, key, value in rows:
        found += _key(key, value.strip(), line + first_line)
    is_open = [line for line, key, value in rows if key in _ADDRESSES and _is_open(value.strip())]
    if is_open:
        what = "addresses beyond loopback, as in TorchServe; `torchrelay serve` wants keys for that"
        advice = "with it: --tokens, --keys FILE or --open-http"
        found.append(Finding("same", what, advice, is_open[0] + first_line))
    alike = sum(one.level == "same" and not one.advice for one in found)
    head = Finding("same", f"{alike} of {len(rows)} keys do what they do in TorchServe", line=first_line)
    return [head, *(one for one in found if one.level != "same" or one.advice)]


def values_of(content: bytes) -> ConfigValues:
    """Return what a file sets, without what can't be read."""
    values: dict[str, object] = {}
    with suppress(ValueError):
        for _, key, value in _rows(config_properties.decoded(content)):
            with suppress(ValueError):
                values |= {key: config_keys.KEYS[key].parse(value.strip())} if key in config_keys.KEYS else {}
    return msgspec.convert(values, ConfigValues)


def _rows(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, key and value, a key's last value last, as it counts."""
    line = 1
    for part in javaproperties.parse(text):
        if isinstance(part, javaproperties.KeyValue):
            yield line, part.key, part.value
        line += part.source.count("\n")


def _key(key: str, value: str, line: int) -> Iterator[Finding]:
    known = config_keys.KEYS.get(key)
    if known is None:
        why = config_keys.reason(key)
        yield Finding("ignored", f"{key}: {why}", line=line) if why else Finding("same", key, line=line)
        return
    if _REFERENCE.search(value):  # which may be unknown on this host
        yield Finding("same", key, line=line)
        return
    try:
        parsed = known.parse(value)
    except ValueError as error:
        yield Finding("fails", f"{key}: {error}", "the server doesn't start with this value", line=line)
        return
    if why := config_keys.reason(key, value):
        yield Finding("ignored", f"{key}: {why}", line=line)
    elif known.differs and parsed:
        yield Finding("differs", f"{key}: {known.differs}", line=line)
    else:
        yield Finding("same", key, line=line)


def _is_open(address: str) -> bool:
    try:
        return bool(urlsplit(address).hostname) and is_reachable_from_outside(address)
    except ValueError:  # no address, which its parser says
        return False
