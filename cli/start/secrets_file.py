"""Reads keys that the operator gives: in a secrets file, or in a variable for each API.

The file has a line for each key, `API NAME KEY`, where API is `inference`, `management` or `token`; empty
lines and those that begin with # are skipped. Several keys of one API may hold at the same time.
"""

from collections.abc import Mapping
from pathlib import Path

from torchrelay.cli.faults import Fault
from torchrelay.shared.settings import KEY_LENGTH_MIN, StaticKey, is_guessable_key

#: Variables that hold one key each.
VARIABLES = {
    "inference": "TORCHRELAY_INFERENCE_KEY",
    "management": "TORCHRELAY_MANAGEMENT_KEY",
    "token": "TORCHRELAY_TOKEN_KEY",
}
FILE_VARIABLE = "TORCHRELAY_KEYS_FILE"


def static_keys(file: str | None, environ: Mapping[str, str]) -> tuple[StaticKey, ...]:
    """Read all keys that were given; the file is named by an option, or by TORCHRELAY_KEYS_FILE.

    Whoever names a file or a variable wants callers to need keys: that it has none is a fault.

    Raises:
        Fault: the file can't be read, or holds a line that is no key, or all that is named is empty.
    """
    keys = [
        _key(api, "environment", environ[name], name) for api, name in VARIABLES.items() if environ.get(name)
    ]
    named = environ.get(FILE_VARIABLE) if file is None else file
    if named or file is not None:
        keys += parse(_read(str(named)), str(named))
    said = [name for name in (*VARIABLES.values(), FILE_VARIABLE) if name in environ]
    if not keys and (said or file is not None):
        raise Fault(
            f"{named or ' and '.join(said)}: there is no key in it, and callers would need none."
            " `torchrelay keys make` prints one; if none is meant, don't name it"
        )
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
    if key.split() != [key] or not (key.isascii() and key.isprintable()) or is_guessable_key(key):
        raise Fault(
            f"{where}: a key is one word of {KEY_LENGTH_MIN} ASCII characters or more that nobody can guess;"
            " `torchrelay keys make` prints one"
        )
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
