"""Listeners with equal addresses share one app."""

from tests.gateway.facts import WORKER, described, facts, readiness
from tests.gateway.fakes import Gateway
from torchrelay.shared.settings import GatewaySettings


def test_equal_addresses_share_one_listener_for_all() -> None:
    config = GatewaySettings(management_address="http://127.0.0.1:8080", enable_model_api=True)
    gateway = Gateway(described(facts(WORKER)), config=config)
    assert gateway.ask(8080, "GET", "/models/echo/1.0").status_code == 200
    assert gateway.ask(8080, "POST", "/predictions/echo", body=b"x").content == b"x"
    assert gateway.ask(8080, "POST", "/models/echo/invoke", body=b"x").content == b"x"
    asked = Gateway(readiness(echo=""), config=config)
    assert asked.ask(8080, "GET", "/v1/models/echo").json == {"name": "echo", "ready": True}
    assert gateway.ask(8080, "POST", "/v1/models/echo:predict", body=b"x").content == b"x"
    paths = gateway.ask(8080, "OPTIONS", "/").json["paths"]
    assert {"/models", "/predictions/{model_name}"} <= set(paths)
