"""Reads TorchServe's config.properties, and the TS_* variables where the file admits them.

Pure but for `find_file`: the file's bytes and the environment come in, values by key go out. What each key
means is in `config_keys`. All faults are reported together. Which source beats which is decided in
`cli/start/part_settings.py`, in the order that TorchServe documents: environment, command line, file,
default.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from torchrelay.shared.settings import SettingsError
from torchrelay.shared.torchserve import config_keys, config_parsers
from torchrelay.shared.torchserve.config_keys import KEYS, ConfigValues

_REFERENCE = re.compile(r"\$\$([^$]+)\$\$")
_SNAPSHOT_NAME = re.compile(r"[0-9]+-(startup|snapshot|shutdown)\.cfg")


class Configuration(msgspec.Struct, frozen=True):
    """What the file and the environment say, apart: the command line beats the one, and not the other."""

    environment: ConfigValues = ConfigValues()
    file: ConfigValues = ConfigValues()
    #: Each key that was given and has no effect -> the reason.
    without_effect: dict[str, str] = {}
    #: The file's values as texts, by key; snapshots repeat them.
    properties: dict[str, str] = {}
    #: The texts by which the environment overrides those.
    overrides: dict[str, str] = {}
    #: Variables of the environment that hold a secret to which the file refers.
    secret_variables: frozenset[str] = frozenset()


def find_file(
    option: str | None, environ: Mapping[str, str], folder: Path, snapshots: Path | None = None
) -> Path | None:
    """Choose the file as TorchServe does.

    TS_CONFIG_FILE, then `--ts-config`, then the newest of the folder of snapshots, if one is given, then
    ./config.properties.
    """
    if asked_for := named(option, environ):
        return Path(asked_for)
    newest = None if snapshots is None else newest_snapshot(snapshots)
    nearby = folder / "config.properties"
    return newest or (nearby if nearby.is_file() else None)


def named(option: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the file that somebody asked for, as it was written."""
    return environ.get("TS_CONFIG_FILE") or option


def newest_snapshot(folder: Path) -> Path | None:
    """Find the snapshot that was written last, which in the hour that comes twice its name doesn't tell."""
    if not folder.is_dir():
        return None
    found = [path for path in folder.iterdir() if _SNAPSHOT_NAME.fullmatch(path.name) and path.is_file()]
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


def read(content: bytes, environ: Mapping[str, str]) -> Configuration:
    """Read a file's content. Raises SettingsError with a line for each value that can't work."""
    import javaproperties  # PERF: it brings http and xml, 30 ms, and many servers have no file

    try:
        raw = javaproperties.loads(decoded(content))
    except ValueError as error:
        raise SettingsError(f"not a properties file: {error}") from error
    faults: list[str] = []
    properties = {key: _substitute(value, environ, faults) for key, value in raw.items()}
    file = _parse({key: (key, text) for key, text in properties.items()}, faults)
    overrides = _overrides(properties, environ)
    environment = _parse(overrides, faults)
    if faults:
        raise SettingsError("\n".join(faults))
    texts = {key: text for key, (_, text) in overrides.items()}
    given = sorted({**properties, **texts}.items())
    ignored = {key: why for key, text in given if (why := config_keys.reason(key, text.strip())) is not None}
    asked_for = {name for key in raw if config_keys.is_secret(key) for name in _REFERENCE.findall(raw[key])}
    return Configuration(
        with_oip(environment, environ), file, ignored, properties, texts, frozenset(asked_for)
    )


def with_secrets(snapshot: Configuration, origin: Configuration) -> Configuration:
    """Take the secrets that a snapshot leaves out from the file that the server was started with."""
    missing = {
        key: value
        for key in config_keys.SECRETS
        if getattr(snapshot.file, key) is None and (value := getattr(origin.file, key)) is not None
    }
    return msgspec.structs.replace(
        snapshot,
        file=msgspec.structs.replace(snapshot.file, **missing),
        secret_variables=snapshot.secret_variables | origin.secret_variables,
    )


def with_oip(values: ConfigValues, environ: Mapping[str, str]) -> ConfigValues:
    """Apply TS_OPEN_INFERENCE_PROTOCOL, which needs no leave and knows one word: `oip`."""
    word = environ.get("TS_OPEN_INFERENCE_PROTOCOL")
    return msgspec.structs.replace(values, ts_open_inference_protocol=word == "oip") if word else values


def _overrides(properties: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return what the environment says, where the file admits it: the variable's name and its text."""
    if not config_parsers.is_true(properties.get("enable_envvars_config", "")):
        return {}
    variables = {key: config_keys.variable(key) for key in KEYS}
    found = {
        key: (name, environ[name]) for key, name in variables.items() if name is not None and name in environ
    }
    if not config_parsers.is_true(properties.get("use_env_allowed_urls", "")):
        found.pop("allowed_urls", None)
    return found


def decoded(content: bytes) -> str:
    """Return the text of a file, which for Java is Latin-1."""
    try:  # what is valid UTF-8 was almost surely meant as such
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _substitute(value: str, environ: Mapping[str, str], faults: list[str]) -> str:
    """Replace each $$NAME$$, once: what comes in from the environment is not searched again."""

    def look_up(match: re.Match[str]) -> str:
        if match[1] not in environ:
            faults.append(f"Invalid Environment Variable {match[1]}")
        return environ.get(match[1], "")

    return _REFERENCE.sub(look_up, value)


def _parse(texts: Mapping[str, tuple[str, str]], faults: list[str]) -> ConfigValues:
    """Parse values by key; each comes with the name by which its faults are reported."""
    values: dict[str, object] = {}
    for key in sorted(texts.keys() & KEYS.keys()):
        name, text = texts[key]
        try:
            values[key] = KEYS[key].parse(text.strip())
        except ValueError as error:
            faults.append(f"{name}: {error}")
    return msgspec.convert(values, ConfigValues)
