"""What lies in a model's folder, and which of its links are followed: the one place that follows any.

Who packs a folder for others reads it with rights that whoever wrote the folder may not have. So every file
and folder is opened first, and then asked where it lies: to turn a link elsewhere in between changes nothing.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO

from torchrelay.shared.errors import InvalidModel
from torchrelay.shared.quoting import quoted

#: What is looked at, links to the same folder as often as there are: a few of them can make a tree endless.
LOOKS_LIMIT = 1_000_000
#: Nothing that is opened may block, run a program or become our terminal.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Bounds:
    """Where a folder's files may lie: in it, or in one of the folders that the operator has named."""

    def __init__(self, folder: Path, link_targets: Sequence[Path] = ()) -> None:
        """Bound what lies in `folder`, which itself may be reached through links only above its last part."""
        self._given = folder
        self._folder = folder.parent.resolve() / folder.name
        self._targets = [target.resolve() for target in link_targets]
        self._owner = folder.stat().st_uid

    def open(self, path: Path) -> IO[bytes]:
        """Open a file. Raises InvalidModel if it lies elsewhere, or is another user's that was linked in."""
        with ExitStack() as stack:
            file = stack.enter_context(open(os.open(path, _FLAGS), "rb"))
            facts = os.fstat(file.fileno())
            self._check(path, file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise InvalidModel(f"{self._shown(path)} in the model's folder is no file any more.")
            if facts.st_nlink > 1 and facts.st_uid != self._owner:
                raise InvalidModel(
                    f"{self._shown(path)} in the model's folder is a hard link to a file of another user."
                )
            stack.pop_all()
            return file

    def list(self, folder: Path) -> tuple[Path, list[str]]:
        """Return where a folder really is, and the names in it. Raises InvalidModel if that is elsewhere."""
        fd = os.open(folder, _FLAGS | os.O_DIRECTORY)
        try:
            return self._check(folder, fd), sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def _check(self, path: Path, fd: int) -> Path:
        real = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if not any(real.is_relative_to(place) for place in (self._folder, *self._targets)):
            raise InvalidModel(
                f"{self._shown(path)} leads to {quoted(real)!r}, which is not in the model's folder: put it"
                " there, or name a folder that it is in with --link-targets."
            )
        return real

    def _shown(self, path: Path) -> str:
        inner = path.relative_to(self._given)
        return repr(quoted(inner if inner.parts else path.name))


def walk(
    folder: Path, bounds: Bounds | None = None, *, with_empty: bool = False
) -> Iterator[tuple[str, Path]]:
    """Yield the files below a folder by their names in it, and on demand the folders that hold nothing.

    Links are followed: mounts of Kubernetes consist of them. With `bounds`, folders elsewhere are refused,
    and files must be opened by it. What is neither file nor folder, or a link to nothing, is passed over.
    """
    looks = 0

    def within(place: Path, name: PurePosixPath, above: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
        nonlocal looks
        real, entries = bounds.list(place) if bounds else (place.resolve(), sorted(os.listdir(place)))
        if real in above:
            return  # a link to a folder that it lies in
        looks += 1 + len(entries)
        if looks > LOOKS_LIMIT:
            raise InvalidModel(f"The folder's links lead to more than {LOOKS_LIMIT} files and folders.")
        if with_empty and not entries and above:
            yield f"{name}/", place
        for entry in entries:
            inner = place / entry
            if inner.is_dir() and entry != "__pycache__":
                yield from within(inner, name / entry, (*above, real))
            elif inner.is_file():
                yield str(name / entry), inner

    yield from within(folder, PurePosixPath(), ())


def inner_folder(folder: Path) -> Path:
    """Return the folder that is meant: one that holds a folder and nothing else stands for that one."""
    children = list(folder.iterdir())
    return children[0] if len(children) == 1 and children[0].is_dir() else folder
