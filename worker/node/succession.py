"""By what a node shows that the one before it, of the same name on this host, is dead.

A node holds a lock on a file in its cache for as long as its process lives, and tells the broker what only
who holds that lock may tell. So a second process that can tell it proves that the first one has ended, though
the broker may not have noticed yet. Nothing is told where that can't be known.
"""

import hashlib
from pathlib import Path
from typing import IO

from torchrelay.shared import ids, locks, private_files

#: Differs from host to host, and after each start of one: locks on a shared disk may be each host's own.
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Succession:
    """The lock of a node; `mark` is what it tells, "" where another process may have the lock as well."""

    def __init__(self, cache: Path, name: str, boot_id: Path = BOOT_ID) -> None:
        self.mark = ""
        self._lock: IO[bytes] | None = None
        folder = cache / "nodes"
        path = folder / hashlib.sha256(name.encode()).hexdigest()[:32]
        try:
            host = boot_id.read_text().strip()
            private_files.make_folder(folder)
            self._lock = locks.hold(path)
            if self._lock is not None:
                self.mark = hashlib.sha256(f"{_secret(path, self._lock)} {host}".encode()).hexdigest()
        except OSError:  # a disk that is full, or has no locks: the broker then waits for the silence
            self.close()

    def close(self) -> None:
        """Let the next node have the lock."""
        self.mark = ""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _secret(path: Path, lock: IO[bytes]) -> str:
    """Return what the file holds, drawn by its first holder."""
    if not (secret := path.read_text()):
        secret = ids.secret()
        lock.write(secret.encode())
        lock.flush()
    return secret
