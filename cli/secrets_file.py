"""Keys that somebody else keeps: a secrets file, or a variable for each API.

The file has a line for each key, `API NAME KEY`, where API is `inference`, `management` or `token`; empty
lines and those that begin with # are skipped. Several keys of one API may hold at the same time.
"""

from collections.abc import Mapping
from pathlib import Path

from torchrelay.cli.faults import Fault
from torchrelay.shared.settings import StaticKey

#: Variables that hold one key each.
VARIABLES = {
    "inference": "TORCHRELAY_INFERENCE_KEY",
    "management": "TORCHRELAY_MANAGEMENT_KEY",
    "token": "TORCHRELAY_TOKEN_KEY",
}
#: TorchServe's own keys are this long; anything shorter is a slip.
KEY_LENGTH_MIN = 8


def static_keys(file: str | None, environ: Mapping[str, str]) -> tuple[StaticKey, ...]:
    """Read all keys that were given; the file is named by an option, or by TORCHRELAY_KEYS_FILE.

    Raises:
        Fault: the file can't be read, or holds a line that is no key.
    """
    keys = [
        _key(api, "environment", environ[name], name) for api, name in VARIABLES.items() if environ.get(name)
    ]
    named = file or environ.get("TORCHRELAY_KEYS_FILE")
    if named:
        keys += parse(_read(named), named)
    return tuple(keys)


def parse(content: str, source: str) -> list[StaticKey]:
    """Read a secrets file's text; `source` is its name in faults, which never repeat a key."""
    keys: list[StaticKey] = []
    for number, line in enumerate(content.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"{source}, line {number}"
        if len(words) != 3:
            raise Fault(f"{where}: wanted three words, API NAME KEY")
        api, name, text = words
        key = _key(api, name, text, where)
        if any((other.api, other.name) == (key.api, key.name) for other in keys):
            raise Fault(f"{where}: {key.api} has a key of that name already")
        keys.append(key)
    return keys


def _key(api: str, name: str, key: str, where: str) -> StaticKey:
    if len(key) < KEY_LENGTH_MIN or key.split() != [key] or not key.isascii():
        raise Fault(f"{where}: a key is one word of {KEY_LENGTH_MIN} ASCII characters or more")
    match api:
        case "inference" | "management" | "token":
            return StaticKey(api, name, key)
        case _:
            raise Fault(f"{where}: {api!r} is none of inference, management and token")


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise Fault(f"the secrets file {file} can't be read: {reason}") from error
