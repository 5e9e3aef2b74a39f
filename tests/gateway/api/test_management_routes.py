"""Which routes and methods the management port has, and the answers that are ours alone."""

from typing import Any

import pytest

from tests.gateway.facts import GPU_WORKER, NOT_ALLOWED, described, facts, readiness, scaled
from tests.gateway.fakes import EPOCH, Gateway
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import messages


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/models"),
        ("DELETE", "/models"),
        ("PATCH", "/models"),
        ("OPTIONS", "/models"),
        ("POST", "/models/echo"),
        ("PATCH", "/models/echo"),
        ("TRACE", "/models/echo"),
        ("POST", "/models/echo/2.0/set-default"),
        ("POST", "/v1/models/echo"),
    ],
)
def test_other_methods_are_405(method: str, path: str) -> None:
    answer = Gateway().manage(method, path)
    assert (answer.status_code, answer.content) == (405, NOT_ALLOWED)


@pytest.mark.parametrize("path", ["/models", "/models/echo"])
def test_head_is_405_with_a_type_and_no_body(path: str) -> None:
    answer = Gateway().manage("HEAD", path)
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (
        405,
        "application/json",
        b"",
    )


@pytest.mark.parametrize(
    "path",
    [
        "/no-such-route",
        "/models/echo/1.0/more",
        "/models/versioned/2.0/set-defaults",
        "/models/../../etc/passwd",
        "/models/..%2f..%2fetc%2fpasswd",
        "/predictions/echo",
        "/ping",
        "/v1/models",
        "/metrics",
    ],
)
def test_what_is_no_route_of_management_is_404(path: str) -> None:
    answer = Gateway().manage("GET", path)
    assert (answer.status_code, answer.json["type"]) == (404, "ResourceNotFoundException")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/models"),
        ("POST", "/models?url=echo.mar"),
        ("DELETE", "/models/echo"),
        ("DELETE", "/models/echo/1.0"),
        ("DELETE", "/models/nobody"),
    ],
)
def test_register_and_unregister_are_405_unless_switched_on(method: str, path: str) -> None:
    gateway = Gateway(config=GatewaySettings())
    answer = gateway.manage(method, path)
    assert (answer.status_code, answer.content) == (405, NOT_ALLOWED)
    assert not gateway.link.asked


def test_scale_describe_list_and_default_work_with_the_model_api_switched_off() -> None:
    replies: dict[type, Any] = {
        messages.ScaleWorkers: scaled(),
        messages.DescribeModel: described(facts()),
        messages.ListModels: lambda ask: messages.ModelsListed(ask.ask, (), None),
        messages.SetDefault: lambda ask: messages.DefaultSet(ask.ask),
    }
    gateway = Gateway(lambda ask: replies[type(ask)](ask), config=GatewaySettings())
    calls = [
        ("PUT", "/models/m"),
        ("GET", "/models/m"),
        ("GET", "/models"),
        ("PUT", "/models/m/1/set-default"),
    ]
    assert [gateway.manage(*call).status_code for call in calls] == [202, 200, 200, 200]


@pytest.mark.parametrize("path", ["/v1/models/echo", "/v1/models/echo:predict"])
@pytest.mark.parametrize("why_not", ["", "wants 1, has 0"])
def test_kserve_readiness_needs_a_worker_that_is_ready(path: str, why_not: str) -> None:
    answer = Gateway(readiness(echo=why_not)).manage("GET", path)
    assert (answer.status_code, answer.json) == (200, {"name": "echo", "ready": not why_not})


@pytest.mark.parametrize(
    "path", ["/readyz/{}", "/readyz/{}/1.0", "/v2/models/{}/ready", "/v2/models/{}/versions/1.0/ready"]
)
def test_the_probes_of_a_model_tell_by_their_status_whether_it_can_answer(path: str) -> None:
    gateway = Gateway(readiness(good="", bad="wants 1, has 0"))
    assert gateway.manage("GET", path.format("good")).status_code == 200
    answer = gateway.manage("GET", path.format("bad"))
    assert answer.status_code == 503
    told = (
        {"name": "bad", "ready": False}
        if "v2" in path
        else {"status": "not ready", "reason": "wants 1, has 0"}
    )
    assert answer.json == told
    assert gateway.link.counted == []
    missing = gateway.manage("GET", path.format("nobody"))
    assert (missing.status_code, missing.json["message"]) == (404, "Model not found: nobody")


def test_a_probe_names_a_version_that_there_is_not() -> None:
    answer = Gateway(readiness(m="")).manage("GET", "/readyz/m/2.0")
    words = "Model version: 2.0 does not exist for model: m"
    assert (answer.status_code, answer.json["message"]) == (404, words)


def test_no_model_is_unknown_to_probes_while_those_of_the_start_are_being_registered() -> None:
    gateway = Gateway(lambda ask: messages.ReadinessRead(ask.ask, (), is_starting=True))
    assert gateway.manage("GET", "/readyz/m").status_code == 503
    assert gateway.manage("GET", "/v1/models/m").json == {"name": "m", "ready": False}


def test_probes_of_models_do_not_wait_for_a_broker_that_is_away() -> None:
    gateway = Gateway(is_away=True)
    for path in ("/readyz/m", "/v1/models/m", "/v2/models/m/ready"):
        assert gateway.manage("GET", path).status_code == 503


def test_fleet_tells_why_things_are_as_they_are() -> None:
    devices = (messages.Device("cuda:0", "gpu", "", 24), messages.Device("cuda:1", "gpu", "", 24))
    node = messages.NodeFacts("node-a", devices, 32, 1, 100, (("zone", "a"),), (9, 0), True)
    gateway = Gateway(lambda ask: messages.FleetRead(ask.ask, EPOCH, 1.5, 1, (node,), (facts(GPU_WORKER),)))
    fleet = gateway.manage("GET", "/fleet").json
    assert fleet["nodes"][0]["labels"] == {"zone": "a"}
    shown = [
        (device["memoryBytes"], device.get("memoryTakenBytes")) for device in fleet["nodes"][0]["devices"]
    ]
    assert shown == [(24, 9), (24, None)]
    assert (fleet["epoch"], fleet["uptimeS"], fleet["nodes"][0]["slotsUsed"]) == (EPOCH, 1.5, 1)
    assert fleet["nodes"][0]["isDraining"] is True
    (model,) = fleet["models"]
    assert (model["explanation"], model["lastError"]) == ("wants 1, has 0", "ImportError")
    assert (model["workersWanted"], model["workersReady"], model["oldestWaitMs"]) == (1, 0, 12)
    assert model["workers"][0]["note"] == "fetching 3 of 9 MB"
    assert model["quarantined"] == [
        {
            "requestId": "id-1",
            "reason": "killed by signal 11",
            "workersLost": 2,
            "refused": 5,
            "leftMs": 300_000,
        }
    ]


@pytest.mark.parametrize(("is_away", "code"), [(False, 200), (True, 503)])
def test_a_process_is_ready_once_the_broker_has_welcomed_it(is_away: bool, code: int) -> None:
    gateway = Gateway(lambda ask: messages.HealthRead(ask.ask, False), is_away=is_away)
    answer = gateway.manage("GET", "/readyz")
    assert answer.status_code == code
    assert ("reason" in answer.json) is is_away
    assert gateway.manage("GET", "/livez").status_code == 200
    assert gateway.link.counted == []  # polls would drown what clients do


def test_a_process_is_not_ready_while_models_of_the_start_are_being_registered() -> None:
    gateway = Gateway(lambda ask: messages.HealthRead(ask.ask, False, is_starting=True))
    answer = gateway.manage("GET", "/readyz")
    assert answer.status_code == 503
    assert answer.json == {"status": "not ready", "reason": "models named at start are being registered"}


@pytest.mark.parametrize("path", ["/readyz", "/livez"])
def test_a_probe_that_is_called_wrongly_is_counted_as_any_fault(path: str) -> None:
    gateway = Gateway()
    assert gateway.manage("POST", path).status_code == 405
    assert gateway.link.counted == [405]


def test_a_model_describes_its_management_by_name() -> None:
    document = Gateway(described(facts())).manage("OPTIONS", "/models/echo").json
    assert document["info"]["title"] == "RESTful Management API for: echo"
    assert "/models/{model_name}/{model_version}/set-default" in document["paths"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/workflows"),
        ("DELETE", "/workflows"),
        ("OPTIONS", "/workflows"),
        ("PUT", "/workflows/flow"),
        ("OPTIONS", "/workflows/flow"),
    ],
)
def test_other_methods_on_workflows_are_405(method: str, path: str) -> None:
    assert Gateway().manage(method, path).content == NOT_ALLOWED
