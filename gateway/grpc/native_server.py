"""pygrpc-native's server, behind the port for inference where `grpc_server` says so.

PERF: HTTP/2 and gRPC are compiled and outside the interpreter: a call costs this process 60 to 80 us
without what answers it, and 330 to 350 by grpcio's. It has fewer bounds: `lacks` names those that are asked
for, and a `MemoryGuard` stands for those that grpcio has for each call. Its connections are bounded by the
process's open files, and pings by nothing.
"""

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from torchrelay.shared.settings import SOCKET_PATH_LIMIT_BYTES, GatewaySettings

if TYPE_CHECKING:  # of packages that may not be installed
    import grpc

    from torchrelay.gateway.grpc.served_calls import Method

#: What is said where the package isn't installed.
NOT_INSTALLED = "grpc_server=pygrpc-native needs its package: pip install 'torchrelay[grpc-native]'"
#: grpcio's options that it has none of, and refuses.
_WITHOUT = frozenset({"grpc.max_allowed_incoming_connections", "grpc.max_connection_idle_ms"})
_NOT_TO_BE_HAD = (
    "enable_grpc_ssl",
    "grpc_inference_max_connection_age_ms",
    "grpc_inference_max_connection_age_grace_ms",
)
#: A second thread for its sockets wakes up for what the first could do: a call costs a fifth more.
IO_THREADS = 1
#: Tried for its socket where the path of the temporary folder leaves no room for it.
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # it makes a private folder there
#: It calls its socket `/pygrpc-native-12345678/fallback.sock`.
SOCKET_NAME_BYTES = 37
#: What the process may hold is so many times the bytes that may be in flight: they are there twice while they
#: go from the server to Python, and back.
MEMORY_PER_BYTE = 2
#: It may be more for so long, as long as it isn't twice as much.
PATIENCE_S = 3.0


def lacks(config: GatewaySettings) -> list[str]:
    """Return what the settings ask for and this server can't do."""
    return [
        f"{setting} is not to be had with grpc_server=pygrpc-native: leave out one of the two"
        for setting in _NOT_TO_BE_HAD
        if getattr(config, setting)
    ]


def made(
    services: Mapping[str, Mapping[str, "Method"]], options: Iterable[tuple[str, int]]
) -> "grpc.aio.Server":
    """Make a server of these methods, by the names of their services."""
    from pygrpc_native.aio import Server

    tempfile.tempdir = folder_for_sockets([tempfile.gettempdir(), *SHORT_FOLDERS])
    server = Server(options=[one for one in options if one[0] not in _WITHOUT], io_threads=IO_THREADS)
    for name, handlers in services.items():
        server.add_registered_method_handlers(name, dict(handlers))
    return server


def folder_for_sockets(folders: Sequence[str]) -> str:
    """Return the first in which it can have a socket for what it leaves to grpcio. Raises RuntimeError."""
    for folder in folders:
        fits = len(os.fsencode(folder)) + SOCKET_NAME_BYTES <= SOCKET_PATH_LIMIT_BYTES
        if fits and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise RuntimeError(f"no temporary folder has room for a socket: {', '.join(folders)}")


@dataclass
class MemoryGuard:
    """Tells when the process holds so much that only its end can help. Pure.

    The server hands over a call when its whole request has come, and takes an answer over whether its client
    reads or not. So what clients make it hold can't be counted by call.
    """

    _in_flight_bytes: int
    #: Of the memory that was found, what is there without any call.
    _least_bytes: float = inf
    #: Since when there is too much, by `clock.monotonic`.
    _since: float | None = None

    def is_full(self, now: float, memory_bytes: int) -> bool:
        """Take note of what the process holds; call it a few times a second."""
        self._least_bytes = min(self._least_bytes, memory_bytes)
        taken, limit = memory_bytes - self._least_bytes, MEMORY_PER_BYTE * self._in_flight_bytes
        if taken <= limit:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return taken > 2 * limit or now - self._since >= PATIENCE_S

    @property
    def is_over(self) -> bool:
        """Whether there was too much: some of it may be free, and only kept by the allocator."""
        return self._since is not None
