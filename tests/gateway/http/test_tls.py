"""Listeners that speak TLS, with real certificates and real clients."""

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from tests.gateway.http.test_slow_clients import dial, is_cut
from tests.gateway.http.test_uvicorn_server import Broker, Served, free_ports
from tests.support import eventually
from torchrelay.gateway.http import certificates
from torchrelay.shared.settings import GatewaySettings, SettingsError

REFUSED = {"status": "This TorchServe instance only accepts HTTPS requests"}


class Authority:
    """A certificate authority, the server's certificate in files, and clients that trust it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.certificate = folder / "certificate.pem"
        self.key = folder / "key.pem"
        self.keystore = folder / "keystore.p12"
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.keystore.write_bytes(self.packed(b"changeit"))
        self.trust = ssl.create_default_context()
        authority.configure_trust(self.trust)

    @property
    def pem(self) -> dict[str, Any]:
        """The settings that name its two files."""
        return {"certificate_file": str(self.certificate), "private_key_file": str(self.key)}

    def weaken(self) -> None:
        """Put a key of 1024 bits in place of the good one, such as TorchServe's examples have."""
        key = rsa.generate_private_key(65537, 1024)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
            .sign(key, hashes.SHA256())
        )
        encoding = pem.Encoding.PEM
        self.certificate.write_bytes(certificate.public_bytes(encoding))
        self.key.write_bytes(
            key.private_bytes(encoding, pem.PrivateFormat.TraditionalOpenSSL, pem.NoEncryption())
        )
        self.keystore.write_bytes(self.packed(b"changeit"))

    def packed(self, password: bytes) -> bytes:
        chain = [x509.load_pem_x509_certificate(self.certificate.read_bytes())]
        key: Any = pem.load_pem_private_key(self.key.read_bytes(), None)
        encryption = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
        return pkcs12.serialize_key_and_certificates(b"1", key, chain[0], None, encryption)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings(folder: Path, schemes: tuple[str, str, str], **more: Any) -> GatewaySettings:
    one, two, three = free_ports(3)
    return GatewaySettings(
        broker_address=f"ipc://{folder}/broker",
        inference_address=f"{schemes[0]}://127.0.0.1:{one}",
        management_address=f"{schemes[1]}://127.0.0.1:{two}",
        metrics_address=f"{schemes[2]}://127.0.0.1:{three}",
        **more,
    )


@contextlib.contextmanager
def running(
    config: GatewaySettings, authority: Authority, log: Path
) -> Iterator[tuple[Served, Broker, httpx2.Client]]:
    broker = Broker(config.broker_address)
    served = Served(config, log)
    client = httpx2.Client(verify=authority.trust, timeout=20)

    def is_up() -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return client.get(config.management_address + "/readyz").status_code == 200
        assert served.process.poll() is None, log.read_text()
        return False

    try:
        eventually(is_up)
        yield served, broker, client
    finally:
        client.close()
        if served.process.poll() is None:
            served.stop()
        broker.stop()


def raw(address: str, request: bytes) -> http.client.HTTPResponse:
    """Send plain bytes and read an answer."""
    host, _, port = address.partition("://")[2].partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(request)
        response = http.client.HTTPResponse(client)
        response.begin()
        response.body = response.read()  # type: ignore[attr-defined]
    return response


@pytest.mark.integration
def test_all_three_ports_speak_tls_from_pem_files(authority: Authority, tmp_path: Path) -> None:
    config = settings(
        tmp_path,
        ("https", "https", "https"),
        **authority.pem,
    )
    with running(config, authority, tmp_path / "log") as (served, _, client):
        for address in (config.inference_address, config.management_address, config.metrics_address):
            assert client.options(address + "/").json()["openapi"] == "3.0.1"
        body = b"x" * 1_000_000
        answer = client.post(config.inference_address + "/predictions/m", content=body)
        assert (answer.status_code, answer.content == body) == (200, True)
        assert answer.headers["connection"] == "keep-alive"
        assert served.stop() == 0
        assert "ERROR" not in served.log.read_text()


@pytest.mark.integration
def test_http_and_https_stand_side_by_side_from_a_keystore(authority: Authority, tmp_path: Path) -> None:
    config = settings(tmp_path, ("https", "http", "http"), keystore=str(authority.keystore))
    with running(config, authority, tmp_path / "log") as (_, _, client):
        assert client.get(config.inference_address + "/ping").json() == {"status": "Healthy"}
        assert client.get(config.metrics_address + "/api-description").status_code == 200
        with pytest.raises(httpx2.TransportError):
            client.get(config.management_address.replace("http:", "https:") + "/models")


@pytest.mark.integration
def test_plain_http_where_tls_is_spoken_is_told_so(authority: Authority, tmp_path: Path) -> None:
    config = settings(
        tmp_path, ("https", "http", "http"), keystore=str(authority.keystore), cors_allowed_origin="*"
    )
    with running(config, authority, tmp_path / "log") as (_, broker, client):
        request = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        response = raw(config.inference_address, request)
        assert (response.status, json.loads(response.body)) == (403, REFUSED)  # type: ignore[attr-defined]
        headers = {name.lower(): value for name, value in response.getheaders()}
        assert headers["content-type"] == "application/json"
        assert (headers["connection"], headers["pragma"]) == ("close", "no-cache")
        assert headers["access-control-allow-origin"] == "*"
        assert "x-request-id" not in headers
        assert broker.jobs() == []
        assert client.get(config.inference_address + "/ping").status_code == 200


@pytest.mark.integration
def test_clients_that_say_nothing_or_nonsense_stop_neither_the_others_nor_the_end(
    authority: Authority, tmp_path: Path
) -> None:
    config = settings(tmp_path, ("https", "http", "http"), keystore=str(authority.keystore))
    host, _, port = config.inference_address.removeprefix("https://").partition(":")
    with (
        running(config, authority, tmp_path / "log") as (served, _, client),
        contextlib.ExitStack() as open_ones,
    ):
        for said in (b"", b"\x16", b"\x16\x03\x01\x00\x05nonsense", b"\x00\x00"):
            one = open_ones.enter_context(socket.create_connection((host, int(port)), timeout=10))
            one.sendall(said)
        with socket.create_connection((host, int(port)), timeout=10):
            pass  # gone at once
        assert client.get(config.inference_address + "/ping").status_code == 200
        assert served.stop() == 0
        assert "Traceback" not in served.log.read_text()


@pytest.mark.integration
def test_a_client_that_leaves_over_tls_is_told_to_the_broker(authority: Authority, tmp_path: Path) -> None:
    config = settings(tmp_path, ("https", "http", "http"), keystore=str(authority.keystore))
    host, _, port = config.inference_address.removeprefix("https://").partition(":")
    with running(config, authority, tmp_path / "log") as (_, broker, _):
        leaving = http.client.HTTPSConnection(host, int(port), context=authority.trust, timeout=10)
        leaving.request("POST", "/predictions/silent", b"x")
        eventually(broker.jobs)
        leaving.close()
        eventually(lambda: [message for message in broker.seen if type(message).__name__ == "Cancel"])


@pytest.mark.integration
def test_https_without_a_certificate_is_refused_in_one_line(tmp_path: Path) -> None:
    served = Served(settings(tmp_path, ("http", "https", "http")), tmp_path / "log")
    assert served.process.wait(20) == 1
    (line,) = served.log.read_text().splitlines()
    assert "needs certificate_file and private_key_file (PEM), or keystore (PKCS12)" in line


def test_a_keystore_opens_with_its_password(authority: Authority) -> None:
    authority.keystore.write_bytes(authority.packed(b"other"))
    config = GatewaySettings(keystore=str(authority.keystore), keystore_pass="other")
    assert certificates.context(config).minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_keystore_may_have_no_password(authority: Authority) -> None:
    authority.keystore.write_bytes(authority.packed(b""))
    certificates.context(GatewaySettings(keystore=str(authority.keystore), keystore_pass=""))


def test_pem_files_go_before_a_keystore(authority: Authority) -> None:
    config = GatewaySettings(keystore="/nowhere", **authority.pem)
    certificates.context(config)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"keystore_pass": "wrong"}, "keystore_pass"),
        ({"keystore": "/nowhere.p12"}, "keystore=/nowhere.p12 can't be read"),
        ({"keystore": __file__}, "must be PKCS12"),
        ({"keystore": None}, "needs certificate_file"),
        ({"certificate_file": "/nowhere.pem", "private_key_file": __file__}, "there is no such file"),
        ({"certificate_file": __file__, "private_key_file": __file__}, "both must be PEM"),
    ],
)
def test_key_material_that_is_no_good_is_told_in_words(
    authority: Authority, changed: dict[str, Any], said: str
) -> None:
    config = msgspec.structs.replace(GatewaySettings(keystore=str(authority.keystore)), **changed)
    with pytest.raises(SettingsError, match=said):
        certificates.context(config)


def test_a_key_with_a_password_is_refused_and_not_asked_for(authority: Authority) -> None:
    key = pem.load_pem_private_key(authority.key.read_bytes(), None)
    authority.key.write_bytes(
        key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"secret"))
    )
    config = GatewaySettings(**authority.pem)
    with pytest.raises(SettingsError, match="must have no password"):
        certificates.context(config)


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["pem", "keystore"])
def test_a_weak_certificate_as_torchserve_took_it_is_served_with_a_warning(
    authority: Authority, tmp_path: Path, kind: str
) -> None:
    authority.weaken()
    material = {"keystore": str(authority.keystore)}
    if kind == "pem":
        material = authority.pem
    config = settings(tmp_path, ("https", "http", "http"), **material)
    with running(config, authority, tmp_path / "log") as (served, _, _):
        assert httpx2.get(config.inference_address + "/ping", verify=False).status_code == 200
        eventually(lambda: "gateway.weak_certificate reason=EE_KEY_TOO_SMALL" in served.log.read_text())


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """Shake hands in memory; return the client's side. Raises SSLError where there is no way."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert theirs.version() is not None
    return theirs


def client_of(authority: Authority, ciphers: str, version: ssl.TLSVersion) -> ssl.SSLContext:
    made = ssl.create_default_context(cadata=None)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.maximum_version = version
    if ciphers:
        made.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    return made


@pytest.mark.parametrize("is_weak", [False, True])
@pytest.mark.parametrize(
    "ciphers",
    [
        "AES128-SHA256",
        "AES128-GCM-SHA256",
        "AES256-SHA",
        "ECDHE+AES+SHA1",
        "ECDHE+AES+SHA256",
        "ECDHE+AES+SHA384",
        "DHE+AESGCM",
        "DHE+AES+SHA256",
        "ECDHE+AESCCM",
        "ECDHE+CAMELLIA",
    ],
)
def test_tls_1_2_is_spoken_with_keys_of_the_connections_own_and_aead_alone(
    authority: Authority, ciphers: str, is_weak: bool
) -> None:
    if is_weak:
        authority.weaken()
    server = certificates.context(GatewaySettings(**authority.pem))
    with pytest.raises(ssl.SSLError):
        shake_hands(server, client_of(authority, ciphers, ssl.TLSVersion.TLSv1_2))


#: What Java 8 offers first of what is left, and the choices of curl and Python.
@pytest.mark.parametrize("ciphers", ["ECDHE+AES128+AESGCM", "ECDHE+AES256+AESGCM", "ECDHE+CHACHA20", ""])
def test_clients_of_the_last_ten_years_find_a_cipher(authority: Authority, ciphers: str) -> None:
    server = certificates.context(GatewaySettings(**authority.pem))
    assert shake_hands(server, client_of(authority, ciphers, ssl.TLSVersion.TLSv1_2)).version() == "TLSv1.2"
    assert shake_hands(server, client_of(authority, "", ssl.TLSVersion.TLSv1_3)).version() == "TLSv1.3"


def test_no_client_negotiates_anew(authority: Authority) -> None:
    server = certificates.context(GatewaySettings(**authority.pem))
    assert server.options & ssl.OP_NO_RENEGOTIATION
    assert server.options & ssl.OP_NO_COMPRESSION


@pytest.mark.integration
def test_who_does_not_read_over_tls_is_cut_and_who_does_gets_it_all(
    authority: Authority, tmp_path: Path
) -> None:
    config = settings(
        tmp_path,
        ("https", "http", "http"),
        **authority.pem,
        client_stall_s=2.0,
        client_least_rate=10_000,
    )
    with running(config, authority, tmp_path / "log") as (served, _, client):
        body = b"x" * 3_000_000
        lazy = dial(served, window_bytes=4096)
        with authority.trust.wrap_socket(lazy, server_hostname="localhost") as wrapped:
            wrapped.sendall(
                b"POST /predictions/m HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
                + body
            )
            answer = client.post(config.inference_address + "/predictions/m", content=body)
            assert (answer.status_code, answer.content == body) == (200, True)
            eventually(lambda: is_cut(wrapped), within_s=20)


@pytest.mark.integration
def test_handshakes_that_stand_still_are_bounded_however_many_begin_at_once(
    authority: Authority, tmp_path: Path
) -> None:
    config = settings(
        tmp_path,
        ("https", "http", "http"),
        **authority.pem,
        connection_limit=64,
    )
    with running(config, authority, tmp_path / "log") as (served, _, client), contextlib.ExitStack() as stack:
        halves = []
        for _ in range(200):
            halves.append(stack.enter_context(dial(served)))
            halves[-1].sendall(b"\x16")
        # Well before each of them has used up its own time.
        eventually(lambda: sum(not is_cut(half) for half in halves) <= 64 // 8, within_s=10)
        assert client.post(config.inference_address + "/predictions/m", content=b"x").status_code == 200
