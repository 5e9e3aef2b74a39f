"""Every route of every API asks for its key, and handlers never see one."""

from typing import Any

import pytest

from tests.gateway.facts import facts, key
from tests.gateway.fakes import INFERENCE, MANAGEMENT, METRICS, Gateway, templates
from torchrelay.gateway import auth
from torchrelay.gateway.api import App
from torchrelay.shared import errors, messages
from torchrelay.shared.settings import GatewaySettings

KEYS: dict[auth.Api, str] = {"inference": "i-key", "management": "m-key", "token": "t-key"}
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
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]

FAILED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
NOT_RENEWED = "Token Authentication failed. Token either incorrect, expired, or not provided correctly"


def length(message: str) -> str:
    """The length of a refusal, which is all that HEAD shows of it, and no other answer here has."""
    return str(len(f'{{\n  "code": 400,\n  "type": "InvalidKeyException",\n  "message": "{message}"\n}}\n'))


def replies(ask: Any) -> messages.Message | errors.RelayError:
    match ask:
        case messages.ReadHealth():
            return messages.HealthRead(ask.ask, True, ())
        case messages.RenewKey():
            return messages.KeyRenewed(ask.ask)
        case messages.ListModels():
            return messages.ModelsListed(ask.ask, (), None)
        case messages.DescribeModel():
            return messages.ModelDescribed(ask.ask, (facts(),))
        case messages.ReadMetrics():
            return messages.MetricsRead(ask.ask, ())
    return errors.ModelNotFound("Model not found: x")


def told(expires_in_ms: int | None = None) -> messages.KeysChanged:
    return messages.KeysChanged(tuple(key(api, secret, expires_in_ms) for api, secret in KEYS.items()))


def guarded(config: GatewaySettings = CONFIG, keys: messages.KeysChanged | None = None) -> Gateway:
    gateway = Gateway(replies, config=config)
    gateway.link.says_at_start = [told() if keys is None else keys]
    return gateway


def bearer(api: auth.Api) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[api]}"}


def paths(app: App) -> list[str]:
    """Every route of an app, with its fields filled in."""
    return [
        path.replace("{target}", "x:predict")
        .replace("{rest:path}", "x")
        .replace("{model}", "x")
        .replace("{version}", "x")
        .replace("{workflow}", "x")
        .replace("/invocations", "/invocations?model_name=x")
        .replace("/token", "/token?type=inference")
        for path in templates(app)
    ]


def walk(config: GatewaySettings) -> list[tuple[int, str]]:
    edge = Gateway(replies, config=config).app
    routes = [(int(port), path) for port, app in edge._apps.items() for path in paths(app)]  # type: ignore[arg-type]
    elsewhere = [
        (int(port), path) for port in edge._apps for path in ("/no/such/route", "//models", "/wfpredict/x")
    ]
    return routes + elsewhere


def is_open(port: int, path: str) -> bool:
    return path in OPEN or port == METRICS


@pytest.mark.parametrize(("port", "path"), [row for row in walk(CONFIG) if not is_open(*row)])
@pytest.mark.parametrize("method", METHODS)
def test_no_route_can_be_called_without_its_key(port: int, path: str, method: str) -> None:
    gateway = guarded()
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
    managing = path.startswith(("/models", "/workflows", "/fleet")) and not path.endswith("/invoke")
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
    assert gateway.link.asked == [messages.RenewKey(gateway.link.asked[0].ask, api)]  # type: ignore[arg-type]


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
