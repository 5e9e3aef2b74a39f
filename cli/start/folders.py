"""Chooses the folders of a run for sockets, state and cache, and tests them before anything starts.

- Temporary folders are searched as Python does: TMPDIR, TEMP, TMP, then the system's. A run makes a private
  folder in the first usable one and, if its path is too long for a socket, one for the socket in a later one.
- The state is in --state-dir, or in the temporary folder.
- The cache of unpacked models is in --cache-dir or TORCHRELAY_CACHE_DIR, else in the user's cache folder,
  else in the temporary folder. As in TorchServe, `torchserve` puts both into TEMP, if that is set.

A named folder that can't be used is a Fault; the user's cache folder is then replaced by a temporary one,
with a warning. A run holds a lock in its private folders: by that the next run of the user finds the folders
of killed runs, and removes them.
"""

import os
import pwd
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from torchrelay.cli.faults import Fault
from torchrelay.cli.start import part_settings
from torchrelay.shared import locks, private_files

PREFIX = "torchrelay-"
LOCK_NAME = "run.lock"
CACHE_VARIABLE = "TORCHRELAY_CACHE_DIR"
STATE_VARIABLE = "TORCHRELAY_STATE_DIR"
TEMPORARY_VARIABLES = ("TMPDIR", "TEMP", "TMP")
#: Python's, except the working directory, which may be any.
SYSTEM_TEMPORARY = ("/tmp", "/var/tmp", "/usr/tmp")
STATE_ADVICE = f"choose another with --state-dir or {STATE_VARIABLE}"
CACHE_ADVICE = f"name another with --cache-dir or {CACHE_VARIABLE}"
#: Folders into which a broker and a node write: an earlier run of another user may have left them.
PARTS_OF_STATE = ("archives", "logs")
PARTS_OF_CACHE = ("archives", "models", "environments", "nodes")
#: All names of entries of a state and a cache folder: one with no other entries is used for nothing else.
STATE_ENTRIES = re.compile(
    r"archives|logs|lock|key_file\.json|packing-.*|registry\.sqlite(-wal|-shm|-journal)?|worker_claims(\.new)?"
)
CACHE_ENTRIES = re.compile("|".join(PARTS_OF_CACHE))
#: Free bytes that SQLite needs to open a registry.
REGISTRY_BYTES = 64 << 10


class Folders(msgspec.Struct, frozen=True):
    """The folders of a run for its socket (mode 0700), its state and unpacked models, with warnings."""

    sockets: str
    state: Path
    cache: Path
    warnings: tuple[str, ...] = ()


class Cache(msgspec.Struct, frozen=True):
    """The folder of a node's unpacked models, with warnings."""

    folder: Path
    warnings: tuple[str, ...] = ()


@contextmanager
def folders(
    state_dir: str | None, cache_dir: str | None, environ: Mapping[str, str], *, large_in_temp: bool = False
) -> Iterator[Folders]:
    """Make the folders of a run; temporary ones are removed at the end.

    `large_in_temp` is TorchServe's meaning of TEMP: state and unpacked models lie there if it is set.

    Raises:
        Fault: a folder can't be made or used.
    """
    with ExitStack() as stack:
        temporary = Temporary(environ, stack)
        sockets = temporary.folder_for_sockets()
        large = environ.get("TEMP") if large_in_temp else None
        in_temp = temporary.folder_in([Path(large)], "name another with TEMP") if large else None
        state = Path(state_dir).absolute() if state_dir else (in_temp or temporary.folder()) / "state"
        open_state = require_usable_state(
            state, STATE_ADVICE if state_dir else "name another with TMPDIR or TEMP"
        )
        if in_temp and not (cache_dir or environ.get(CACHE_VARIABLE)):
            cache = Cache(in_temp / "cache", _noexec_warnings(in_temp) if is_noexec(in_temp) else ())
        else:
            cache = choose_cache(cache_dir, environ, temporary)
        yield Folders(str(sockets), state, cache.folder, (*temporary.warnings, *open_state, *cache.warnings))


@contextmanager
def cache_of_node(cache_dir: str | None, environ: Mapping[str, str]) -> Iterator[Cache]:
    """Make the folder of a node's unpacked models; a temporary one is removed at the end.

    Raises:
        Fault: it can't be made or used.
    """
    with ExitStack() as stack:
        temporary = Temporary(environ, stack)
        cache = choose_cache(cache_dir, environ, temporary)
        yield Cache(cache.folder, (*temporary.warnings, *cache.warnings))


class Temporary:
    """The private temporary folders of a run, made when needed and removed when `stack` ends."""

    def __init__(self, environ: Mapping[str, str], stack: ExitStack) -> None:
        self._stack = stack
        named = [(Path(environ[name]).absolute(), name) for name in TEMPORARY_VARIABLES if environ.get(name)]
        #: In the order in which Python takes them.
        self._parents = [*(parent for parent, _ in named), *map(Path, SYSTEM_TEMPORARY)]
        #: Folder -> the variable that names it.
        self._names = dict(named)
        self._made: dict[Path, Path] = {}
        #: Folder -> why it can't be used.
        self._refusals: dict[Path, str] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Name the variables whose folder can't be used."""
        return tuple(
            f"{name}={parent} can't be used ({self._refusals[parent]}): it is passed over"
            for parent, name in self._names.items()
            if parent in self._refusals
        )

    def folder(self) -> Path:
        """Return a private folder in the first parent that can be used."""
        return self.folder_in(self._parents, "name one with TMPDIR")

    def folder_for_sockets(self) -> Path:
        """Return a private folder whose path leaves room for a socket's name."""
        fitting = [
            parent for parent in self._parents if part_settings.fits_socket(f"{parent}/{PREFIX}12345678")
        ]
        return self.folder_in(fitting, "name a short one with TMPDIR, since a socket has to lie in it")

    def folder_in(self, parents: Sequence[Path], advice: str) -> Path:
        """Return a private folder in the first of these parents that can be used.

        Raises:
            Fault: there is none.
        """
        for parent in map(Path.absolute, parents):
            if parent not in self._made and parent not in self._refusals:
                try:
                    self._made[parent] = self._make(parent)
                except OSError as error:
                    self._refusals[parent] = error.strerror or str(error)
            if parent in self._made:
                return self._made[parent]
        reasons = "; ".join(f"{parent}: {self._refusals[parent]}" for parent in map(Path.absolute, parents))
        raise Fault(f"No temporary folder can be used ({reasons}): {advice}")

    def _make(self, parent: Path) -> Path:
        remove_leftovers(parent, os.getuid())
        folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent, ignore_cleanup_errors=True)
        made = Path(self._stack.enter_context(folder))
        # The lock file gets its name only when it is locked.
        lock = self._stack.enter_context(private_files.append_to(made / f"{LOCK_NAME}.new"))
        locks.wait_for_flock(lock)
        (made / f"{LOCK_NAME}.new").rename(made / LOCK_NAME)
        return made


def is_noexec(folder: Path) -> bool:
    """Return whether a folder is mounted noexec: nothing in it can be run, or loaded as a library."""
    return bool(os.statvfs(folder).f_flag & os.ST_NOEXEC)


def choose_cache(
    option: str | None,
    environ: Mapping[str, str],
    temporary: Temporary,
    is_noexec: Callable[[Path], bool] = is_noexec,
) -> Cache:
    """Choose the folder of unpacked models: the named one, else the user's, else a temporary one.

    Raises:
        Fault: the one that was named can't be used.
    """
    if named := option or environ.get(CACHE_VARIABLE):
        folder = Path(named).absolute()
        if why := why_unusable(folder, PARTS_OF_CACHE):
            raise Fault(f"The cache folder {folder} can't be used: {why}; {CACHE_ADVICE}")
        warnings = open_to_others(folder, CACHE_ENTRIES)
        return Cache(folder, (*warnings, *_noexec_warnings(folder)) if is_noexec(folder) else warnings)
    users = user_cache(environ, _home_of_user())
    if users is None:
        why = "the user has no home folder"
    elif fault := why_unusable(users, PARTS_OF_CACHE):
        why = f"{users} can't be used ({fault})"
    elif not is_noexec(users):
        return Cache(users, open_to_others(users, CACHE_ENTRIES))
    elif is_noexec(temporary.folder()):  # the user's is no worse, and stays
        return Cache(users, (*open_to_others(users, CACHE_ENTRIES), *_noexec_warnings(users)))
    else:
        why = f"no library can be loaded from {users} (mounted noexec)"
    folder = temporary.folder() / "cache"
    line = f"Unpacked models are in {folder} until this run ends, since {why}; {CACHE_ADVICE} to keep them"
    return Cache(folder, (line, *(_noexec_warnings(folder) if is_noexec(folder.parent) else ())))


def user_cache(environ: Mapping[str, str], home_of_user: str | None) -> Path | None:
    """Return the user's cache folder, or None without a home; relative ones are left out, as XDG demands."""
    cache, home = (environ.get(name, "") for name in ("XDG_CACHE_HOME", "HOME"))
    if os.path.isabs(cache):
        return Path(cache, "torchrelay")
    for folder in (home, home_of_user or ""):
        if os.path.isabs(folder):
            return Path(folder, ".cache", "torchrelay")
    return None


def require_usable_state(folder: Path, advice: str = STATE_ADVICE) -> tuple[str, ...]:
    """Make a broker's state folder; return warnings if others can read it.

    Raises:
        Fault: it can't be written.
    """
    if why := why_unusable(folder, PARTS_OF_STATE, REGISTRY_BYTES):
        raise Fault(f"The state folder {folder} can't be used: {why}; {advice}")
    return open_to_others(folder, STATE_ENTRIES)


def open_to_others(folder: Path, entries: re.Pattern[str]) -> tuple[str, ...]:
    """Keep other users out of a folder with nothing but these entries; else return a warning."""
    why = private_files.tighten(folder, lambda name: entries.fullmatch(name) is not None)
    if why is None:
        return ()
    return (
        f"{why}, and isn't this user's alone or holds other things: it is left so; chmod go= keeps them out",
    )


def why_unusable(folder: Path, parts: Sequence[str], probe_bytes: int = 0) -> str | None:
    """Make a folder with its parts, and return why one can't be written; None if all can.

    The test writes `probe_bytes`, as many as are needed there at once.
    """
    for place in (folder, *(folder / part for part in parts)):
        try:
            private_files.make_folder(place)
            with tempfile.TemporaryFile(dir=place) as probe:
                probe.write(bytes(probe_bytes))
                probe.flush()
        except OSError as error:
            return f"{error.strerror}: {place}" if place != folder else str(error.strerror)
    return None


def remove_leftovers(parent: Path, user_id: int) -> None:
    """Remove the private folders of a user's runs that have ended, also by being killed."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            if not private_files.is_folder_of(folder, user_id):
                continue
            with (folder / LOCK_NAME).open("rb") as lock:
                if locks.try_flock(lock):  # else the run goes on
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # it has only just been made
            continue


def _noexec_warnings(cache: Path) -> tuple[str, ...]:
    return (
        f"{cache} is mounted noexec: archives with libraries, and what archives require, can't be loaded"
        f" from it; {CACHE_ADVICE}",
    )


def _home_of_user() -> str | None:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container's user, with a number and nothing else
        return None
