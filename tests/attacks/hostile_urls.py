"""Attacks by the urls of archives: origins that drip, addresses in disguise, odd files."""

import http.server
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.attacks import plan
from tests.attacks.attacker import Attacker, pause
from tests.attacks.hostile_archives import check_local, register
from torchrelay.shared import clock

#: What an operator may have written who trusts one host and the files of its own.
TRUSTING = (r"allowed_urls=https?://[^/]*\\.trusted\\.example/.*,http://trusted\\.example.*,file://.*",)
DRIPPING = 8
DROP_S = 2.0


class Origin(http.server.ThreadingHTTPServer):
    """A server of archives on the attacker's address."""

    daemon_threads = True

    def __init__(self, attacker: Attacker) -> None:
        super().__init__((plan.SOURCE, 0), _Answer)
        self.attacker = attacker
        #: Who has connected: `HOST PATH` of each request.
        self.asked: list[str] = []


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Origin

    def do_GET(self) -> None:
        """Answer by the path: slowly, never, or by a redirect to the same."""
        self.server.asked.append(f"{self.headers.get('Host')} {self.path}")
        attacker = self.server.attacker
        if "never" in self.path:
            pause(max(0.0, attacker.until - clock.monotonic()))
            return
        if "redirect" in self.path:
            self.send_response(302)
            self.send_header("Location", self.path + "x")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        for _ in attacker.rounds(DROP_S):
            try:
                self.wfile.write(b"P")
                self.wfile.flush()
            except OSError:
                attacker.counts["given up by the server"] += 1
                return

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def _origin(attacker: Attacker) -> Iterator[Origin]:
    with Origin(attacker) as origin:
        thread = threading.Thread(target=origin.serve_forever, daemon=True)
        thread.start()
        try:
            yield origin
        finally:
            origin.shutdown()
            thread.join()


def dripping_origins(attacker: Attacker) -> None:
    """Register from origins that hardly send anything; others register meanwhile."""
    with _origin(attacker) as origin:
        base = f"http://{plan.SOURCE}:{origin.server_port}"
        kinds = ["drip", "never", "drip", "redirect"]
        for number in range(DRIPPING):
            url = f"{base}/{kinds[number % len(kinds)]}-{number}.mar"
            threading.Thread(
                target=register, args=(attacker, url, f"drip-{number}", 60.0), daemon=True
            ).start()
        pause(2.0)
        for number in attacker.rounds(1.0):
            check_local(attacker, number)
        attacker.counts["registered from an origin"] = len(origin.asked)


def odd_urls(attacker: Attacker) -> None:
    """Register by urls that look like trusted ones, disguised addresses, and files that are no archives."""
    store = Path(attacker.target.store)
    odd_files = _odd_files(store, Path(attacker.target.scratch))
    with _origin(attacker) as origin:
        tries = [*_disguised(origin.server_port), *odd_files, *_own_folders(store)]
        for number in attacker.rounds():
            url = tries[number % len(tries)]
            status = register(attacker, url, f"odd-{number}", 10.0)
            attacker.counts[status] += 1
            shown = url.replace(f":{origin.server_port}", ":PORT").replace(str(store), "STORE")
            if status.startswith("2"):
                attacker.breach(f"{shown} was registered")
            elif status == "no answer":
                attacker.breach(f"{shown} was not answered")
            if origin.asked:
                attacker.breach(f"{shown} was fetched from a private address")
                origin.asked.clear()
            if number % 5 == 4:
                check_local(attacker, number)


def _disguised(port: int) -> list[str]:
    """Return urls that lead to the attacker's origin; no archive of the store has the name at their ends."""
    here = f"{plan.SOURCE}:{port}"
    return [
        f"http://{here}#.trusted.example/absent.mar",
        f"http://{here}?.trusted.example/absent.mar",
        f"http://{here}\\.trusted.example/absent.mar",
        f"http://trusted.example@{here}/absent.mar",
        f"http://trusted.example:80@{here}/absent.mar",
        f"http://trusted.example%40{here}/absent.mar",
        f"http://trusted.example\\@{here}/absent.mar",
        f"http://a@b.trusted.example@{here}/absent.mar",
        f"http://a.trusted.example@{here}/.trusted.example/absent.mar",
        f"http://{here}/.trusted.example/absent.mar",
        f"http:/{here}/absent.mar",
        f"http:///{here}/absent.mar",
        f"http://[::ffff:127.0.0.66]:{port}/absent.mar",
        f"http://[64:ff9b::7f00:42]:{port}/absent.mar",
        f"http://2130706498:{port}/absent.mar",
        f"http://0x7f000042:{port}/absent.mar",
        f"http://trusted.example:{'9' * 5000}/absent.mar",
        f"http://trusted.example:\u0661/{'x' * 3000}.mar",
        f"HTTP://{here}/absent.mar",
        f"ftp://{here}/absent.mar",
    ]


def _odd_files(store: Path, scratch: Path) -> list[str]:
    """Return urls of files that block, don't end, or aren't the model store's."""
    os.mkfifo(store / "pipe.mar")
    os.mkfifo(scratch / "pipe.mar")
    (store / "device.mar").symlink_to("/dev/zero")
    linking = store / "linking"
    linking.mkdir()
    (linking / "handler.py").write_text("def handle(data, context):\n    return data\n")
    (linking / "secret").symlink_to("/etc/shadow")
    files = [
        "/proc/kmsg",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/environ",
        str(scratch / "pipe.mar"),
        "/etc/passwd",
    ]
    return [
        "pipe.mar",
        "device.mar",
        "linking",
        *(f"file://{path}" for path in files),
        "../config.properties",
    ]


def _own_folders(store: Path) -> list[str]:
    return [
        ".",
        "./",
        "..",
        "/",
        str(store),
        f"{store}/",
        f"file://{store}",
        f"file://{store}/.",
        "%2e",
        "file:///",
    ]
