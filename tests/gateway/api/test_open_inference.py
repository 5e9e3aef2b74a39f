"""Predictions by the open inference protocol: what a worker gets of a request, and what becomes of errors."""

import json

import falcon.testing
import pytest

from tests.gateway.facts import NOT_FOUND
from tests.gateway.fakes import INFERENCE, Gateway
from torchrelay.shared import errors
from torchrelay.shared.open_inference import infer_bodies, job_inputs
from torchrelay.shared.open_inference.infer_bodies import InferRequest
from torchrelay.shared.open_inference.tensors import Tensor
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec

OIP = GatewaySettings(open_inference_protocol=True)
BODY = infer_bodies.encode_request(InferRequest([Tensor("x", "INT8", [2], [1, 2])]))
PATHS = {
    "/v2/models/m/infer": (None, "False"),
    "/v2/models/m/explain": (None, "True"),
    "/v2/models/m/versions/1.0/infer": ("1.0", "False"),
    "/v2/models/m/versions/1.0/explain": ("1.0", "True"),
}


def ask(gateway: Gateway, path: str = "/v2/models/m/infer", **headers: str) -> falcon.testing.Result:
    stated = {**BODY.headers(), **{name.replace("_", "-"): value for name, value in headers.items()}}
    return gateway.ask(INFERENCE, "POST", path, body=BODY.joined(), headers=stated)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_names_model_and_version(path: str) -> None:
    gateway = Gateway(config=OIP)
    assert ask(gateway, path).status_code == 200
    item = gateway.link.submitted[-1]
    assert (item.model, item.version, gateway.headers()["explain"]) == ("m", *PATHS[path])


@pytest.mark.parametrize("kind", ["application/octet-stream", "application/x-www-form-urlencoded", ""])
def test_a_body_with_binary_data_goes_on_whole_whatever_its_type(kind: str) -> None:
    gateway = Gateway(config=OIP)
    ask(gateway, Content_Type=kind)
    assert gateway.inputs() == {"body": (job_inputs.binary_request(BODY.header_length or 0), BODY.joined())}
    assert gateway.headers()["Inference-Header-Content-Length"] == str(BODY.header_length)


@pytest.mark.parametrize(
    ("kind", "marked"),
    [
        ("application/json", job_inputs.JSON_REQUEST),
        ("application/json; charset=UTF-8", job_inputs.JSON_REQUEST),
        ("application/json;open-inference=7", job_inputs.JSON_REQUEST),
        ("text/plain;open-inference", "text/plain"),
        (None, ""),
    ],
)
def test_a_body_of_json_is_a_request_and_another_what_the_handler_makes_of_it(
    kind: str | None, marked: str
) -> None:
    gateway = Gateway(config=OIP)
    gateway.predict("/v2/models/m/infer", b"{}", kind)
    assert gateway.inputs() == {"body": (marked, b"{}")}


def test_form_fields_are_inputs_as_ever() -> None:
    gateway = Gateway(config=OIP)
    gateway.predict("/v2/models/m/infer", b"a=1&body=2", "application/x-www-form-urlencoded")
    assert gateway.inputs() == {"a": ("", b"1"), "body": ("", b"2")}


@pytest.mark.parametrize("said", ["x", "-1", "1e3", str(10**30), str(len(BODY.joined()) + 1)])
def test_a_header_that_is_wrong_is_refused(said: str) -> None:
    gateway = Gateway(config=OIP)
    answer = ask(gateway, Inference_Header_Content_Length=said)
    assert answer.status_code == 400
    assert answer.json["error"] == answer.json["message"]
    assert answer.json["error"].startswith("The header Inference-Header-Content-Length ")
    assert not gateway.link.submitted


def test_without_the_protocol_the_header_says_nothing() -> None:
    gateway = Gateway()
    ask(gateway, Inference_Header_Content_Length="x")
    assert gateway.inputs() == {"body": ("application/octet-stream", BODY.joined())}
    assert ask(gateway, "/v2/models/m/versions/1.0/infer").json == NOT_FOUND


def test_an_answer_with_binary_data_is_passed_on() -> None:
    headers = (("content-type", "application/octet-stream"), ("inference-header-content-length", "2"))
    gateway = Gateway(worker=lambda *_: codec.Response(200, "", headers, b"{}\x00\x01"), config=OIP)
    answer = ask(gateway)
    assert answer.content == b"{}\x00\x01"
    assert answer.headers["inference-header-content-length"] == "2"
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (errors.ModelNotFound("Model not found: m"), 404, "Model not found: m"),
        (errors.Conflict("No.", "a reason that is the server's own"), 409, "No."),
        (errors.WorkerDied("Worker died.", "exit code 3"), 500, "Worker died. (exit code 3)"),
    ],
)
def test_an_error_has_torchserves_fields_and_the_protocols(
    error: errors.RelayError, status: int, said: str
) -> None:
    answer = ask(Gateway(worker=lambda *_: error, config=OIP))
    assert answer.status_code == status
    assert answer.json["code"] == status
    assert answer.json["message"] == error.message
    assert answer.json["error"] == said


def test_what_a_worker_refuses_is_refused_in_both_tongues() -> None:
    refusal = codec.Response(400, "", (), b"", error=("BadRequest", "Tensor 'x': no", ""))
    answer = ask(Gateway(worker=lambda *_: refusal, config=OIP))
    assert answer.status_code == 400
    assert answer.json == {
        "code": 400, "type": "BadRequestException", "message": "Tensor 'x': no", "error": "Tensor 'x': no",
    }  # fmt: skip


def test_a_body_that_is_too_large_has_no_answer_but_the_status() -> None:
    gateway = Gateway(config=GatewaySettings(open_inference_protocol=True, max_request_size=10))
    answer = ask(gateway)
    assert (answer.status_code, answer.content) == (413, b"")


def test_a_deadline_is_the_jobs_with_binary_data_too() -> None:
    gateway = Gateway(config=OIP)
    assert ask(gateway, X_Request_Timeout_Ms="none").status_code == 400
    assert ask(gateway, X_Request_Timeout_Ms="1000").status_code == 200
    assert 0 < gateway.link.submitted[-1].left_ms <= 1000


def test_options_describe_the_model() -> None:
    answer = Gateway(config=OIP).ask(INFERENCE, "OPTIONS", "/v2/models/m/versions/1.0/infer")
    assert json.loads(answer.content)["error"]  # nobody has scripted that there is such a model
