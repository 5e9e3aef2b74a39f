"""Parsers of the values of config.properties, pure; `config_keys` says which key has which.

A parser takes the value without surrounding blanks and raises ValueError for what can't work. None means that
the default stays.
"""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pyjson5

from torchrelay.shared import labels
from torchrelay.shared.settings import LoadAtStart, StartupModel
from torchrelay.shared.wire.fields import Labels

#: TorchServe's numbers have 32 bits; a larger one is a mistake.
NUMBER_LIMIT = 2**31 - 1
#: int() alone would also take 1_000 and digits of other scripts.
_NUMBER = re.compile(r"[+-]?[0-9]{1,10}")

#: The numbers of a model in `models` and in snapshots: TorchServe's name -> the field of `StartupModel`.
MODEL_NUMBERS = {
    "minWorkers": "min_workers",
    "maxWorkers": "max_workers",
    "batchSize": "batch_size",
    "maxBatchDelay": "max_batch_delay_ms",
    "responseTimeout": "response_timeout_s",
    "startupTimeout": "startup_timeout_s",
}


def parse_address(text: str) -> str:
    """Check an address to listen on: `http://HOST[:PORT]`, `https://HOST[:PORT]` or `unix:/PATH`."""
    text = text.strip()
    if text.startswith("unix:/") and len(text) > len("unix:/"):
        return text
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ValueError(f"Invalid binding address: {text} (wanted http[s]://HOST[:PORT] or unix:/PATH)")
    return text.rstrip("/")


def parse_load_models(text: str) -> tuple[LoadAtStart, ...]:
    """Read `load_models`: `all`, or a comma list of `url` and `name=url`; TorchServe doesn't trim, we do."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    return tuple(load_at_start(item) for item in items if item.lower() != "none")


def load_at_start(item: str) -> LoadAtStart:
    """Read one archive of a list: `url` or `name=url`."""
    name, equals, url = item.partition("=")
    # A url may hold "=" itself; a name holds neither ":" nor "/".
    if equals and name.strip() and not re.search(r"[:/]", name):
        return LoadAtStart(url=url.strip(), name=name.strip())
    return LoadAtStart(url=item)


def parse_models(text: str) -> tuple[StartupModel, ...]:
    """Read `models`, `{name: {version: {...}}}`; a number that is not positive counts as not given."""
    return _startup_models(_json_object(text))


def parse_snapshot(text: str) -> tuple[StartupModel, ...]:
    """Read `model_snapshot`; each of its models names its archive."""
    models = _startup_models(_object(_json_object(text).get("models", {}), "models"))
    for model in models:
        if not model.archive_name:
            raise ValueError(f"{model.name} {model.version} has no marName")
    return models


def parse_modules(text: str) -> tuple[str, ...]:
    """Read names of Python modules, between which are commas or blanks; `none` is none of them."""
    names = [name for name in re.split(r"[,\s]+", text) if name and name.lower() != "none"]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} is no module's name")
    return tuple(dict.fromkeys(names))


def text_of(value: object) -> str:
    """Write a value so that its parser reads it again."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(_item(item) for item in value)
    return str(value)


def _item(item: object) -> str:
    if isinstance(item, LoadAtStart):
        return item.url if item.name is None else f"{item.name}={item.url}"
    if isinstance(item, tuple):  # a label
        return "=".join(item)
    return str(item)


def is_true(text: str) -> bool:
    """Read a boolean as Java does: anything but `true` is false."""
    return text.strip().lower() == "true"


def _json_object(text: str) -> dict[str, object]:
    """Read an object as leniently as TorchServe does, which takes single quotes and bare names."""
    try:
        return _object(pyjson5.decode(text) if text else {}, "it")
    except pyjson5.Json5DecoderException as error:
        reason = (error.message or "").replace("b'", "'")
        raise ValueError(f"not JSON: {reason}") from error


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object, {{...}}")
    return value


def _startup_models(models: dict[str, object]) -> tuple[StartupModel, ...]:
    return tuple(
        _startup_model(name, version, _object(facts, f"{name} {version}"))
        for name, versions in models.items()
        for version, facts in _object(versions, name).items()
    )


def _startup_model(name: str, version: str, facts: dict[str, object]) -> StartupModel:
    numbers = {
        field: _positive(facts.get(key), f"{name} {version} {key}") for key, field in MODEL_NUMBERS.items()
    }
    words = {key: facts.get(key) for key in ("marName", "runtimeType")}
    for key, word in words.items():
        if not isinstance(word, str | None):
            raise ValueError(f"{name} {version} {key}: {word!r} is no text")
    return StartupModel(
        name=name,
        version=version,
        archive_name=str(words["marName"]) if words["marName"] else None,
        runtime=str(words["runtimeType"]) if words["runtimeType"] else None,
        is_default=is_true(str(facts.get("defaultVersion"))),
        **numbers,
    )


def _positive(value: object, what: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value > NUMBER_LIMIT:
        raise ValueError(f"{what}: {value!r} is no whole number")
    return value if value > 0 else None


def parse_text(text: str) -> str | None:
    """Read a text; an empty one is None."""
    return text or None


def parse_number(minimum: int) -> Callable[[str], int]:
    """Make a parser of whole numbers from `minimum` to NUMBER_LIMIT."""

    def parse(text: str) -> int:
        value = int(text) if _NUMBER.fullmatch(text) else None
        if value is None or not minimum <= value <= NUMBER_LIMIT:
            raise ValueError(f"{text[:40]!r} is not a whole number from {minimum} to {NUMBER_LIMIT}")
        return value

    return parse


def parse_seconds(text: str) -> int | None:
    """Read a timeout of workers; None for 0 and less, with which every request would fail at once."""
    seconds = parse_number(-NUMBER_LIMIT)(text)
    return seconds if seconds > 0 else None


def parse_minutes(text: str) -> float | None:
    """Read how long keys are valid, decimals allowed; None for anything else, as in TorchServe."""
    if not re.fullmatch(r"[0-9]{0,9}\.?[0-9]{0,9}", text) or not text.strip(".0"):
        return None
    return float(text)


def parse_patterns(text: str) -> tuple[str, ...]:
    """Read a comma list of regular expressions."""
    return tuple(parse_pattern(part.strip()) for part in text.split(",") if part.strip())


def parse_hosts(text: str) -> tuple[str, ...]:
    """Read `allowed_hosts`: a comma list of names, in which `*` stands for anything."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_.*-]{1,253}", name):
            raise ValueError(f"{name[:100]!r} is no name of a host; write NAME or *.DOMAIN, without a port")
    return names


def parse_labels(text: str) -> Labels:
    """Read `node_labels`: a comma list of NAME=VALUE."""
    return labels.parse(part for part in text.split(",") if part.strip())


def parse_pattern(text: str) -> str:
    """Check a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from error
    return text


def parse_metrics_mode(text: str) -> str:
    """Read `metrics_mode`; as in TorchServe an unknown one is `log`."""
    return text.lower() if text.lower() in ("prometheus", "legacy") else "log"


def parse_grpc_server(text: str) -> str:
    """Check `grpc_server`."""
    if text not in ("grpcio", "pygrpc-native"):
        raise ValueError(f"{text!r} is no server of gRPC: write grpcio or pygrpc-native")
    return text


def parse_keystore_type(text: str) -> str | None:
    """Check `keystore_type`: only PKCS12 can be read."""
    if text.upper() not in ("", "PKCS12"):
        raise ValueError(
            f"{text!r} can't be read here: convert the keystore to PKCS12 (keytool -importkeystore)"
        )
    return text or None
