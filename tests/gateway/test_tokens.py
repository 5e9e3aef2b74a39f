"""Every route of every API asks for its key, and handlers never see one."""

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest

from tests.gateway.facts import facts, key, members_read
from tests.gateway.fakes import INFERENCE, MANAGEMENT, METRICS, FakeLink, Gateway, templates
from torchrelay.gateway import auth
from torchrelay.gateway.api.base_app import App
from torchrelay.gateway.body_reading import BodyReading
from torchrelay.gateway.link import HELD_BACK_LIMIT
from torchrelay.shared import errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import messages
from torchrelay.shared.wire.fields import KeyedApi

KEYS: dict[KeyedApi, str] = {"inference": "i-key", "management": "m-key", "token": "t-key"}
CONFIG = GatewaySettings(
    enable_model_api=True, token_authorization=True, open_inference_protocol=True, insecure=True
)
SHARED = GatewaySettings(
    enable_model_api=True,
    token_authorization=True,
    open_inference_protocol=True,
    management_address="http://127.0.0.1:8080",
)
#: What anybody may call, by TorchServe's rules; probes are ours, and those who probe have no keys.
OPEN = {"/", "/api-description", "/livez", "/readyz", "/metrics", "/metrics/x"}
#: What the management key opens on a port that all APIs share.
MANAGING = ("/models", "/workflows", "/fleet", "/nodes", "/gateways", "/broker", "/readyz/")
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]

FAILED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
NOT_RENEWED = "Token Authentication failed. Token either incorrect, expired, or not provided correctly"


def length(message: str) -> str:
    """The length of a refusal, which is all that HEAD shows of it, and no other answer here has."""
    return str(len(f'{{\n  "code": 400,\n  "type": "InvalidKeyException",\n  "message": "{message}"\n}}\n'))


def replies(ask: Any) -> messages.Message | errors.RelayError:
    match ask:
        case messages.ReadHealth():
            return messages.HealthRead(ask.ask, True)
        case messages.RenewKey():
            return messages.KeyRenewed(ask.ask)
        case messages.ListModels():
            return messages.ModelsListed(ask.ask, (), None)
        case messages.DescribeModel():
            return messages.ModelDescribed(ask.ask, (facts(),))
        case messages.ReadMetrics():
            return messages.MetricsRead(ask.ask, ())
        case messages.ReadMembers():
            return members_read(ask)
    return errors.ModelNotFound("Model not found: x")


def told(expires_in_ms: int | None = None) -> messages.KeysChanged:
    return messages.KeysChanged(tuple(key(api, secret, expires_in_ms) for api, secret in KEYS.items()))


def guarded(config: GatewaySettings = CONFIG, keys: messages.KeysChanged | None = None) -> Gateway:
    gateway = Gateway(replies, config=config)
    gateway.link.says_at_start = [told() if keys is None else keys]
    return gateway


def bearer(api: KeyedApi) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[api]}"}


def paths(app: App) -> list[str]:
    """Every route of an app, with its fields filled in."""
    return [
        path.replace("{target}", "x:predict")
        .replace("{rest:path}", "x")
        .replace("{model}", "x")
        .replace("{version}", "x")
        .replace("{workflow}", "x")
        .replace("{name}", "x")
        .replace("{invitation}", "x")
        .replace("/invocations", "/invocations?model_name=x")
        .replace("/token", "/token?type=inference")
        for path in templates(app)
    ]


def walk(config: GatewaySettings) -> list[tuple[int, str]]:
    gateway_app = Gateway(replies, config=config).app
    routes = [(int(port), path) for port, app in gateway_app._apps.items() for path in paths(app)]  # type: ignore[arg-type]
    elsewhere = [
        (int(port), path)
        for port in gateway_app._apps
        for path in ("/no/such/route", "//models", "/wfpredict/x")
    ]
    return routes + elsewhere


def is_open(port: int, path: str) -> bool:
    return path in OPEN or port == METRICS


@pytest.fixture(scope="module")
def gateway() -> Gateway:
    """One for all requests that leave it as it was."""
    return guarded()


@pytest.mark.parametrize(("port", "path"), [row for row in walk(CONFIG) if not is_open(*row)])
@pytest.mark.parametrize("method", METHODS)
def test_no_route_can_be_called_without_its_key(gateway: Gateway, port: int, path: str, method: str) -> None:
    good = "token" if path.startswith("/token") else "inference" if port == INFERENCE else "management"
    for api in [None, *KEYS]:
        result = gateway.ask(port, method, path, headers=bearer(api) if api else None)
        refused = result.headers.get("content-length") in (length(FAILED), length(NOT_RENEWED))
        assert refused == (api != good), (api, result.status_code, result.text)
        assert result.status_code == 400 or not refused


@pytest.mark.parametrize(("port", "path"), [row for row in walk(SHARED) if not is_open(*row)])
def test_on_a_shared_port_a_route_asks_for_the_key_of_its_own_api(port: int, path: str) -> None:
    gateway = guarded(SHARED)
    answers = {api: gateway.ask(port, "GET", path, headers=bearer(api)).text for api in KEYS}
    opened_by = [api for api, answer in answers.items() if "InvalidKeyException" not in answer]
    managing = path.startswith(MANAGING) and not path.endswith("/invoke")
    assert opened_by == ["token" if path.startswith("/token") else "management" if managing else "inference"]


@pytest.mark.parametrize("config", [CONFIG, SHARED])
def test_what_anybody_may_call_needs_no_key(config: GatewaySettings) -> None:
    gateway = guarded(config)
    for port, path in walk(config):
        if is_open(port, path):
            assert "InvalidKeyException" not in gateway.ask(port, "OPTIONS", path).text, path


def test_a_refusal_is_torchserves_400_whole() -> None:
    result = guarded().ask(INFERENCE, "POST", "/predictions/m", body=b"x")
    assert result.status_code == 400
    assert result.json == {"code": 400, "type": "InvalidKeyException", "message": FAILED}
    assert "www-authenticate" not in result.headers


def test_the_check_comes_before_the_body_and_before_the_path_is_looked_at() -> None:
    small = GatewaySettings(token_authorization=True, max_request_size=3)
    gateway = guarded(small)
    for path in ("/predictions/m", "/predictions/m%zz"):
        raw = {"raw_path": path.encode()}
        assert gateway.ask(INFERENCE, "POST", path, body=b"long", extras=raw).status_code == 400
        assert "InvalidKey" in gateway.ask(INFERENCE, "POST", path, body=b"long", extras=raw).text


def test_before_the_broker_has_told_the_keys_requests_are_put_off() -> None:
    gateway = Gateway(replies, config=CONFIG)
    result = gateway.ask(INFERENCE, "GET", "/ping", headers=bearer("inference"))
    assert (result.status_code, result.json["type"]) == (503, "ServiceUnavailableException")
    assert "has not told the keys yet" in result.json["details"]
    assert gateway.ask(MANAGEMENT, "GET", "/readyz").status_code == 503


def test_a_request_that_carries_no_key_need_not_wait_for_them() -> None:
    assert Gateway(replies, config=CONFIG, is_away=True).ask(INFERENCE, "GET", "/ping").status_code == 400


def test_while_there_is_no_broker_the_reason_is_that() -> None:
    away = Gateway(replies, config=CONFIG, is_away=True)
    result = away.ask(INFERENCE, "GET", "/ping", headers=bearer("inference"))
    assert "no broker answers" in result.json["details"]


def test_a_key_that_has_expired_opens_nothing_more() -> None:
    assert (
        guarded(keys=told(expires_in_ms=0))
        .ask(INFERENCE, "GET", "/ping", headers=bearer("inference"))
        .status_code
        == 400
    )


def test_handlers_never_see_the_key() -> None:
    gateway = guarded()
    sent = {"X-Own": "1", **bearer("inference"), "Proxy-Authorization": "own"}
    assert gateway.ask(INFERENCE, "POST", "/predictions/m", body=b"x", headers=sent).text == "x"
    assert (gateway.headers()["X-Own"], gateway.headers()["Proxy-Authorization"]) == ("1", "own")
    assert not [name for name in gateway.headers() if name.lower() == "authorization"]
    gateway.ask(MANAGEMENT, "GET", "/models/m", headers=bearer("management"))
    assert len(gateway.link.requests) == 1
    assert not [name for name in gateway.headers() if name.lower() == "authorization"]
    described = gateway.ask(MANAGEMENT, "GET", "/models/m?customized=true", headers=bearer("management"))
    assert described.status_code == 200
    assert not [name for name in gateway.headers() if name.lower() == "authorization"]


@pytest.mark.parametrize("api", ["inference", "management"])
@pytest.mark.parametrize("method", METHODS)
def test_a_key_is_renewed_by_any_method_and_is_not_in_the_answer(api: str, method: str) -> None:
    gateway = guarded()
    result = gateway.ask(MANAGEMENT, method, f"/token?type={api}", headers=bearer("token"))
    assert (result.status_code, result.headers["content-type"]) == (200, "application/json")
    assert result.content == (b"" if method == "HEAD" else b"\n")
    proof = hashlib.sha256(KEYS["token"].encode()).hexdigest()
    renewal = messages.RenewKey(gateway.link.asked[0].ask, api, proof)  # type: ignore[arg-type]
    assert gateway.link.asked == [renewal]


CHANGES = [
    ("POST", "/models?url=a.mar"), ("PUT", "/models/x?min_worker=1"), ("DELETE", "/models/x/1.0"),
    ("PUT", "/models/x/1.0/set-default"), ("POST", "/nodes/invitations"), ("POST", "/gateways/invitations"),
    ("DELETE", "/nodes/invitations/x"), ("POST", "/nodes/x/drain"), ("POST", "/nodes/x/resume"),
    ("POST", "/gateways/x/revoke"), ("DELETE", "/nodes/x"), ("POST", "/broker/key/rotate"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_a_change_carries_proof_of_the_key_with_which_the_client_was_let_in(method: str, path: str) -> None:
    gateway = guarded()
    gateway.ask(MANAGEMENT, method, path, headers=bearer("management"))
    assert [ask.proof for ask in gateway.link.asked if not isinstance(ask, messages.Question)] == [
        hashlib.sha256(KEYS["management"].encode()).hexdigest()
    ]


@pytest.mark.parametrize(
    "query", ["", "?type=", "?type=other", "?type=Inference", "?type=token", "?type=x&type=inference"]
)
def test_what_is_to_be_renewed_must_be_named(query: str) -> None:
    gateway = guarded()
    result = gateway.ask(MANAGEMENT, "GET", f"/token{query}", headers=bearer("token"))
    assert (result.status_code, result.json["message"]) == (400, NOT_RENEWED)
    assert gateway.link.asked == []


@pytest.mark.parametrize("path", ["/models/tokenizer", "/models/echo?x=/token", "/models/token"])
def test_a_path_with_token_in_it_is_no_renewal(path: str) -> None:
    assert guarded().ask(MANAGEMENT, "GET", path, headers=bearer("management")).status_code == 200


def test_a_renewal_is_a_route_of_the_management_port_alone() -> None:
    result = guarded().ask(INFERENCE, "GET", "/token?type=inference", headers=bearer("inference"))
    assert result.status_code == 404


def test_without_tokens_there_is_no_renewal_and_any_key_will_do() -> None:
    gateway = Gateway(replies)
    assert gateway.ask(MANAGEMENT, "GET", "/token?type=inference").status_code == 404
    assert gateway.ask(INFERENCE, "GET", "/ping", headers={"Authorization": "Bearer x"}).status_code == 200


# A gateway that was told nothing of keys, and a broker that has some


#: More than a first piece, so that it is read while others have their turn.
PIECES = b"x" * 100_000


def untold(says: bool = True) -> Gateway:
    gateway = Gateway(replies, config=GatewaySettings(enable_model_api=True, open_inference_protocol=True))
    gateway.link.welcome = messages.Welcome(500, 3000, asks_for_keys=True)
    gateway.link.says_at_start = [told()] if says else []
    return gateway


@pytest.mark.parametrize(("port", "path"), [row for row in walk(CONFIG) if not is_open(*row)])
def test_a_broker_that_has_keys_has_every_route_ask_for_its_own(port: int, path: str) -> None:
    gateway = untold()
    good = "token" if path.startswith("/token") else "inference" if port == INFERENCE else "management"
    for api in [None, *KEYS]:
        result = gateway.ask(port, "GET", path, headers=bearer(api) if api else None)
        assert ("InvalidKeyException" in result.text) == (api != good), (api, result.text)


def test_before_such_a_broker_has_told_its_keys_nobody_gets_in() -> None:
    gateway = untold(says=False)
    assert gateway.ask(INFERENCE, "GET", "/ping").status_code == 400
    assert gateway.ask(INFERENCE, "GET", "/ping", headers=bearer("inference")).status_code == 503
    assert gateway.ask(MANAGEMENT, "GET", "/readyz").status_code == 503


def test_such_a_gateway_keeps_keys_from_handlers_and_describes_them() -> None:
    gateway = untold()
    assert (
        gateway.ask(INFERENCE, "POST", "/predictions/m", body=b"x", headers=bearer("inference")).text == "x"
    )
    assert not [name for name in gateway.headers() if name.lower() == "authorization"]
    document = gateway.ask(MANAGEMENT, "OPTIONS", "/").json
    assert "/token" in document["paths"]
    assert "securitySchemes" in document["components"]


@pytest.mark.parametrize(("port", "path"), [(INFERENCE, "/predictions/m"), (MANAGEMENT, "/models?url=x")])
def test_a_request_whose_body_comes_while_keys_become_needed_is_not_carried_out(port: int, path: str) -> None:
    gateway = Gateway(replies)
    reading = gateway.link.reading
    entered = 0

    @contextlib.contextmanager
    def interrupted(limit: int, length: int | None, answer_by: float | None = None) -> Iterator[BodyReading]:
        nonlocal entered
        with reading(limit, length, answer_by) as counted:
            entered += 1
            gateway.link._session.hear(messages.Welcome(500, 3000, asks_for_keys=True), 99, (), now=0.0)
            yield counted

    gateway.link.reading = interrupted  # type: ignore[method-assign]
    result = gateway.ask(port, "POST", path, body=PIECES)
    assert (result.status_code, entered) == (503, 1)
    assert gateway.link.asked == []
    assert gateway.link.requests == []


def test_a_gateway_that_asks_for_keys_says_that_its_broker_has_none() -> None:
    gateway = Gateway(replies, config=CONFIG)
    gateway.link.welcome = messages.Welcome(500, 3000)
    result = gateway.ask(INFERENCE, "GET", "/ping", headers=bearer("inference"))
    assert (result.status_code, "the broker has no keys" in result.json["details"]) == (503, True)


# Paths that are not what they seem


@pytest.mark.parametrize("config", [CONFIG, SHARED])
@pytest.mark.parametrize(
    "path",
    [
        "//models",
        "/./models",
        "/livez/../models",
        "/metrics/../models",
        "/metrics/..%2fmodels",
        "/livez%2f..%2fmodels",
        "/%2e%2e/models",
        "/models;/livez",
        "/models/;x",
        "/livez;x",
        "/livez/x",
        "/api-description/../fleet",
        "/api-description;x",
        "/fleet/",
        "/fleet%00",
        "/FLEET",
        "/%66leet",
        "/fleet?token=m-key",
        "/fleet?Authorization=Bearer%20m-key",
        "/models/x?customized=true&/livez",
        "/token?type=management&key=t-key",
        "/v2/health/ready",
        "/ping/../livez",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
def test_no_way_to_write_a_path_gets_by_without_a_key(
    config: GatewaySettings, path: str, method: str
) -> None:
    """What is left out of it is open to anybody, or there is nothing at it."""
    gateway = guarded(config)
    ports = {INFERENCE, MANAGEMENT} & {int(port) for port in gateway.app._apps}
    plain, _, query = path.partition("?")
    for port in ports:
        raw = {"raw_path": plain.encode(), "path": unquote(plain), "query_string": query.encode()}
        result = gateway.ask(port, method, "/x", extras=raw, headers={"X-Token": KEYS["management"]})
        is_metrics = plain.startswith("/metrics/") and port == INFERENCE and config is SHARED
        refused = result.headers.get("content-length") in (length(FAILED), length(NOT_RENEWED))
        assert refused or is_metrics, (port, result.status_code, result.text)
    assert not [ask for ask in gateway.link.asked if not isinstance(ask, messages.ReadMetrics)]


# Guessing


def guess(gateway: Gateway, key: str, address: str = "10.0.0.1") -> Any:
    client = {"client": (address, 1)}
    return gateway.ask(INFERENCE, "GET", "/ping", headers={"Authorization": f"Bearer {key}"}, extras=client)


def test_who_guesses_keys_is_told_to_wait_and_who_has_one_is_not() -> None:
    gateway = guarded()
    answers = [guess(gateway, f"guess-{number}") for number in range(auth.WRONG_KEYS_LIMIT + 3)]
    assert [answer.status_code for answer in answers] == [400] * auth.WRONG_KEYS_LIMIT + [429] * 3
    assert (answers[-1].json["type"], answers[-1].headers["retry-after"]) == ("InvalidKeyException", "60")
    assert "connection" in answers[-1].headers
    # From the same address, as behind a proxy.
    assert guess(gateway, KEYS["inference"]).status_code == 200
    assert guess(gateway, "guess-1").status_code == 400
    assert gateway.ask(INFERENCE, "GET", "/ping", extras={"client": ("10.0.0.1", 1)}).status_code == 400
    assert guess(gateway, "guess-1000", "10.0.0.2").status_code == 400


def test_a_guess_waits_for_its_answer_but_not_more_of_them_than_there_is_room_for() -> None:
    link = FakeLink(CONFIG)
    link.HOLD_BACK_S = 60.0

    async def held() -> int:
        waiting = [asyncio.ensure_future(link.hold_back()) for _ in range(HELD_BACK_LIMIT + 5)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        left = [one for one in waiting if not one.done()]
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)

    assert asyncio.run(held()) == asyncio.run(held()) == HELD_BACK_LIMIT


def test_wrong_keys_are_logged_without_the_key_and_not_each(caplog: pytest.LogCaptureFixture) -> None:
    gateway = guarded()
    for number in range(30):
        guess(gateway, f"secret-guess-{number}")
    lines = [record for record in caplog.records if record.getMessage() == "gateway.wrong_key"]
    assert 1 <= len(lines) < 30
    assert (vars(lines[0])["client"], vars(lines[0])["api"]) == ("10.0.0.1", "inference")
    assert not [record for record in caplog.records if "secret-guess" in str(vars(record))]
