"""What patterns of allowed_urls allow, and which hosts they name."""

import itertools
import re
import subprocess
import sys
import threading
from itertools import pairwise

import pytest

from torchrelay.broker.archives.allowed_urls import MATCH_LIMIT_S, _in_one_way, is_allowed, is_host_named
from torchrelay.broker.models.origins import BadUrl, UnreadableUrl, parse, parse_http
from torchrelay.shared import clock
from torchrelay.shared.settings import BrokerSettings

DEFAULT = BrokerSettings(state_dir="/nowhere").allowed_urls
TRUSTED = r"https?://.*\.trusted\.example/.*"


def allowed(url: str, patterns: list[str]) -> bool:
    origin = parse(url)
    if isinstance(origin, UnreadableUrl):
        raise BadUrl(origin.why)
    return is_allowed(origin, patterns)


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        (DEFAULT[0], "https://host/m.mar"),
        (DEFAULT[0], "file:///m.mar"),
        (".*", "http://host/m.mar"),
        ("https://s3.amazonaws.com/.*", "https://S3.amazonaws.com/bucket/m.mar?X-Amz-Signature=0"),
        (TRUSTED, "http://a.trusted.example/m.mar"),
        ("https?://.*/models/.*", "http://host/a/models/m.mar"),
        (r"^https://[^/]+\.trusted\.example(:\d+)?/.*$", "https://a.trusted.example:8443/m.mar"),
        (r"(https://a\.example/|https://b\.example/).*", "https://b.example/m.mar"),
        (r"https://(a|b)\.example/.*", "https://b.example/m.mar"),
        (r"https:\/\/a\.example\/.*", "https://a.example/m.mar"),
        (r"https://[]/[]a\.example/.*", "https://[::1]/m.mar"),
        ("http://a.example.*", "http://a.example/m.mar"),
        ("file:///models/.*", "file:///models/m.mar"),
        ("file:///models/.*", "file:///%6dodels/m.mar"),
        ("s3://bucket/.*", "S3://bucket/m.mar"),
    ],
)
def test_patterns_allow_what_they_allow_in_torchserve(pattern: str, url: str) -> None:
    assert allowed(url, [pattern]) is (pattern != r"https://[]/[]a\.example/.*")


@pytest.mark.parametrize(
    "url",
    [
        "http://evil#.trusted.example/",
        "http://evil?.trusted.example/",
        "http://evil/.trusted.example/",
        "http://evil/https://a.trusted.example/",
        "http://a.trusted.example.evil/",
        "http://a.trusted.example:80.evil/",
    ],
)
def test_no_url_borrows_a_trusted_host_in_another_place(url: str) -> None:
    try:
        assert not allowed(url, [TRUSTED])
        assert not allowed(url, [f"{TRUSTED}|ftp://.*"])
    except BadUrl:
        pass


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("http://10.0.0.5/.*", "http://10.0.0.5/m.mar"),
        (r"http://10\.0\.0\.5(:\d+)?/.*", "http://10.0.0.5:90/m.mar"),
        (r"https?://MinIO:(9000|9001)/.*", "http://minio:9000/m.mar"),
        ("http://minio:.*", "http://minio:9000/m.mar"),
        (r"http://\[::1\](?::[0-9]+)?/.*", "http://[::1]:80/m.mar"),
        ("http://other/.*|http://my-store.internal/.*", "http://my-store.internal/m.mar"),
    ],
)
def test_a_pattern_that_spells_a_host_names_it(pattern: str, url: str) -> None:
    assert is_host_named(parse_http(url), [pattern])


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        (DEFAULT[0], "http://10.0.0.5/m.mar"),
        (".*", "http://10.0.0.5/m.mar"),
        ("https?://.*", "https://http/m.mar"),
        ("https?://[^/]*/m.mar", "https://s/m.mar"),
        (".*minio.*", "http://minio/m.mar"),
        ("http://minio.*", "http://minio/m.mar"),
        ("http://minio.?/.*", "http://minio/m.mar"),
        (r"http://10\..*", "http://10.0.0.5/m.mar"),
        (r"http://10\.0\.0\.\d+/.*", "http://10.0.0.5/m.mar"),
        ("http://models.internal/.*", "http://modelsxinternal/m.mar"),
        ("http://.*:9000/.*", "http://minio:9000/m.mar"),
        ("http://minio/private/.*", "http://minio/m.mar"),
    ],
)
def test_a_pattern_that_fits_other_hosts_too_names_none(pattern: str, url: str) -> None:
    assert not is_host_named(parse_http(url), [pattern])


@pytest.mark.parametrize(
    ("pattern", "host"),
    [
        (r"https://.*\.example\.com/.*/models/.*/v1/.*/models/.*/v1/.*\.mar", "h.example.com"),
        (r"https://.*a/.*a/.*a/.*a/.*a/.*a/.*\.mar", "a"),
        (r"https?://h/.*?a.*?[a/]/.*(?:/a|a/).*aa.*aa.*!", "h"),
    ],
)
def test_a_url_made_for_a_pattern_of_many_wildcards_is_matched_at_once(pattern: str, host: str) -> None:
    urls = [f"https://{host}/{repeated * 4000}"[:8000] for repeated in ("a/", "/models/v1/", "/a")]
    # Another process can be ended: a match lets no thread of its own run.
    code = "import sys; from torchrelay.broker.archives.allowed_urls import is_allowed; "
    code += "from torchrelay.broker.models.origins import parse; "
    code += "[is_allowed(parse(url), [sys.argv[1]]) for url in sys.argv[2:]]"
    subprocess.run([sys.executable, "-c", code, pattern, *urls], timeout=60, check=True)


def test_a_url_made_for_a_pattern_of_groups_is_refused_in_time_and_holds_no_thread_up() -> None:
    ticks = [clock.monotonic()]
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.01):
            ticks.append(clock.monotonic())

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        with pytest.raises(BadUrl, match="takes more than 1 s"):
            allowed("https://h/" + "a" * 8000, ["https://h/(a|aa)+c"])
    finally:
        done.set()
        thread.join()
    assert len(ticks) > 1
    assert max(after - before for before, after in pairwise(ticks)) < MATCH_LIMIT_S / 2


@pytest.mark.parametrize(
    "pattern",
    [
        "a.*b.*c.*d", ".*ab.*ba.*", "a.*.*b.*", "(a|ab).*(b|c).*?[cd].*", "a.*b?.*c.*d", r"(a).*b.*\1.*",
        "a.*b|c.*d.*a|b",
        "[.*a].*b.*[^.*a]", "a.*+b.*c.*", "a.*b(?=c).*d.*", "a.*bb.*(?:cd|dc).*", "a.*b.*b.*b",
    ],
)  # fmt: skip
def test_patterns_of_many_wildcards_fit_what_they_always_did(pattern: str) -> None:
    for length in range(7):
        for letters in itertools.product("abcd", repeat=length):
            text = "".join(letters)
            assert bool(re.fullmatch(_in_one_way(pattern), text)) is bool(re.fullmatch(pattern, text)), text
