"""Fetching archives: from a server on loopback, which only an operator's own pattern opens."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from torchrelay.broker import download
from torchrelay.shared.errors import DownloadFailed, ModelNotFound
from torchrelay.shared.settings import BrokerSettings


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
            case _:
                self._answer(404, b"")

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


def test_an_archive_is_fetched_also_behind_a_redirect(origin: str, tmp_path: Path) -> None:
    for path in ("/m.mar", "/hop"):
        target = tmp_path / path[1:]
        download.download(origin + path, target, opened(origin))
        assert target.read_bytes() == b"archive"


@pytest.mark.parametrize("path", ["/模 a.mar?模=%2B+&%", "/%E6%A8%A1%20a.mar?模=%2B+&%", "/hop-beyond-ascii"])
def test_a_url_beyond_ascii_is_asked_for_escaped_and_else_as_it_is(
    origin: str, tmp_path: Path, path: str
) -> None:
    download.download(origin + path, tmp_path / "m", opened(origin))
    assert (tmp_path / "m").read_bytes() == b"escaped"


@pytest.mark.parametrize(
    "url",
    ["http://模.invalid/x.mar", "http://h\ud800/x.mar", "http://127.0.0.1:1/\ud800", "http://a:模@[::1/x"],
)
def test_a_url_that_cannot_be_asked_for_is_a_failed_download(tmp_path: Path, url: str) -> None:
    settings = BrokerSettings(state_dir="/nowhere", allow_private_urls=True, download_timeout_s=2.0)
    with pytest.raises(DownloadFailed):
        download.download(url, tmp_path / "m", settings)


def test_a_private_address_is_refused_unless_a_pattern_names_it(origin: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed) as refused:
        download.download(f"{origin}/m.mar", tmp_path / "m", BrokerSettings(state_dir="/nowhere"))
    assert "127.0.0.1 is a private address" in refused.value.details
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("path", ["/away", "/into-file"])
def test_a_redirect_is_checked_again(origin: str, tmp_path: Path, path: str) -> None:
    with pytest.raises(ModelNotFound, match="does not match any allowed URL"):
        download.download(origin + path, tmp_path / "m", opened(origin))


def test_a_redirect_to_a_private_address_is_refused_though_any_public_url_is_allowed(
    origin: str, tmp_path: Path
) -> None:
    settings = BrokerSettings(
        state_dir="/nowhere", allowed_urls=(f"{origin}/.*", "http(s)?://.*"), download_timeout_s=2.0
    )
    with pytest.raises(DownloadFailed) as refused:
        download.download(f"{origin}/away", tmp_path / "m", settings)
    assert "169.254.169.254 is a private address" in refused.value.details


@pytest.mark.parametrize("path", ["/nosuch", "/short", "/loop"])
def test_a_failing_origin_is_a_failed_download(origin: str, tmp_path: Path, path: str) -> None:
    with pytest.raises(DownloadFailed, match="Failed to download archive from"):
        download.download(origin + path, tmp_path / "m", opened(origin))


def test_an_origin_that_stalls_is_given_up(origin: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed):
        download.download(f"{origin}/stall", tmp_path / "m", opened(origin, download_timeout_s=0.3))


def test_a_download_above_the_limit_is_stopped(origin: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="download_limit_bytes"):
        download.download(f"{origin}/m.mar", tmp_path / "m", opened(origin, download_limit_bytes=3))


@pytest.mark.parametrize("url", ["http://", "http://no such host/x.mar", "http://127.0.0.1:1/x.mar"])
def test_urls_that_lead_nowhere_are_failed_downloads(tmp_path: Path, url: str) -> None:
    settings = BrokerSettings(state_dir="/nowhere", allow_private_urls=True, download_timeout_s=2.0)
    with pytest.raises(DownloadFailed):
        download.download(url, tmp_path / "m", settings)


@pytest.mark.parametrize("pattern", ["http://.*", "http.*", "^https?://.*$", "https?://.*|file://.*"])
def test_a_pattern_that_names_no_host_opens_no_private_address(
    origin: str, tmp_path: Path, pattern: str
) -> None:
    settings = BrokerSettings(state_dir="/nowhere", allowed_urls=(pattern,), download_timeout_s=2.0)
    with pytest.raises(DownloadFailed) as refused:
        download.download(f"{origin}/m.mar", tmp_path / "m", settings)
    assert "is a private address" in refused.value.details


@pytest.mark.parametrize(
    "host", ["http", "https", "h", "t", "p", "s", "s:80", "me@http", "elsewhere.example"]
)
def test_a_pattern_names_no_host_that_is_called_like_a_part_of_the_scheme(host: str) -> None:
    assert not download._names_host("https?://.*", f"https://{host}/m.mar")
    assert not download._names_host("https?://.*", f"http://{host}/{host}//{host}")
    if not host.startswith("elsewhere"):
        assert download._names_host(f"https://{host}/.*", f"https://{host}/m.mar")


def test_a_download_ends_when_the_broker_does(origin: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="the broker stops"):
        download.download(f"{origin}/m.mar", tmp_path / "m", opened(origin), lambda: True)
