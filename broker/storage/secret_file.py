"""A secret that outlives the broker, in a file that only its user reads. Blocking."""

import os
from pathlib import Path

from torchrelay.shared import ids

#: As `ids.secret` draws it.
SECRET_BYTES_MIN = 32


def read(path: Path) -> bytes:
    """Return what is kept in a file that only this user reads, drawing it at the first start.

    One that is shorter, as a host that lost its power may leave it, is no secret and drawn anew.
    """
    if not path.exists() or path.stat().st_size < SECRET_BYTES_MIN:
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(ids.secret().encode())
        draft.rename(path)
    return path.read_bytes()
