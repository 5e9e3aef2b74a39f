"""Fetching archives: from a server on loopback, which only an operator's own pattern opens."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from torchrelay.broker.archives import download
from torchrelay.broker.archives.writing import DownloadPace
from torchrelay.broker.models.origins import Http, parse
from torchrelay.shared.errors import DownloadFailed, ModelNotFound
from torchrelay.shared.settings import BrokerSettings

HEAD = b"HTTP/1.1 200 OK\r\n"
#: Answers whose last piece comes again and again.
ENDLESS = {
    "/drip": (HEAD + b"content-length: 100000000\r\n\r\n", b"x"),
    "/drip-head": (HEAD + b"x-long: ", b"x"),
    "/interim": (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 100,),
    "/framing": (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1;" + b"e" * 10_000 + b"\r\nx\r\n"),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path:
            case "/m.mar":
                self._answer(200, b"archive")
            case "/%E6%A8%A1%20a.mar?%E6%A8%A1=%2B+&%":
                self._answer(200, b"escaped")
            case "/hop-beyond-ascii":
                # As a header holds them: one letter for each byte.
                self._answer(302, b"", location="/模 a.mar?模=%2B+&%".encode().decode("latin-1"))
            case "/hop":
                self._answer(302, b"", location="/m.mar")
            case "/loop":
                self._answer(302, b"", location="/loop")
            case "/away":
                self._answer(302, b"", location="http://169.254.169.254/latest/meta-data")
            case "/to-localhost":
                port = self.connection.getsockname()[1]
                self._answer(302, b"", location=f"http://localhost:{port}/m.mar")
            case "/into-file":
                self._answer(302, b"", location="file:///etc/passwd")
            case "/short":
                self.send_response(200)
                self.send_header("content-length", "100")
                self.end_headers()
                self.wfile.write(b"half")
            case "/stall":
                self.send_response(200)
                self.send_header("content-length", "100")
                self.end_headers()
                self.wfile.flush()
                released.wait(10)
            case _ if self.path in ENDLESS:
                self._drip(*ENDLESS[self.path])
            case _:
                self._answer(404, b"")

    def _drip(self, *pieces: bytes) -> None:
        """Send the pieces, the last of them again and again, until the client is gone."""
        with contextlib.suppress(OSError):
            self.wfile.write(b"".join(pieces[:-1]))
            while not released.wait(0.02):
                self.wfile.write(pieces[-1])

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it
        pass


#: Set when a test is over, so that a stalled answer ends with it.
released = threading.Event()


@pytest.fixture
def origin() -> Iterator[str]:
    released.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def opened(origin: str, **changes: float) -> BrokerSettings:
    """Settings of an operator who names the origin."""
    changes = {"download_timeout_s": 2.0, **changes}
    return BrokerSettings(state_dir="/nowhere", allowed_urls=(f"{origin}/.*",), **changes)  # type: ignore[arg-type]  # numbers


def fetch(url: str, target: Path, settings: BrokerSettings, *others: Callable[[], bool]) -> None:
    """Download a url as it is done for a registration."""
    origin = download.require_allowed(parse(url), settings)
    assert isinstance(origin, Http)
    download.download(origin, target, settings, *others)


def test_an_archive_is_fetched_also_behind_a_redirect(origin: str, tmp_path: Path) -> None:
    for path in ("/m.mar", "/hop"):
        target = tmp_path / path[1:]
        fetch(origin + path, target, opened(origin))
        assert target.read_bytes() == b"archive"


@pytest.mark.parametrize("path", ["/模 a.mar?模=%2B+&%", "/%E6%A8%A1%20a.mar?模=%2B+&%", "/hop-beyond-ascii"])
def test_a_url_beyond_ascii_is_asked_for_escaped_and_else_as_it_is(
    origin: str, tmp_path: Path, path: str
) -> None:
    fetch(origin + path, tmp_path / "m", opened(origin))
    assert (tmp_path / "m").read_bytes() == b"escaped"


@pytest.mark.parametrize(
    "url",
    ["http://模.invalid/x.mar", "http://h\ud800/x.mar", "http://127.0.0.1:1/\ud800", "http://a:模@[::1/x"],
)
def test_a_url_that_cannot_be_asked_for_is_a_failed_download(tmp_path: Path, url: str) -> None:
    settings = BrokerSettings(state_dir="/nowhere", allow_private_urls=True, download_timeout_s=2.0)
    with pytest.raises(DownloadFailed):
        fetch(url, tmp_path / "m", settings)


def test_a_private_address_is_refused_unless_a_pattern_names_it(origin: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed) as refused:
        fetch(f"{origin}/m.mar", tmp_path / "m", BrokerSettings(state_dir="/nowhere"))
    assert "127.0.0.1 is a private address" in refused.value.details
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("path", ["/away", "/into-file"])
def test_a_redirect_is_checked_again(origin: str, tmp_path: Path, path: str) -> None:
    with pytest.raises(ModelNotFound, match="does not match any allowed URL"):
        fetch(origin + path, tmp_path / "m", opened(origin))


def test_a_redirect_to_a_private_address_is_refused_though_any_public_url_is_allowed(
    origin: str, tmp_path: Path
) -> None:
    settings = BrokerSettings(
        state_dir="/nowhere", allowed_urls=(f"{origin}/.*", "http(s)?://.*"), download_timeout_s=2.0
    )
    with pytest.raises(DownloadFailed) as refused:
        fetch(f"{origin}/away", tmp_path / "m", settings)
    assert "169.254.169.254 is a private address" in refused.value.details


@pytest.mark.parametrize("path", ["/nosuch", "/short", "/loop"])
def test_a_failing_origin_is_a_failed_download(origin: str, tmp_path: Path, path: str) -> None:
    with pytest.raises(DownloadFailed, match="Failed to download archive from"):
        fetch(origin + path, tmp_path / "m", opened(origin))


def test_an_origin_that_stalls_is_given_up(origin: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed):
        fetch(f"{origin}/stall", tmp_path / "m", opened(origin, download_timeout_s=0.3))


def test_a_download_above_the_limit_is_stopped(origin: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="download_limit_bytes"):
        fetch(f"{origin}/m.mar", tmp_path / "m", opened(origin, download_limit_bytes=3))


@pytest.mark.parametrize("url", ["http://", "http://no such host/x.mar", "http://127.0.0.1:1/x.mar"])
def test_urls_that_lead_nowhere_are_failed_downloads(tmp_path: Path, url: str) -> None:
    settings = BrokerSettings(state_dir="/nowhere", allow_private_urls=True, download_timeout_s=2.0)
    with pytest.raises(DownloadFailed):
        fetch(url, tmp_path / "m", settings)


@pytest.mark.parametrize("pattern", ["http://.*", "http.*", "^https?://.*$", "https?://.*|file://.*"])
def test_a_pattern_that_names_no_host_opens_no_private_address(
    origin: str, tmp_path: Path, pattern: str
) -> None:
    settings = BrokerSettings(state_dir="/nowhere", allowed_urls=(pattern,), download_timeout_s=2.0)
    with pytest.raises(DownloadFailed) as refused:
        fetch(f"{origin}/m.mar", tmp_path / "m", settings)
    assert "is a private address" in refused.value.details


def test_a_download_ends_when_the_broker_does(origin: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="the broker stops"):
        fetch(f"{origin}/m.mar", tmp_path / "m", opened(origin), lambda: True)


@pytest.mark.parametrize("path", ["/stall", "/drip", "/drip-head", "/interim", "/framing"])
def test_a_download_that_drips_is_given_up_whatever_it_drips(origin: str, tmp_path: Path, path: str) -> None:
    with pytest.raises(DownloadFailed) as caught:
        fetch(origin + path, tmp_path / "m", opened(origin, download_grace_s=0.4))
    assert "download_grace_s of 0.4" in caught.value.details


@pytest.fixture
def encrypted(origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the origin's address by https; its certificate is trusted."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://localhost:{server.server_port}"
    released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_https_is_read_and_bounded_like_http(encrypted: str, tmp_path: Path) -> None:
    fetch(f"{encrypted}/hop", tmp_path / "m", opened(encrypted))
    assert (tmp_path / "m").read_bytes() == b"archive"
    with pytest.raises(DownloadFailed, match=r"download_grace_s of 0\.6"):
        fetch(f"{encrypted}/drip", tmp_path / "m", opened(encrypted, download_grace_s=0.6))


def test_a_certificate_is_for_the_host_that_was_asked_for(encrypted: str, tmp_path: Path) -> None:
    elsewhere = encrypted.replace("localhost", "127.0.0.1")
    with pytest.raises(DownloadFailed, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(f"{elsewhere}/m.mar", tmp_path / "m", opened(elsewhere))


@pytest.mark.parametrize("path", ["/stall", "/drip", "/drip-head"])
def test_a_silent_download_ends_as_soon_as_the_broker_stops(origin: str, tmp_path: Path, path: str) -> None:
    stopping = threading.Event()
    timer = threading.Timer(0.2, stopping.set)
    timer.start()
    with pytest.raises(DownloadFailed, match="the broker stops"):
        fetch(origin + path, tmp_path / "m", opened(origin, download_timeout_s=30.0), stopping.is_set)
    timer.join()


def test_a_name_of_this_host_is_a_private_address(origin: str, tmp_path: Path) -> None:
    url = origin.replace("127.0.0.1", "localhost")
    for pattern in (".*", "http://local.*", "http://localhos.:.*"):
        settings = BrokerSettings(state_dir="/nowhere", allowed_urls=(pattern,))
        with pytest.raises(DownloadFailed, match="localhost is a private address"):
            fetch(f"{url}/m.mar", tmp_path / "m", settings)
    fetch(f"{url}/m.mar", tmp_path / "m", opened(url))


def test_a_redirect_to_a_private_host_needs_that_host_spelled(origin: str, tmp_path: Path) -> None:
    port = origin.rpartition(":")[2]
    settings = BrokerSettings(
        state_dir="/nowhere", allowed_urls=(f"{origin}/.*", f"http://.*:{port}/.*", "http://localhost/.*")
    )
    with pytest.raises(DownloadFailed, match="localhost is a private address"):
        fetch(f"{origin}/to-localhost", tmp_path / "m", settings)


def test_proxies_of_the_environment_are_not_asked(
    origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    fetch(f"{origin}/m.mar", tmp_path / "m", opened(origin))
    with pytest.raises(DownloadFailed, match="is a private address"):
        fetch(f"{origin}/m.mar", tmp_path / "m", BrokerSettings(state_dir="/nowhere"))


def backend(*answers: list[str], may_be_private: bool) -> download._Backend:
    left = list(answers)
    return download._Backend(
        DownloadPace(1, 10), lambda: False, may_be_private=may_be_private, resolve=lambda host: left.pop(0)
    )


def test_the_address_that_was_checked_is_the_one_that_is_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        stream = backend(["127.0.0.1"], may_be_private=True).connect_tcp("rebinding.example", port)
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
        stream.close()


@pytest.mark.parametrize("answers", [["8.8.8.8", "127.0.0.1"], ["64:ff9b::7f00:1"], ["fe80::1%lo"]])
def test_one_private_address_of_a_name_is_enough_to_refuse_it(answers: list[str]) -> None:
    with pytest.raises(download.AddressNotAllowed):
        backend(answers, may_be_private=False).connect_tcp("mixed.example", 80)


def test_the_next_address_of_a_name_is_tried_where_one_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        stream = backend(["127.0.0.2", "127.0.0.1"], may_be_private=True).connect_tcp("two.example", port)
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
        stream.close()


def test_an_address_of_this_host_leads_back_to_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = backend(["127.0.0.1"], may_be_private=True).connect_tcp("x", listener.getsockname()[1])
        assert download._leads_back(stream)
        stream.close()
