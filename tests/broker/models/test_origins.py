"""Urls are read in one way, and what others might read in another is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.broker.models import origins


@pytest.mark.parametrize(
    ("url", "matched"),
    [
        ("http://evil#.trusted.example/", "http://evil/"),
        ("http://evil?.trusted.example/x", "http://evil/?.trusted.example/x"),
        ("HTTPS://Trusted.EXAMPLE:443/A?B#c", "https://trusted.example/A?B"),
        ("http://trusted.example.:8080", "http://trusted.example:8080/"),
        ("http://模.example/模 a.mar", "http://xn--vcw.example/模 a.mar"),
        ("http://10.0.0.5/%62%2F%20", "http://10.0.0.5/b%2F%20"),
        ("http://[0:0::FFFF:127.0.0.1]:80/", "http://[::ffff:7f00:1]/"),
        ("http://minio_1:9000/b", "http://minio_1:9000/b"),
        ("http:///none.mar", "http:///none.mar"),
        ("FILE:///a%20b/%65?x#y", "file:///a%20b/e"),
        ("file://localhost/m.mar", "file:///m.mar"),
        ("S3://Bucket/a#b", "s3://Bucket/a#b"),
        ("abfs://c@account.dfs.core.windows.net/m.mar", "abfs://c@account.dfs.core.windows.net/m.mar"),
    ],
)
def test_a_url_is_matched_as_it_is_asked_for(url: str, matched: str) -> None:
    origin = origins.parse(url)
    assert not isinstance(origin, origins.UnreadableUrl)
    assert origin.matched == matched


@pytest.mark.parametrize(
    "url",
    [
        "http://trusted.example@127.0.0.1/",
        "http://@127.0.0.1/",
        "http://user:word@host/",
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.01/",
        "http://127.0.0.0x1/",
        "http://1.2.3.4.5/",
        "http://１２７.0.0.1/",
        "http://①②⑦.0.0.1/",
        "http://127。0。0。1/",
        "http://ｌｏｃａｌｈｏｓｔ/",
        "http://faß.example/",
        "http://[::1%25lo]/",
        "http://[::1%lo]/",
        "http://[::1/",
        "http://::1/",
        "http://[127.0.0.1]/",
        "http://host:/",
        "http://host:0/",
        "http://host:65536/",
        "http://host:٨٠/",
        "http://host:+80/",
        "http://host:80:80/",
        "http://a\\b/",
        "http://evil\\@trusted.example/",
        "http://a b/",
        "http://%31%32%37.0.0.1/",
        "http://a..b/",
        f"http://{'a' * 64}/",
        f"http://{'a.' * 127}aa/",
        "http://host/\n",
        "http://ho\tst/",
        "http://host/\0",
        "http://host/a\x1b[2J",
        "http://host/\ud800",
        "http://host/a/../b",
        "http://host/a/%2e%2E/b",
        "http://host/" + "a" * origins.URL_LIMIT_CHARS,
        "file://host/m.mar",
        "file://m.mar",
        "file:///m\n.mar",
        "s3://b/m\r\n.mar",
        "abfs://c@evil.example\\.dfs.core.windows.net/m.mar",
        "gs://b?x/m.mar",
        "gs://b%2Fx/m.mar",
    ],
)
def test_what_others_might_read_in_another_way_is_refused(url: str) -> None:
    origin = origins.parse(url)
    assert isinstance(origin, origins.UnreadableUrl)
    assert origin.why


@given(st.text(alphabet="htps:/@#?[]%.\\0x7f1 a模。１\n", max_size=40).map(lambda rest: f"http://{rest}"))
def test_what_was_rebuilt_is_read_as_the_same_again(url: str) -> None:
    try:
        parsed = origins.parse_http(url)
    except origins.BadUrl:
        return
    again = origins.parse_http(str(parsed))
    assert (again.scheme, again.host, again.port) == (parsed.scheme, parsed.host, parsed.port)
    assert not set(parsed.authority) & set("@#?%\\ /")


@pytest.mark.parametrize(
    ("location", "url"),
    [
        (b"/m.mar", "http://host:90/m.mar"),
        (b"//other/m.mar", "http://other/m.mar"),
        (b"?x", "http://host:90/a/b?x"),
        (b"HTTP://evil\\@trusted/", "http://evil%5C@trusted/"),
        (b"", "http://host:90/a/b"),
    ],
)
def test_a_redirect_leads_where_browsers_would_go(location: bytes, url: str) -> None:
    assert origins.join(origins.parse_http("http://host:90/a/b"), location) == url


def test_an_origin_is_a_host_whatever_the_port_and_a_bucket() -> None:
    assert origins.parse("http://Host:1/a").source == origins.parse("https://host/b").source == "host"
    assert origins.parse("s3://b/a").source == origins.parse("s3://b/c").source == "s3://b"
    assert origins.parse("file:///a").source == origins.parse("file:///b").source == "file://"
    assert origins.parse("http://a@b/").source == ""


def test_an_archive_that_is_here_is_an_origin_by_whatever_path_it_is_named() -> None:
    assert (
        origins.parse("m.mar").source
        == origins.parse("/store/%6d.mar").source
        == origins.parse("x/m.mar").source
        == "m.mar"
    )
    assert origins.parse("other.mar").source == "other.mar"
