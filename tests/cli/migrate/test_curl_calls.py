"""The requests of curl's command lines."""

import shlex

import pytest

from torchrelay.cli.migrate import curl_calls
from torchrelay.cli.migrate.curl_calls import CurlCall, CurlData


def read(command: str) -> list[CurlCall]:
    return curl_calls.read(shlex.split(command))


@pytest.mark.parametrize(
    ("command", "method", "url"),
    [
        ("-sS http://h/ping", "GET", "http://h/ping"),
        ("-sXPOST 'http://h:8081/models?url=a.mar'", "POST", "http://h:8081/models?url=a.mar"),
        ("-T a.jpg h:8080/predictions/m", "PUT", "h:8080/predictions/m"),
        ("http://h/p -d 1", "POST", "http://h/p"),
        ("-X PUT $URL/models/m -o /dev/null", "PUT", "$URL/models/m"),
        ("-G -d a=1 -d b=2 http://h/p", "GET", "http://h/p?a=1&b=2"),
        ("-I http://h/p", "HEAD", "http://h/p"),
        ("--url http://h/p -F a=@b", "POST", "http://h/p"),
        ("--unknown-flag http://h/p", "GET", "http://h/p"),
        ("http://h/p -d -1", "POST", "http://h/p"),
    ],
)
def test_method_and_url_are_curls(command: str, method: str, url: str) -> None:
    [call] = read(command)
    assert (call.method, call.url) == (method, url)


def test_bodies_and_headers_are_curls() -> None:
    [call] = read("http://h/p -H'X-A: b' -u me:pw --json '{}' -A me")
    assert (call.header("content-type"), call.header("x-a")) == ("application/json", "b")
    assert call.header("authorization") == "Basic bWU6cHc="
    assert call.data == (CurlData("--json", "{}"),)
    assert read("http://h/p -d a=1")[0].header("content-type") == curl_calls.FORM_TYPE
    assert read("http://h/p -d a=1 -H 'content-type: text/plain'")[0].header("content-type") == "text/plain"
    assert read("http://h/p -F a=@b.jpg -F c=d")[0].form == ("a=@b.jpg", "c=d")
    assert read("http://h/p -d @a.json")[0].data[0].file == "a.json"
    assert read("http://h/p --data-raw @a.json")[0].data[0].file is None


def test_several_urls_are_several_requests() -> None:
    assert [call.url for call in read("http://h/a http://h/b -s")] == ["http://h/a", "http://h/b"]


def test_what_curl_wouldnt_take_is_a_fault() -> None:
    with pytest.raises(ValueError, match="expected one argument"):
        read("http://h/p -d")
