"""The metadata routes of the open inference protocol, where they are wanted."""

import pytest

from tests.gateway.facts import NOT_FOUND, facts, healthy
from tests.gateway.fakes import Gateway
from torchrelay.shared import errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import messages


def all_ready(ask: messages.ReadReadiness | messages.ReadHealth) -> messages.Message:
    if isinstance(ask, messages.ReadReadiness):
        return messages.ReadinessRead(ask.ask, ())
    return healthy(ask)


OIP = GatewaySettings(open_inference_protocol=True)


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PATCH"])
@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/v2/health/live", 200, {"live": True}),
        ("/v2/health/ready", 200, {"ready": True}),
    ],
)
def test_the_open_inference_protocol_has_its_metadata(
    method: str, path: str, status: int, told: object
) -> None:
    answer = Gateway(all_ready, config=OIP).predict(path, method=method)
    assert (answer.status_code, answer.json) == (status, told)


def test_the_server_names_itself_as_clients_expect() -> None:
    told = Gateway(config=OIP).predict("/v2", method="GET").json
    assert (told["name"], told["extenstion"]) == ("Torchserve", ["kserve", "kubeflow"])
    assert told["extensions"] == ["kserve", "kubeflow", "binary_tensor_data"]


def test_a_gateway_is_not_ready_while_models_of_the_start_are_being_registered() -> None:
    gateway = Gateway(lambda ask: messages.HealthRead(ask.ask, False, is_starting=True), config=OIP)
    answer = gateway.predict("/v2/health/ready", method="GET")
    assert (answer.status_code, answer.json) == (503, {"ready": False})


def test_the_server_is_ready_when_every_model_that_should_answer_can() -> None:
    versions = (
        messages.VersionReadiness("off", "1.0", True, False, False, "scaled to 0"),
        messages.VersionReadiness("old", "1.0", False, False, True, "wants 1, has 0"),
        messages.VersionReadiness("m", "1.0", True, False, True, "wants 1, has 0"),
    )

    def gateway(count: int) -> Gateway:
        def reply(ask: messages.Ask) -> messages.Message:
            if isinstance(ask, messages.ReadReadiness):
                return messages.ReadinessRead(ask.ask, versions[:count])
            return messages.HealthRead(ask.ask, True)

        return Gateway(reply, config=OIP)

    assert gateway(2).predict("/v2/health/ready", method="GET").status_code == 200
    assert gateway(3).predict("/v2/health/ready", method="GET").status_code == 503


def test_a_gateway_without_a_broker_is_not_ready() -> None:
    answer = Gateway(config=OIP, is_away=True).predict("/v2/health/ready", method="GET")
    assert (answer.status_code, answer.json) == (503, {"ready": False})


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/m",
        "/v2/models/m/ready",
        "/v2/models/m/versions/1.0",
        "/v2/models/m/versions/1.0/infer",
        "/v2/models/m/versions/1.0/ready",
    ],
)
def test_its_routes_are_there_only_if_asked_for(path: str) -> None:
    answer = Gateway().predict(path)
    assert (answer.status_code, answer.json) == (404, NOT_FOUND)


@pytest.mark.parametrize("path", ["/v2/health", "/v2/models", "/v2/models/m/versions", "/v2/models/m/config"])
def test_what_the_protocol_has_not_is_not_there(path: str) -> None:
    answer = Gateway(config=OIP).predict(path)
    assert (answer.status_code, answer.json) == (404, NOT_FOUND)


def of_models(ask: messages.Ask) -> messages.Message | errors.RelayError:
    """Answer as a broker with two versions of `m`, one of which can answer."""
    if isinstance(ask, messages.ReadReadiness):
        versions = (
            messages.VersionReadiness("m", "1.0", True, True, True, ""),
            messages.VersionReadiness("m", "2.0", False, False, True, "wants 1, has 0"),
        )
        return messages.ReadinessRead(ask.ask, versions)
    assert isinstance(ask, messages.DescribeModel)
    if ask.model != "m":
        return errors.ModelNotFound(f"Model not found: {ask.model}")
    if ask.version is not None:
        return errors.ModelVersionNotFound(f"Model version: {ask.version} does not exist for model: m")
    return messages.ModelDescribed(ask.ask, (facts(model="m"), facts(model="m", version="2.0")))


@pytest.mark.parametrize("path", ["/v2/models/m", "/v2/models/m/versions/2.0"])
def test_a_models_metadata_has_its_versions(path: str) -> None:
    answer = Gateway(of_models, config=OIP).predict(path, method="GET")
    assert answer.json == {
        "name": "m",
        "versions": ["1.0", "2.0"],
        "platform": "",
        "inputs": [],
        "outputs": [],
    }


@pytest.mark.parametrize(
    ("path", "status", "is_ready"),
    [
        ("/v2/models/m/ready", 200, True),
        ("/v2/models/m/versions/1.0/ready", 200, True),
        ("/v2/models/m/versions/2.0/ready", 503, False),
    ],
)
def test_a_model_is_ready_where_clients_of_the_protocol_look(path: str, status: int, is_ready: bool) -> None:
    answer = Gateway(of_models, config=OIP).predict(path, method="GET")
    assert (answer.status_code, answer.json) == (status, {"name": "m", "ready": is_ready})


@pytest.mark.parametrize("path", ["/v2/models/nobody", "/v2/models/m/versions/9", "/v2/models/nobody/ready"])
def test_what_is_not_there_is_said_in_both_tongues(path: str) -> None:
    answer = Gateway(of_models, config=OIP).predict(path, method="GET")
    assert answer.status_code == 404
    assert answer.json["error"] == answer.json["message"]
