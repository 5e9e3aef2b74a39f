"""Pages of other sites, and names that were made to lead here, as browsers tell of them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.facts import key
from tests.gateway.fakes import INFERENCE, MANAGEMENT, METRICS, Gateway
from torchrelay.gateway.app import browser_checks
from torchrelay.gateway.http.browsers import HOSTS_REMEMBERED, BrowserCheck
from torchrelay.shared.quoting import QUOTED_LIMIT_CHARS
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import messages

#: What a browser sends with a request that needs no preflight, by who has made its page ask.
FOREIGN = [
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000", "Sec-Fetch-Mode": "cors"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    {"Sec-Fetch-Site": "of-the-future"},
    {"Sec-Fetch-Site": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "https://localhost"},
    {"Origin": "http://localhost"},
    {"Origin": "http://localhost:8099"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://localhost:8080.evil.example"},
    {"Origin": "http://localhost:99999999"},
    {"Origin": "chrome-extension://abcdef"},
]
OWN: list[dict[str, str]] = [
    {},
    {"User-Agent": "curl/8"},
    {"Origin": "http://localhost:{port}"},
    {"Origin": "HTTP://LocalHost:{port}"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:{port}"},
    # A proxy before us has spoken TLS: the browser knows best.
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://localhost"},
    {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
]
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}

#: By which names anybody may ask, wherever a listener is bound.
GOOD_HOSTS = [
    "localhost", "LOCALHOST:8081", "localhost.", "a.b.localhost:1", "127.0.0.1:8080", "127.8.9.1",
    "[::1]:8080", "10.1.2.3:8080", "192.168.0.7", "[fd00::1]", "[fe80::1%eth0]:8080", "0.0.0.0:8080", "",
]  # fmt: skip
BAD_HOSTS = [
    "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost",
    "127.0.0.1:8080:1", "1.2.3", "[::1", "::1", "[evil.example]", "localhost:x", "local\xa0host", "gateway",
    "evil.example\t", "@localhost", "evil.example@localhost", "x" * 4000,
]  # fmt: skip


def replies(ask: Any) -> messages.Message:
    if isinstance(ask, messages.ListModels):
        return messages.ModelsListed(ask.ask, (), None)
    if isinstance(ask, messages.ReadMetrics):
        return messages.MetricsRead(ask.ask, ())
    return messages.HealthRead(ask.ask, True)


def scope(host: str | None, method: str = "GET", **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()}
    if host is not None:
        named[b"host"] = host.encode("latin-1")
    return {"method": method, "scheme": "http", "headers_by_name": named}


def ask(
    config: GatewaySettings, headers: dict[str, str], *, method: str = "GET", host: str = "localhost"
) -> list[int]:
    """Ask each listener for something that it has, with these headers."""
    gateway = Gateway(replies, config=config)
    statuses = []
    for port, path in ((INFERENCE, "/ping"), (MANAGEMENT, "/models"), (METRICS, "/metrics")):
        filled = {name: value.format(port=port) for name, value in headers.items()}
        asked = gateway.ask(port, method, path, headers=filled, host=host)
        statuses.append(asked.status_code)
    return statuses


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_page_of_another_site_gets_nothing_from_any_listener(headers: dict[str, str], method: str) -> None:
    assert ask(GatewaySettings(), headers, method=method) == [403, 403, 403]


@pytest.mark.parametrize("headers", OWN)
def test_people_programs_and_pages_of_our_own_go_on(headers: dict[str, str]) -> None:
    assert ask(GatewaySettings(), headers) == [200, 200, 200]


def test_a_page_registers_nothing_and_its_body_is_nobodys() -> None:
    gateway = Gateway(replies, config=GatewaySettings(enable_model_api=True))
    refused = gateway.manage(
        "POST", "/models?url=http://evil.example/m.mar", headers=FOREIGN[0], body=b"x" * 9
    )
    assert (refused.status_code, refused.json["code"], refused.json["type"]) == (
        403,
        403,
        "ForeignPageException",
    )
    assert "set cors_allowed_origin" in refused.json["message"]
    predicted = gateway.ask(INFERENCE, "POST", "/predictions/m", body=b"x", headers=FOREIGN[0])
    assert predicted.status_code == 403
    assert gateway.link.asked == []
    assert gateway.link.requests == []


def test_a_link_is_followed_where_reading_changes_nothing() -> None:
    assert ask(GatewaySettings(), LINK) == [403, 200, 200]
    assert ask(GatewaySettings(), LINK, method="POST") == [403, 403, 403]
    assert ask(GatewaySettings(), LINK | {"Origin": "null"}) == [403, 403, 403]
    on_one_port = GatewaySettings(management_address="http://127.0.0.1:8080")
    shared = Gateway(replies, config=on_one_port).ask(INFERENCE, "GET", "/models", headers=LINK)
    assert shared.status_code == 403


@pytest.mark.parametrize(
    "allowed", ["https://app.example", "https://APP.example:443", "https://a https://app.example"]
)
def test_a_page_that_cors_lets_in_gets_in_and_no_other(allowed: str) -> None:
    config = GatewaySettings(cors_allowed_origin=allowed)
    page = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    assert ask(config, page | {"Origin": "https://app.example"}) == [200, 200, 200]
    for other in ("http://app.example", "https://app.example:8443", "https://x.app.example", "null", "*"):
        assert ask(config, page | {"Origin": other}) == [403, 403, 403], other
    assert ask(config, page) == [403, 403, 403]


def test_a_star_lets_every_page_in_but_no_name_that_was_made_to_lead_here() -> None:
    config = GatewaySettings(cors_allowed_origin="*")
    for headers in FOREIGN:
        assert ask(config, headers) == [200, 200, 200], headers
    assert ask(config, FOREIGN[0], host="evil.example") == [403, 403, 403]


def test_no_answer_lets_a_page_use_what_a_browser_keeps() -> None:
    config = GatewaySettings(cors_allowed_origin="*", cors_allowed_headers="*")
    gateway = Gateway(replies, config=config)
    answers = [
        gateway.ask(port, "OPTIONS", "/", headers={"Origin": "https://app.example"})
        for port in (INFERENCE, MANAGEMENT, METRICS)
    ]
    assert {answer.headers["access-control-allow-origin"] for answer in answers} == {"*"}
    assert not [answer for answer in answers if "access-control-allow-credentials" in answer.headers]


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_addresses_and_loopbacks_names_are_known_everywhere(host: str) -> None:
    check = BrowserCheck()
    assert check.refusal(scope(host)) is None
    assert check.refusal(scope(host)) is None


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_a_name_that_is_not_ours_is_refused_again_and_again(host: str) -> None:
    check = BrowserCheck()
    for _ in range(2):
        refused = check.refusal(scope(host))
        assert refused is not None
        assert "add it to allowed_hosts" in refused.message
        assert len(refused.message) < 2 * QUOTED_LIMIT_CHARS


def test_who_names_no_host_is_no_browser() -> None:
    assert BrowserCheck().refusal(scope(None)) is None


def test_a_page_of_a_name_that_was_made_to_lead_here_is_refused_though_it_is_same_origin() -> None:
    rebound = scope("evil.example:8081", origin="http://evil.example:8081", sec_fetch_site="same-origin")
    refused = BrowserCheck().refusal(rebound)
    assert refused is not None
    assert "'evil.example:8081'" in refused.message


def test_a_name_is_let_in_by_settings_with_patterns() -> None:
    check = BrowserCheck(("gpu-box",), ("gateway", "*.svc.cluster.local"))
    for host in ("gateway:8082", "GATEWAY.", "a.b.svc.cluster.local", "gpu-box:8080", "Gpu-Box"):
        assert check.refusal(scope(host)) is None, host
    for host in (
        "gateway.evil.example",
        "svc.cluster.local",
        "x.svc.cluster.local.evil.example",
        "gpu-box.lan",
    ):
        assert check.refusal(scope(host)) is not None, host
    check.add_own_name("gpu-box.lan")
    assert check.refusal(scope("gpu-box.lan:8080")) is None


def test_a_star_switches_the_check_of_names_off_and_no_other() -> None:
    check = BrowserCheck(allowed_hosts=("*",))
    for host in BAD_HOSTS:
        assert check.refusal(scope(host)) is None, host
    assert check.refusal(scope("evil.example", sec_fetch_site="cross-site")) is not None


def test_an_own_page_is_one_of_the_name_and_port_that_was_asked_for() -> None:
    check = BrowserCheck(allowed_hosts=("models.example",))
    assert check.refusal(scope("models.example", origin="http://models.example:80")) is None
    assert check.refusal(scope("models.example", origin="http://models.example:81")) is not None
    assert check.refusal(scope("[::1]:8080", origin="http://[::1]:8080")) is None


def test_what_is_remembered_of_hosts_is_bounded() -> None:
    check = BrowserCheck()
    for number in range(3 * HOSTS_REMEMBERED):
        assert check.refusal(scope(f"10.0.0.1:{number}")) is None
    assert len(check._good_hosts) <= HOSTS_REMEMBERED + 1


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=20))
def test_no_header_breaks_the_check(host: str, origin: str, site: str) -> None:
    said = {b"host": host, b"origin": origin, b"sec-fetch-site": site}
    headers = {name: value.encode("utf-8", "replace") for name, value in said.items()}
    BrowserCheck().refusal({"method": "GET", "scheme": "http", "headers_by_name": headers})


def checked(config: GatewaySettings) -> dict[Any, bool]:
    """By listener, whether it may be asked by a strange name."""
    made = browser_checks(config)
    return {listener: check.refusal(scope("gateway:8080")) is None for listener, check in made.items()}


def test_each_listener_has_its_own_names() -> None:
    config = GatewaySettings(
        inference_address="http://gateway:8080",
        management_address="unix:/tmp/m",
        metrics_address="http://[::1]:8082",
    )
    assert checked(config) == {8080: True, "/tmp/m": True, 8082: False}
    app = Gateway(config=config).app
    app.add_own_name("gpu-box")
    assert {check.refusal(scope("gpu-box:8080")) for check in app._checks.values()} == {None}


def test_only_torchserve_is_asked_by_any_name_and_only_where_others_reach_it() -> None:
    outside = GatewaySettings(inference_address="http://0.0.0.0:8080", insecure=True)
    assert checked(outside) == {8080: False, 8081: False, 8082: False}
    torchserve = GatewaySettings(
        inference_address="http://0.0.0.0:8080", insecure=True, any_host_outside=True
    )
    assert checked(torchserve) == {8080: True, 8081: False, 8082: False}


def test_where_keys_are_asked_for_they_are_what_counts() -> None:
    gateway = Gateway(replies, config=GatewaySettings(token_authorization=True))
    gateway.link.says_at_start = [messages.KeysChanged((key("inference", "i-key"),))]
    page = {"Authorization": "Bearer i-key"} | FOREIGN[0]
    assert gateway.ask(INFERENCE, "GET", "/ping", headers=page, host="models.example").status_code == 200


def test_refusals_are_logged_and_not_each(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway(replies)
    for _ in range(5):
        gateway.ask(MANAGEMENT, "GET", "/models", host="evil.example")
    lines = [record for record in caplog.records if record.getMessage() == "gateway.foreign_page"]
    assert 1 <= len(lines) < 5
    assert "evil.example" in lines[0].reason  # type: ignore[attr-defined]
    assert gateway.link.counted == [403] * 5
