"""Attacks by archives that an operator was given: small files that cost much to look into."""

import gzip
import io
import json
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from tests.attacks.attacker import MANAGEMENT, Attacker, head

HANDLER = b"def handle(data, context):\n    return data\n"
MEMBER_BYTES = 64 << 20
BOMB_BYTES = 4 << 30
TEXT_BYTES = 300 << 20
ENTRIES = 99_000
#: Who registers an archive of the server's own disk is answered within this time, whatever others do.
LOCAL_LIMIT_S = 10.0


def archives(attacker: Attacker) -> None:
    """Register archives that unpack to much, with long names, many entries, deep texts, links."""
    store = Path(attacker.target.store)
    makers: dict[str, Callable[[Path], None]] = {
        "digits.tar.gz": lambda path: _tar(path, b"x", b"1" * (8 << 20)),
        "sparse.tar.gz": lambda path: _tar(path, b"x", _pax("GNU.sparse.map", "0,1," * 2_000_000)),
        "sparse-digits.tar.gz": lambda path: _tar(path, b"x", _pax("GNU.sparse.size", "9" * 4_000_000)),
        "size.tar.gz": lambda path: _tar(path, b"x", _pax("size", "-1")),
        "name.tar.gz": lambda path: _tar(path, b"L", bytes(TEXT_BYTES)),
        "link.tar.gz": lambda path: _tar(path, b"K", bytes(TEXT_BYTES)),
        "pax.tar.gz": lambda path: _tar(path, b"g", _pax("comment", " " * TEXT_BYTES)),
        "zeros.tar.gz": _zeros,
        "manifest.mar": lambda path: _zip(path, manifest=bytes(TEXT_BYTES)),
        "deep.mar": lambda path: _zip(path, manifest=b"[" * 1_000_000),
        "aliases.mar": lambda path: _zip(path, config=_aliases()),
        "nested.mar": lambda path: _zip(path, config=b"a: " + b"[" * 1_000_000),
        "long.mar": lambda path: _zip(path, config=b"a: " + b"x" * TEXT_BYTES),
        "tags.mar": lambda path: _zip(path, config=b"a: !!python/object/apply:os.system ['true']"),
        "entries.mar": lambda path: _zip(path, others=ENTRIES),
        "outside.mar": lambda path: _zip(path, name="../../outside.py"),
        "symlink.mar": _symlink,
    }  # fmt: skip
    for number in attacker.rounds():
        name = list(makers)[number % len(makers)]
        path = store / f"bomb-{name}"
        if not path.exists():
            makers[name](path)
        status = register(attacker, path.name, f"bomb-{number}")
        attacker.counts[status] += 1
        if status == "no answer":
            attacker.breach(f"looking into {name} had no end")
        if name in ("outside.mar", "symlink.mar") and status.startswith("2"):
            attacker.breach(f"{name} was taken")
        check_local(attacker, number)


def register(attacker: Attacker, url: str, name: str, within_s: float = 60.0) -> str:
    """Register an archive without workers; return the status."""
    query = urlencode({"url": url, "model_name": name, "initial_workers": 0})
    line = attacker.dial(MANAGEMENT)
    if line is None:
        return "not connected"
    line.send(head(f"POST /models?{query}", "Content-Length: 0", "Connection: close"))
    status = line.status(within_s)
    line.close()
    return status


def check_local(attacker: Attacker, number: int) -> None:
    """Register an honest archive of the store, which must go on whatever others register."""
    name = f"local-{number}"
    status = register(attacker, "large.mar", name, LOCAL_LIMIT_S)
    if status != "200":
        attacker.breach(f"an archive of the store could not be registered meanwhile ({status})")
    else:
        attacker.ask(head(f"DELETE /models/{name}"), MANAGEMENT)


def _header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def _tar(path: Path, kind: bytes, extra: bytes) -> None:
    """Write a tar whose first header is of this kind, before that of a file that may follow it."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(_header("extra", kind, len(extra)))
        file.write(extra + bytes(-len(extra) % tarfile.BLOCKSIZE))
        file.write(_header("model/handler.py", tarfile.REGTYPE, len(HANDLER)))
        file.write(HANDLER + bytes(-len(HANDLER) % tarfile.BLOCKSIZE) + bytes(2 * tarfile.BLOCKSIZE))


def _pax(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode()
    size = len(rest) + len(str(len(rest)))
    size = len(rest) + len(str(size))
    return str(size).encode() + rest


def _zeros(path: Path) -> None:
    """Write a tar of one file of zeros; its gzip members repeat, so that it is made in no time."""
    member = gzip.compress(bytes(MEMBER_BYTES), 6)
    with path.open("wb") as file:
        file.write(gzip.compress(_header("model/zeros", tarfile.REGTYPE, BOMB_BYTES)))
        for _ in range(BOMB_BYTES // MEMBER_BYTES):
            file.write(member)


def _zip(path: Path, *, manifest: bytes = b"", config: bytes = b"", others: int = 0, name: str = "") -> None:
    model = {"modelName": "bomb", "handler": "handler.py", "modelVersion": "1.0"}
    model |= {"configFile": "model-config.yaml"} if config else {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("MAR-INF/MANIFEST.json", manifest or json.dumps({"runtime": "python", "model": model}))
        file.writestr(name or "handler.py", HANDLER)
        if config:
            file.writestr("model-config.yaml", config)
        for number in range(others):
            file.writestr(f"{number}", b"")


def _aliases() -> bytes:
    """Write a text of a few hundred bytes that stands for billions of values."""
    text = io.StringIO()
    text.write("a0: &a0 [x, x, x, x, x, x, x, x, x]\n")
    for number in range(1, 12):
        text.write(f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n")
    return text.getvalue().encode()


def _symlink(path: Path) -> None:
    _zip(path)
    link = zipfile.ZipInfo("passwords")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(link, "/etc/passwd")
