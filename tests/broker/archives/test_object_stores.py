"""Archives in S3, as moto plays it on loopback, and in whatever fsspec opens."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import httpx2
import pytest
from moto.server import ThreadedMotoServer

from tests.broker.archives.test_store import prepare, write_mar
from tests.broker.cable import Cable
from torchrelay.broker.archives.download import download
from torchrelay.broker.archives.object_stores import fetch, fsspec_chunks, signed_headers
from torchrelay.broker.archives.store import ArchiveStore, set_aside_download
from torchrelay.broker.models.origins import ObjectStore, parse, parse_http
from torchrelay.shared.errors import DownloadFailed, ModelNotFound
from torchrelay.shared.settings import BrokerSettings

CONTENT = bytes(range(256)) * 8192  # two chunks
ALLOW_S3 = (
    """{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}"""
)


@pytest.fixture(scope="module")
def moto() -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


class Bucket:
    """The bucket `b-1` behind a cable, and the keys of somebody who may read it."""

    def __init__(self, port: int) -> None:
        self.cable = Cable(port)
        self._direct = f"http://127.0.0.1:{port}"
        httpx2.post(f"{self._direct}/moto-api/reset")
        self._post_auth(b"inf")
        iam = self._client("iam", "root", "root")
        iam.create_user(UserName="reader")
        iam.put_user_policy(UserName="reader", PolicyName="p", PolicyDocument=ALLOW_S3)
        made = iam.create_access_key(UserName="reader")["AccessKey"]
        self.key, self.secret = made["AccessKeyId"], made["SecretAccessKey"]
        self._s3 = self._client("s3", self.key, self.secret)
        self._s3.create_bucket(Bucket="b-1")
        self._post_auth(b"0")  # from now on keys and signatures are checked

    def put(self, key: str, body: bytes, **more: Any) -> None:  # Any: put_object's own fields
        self._s3.put_object(Bucket="b-1", Key=key, Body=body, **more)

    def close(self) -> None:
        self._post_auth(b"inf")
        self._s3.close()
        self.cable.close()

    def _post_auth(self, count: bytes) -> None:
        httpx2.post(f"{self._direct}/moto-api/reset-auth", content=count)

    def _client(self, service: str, key: str, secret: str) -> Any:  # Any: boto3 makes its classes
        return boto3.client(
            service, endpoint_url=self._direct, region_name="us-east-1", aws_access_key_id=key,
            aws_secret_access_key=secret,
        )  # fmt: skip


@pytest.fixture
def bucket(moto: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    made = Bucket(moto.get_host_and_port()[1])
    for name, value in {
        "AWS_ACCESS_KEY_ID": made.key,
        "AWS_SECRET_ACCESS_KEY": made.secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{made.cable.address}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()


@contextlib.contextmanager
def origin_of_redirects(target: str) -> Iterator[tuple[str, list[bytes]]]:
    """Serve one redirect; give the address, and the head of the request."""
    heads: list[bytes] = []

    def serve() -> None:
        near, _ = listener.accept()
        with near:
            heads.append(near.recv(65536))
            near.sendall(f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", heads
        thread.join(5)


def allowing(*patterns: str, **changes: Any) -> BrokerSettings:  # Any: BrokerSettings' own fields
    return BrokerSettings(
        **{"state_dir": "/nowhere", "allowed_urls": patterns, "download_timeout_s": 2.0, **changes}
    )


def fetch_url(url: str, target: Path, settings: BrokerSettings, is_cancelled: Callable[[], bool]) -> None:
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")  # some of these are refused before they come here
    fetch(ObjectStore(url, "", url, scheme.lower(), bucket, key), target, settings, is_cancelled)


def fetched(url: str, tmp_path: Path, **changes: Any) -> bytes:  # Any: as above
    fetch_url(url, tmp_path / "out", allowing("s3://.*", **changes), lambda: False)
    return (tmp_path / "out").read_bytes()


def why_not(url: str, tmp_path: Path, **changes: Any) -> str:  # Any: as above
    with pytest.raises(DownloadFailed, match="Failed to download archive from: ") as caught:
        fetched(url, tmp_path, **changes)
    return caught.value.message


def test_an_object_is_fetched_whole_also_one_that_kms_encrypted(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("folder/m.mar", CONTENT)
    bucket.put("secret.mar", CONTENT[::-1], ServerSideEncryption="aws:kms", SSEKMSKeyId="k")
    assert fetched("s3://b-1/folder/m.mar", tmp_path) == CONTENT
    assert fetched("S3://b-1/secret.mar", tmp_path) == CONTENT[::-1]


def test_an_archive_in_s3_is_registered_once_its_urls_are_allowed(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    bucket.put("folder/m.mar", write_mar(tmp_path / "m.mar").read_bytes())
    settings = allowing("s3://b-1/.*", state_dir=str(tmp_path), model_store=str(tmp_path / "models"))
    store = ArchiveStore(tmp_path / "archives")
    assert prepare("s3://b-1/folder/m.mar", store, settings).model_name == "m"
    assert (tmp_path / "models" / "m.mar").is_file()
    assert set_aside_download(parse("s3://b-1/folder/m.mar"), settings)
    with pytest.raises(ModelNotFound, match=r"Model not found at: s3://other/m\.mar"):
        prepare("s3://other/m.mar", store, settings)


def test_by_default_no_store_is_asked(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("m.mar", CONTENT)
    settings = BrokerSettings(state_dir=str(tmp_path), model_store=str(tmp_path))
    for scheme in ("s3", "gs", "az", "abfs", "hf"):
        with pytest.raises(ModelNotFound, match="Model not found at"):
            prepare(f"{scheme}://b-1/m.mar", ArchiveStore(tmp_path / "archives"), settings)
    assert bucket.cable.heads == []


def test_wrong_credentials_and_none_are_told_apart(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("m.mar", CONTENT)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "403 SignatureDoesNotMatch" in why_not("s3://b-1/m.mar", tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert "403 InvalidAccessKeyId" in why_not("s3://b-1/m.mar", tmp_path)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "credentials" in why_not("s3://b-1/m.mar", tmp_path)


def test_what_is_not_there_is_named(bucket: Bucket, tmp_path: Path) -> None:
    assert "404 NoSuchKey" in why_not("s3://b-1/nosuch.mar", tmp_path)
    assert "404 NoSuchBucket" in why_not("s3://b-2/m.mar", tmp_path)


@pytest.mark.parametrize(
    "url", ["s3://", "s3://b-1", "s3://b-1/", "s3:///m.mar", "s3://B@d/m.mar", "s3://a:1/m.mar"]
)
def test_urls_that_name_no_object_are_refused(bucket: Bucket, tmp_path: Path, url: str) -> None:
    assert "s3://BUCKET/KEY" in why_not(url, tmp_path)
    assert bucket.cable.heads == []


def test_a_broken_connection_is_taken_up_again_where_it_broke(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("m.mar", CONTENT)
    bucket.cable.cut_after(1_500_000)
    assert fetched("s3://b-1/m.mar", tmp_path) == CONTENT
    resumed = bucket.cable.heads[-1].lower()
    assert b"range: bytes=" in resumed
    assert b"if-match: " in resumed


def test_an_object_that_is_changed_while_it_is_read_is_no_archive(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("m.mar", CONTENT)
    bucket.cable.cut_after(1_500_000, lambda: bucket.put("m.mar", CONTENT[::-1]))
    assert "changed while it was read" in why_not("s3://b-1/m.mar", tmp_path)


def test_a_store_that_stalls_is_given_up(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("m.mar", CONTENT)
    for before_silence in (0, 20_000):
        bucket.cable.heads.clear()
        bucket.cable.stall_after(before_silence)
        assert "timeout" in why_not("s3://b-1/m.mar", tmp_path, download_timeout_s=0.2).lower()
        assert len(bucket.cable.heads) == 1, (
            "a silence of download_timeout_s is a failure, not one of several"
        )


def test_a_store_that_breaks_off_again_and_again_is_given_up(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("m.mar", CONTENT)

    def once_more() -> None:
        bucket.cable.cut_after(20_000, once_more)

    once_more()
    assert "broke off 6 times" in why_not("s3://b-1/m.mar", tmp_path)


@pytest.mark.parametrize("before_end", [0, 20_000])
def test_a_broken_download_is_not_taken_up_again_when_the_broker_stops(
    bucket: Bucket, tmp_path: Path, before_end: int
) -> None:
    bucket.put("m.mar", CONTENT)
    bucket.cable.heads.clear()
    stops = threading.Event()
    bucket.cable.cut_after(before_end, stops.set)
    with pytest.raises(DownloadFailed) as caught:
        fetch_url("s3://b-1/m.mar", tmp_path / "out", allowing("s3://.*"), stops.is_set)
    assert "the broker stops" in str(caught.value)
    assert len(bucket.cable.heads) == 1


def test_a_store_that_is_not_there_is_given_up(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert "connect" in why_not("s3://b-1/m.mar", tmp_path).lower()


def test_an_object_above_the_limit_is_stopped(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("m.mar", CONTENT)
    with pytest.raises(DownloadFailed) as caught:
        fetched("s3://b-1/m.mar", tmp_path, download_limit_bytes=1000)
    assert "download_limit_bytes" in caught.value.details


def test_an_https_url_is_signed_if_kms_encrypted_what_it_names_and_else_not(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.put("m.mar", CONTENT, ServerSideEncryption="aws:kms", SSEKMSKeyId="k")
    url, target = f"http://{bucket.cable.address}/b-1/m.mar", tmp_path / "out"
    with pytest.raises(DownloadFailed):
        download(parse_http(url), target, allowing(f"http://{bucket.cable.address}/.*"))
    assert b"authorization" not in bucket.cable.heads[-1].lower()
    download(parse_http(url), target, allowing(f"http://{bucket.cable.address}/.*"), sign=signed_headers)
    assert target.read_bytes() == CONTENT
    head = bucket.cable.heads[-1].lower()
    assert b"authorization: aws4-hmac-sha256 credential=" in head
    assert b"x-amz-content-sha256: " in head
    assert b"x-amz-date: " in head


def test_a_signed_url_still_needs_leave(bucket: Bucket, tmp_path: Path) -> None:
    settings = BrokerSettings(state_dir=str(tmp_path), model_store=str(tmp_path))
    with pytest.raises(DownloadFailed) as refused:
        prepare(
            f"http://{bucket.cable.address}/b-1/m.mar",
            ArchiveStore(tmp_path / "a"),
            settings,
            s3_sse_kms=True,
        )
    assert "is a private address" in refused.value.details
    assert bucket.cable.heads == []


def test_the_region_is_that_of_amazons_host_before_the_operators(bucket: Bucket) -> None:
    for host, region in {
        "b.s3.eu-west-1.amazonaws.com": "eu-west-1",
        "s3.ap-southeast-2.amazonaws.com": "ap-southeast-2",
        "b.s3-us-west-2.amazonaws.com": "us-west-2",
        "b.s3-fips.dualstack.us-gov-west-1.amazonaws.com": "us-gov-west-1",
        "a-1.s3-accesspoint.eu-west-1.amazonaws.com": "eu-west-1",
        "bucket.vpce-1a2b-3c.s3.us-east-2.vpce.amazonaws.com": "us-east-2",
        "s3.cn-north-1.amazonaws.com.cn": "cn-north-1",
        "b.s3.amazonaws.com": "us-east-1",
    }.items():
        signature = dict(signed_headers(parse_http(f"https://{host}/b/m.mar")))[b"Authorization"]
        assert f"/{region}/s3/aws4_request".encode() in signature


def test_nobody_but_s3_is_sent_a_signature(bucket: Bucket) -> None:
    for url in (
        "http://b.s3.eu-west-1.amazonaws.com/m.mar",
        "https://b.s3.eu-west-1.amazonaws.com:8443/m.mar",
        "https://evil.example/m.mar",
        "https://b.s3.amazonaws.com.evil.example/m.mar",
        "https://evils3.amazonaws.com/m.mar",
        "https://s3.evil.execute-api.us-east-1.amazonaws.com/m.mar",
        "https://s3.us-east-1.elb.amazonaws.com/m.mar",
        "https://b.s3-website.us-east-1.amazonaws.com/m.mar",
        "https://127.0.0.1/m.mar",
    ):
        assert signed_headers(parse_http(url)) == [], url


def test_the_operators_endpoint_gets_a_signature_at_its_own_port_and_scheme(bucket: Bucket) -> None:
    host, _, port = bucket.cable.address.partition(":")
    assert dict(signed_headers(parse_http(f"http://{bucket.cable.address}/b/m.mar")))[b"Authorization"]
    for other in (f"https://{bucket.cable.address}", f"http://{host}:{int(port) ^ 1}", f"http://{host}"):
        assert signed_headers(parse_http(f"{other}/b/m.mar")) == []


def test_a_redirect_away_from_s3_is_followed_without_a_signature(bucket: Bucket, tmp_path: Path) -> None:
    with origin_of_redirects(f"http://{bucket.cable.address}/b-1/m.mar") as (address, heads):
        bucket.put("m.mar", CONTENT)
        settings = allowing(f"http://{address}/.*", f"http://{bucket.cable.address}/.*")
        download(parse_http(f"http://{address}/x.mar"), tmp_path / "out", settings, sign=signed_headers)
    assert b"authorization" not in heads[0].lower()
    assert b"authorization" in bucket.cable.heads[-1].lower()


def test_one_store_is_not_opened_through_another(tmp_path: Path) -> None:
    for url in ("gs://b/m.mar::file:///etc/passwd", "hf://x::http://127.0.0.1/m.mar"):
        with pytest.raises(DownloadFailed) as caught:
            fetch_url(url, tmp_path / "out", allowing(".*"), lambda: False)
        assert "not chained" in caught.value.details


def test_without_credentials_nothing_is_signed(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(DownloadFailed) as caught:
        signed_headers(parse_http("https://b.s3.amazonaws.com/m.mar"))
    assert "AWS_ACCESS_KEY_ID" in caught.value.details


@pytest.mark.parametrize(
    ("url", "extra"), [("gs://b/m.mar", "gs"), ("az://b/m.mar", "az"), ("abfss://b/m.mar", "az")]
)
def test_a_store_whose_library_is_missing_names_what_to_install(tmp_path: Path, url: str, extra: str) -> None:
    with pytest.raises(DownloadFailed) as caught:
        fetch_url(url, tmp_path / "out", allowing(".*"), lambda: False)
    assert f"pip install 'torchrelay[{extra}]'" in caught.value.message


def test_fsspec_reads_in_chunks_and_notices_a_change() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/b/m.mar", CONTENT)
    assert b"".join(fsspec_chunks("memory://b/m.mar")) == CONTENT
    chunks = fsspec_chunks("memory://b/m.mar")
    next(chunks)
    memory.pipe("/b/m.mar", CONTENT * 2)
    with pytest.raises(ValueError, match="changed while it was read"):
        list(chunks)
    with pytest.raises(FileNotFoundError):
        list(fsspec_chunks("memory://b/nosuch.mar"))
    memory.rm("/b", recursive=True)
