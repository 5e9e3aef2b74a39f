"""What all APIs have: rules of paths, descriptions, and errors as clients compare them."""

import json

import pytest

from tests.gateway.facts import NOT_ALLOWED
from tests.gateway.fakes import INFERENCE, MANAGEMENT, METRICS, Gateway
from torchrelay.shared import errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec


def refusing(error: errors.RelayError) -> Gateway:
    return Gateway(worker=lambda request, values: error)


def test_a_bad_percent_escape_is_400_not_a_model_of_that_name() -> None:
    answer = Gateway().ask(INFERENCE, "GET", "/predictions/a%zz", extras={"raw_path": b"/predictions/a%zz"})
    assert (answer.status_code, answer.json["type"]) == (400, "BadRequestException")


def test_a_percent_sign_that_was_escaped_is_part_of_the_name() -> None:
    gateway = Gateway()
    gateway.ask(INFERENCE, "GET", "/predictions/a%25", extras={"raw_path": b"/predictions/a%25"})
    assert gateway.link.submitted[-1].model == "a%"


def test_413_is_bare() -> None:
    answer = Gateway(config=GatewaySettings(max_request_size=10)).predict("/predictions/m", b"x" * 11)
    assert answer.content == b""
    assert dict(answer.headers) == {"content-length": "0"}


def test_an_error_body_is_byte_for_byte_what_clients_compare() -> None:
    answer = refusing(errors.ModelNotFound("Model not found: nobody", "a reason")).predict(
        "/predictions/nobody"
    )
    assert answer.content == (
        b'{\n  "code": 404,\n  "type": "ModelNotFoundException",\n  "message": "Model not found: nobody"\n}\n'
    )
    assert (answer.headers["content-type"], answer.headers["connection"]) == ("application/json", "close")


def test_503_says_when_to_come_back_and_why_it_is() -> None:
    answer = refusing(errors.ServiceUnavailable("busy", "the queue is full")).predict("/predictions/m")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json["details"] == "the queue is full"


def test_a_fault_of_ours_is_500_and_tells_nothing_of_its_inside(caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: codec.Request, values: list[bytes]) -> codec.Response:
        raise RuntimeError("secret")

    answer = Gateway(worker=broken).predict("/predictions/m")
    assert (answer.status_code, answer.json["type"]) == (500, "InternalServerException")
    assert "secret" not in answer.text
    assert "gateway.bug" in caplog.text


@pytest.mark.parametrize("port", [INFERENCE, MANAGEMENT, METRICS])
@pytest.mark.parametrize(
    ("method", "path"), [("OPTIONS", "/"), ("GET", "/api-description"), ("POST", "/api-description/")]
)
def test_each_port_describes_itself(port: int, method: str, path: str) -> None:
    document = json.loads(Gateway().ask(port, method, path).content)
    assert document["openapi"] == "3.0.1"
    wanted = {INFERENCE: "/predictions/{model_name}", MANAGEMENT: "/models/{model_name}", METRICS: "/metrics"}
    assert wanted[port] in document["paths"]


@pytest.mark.parametrize("port", [INFERENCE, MANAGEMENT, METRICS])
def test_the_root_allows_only_options(port: int) -> None:
    assert Gateway().ask(port, "GET", "/").status_code == 405


@pytest.mark.parametrize("path", ["/models", "/models/m", "/workflows"])
def test_a_method_that_is_none_of_falcons_is_405_as_well(path: str) -> None:
    assert Gateway().manage("PURGE", path).content == NOT_ALLOWED
