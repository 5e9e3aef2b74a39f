"""A cable to a server on loopback that a test can cut, pull or hold up, and that shows what was asked."""

import contextlib
import socket
import threading
from collections.abc import Callable

BUFFER_BYTES = 65536


class Cable:
    """Listens on a port of its own, and passes on what comes to `port` and back."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        #: What each message to the server began with.
        self.heads: list[bytes] = []
        self._limit: int | None = None
        self._then: Callable[[], object] | None = None
        self._is_pulled = False
        self._released = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut_after(self, count: int, then: Callable[[], object] = lambda: None) -> None:
        """Break the next connection after so many bytes from the server, and do something else first."""
        self._limit, self._then = count, then

    def stall_after(self, count: int) -> None:
        """Let every connection fall silent after so many bytes from the server."""
        self._limit, self._then = count, None

    def pull(self) -> None:
        """Break the first connection so that only the client notices."""
        self._is_pulled = True
        self._sockets[0].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._released.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            with contextlib.suppress(OSError):  # it is broken already
                one.shutdown(socket.SHUT_RDWR)  # closing alone wakes no thread that reads
            one.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += near, far
            for pump in (self._pump_there, self._pump_back):
                self._threads.append(threading.Thread(target=pump, args=(near, far), daemon=True))
                self._threads[-1].start()

    def _pump_there(self, near: socket.socket, far: socket.socket) -> None:
        try:
            while data := near.recv(BUFFER_BYTES):
                self.heads.append(data)
                far.sendall(data)
            if not self._is_pulled:
                far.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def _pump_back(self, near: socket.socket, far: socket.socket) -> None:
        passed = 0
        try:
            while data := far.recv(BUFFER_BYTES):
                if self._limit is not None and passed + len(data) > self._limit:
                    near.sendall(data[: self._limit - passed])
                    if not self._cut():
                        self._released.wait(10)
                    break
                near.sendall(data)
                passed += len(data)
            near.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _cut(self) -> bool:
        if self._then is None:
            return False
        then, self._limit, self._then = self._then, None, None
        then()
        return True
