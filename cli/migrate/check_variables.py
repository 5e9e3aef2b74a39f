"""Judges variables of the environment that TorchServe reads. Pure."""

import re
from collections.abc import Iterator

from torchrelay.cli.migrate.findings import Finding
from torchrelay.shared.torchserve import config_keys

#: Read always, by both.
_SAME = frozenset(
    ("TS_CONFIG_FILE", "TS_OPEN_INFERENCE_PROTOCOL", "LOG_LOCATION", "METRICS_LOCATION", "TEMP",
     "ENABLE_TORCH_PROFILER")
)  # fmt: skip
_WITHOUT_EFFECT = {
    "JAVA_HOME": "there is no Java here",
    "JAVA_OPTS": "there is no Java here",
    "TS_MODEL_SERVER_HOME": "there is no home folder here",
    "SM_TELEMETRY_LOG": "there is no such log here",
    "TS_BENCHMARK": "there is no such mode here",
}
#: Set for workers by the server, from its keys.
_SEQUENCES = re.compile(r"TS_REQUEST_SEQUENCE_(ID|START|END)")
_NAME = re.compile(r"TS_[A-Z][A-Z0-9_]*")


def is_known(name: str) -> bool:
    """Tell whether TorchServe reads a variable of this name, or might."""
    return name in _SAME or name in _WITHOUT_EFFECT or _NAME.fullmatch(name) is not None


def judge(name: str, value: str, line: int) -> Iterator[Finding]:
    """Say what a variable does."""
    by_variable = {config_keys.variable(key): key for key in config_keys.KEYS}
    if name in _SAME:
        yield Finding("same", f"{name} is read as by TorchServe", line=line)
    elif name in by_variable:
        yield from _of_key(name, by_variable[name], value, line)
    elif name in _WITHOUT_EFFECT:
        yield Finding("ignored", f"{name}: {_WITHOUT_EFFECT[name]}", line=line)
    elif _SEQUENCES.fullmatch(name):
        yield Finding(
            "ignored", f"{name} is set for workers from the keys ts_header_key_sequence_*", line=line
        )
    elif _NAME.fullmatch(name):
        key = name.removeprefix("TS_").lower()
        why = config_keys.REASONS.get(key, "no variable of TorchServe's; handlers see it, like there")
        yield Finding("ignored", f"{name}: {why}", line=line)


def _of_key(name: str, key: str, value: str, line: int) -> Iterator[Finding]:
    known = config_keys.KEYS[key]
    if not value or "$" in value or "{{" in value:
        yield Finding("same", f"{name} stands for {key}", line=line)
        return
    try:
        parsed = known.parse(value.strip())
    except ValueError as error:
        yield Finding("fails", f"{name}: {error}", "the server doesn't start with this value", line=line)
        return
    if known.differs and parsed:
        yield Finding("differs", f"{name}: {known.differs}", line=line)
    else:
        yield Finding(
            "same", f"{name} stands for {key}, with enable_envvars_config=true in the file", line=line
        )
