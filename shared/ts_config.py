"""Reads TorchServe's config.properties, and the TS_* variables where the file admits them.

Pure: the file's bytes and the environment come in, what they say goes out. Only keys that mean something
here are parsed; the others are named once. All faults are reported together. What wins over what is
decided in `cli/compose.py`, by the order that TorchServe documents: environment, command line, file,
default.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import javaproperties
import msgspec

from shared.settings import LoadAtStart, SettingsError

#: TorchServe's numbers are 32-bit; a larger one is a slip.
NUMBER_LIMIT = 2**31 - 1

#: Keys that switch this reader and mean nothing after it.
_OWN_KEYS = frozenset({"enable_envvars_config", "use_env_allowed_urls"})
_REFERENCE = re.compile(r"\$\$([^$]+)\$\$")


class Said(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one source says, by TorchServe's keys; None where it says nothing."""

    inference_address: str | None = None
    management_address: str | None = None
    metrics_address: str | None = None
    model_store: str | None = None
    load_models: tuple[LoadAtStart, ...] | None = None
    default_workers_per_model: int | None = None
    default_response_timeout: int | None = None
    default_startup_timeout: int | None = None
    job_queue_size: int | None = None
    max_request_size: int | None = None
    max_response_size: int | None = None
    number_of_gpu: int | None = None
    allowed_urls: tuple[str, ...] | None = None
    enable_model_api: bool | None = None
    enable_metrics_api: bool | None = None
    decode_input_request: bool | None = None
    limit_max_image_pixels: bool | None = None
    service_envelope: str | None = None
    default_service_handler: str | None = None


class TsConfig(msgspec.Struct, frozen=True):
    """Both sources apart, since the command line stands between them; `without_effect` names file keys."""

    environment: Said = Said()
    file: Said = Said()
    without_effect: tuple[str, ...] = ()


def find_file(option: str | None, environ: Mapping[str, str], folder: Path) -> Path | None:
    """Choose the file as TorchServe does: TS_CONFIG_FILE, then `--ts-config`, then ./config.properties."""
    named = environ.get("TS_CONFIG_FILE") or option
    if named:
        return Path(named)
    nearby = folder / "config.properties"
    return nearby if nearby.is_file() else None


def read(content: bytes, environ: Mapping[str, str]) -> TsConfig:
    """Read a file's content.

    Raises:
        SettingsError: the file can't be read or holds values that can't work; one line for each.
    """
    try:
        # Java reads Latin-1; a file that is valid UTF-8 was almost surely meant as such.
        raw = javaproperties.loads(_text(content))
    except ValueError as error:
        raise SettingsError(f"not a properties file: {error}") from error
    faults: list[str] = []
    properties = {key: _substitute(value, environ, faults) for key, value in raw.items()}
    file = _parse(properties, faults, prefix="")
    admitted = environ if _is_true(properties.get("enable_envvars_config", "")) else {}
    overrides = {key: admitted[_variable(key)] for key in _PARSERS if _variable(key) in admitted}
    if not _is_true(properties.get("use_env_allowed_urls", "")):
        overrides.pop("allowed_urls", None)
    environment = _parse(overrides, faults, prefix="TS_")
    if faults:
        raise SettingsError("\n".join(faults))
    ignored = sorted(key for key in properties if key not in _PARSERS and key not in _OWN_KEYS)
    return TsConfig(environment, file, tuple(ignored))


def parse_models(text: str) -> tuple[LoadAtStart, ...]:
    """Read `load_models` or one `--models` value: `all`, or a comma list of `url` and `name=url`."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    return tuple(_load_at_start(item) for item in items if item.lower() != "none")


def parse_address(text: str) -> str:
    """Check an address to listen on: `http://HOST[:PORT]` or `unix:/PATH`.

    Raises:
        ValueError: it is none.
    """
    text = text.strip()
    if text.startswith("unix:/") and len(text) > len("unix:/"):
        return text
    if text.startswith("https:"):
        raise ValueError(f"{text}: TLS is not spoken here; put a proxy that does in front and say http://")
    try:
        parts = urlsplit(text)
        usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ValueError(f"Invalid binding address: {text} (wanted http://HOST[:PORT] or unix:/PATH)")
    return text.rstrip("/")


def _text(content: bytes) -> str:
    try:
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


def _parse(texts: Mapping[str, str], faults: list[str], prefix: str) -> Said:
    values: dict[str, object] = {}
    for key in sorted(texts.keys() & _PARSERS.keys()):
        try:
            values[key] = _PARSERS[key](texts[key].strip())
        except ValueError as error:
            name = _variable(key) if prefix else key
            faults.append(f"{name}: {error}")
    return msgspec.convert(values, Said)


def _variable(key: str) -> str:
    return f"TS_{key.upper()}"


def _is_true(text: str) -> bool:
    """Read a boolean as Java does: anything but `true` is false."""
    return text.strip().lower() == "true"


def _word(text: str) -> str | None:
    return text or None


def _number(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # int() alone would also take 1_000 and other scripts' digits.
        value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,10}", text) else None
        if value is None or not minimum <= value <= NUMBER_LIMIT:
            raise ValueError(f"{text[:40]!r} is not a whole number from {minimum} to {NUMBER_LIMIT}")
        return value

    return parse


def _patterns(text: str) -> tuple[str, ...]:
    patterns = tuple(part.strip() for part in text.split(",") if part.strip())
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    return patterns


def _load_at_start(item: str) -> LoadAtStart:
    name, equals, url = item.partition("=")
    # A url may hold "=" itself; a name holds neither ":" nor "/".
    if equals and name.strip() and not re.search(r"[:/]", name):
        return LoadAtStart(url=url.strip(), name=name.strip())
    return LoadAtStart(url=item)


_PARSERS: dict[str, Callable[[str], object]] = {
    "inference_address": parse_address,
    "management_address": parse_address,
    "metrics_address": parse_address,
    "model_store": _word,
    "load_models": parse_models,
    "default_workers_per_model": _number(0),
    "default_response_timeout": _number(1),
    "default_startup_timeout": _number(1),
    "job_queue_size": _number(1),
    "max_request_size": _number(1),
    "max_response_size": _number(1),
    "number_of_gpu": _number(0),
    "allowed_urls": _patterns,
    "enable_model_api": _is_true,
    "enable_metrics_api": _is_true,
    "decode_input_request": _is_true,
    "limit_max_image_pixels": _is_true,
    "service_envelope": _word,
    "default_service_handler": _word,
}
