"""The inference API as its clients see it."""

from collections.abc import Coroutine
from typing import Any, cast

import falcon.testing
import msgspec
import pytest

from tests.gateway.facts import NOT_FOUND, facts, healthy
from tests.gateway.fakes import INFERENCE, MANAGEMENT, METRICS, Gateway, Replies
from torchrelay.gateway.http.exchange import Event, Receive, Scope, Send
from torchrelay.shared import clock, errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec, messages


def unhealthy(ask: messages.ReadHealth) -> messages.HealthRead:
    return messages.HealthRead(ask.ask, False)


def answering(response: codec.Response) -> Gateway:
    return Gateway(worker=lambda request, values: response)


@pytest.mark.parametrize("path", ["/ping", "/ping/", "/ping/more/than/that", "/ping?x=1"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_ping_answers_any_method_below_any_path(method: str, path: str) -> None:
    answer = Gateway(healthy).predict(path, method=method)
    assert (answer.status_code, answer.content) == (200, b'{\n  "status": "Healthy"\n}\n')
    assert answer.headers["content-type"] == "application/json"


def test_ping_is_500_with_a_status_body_when_a_model_lacks_workers_for_good() -> None:
    answer = Gateway(unhealthy).predict("/ping")
    assert (answer.status_code, answer.content) == (500, b'{\n  "status": "Unhealthy"\n}\n')


def test_ping_does_not_wait_for_a_broker_that_is_away() -> None:
    answer = Gateway(is_away=True).predict("/ping")
    assert (answer.status_code, answer.json) == (500, {"status": "Unhealthy"})


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
def test_any_method_predicts(method: str) -> None:
    gateway = Gateway()
    assert gateway.predict("/predictions/m", b"x", method=method).content == b"x"
    assert gateway.link.submitted[-1].model == "m"


def test_head_predicts_and_tells_the_length_without_the_body() -> None:
    answer = Gateway().predict("/predictions/m", b"four", method="HEAD")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "4", b"")


@pytest.mark.parametrize(
    ("path", "model", "version", "explain", "url_path"),
    [
        ("/predictions/m", "m", None, "False", ""),
        ("/predictions/m///", "m", None, "False", ""),
        ("/predictions/m/1.0", "m", "1.0", "False", ""),
        ("/predictions/m/1.0/", "m", "1.0", "False", ""),
        ("/predictions/m/1.0/deeper/still", "m", "1.0", "False", "deeper/still"),
        ("/predictions/m/1.0/a%20b%2Fc", "m", "1.0", "False", "a b/c"),
        ("/predictions/a%20b", "a b", None, "False", ""),
        ("/predictions/%C3%A9cho", "écho", None, "False", ""),
        ("/predictions//m", "", "m", "False", ""),
        ("/predictions/../models", "..", "models", "False", ""),
        ("/explanations/m", "m", None, "True", ""),
        ("/explanations/m/2/v1/chat", "m", "2", "True", "v1/chat"),
        ("/v1/models/m:predict", "m", None, "False", None),
        ("/v1/models/m:predictions", "m", None, "False", None),
        ("/v1/models/m:explain", "m", None, "True", None),
        ("/v2/models/m/infer", "m", None, "False", None),
        ("/v2/models/m/explain", "m", None, "True", None),
        ("/models/m/invoke", "m", None, None, None),
        ("/m/predict", "m", None, None, None),
        ("/m/1.0/predict", "m", "1.0", None, None),
    ],
)
def test_a_path_names_model_version_and_what_the_handler_is_told(
    path: str, model: str, version: str | None, explain: str | None, url_path: str | None
) -> None:
    gateway = Gateway()
    assert gateway.predict(path, b"x").content == b"x"
    item = gateway.link.submitted[-1]
    assert (item.model, item.version, item.is_describe) == (model, version, False)
    assert (gateway.headers().get("explain"), gateway.headers().get("url_path")) == (explain, url_path)


@pytest.mark.parametrize(
    "path",
    [
        "/predictions",
        "/predictions/",
        "/explanations",
        "/no-such-route",
        "/models",
        "/models/m",
        "/models/m/call",
        "/v1/models/m",
        "/v1/models/m:classify",
        "/v1/models",
        "/v2",
        "/v2/models/m",
        "/v2/models/m/versions/1.0/infer",
        "/metrics",
        "/PREDICTIONS/m",
        "//predictions/m",
        "/a/b/c/d/e",
        "/invocations/anything",
    ],
)
def test_what_is_no_route_of_inference_is_404(path: str) -> None:
    answer = Gateway().predict(path, b"x")
    assert (answer.status_code, answer.json) == (404, NOT_FOUND)


# Inputs


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        (None, b"hello", {"body": ("", b"hello")}),
        (None, b"", {"body": ("", b"")}),
        ("application/json; charset=utf-8", b"{}", {"body": ("application/json", b"{}")}),
        ("Application/JSON", b"{}", {"body": ("Application/JSON", b"{}")}),
        (
            "application/x-www-form-urlencoded",
            b"a=1&b=two+words%21",
            {"a": ("", b"1"), "b": ("", b"two words!")},
        ),
        ("application/x-www-form-urlencoded", b'{"a": 1}', {"body": ("", b'{"a": 1}')}),
        ("multipart/form-data", b"--x--", {"body": ("multipart/form-data", b"--x--")}),
    ],
)
def test_a_body_becomes_inputs(
    content_type: str | None, body: bytes, expected: dict[str, tuple[str, bytes]]
) -> None:
    gateway = Gateway()
    assert gateway.predict("/predictions/m", body, content_type).status_code == 200
    assert gateway.inputs() == expected


def test_the_query_of_predictions_stays_outside() -> None:
    gateway = Gateway()
    gateway.predict("/predictions/m?q=1", b"x")
    assert list(gateway.inputs()) == ["body"]


def test_the_query_of_legacy_routes_comes_before_the_body_and_the_last_of_a_name_wins() -> None:
    gateway = Gateway()
    gateway.predict("/m/predict?q=1&q=2&r=", b"legacy")
    assert gateway.inputs() == {"q": ("", b"2"), "r": ("", b""), "body": ("", b"legacy")}


@pytest.mark.parametrize(
    ("path", "body", "content_type"),
    [
        ("/invocations?model_name=m", b"x", None),
        ("/invocations", b"model_name=m&a=1", "application/x-www-form-urlencoded"),
    ],
)
def test_invocations_name_their_model_in_the_query_or_a_field(
    path: str, body: bytes, content_type: str | None
) -> None:
    gateway = Gateway(started("a", "b"))
    gateway.predict(path, body, content_type)
    assert gateway.link.submitted[-1].model == "m"
    assert gateway.inputs()["model_name"] == ("", b"m")


def started(*models: str) -> Replies:
    """A broker with these models of its start, and one that was registered later."""
    of_start = tuple(msgspec.structs.replace(facts(model=name), loaded_at_startup=True) for name in models)
    versions = (*of_start, facts(model="later"))
    return lambda ask: messages.FleetRead(ask.ask, 1, 0.0, 1, (), versions)


def test_a_model_name_too_long_for_the_head_of_a_message_is_refused() -> None:
    gateway = Gateway(started())
    name = b"model_name=" + b"m" * 2000
    answer = gateway.predict("/invocations", name, "application/x-www-form-urlencoded")
    assert (answer.status_code, gateway.link.submitted) == (400, [])
    assert len(answer.text) < 300


@pytest.mark.parametrize("path", ["/invocations", "/invocations?model_name="])
def test_invocations_that_name_no_model_mean_the_one_of_the_start(path: str) -> None:
    gateway = Gateway(started("only"))
    gateway.predict(path, b"x")
    assert gateway.link.submitted[-1].model == "only"


@pytest.mark.parametrize("models", [(), ("a", "b")])
def test_invocations_without_a_model_are_400(models: tuple[str, ...]) -> None:
    answer = Gateway(started(*models)).predict("/invocations", b"x")
    assert (answer.status_code, answer.json["message"]) == (400, "Parameter model_name is required.")


def test_invocations_without_a_model_are_put_off_while_models_of_the_start_are_being_registered() -> None:
    def starting(ask: Any) -> messages.Message:  # Any: as in Replies
        reply = started("only")(ask)
        assert isinstance(reply, messages.FleetRead)
        return msgspec.structs.replace(reply, loading=("other.mar",))

    answer = Gateway(starting).predict("/invocations", b"x")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_invocations_hold_no_body_that_is_not_counted_while_they_ask_for_the_model() -> None:
    gateway = Gateway()
    await gateway.link.start()
    gateway.link._flush_soon = lambda: None  # type: ignore[method-assign]  # a broker that takes its time
    taken: list[int] = []

    async def receive() -> Event:
        taken.append(gateway.link._session.room.held_bytes)
        return {"type": "http.request", "body": b"x" * 1000, "more_body": len(taken) < 3}

    async def send(event: Event) -> None:
        pass

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/invocations",
        "raw_path": b"/invocations",
        "query_string": b"",
        "headers": [(b"content-length", b"3000")],
        "raw_headers": [b"Content-Length", b"3000"],
        "server": ("127.0.0.1", INFERENCE),
        "client": ("127.0.0.1", 1),
        "scheme": "http",
    }
    asking = cast(Coroutine[Any, Any, None], gateway.app(scope, receive, send))
    asking.send(None)  # up to its first wait, which is for the broker
    assert taken == [0]
    asking.close()


def test_invocations_describe_the_model_that_the_query_names() -> None:
    gateway = Gateway(lambda ask: messages.ModelDescribed(ask.ask, ()))
    document = gateway.predict("/invocations?model_name=m", method="OPTIONS").json
    assert document["info"]["title"] == "RESTful API for: m"


@pytest.mark.parametrize(
    "path", ["/invocations/predict", "/models/predict", "/models/m/predict", "/api-description/predict"]
)
def test_the_oldest_spelling_names_no_model_after_another_route(path: str) -> None:
    answer = Gateway().predict(path, b"x")
    assert (answer.status_code, answer.json) == (404, NOT_FOUND)


def test_a_model_called_as_the_workflows_route_still_predicts() -> None:
    gateway = Gateway()
    gateway.predict("/wfpredict/predict", b"x")
    assert gateway.link.submitted[-1].model == "wfpredict"


CORS = GatewaySettings(
    cors_allowed_origin="https://app.example.com",
    cors_allowed_methods="GET, POST",
    cors_allowed_headers="X-Custom",
    max_request_size=3,
)


@pytest.mark.parametrize(
    ("port", "method", "path", "body", "status"),
    [
        (INFERENCE, "POST", "/predictions/m", b"x", 200),
        (INFERENCE, "OPTIONS", "/predictions/m", b"", 404),
        (INFERENCE, "POST", "/predictions/m", b"long", 413),
        (INFERENCE, "GET", "/no-such-route", b"", 404),
        (INFERENCE, "GET", "/", b"", 405),
        (MANAGEMENT, "GET", "/models/m", b"", 404),
        (METRICS, "OPTIONS", "/", b"", 200),
    ],
)
def test_every_answer_lets_the_configured_site_in(
    port: int, method: str, path: str, body: bytes, status: int
) -> None:
    gateway = Gateway(lambda ask: errors.ModelNotFound("Model not found: m"), config=CORS)
    answer = gateway.ask(port, method, path, body=body)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
    assert answer.headers["access-control-allow-methods"] == "GET, POST"
    assert answer.headers["access-control-allow-headers"] == "X-Custom"


def test_a_handlers_own_cors_header_goes_before_the_configured_one() -> None:
    own = codec.Response(200, "", (("Access-Control-Allow-Origin", "https://own.example.com"),), b"")
    gateway = Gateway(worker=lambda request, values: own, config=CORS)
    assert (
        gateway.predict("/predictions/m").headers["access-control-allow-origin"] == "https://own.example.com"
    )


def test_no_site_is_let_in_unless_configured() -> None:
    answer = Gateway().predict("/predictions/m", b"x")
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_headers_reach_the_handler_as_spelled_authorization_too_where_it_is_no_key_of_ours() -> None:
    gateway = Gateway()
    sent = {"X-Golden": "1", "AUTHORIZATION": "Bearer k", "Proxy-Authorization": "p", "explain": "True"}
    gateway.ask(INFERENCE, "POST", "/predictions/m", body=b"x", headers=sent)
    told = {**sent, "explain": "False", "url_path": "", "Content-Length": "1"}
    assert gateway.headers() == told


def test_large_inputs_travel_as_frames() -> None:
    gateway = Gateway()
    body = bytes(range(256)) * 100
    assert gateway.predict("/predictions/m", body).content == body
    assert gateway.link.submitted[-1].frames == 1


@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 413)])
def test_a_body_may_have_max_request_size_bytes_and_no_more(size: int, status: int) -> None:
    gateway = Gateway(config=GatewaySettings(max_request_size=1000))
    answer = gateway.predict("/predictions/m", b"x" * size)
    assert answer.status_code == status


# Answers


def test_a_prediction_has_no_content_type_and_all_standard_headers() -> None:
    gateway = Gateway()
    headers = gateway.predict("/predictions/m", b"x").headers
    assert "content-type" not in headers
    assert headers["x-request-id"] == gateway.link.requests[-1].request_id
    assert headers["pragma"] == "no-cache"
    assert headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
    assert headers["expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"
    assert headers["connection"] == "keep-alive"


def test_status_and_headers_are_the_handlers_but_for_those_that_are_the_servers() -> None:
    own = (
        ("Content-Type", "text/csv"),
        ("X-Own", "v"),
        ("Cache-Control", "max-age=5"),
        ("content-length", "2"),
    )
    answer = answering(codec.Response(599, "", own, b"longer")).predict("/predictions/m")
    assert (answer.status_code, answer.content) == (599, b"longer")
    assert (answer.headers["content-type"], answer.headers["x-own"]) == ("text/csv", "v")
    assert answer.headers["cache-control"].startswith("no-cache")
    assert answer.headers["content-length"] == "6"
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "response",
    [
        codec.Response(99, "", (), b""),
        codec.Response(200, "", (("X Bad", "v"),), b""),
        codec.Response(200, "", (("X-Bad", "a\r\nset-cookie: b"),), b""),
        codec.Response(200, "a\r\nb", (), b""),
        codec.Response(200, "", (("X-Bad", "日本"),), b""),
    ],
)
def test_what_http_cannot_carry_is_a_failed_prediction_that_says_so(response: codec.Response) -> None:
    answer = answering(response).predict("/predictions/m")
    assert (answer.status_code, answer.json["message"]) == (503, "Prediction failed")
    assert "HTTP can't carry" in answer.json["details"]


@pytest.mark.parametrize("status", [-1, 0, 100, 199, 1000])
def test_a_handler_fault_with_a_status_that_is_none_gets_its_own(status: int) -> None:
    error = ("PredictionFailed", "too small", "")
    answer = answering(codec.Response(status, "", (), b"", error)).predict("/predictions/m")
    assert (answer.status_code, answer.json["code"]) == (503, 503)


def test_a_failed_prediction_has_no_phrase_of_the_handlers() -> None:
    begun: list[Event] = []
    app = answering(codec.Response(200, "All is well", (("X Bad", "v"),), b"")).app

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        async def note(message: Event) -> None:
            if message["type"] == "http.response.start":
                begun.append(message)
            await send(message)

        await app(scope, receive, note)

    falcon.testing.simulate_post(
        noting, "/predictions/m", host="localhost", port=INFERENCE, extras={"raw_headers": []}
    )
    assert [(one["status"], one.get("reason")) for one in begun] == [(503, None)]


def test_a_handler_fault_keeps_the_status_that_it_asked_for() -> None:
    error = ("PredictionFailed", "too small", "ValueError: too small")
    answer = answering(codec.Response(513, "", (), b"", error)).predict("/predictions/m")
    assert (answer.status_code, answer.json) == (
        513,
        {
            "code": 513,
            "type": "InternalServerException",
            "message": "too small",
            "details": "ValueError: too small",
        },
    )


def test_in_flight_is_bounded_in_bytes_and_says_which_setting() -> None:
    answer = Gateway(config=GatewaySettings(in_flight_limit_bytes=100)).predict("/predictions/m", b"x" * 101)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "in_flight_limit_bytes" in answer.json["details"]


@pytest.mark.parametrize("said", ["1", "250", "007", "86400000"])
@pytest.mark.parametrize("path", ["/predictions/m", "/invocations?model_name=m", "/v2/models/m/infer"])
def test_a_job_has_the_time_that_its_client_gives_it(
    path: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway()
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)  # else a millisecond may be over before it is read
    answer = gateway.ask(INFERENCE, "POST", path, headers={"X-Request-Timeout-Ms": said})
    assert answer.status_code == 200
    (item,) = gateway.link.submitted
    assert item.left_ms == int(said)
    gateway.predict(path)
    assert gateway.link.submitted[1].left_ms == 0


@pytest.mark.parametrize("said", ["", "0", "-1", "1.5", "1e3", "ten", "86400001", "9" * 5000, "²", "5, 5"])
def test_a_time_that_is_none_is_400_and_nothing_is_run(said: str) -> None:
    gateway = Gateway()
    answer = gateway.ask(INFERENCE, "POST", "/predictions/m", headers={"x-request-timeout-ms": said})
    assert (answer.status_code, answer.json["type"]) == (400, "BadRequestException")
    assert answer.json["message"].startswith(
        "The header x-request-timeout-ms must be a whole number from 1 to 86400000"
    )
    assert len(answer.json["message"]) < 1000
    assert not gateway.link.submitted


def test_a_refusal_says_when_to_come_again_and_a_late_answer_that_it_is_late() -> None:
    def refusing(error: errors.RelayError) -> Gateway:
        return Gateway(worker=lambda request, values: error)

    answer = refusing(errors.ServiceUnavailable("busy", "why", retry_after_s=17)).predict("/predictions/m")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "17")
    answer = refusing(errors.PredictionTimeout("late", "why")).predict("/predictions/m")
    assert (answer.status_code, answer.json["type"]) == (504, "RequestTimeoutException")
    answer = refusing(errors.PredictionFailed("Prediction failed")).predict("/predictions/m")
    assert answer.status_code == 503
    assert "retry-after" not in answer.headers, "the handler would fail again"


def test_a_large_body_that_finds_no_room_is_refused_before_it_is_read() -> None:
    gateway = Gateway(config=GatewaySettings(in_flight_limit_bytes=10_000))
    assert gateway.predict("/predictions/m", b"x" * 20_000).status_code == 503
    assert not gateway.link.submitted


def test_responses_are_counted_for_the_fleet() -> None:
    gateway = Gateway()
    gateway.predict("/predictions/m")
    gateway.predict("/nowhere")
    assert gateway.link.counted == [200, 404]


# Descriptions


def test_a_models_own_description_needs_the_model() -> None:
    gateway = Gateway(lambda ask: errors.ModelNotFound("Model not found: nobody"))
    answer = gateway.predict("/predictions/nobody", method="OPTIONS")
    assert (answer.status_code, answer.json["message"]) == (404, "Model not found: nobody")


def test_a_model_describes_itself_by_its_name() -> None:
    gateway = Gateway(lambda ask: messages.ModelDescribed(ask.ask, ()))
    document = gateway.predict("/predictions/m", method="OPTIONS").json
    assert document["info"]["title"] == "RESTful API for: m"
    assert set(document["paths"]) == {
        "/predictions/m",
        "/explanations/m",
        "/models/m/invoke",
        "/v1/models/m:predict",
        "/v1/models/m:explain",
        "/v2/models/m/infer",
        "/v2/models/m/explain",
    }
