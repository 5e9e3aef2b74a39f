"""The management API as its clients see it: texts, statuses and JSON to the byte where they compare."""

import json
from typing import Any

import msgspec
import pytest

from tests.gateway.facts import WORKER, described, facts, scaled
from tests.gateway.fakes import Gateway
from torchrelay.gateway.api import management
from torchrelay.shared import errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec, messages


def registered(workers: int = 0, *, done: bool = True) -> Any:
    return lambda ask: messages.ModelRegistered(ask.ask, "echo", "1.0", workers, done)


def status(text: str) -> bytes:
    return (json.dumps({"status": text}, indent=2, ensure_ascii=False) + "\n").encode()


# Register


@pytest.mark.parametrize(
    ("workers", "done", "code", "text"),
    [
        (
            0,
            True,
            200,
            'Model "echo" Version: 1.0 registered with 0 initial workers.'
            " Use scale workers API to add workers for the model.",
        ),
        (2, True, 200, 'Model "echo" Version: 1.0 registered with 2 initial workers'),
        (1, False, 202, "Processing worker updates..."),
    ],
)
def test_register_tells_what_came_of_it(workers: int, done: bool, code: int, text: str) -> None:
    answer = Gateway(registered(workers, done=done)).manage("POST", "/models?url=echo.mar")
    assert (answer.status_code, answer.content) == (code, status(text))


def test_register_reads_every_parameter_of_the_query() -> None:
    gateway = Gateway(registered())
    gateway.manage(
        "POST",
        "/models?url=echo.mar&model_name=n&handler=h.py&runtime=python3&batch_size=8&max_batch_delay=250"
        "&response_timeout=12&startup_timeout=13&initial_workers=2&synchronous=false&s3_sse_kms=true",
    )
    assert gateway.link.asked == [
        messages.RegisterModel(1, "echo.mar", "n", "h.py", "python3", 8, 250, 12, 13, 2, False, True)
    ]


def test_register_leaves_unsaid_what_is_absent_and_waits_by_default() -> None:
    gateway = Gateway(registered())
    gateway.manage("POST", "/models?url=echo.mar")
    assert gateway.link.asked == [messages.RegisterModel(1, "echo.mar", synchronous=True)]


@pytest.mark.parametrize(
    "query",
    [
        "batch_size=abc",
        "batch_size=0",
        "batch_size=-5",
        "max_batch_delay=-7",
        "response_timeout=0",
        "startup_timeout=soon",
        "initial_workers=1.5",
        "initial_workers=-1",
        "initial_workers=",
        "initial_workers=99999999999",
        "model_name=",
        "colour=blue",
    ],
)
def test_what_is_no_number_or_cannot_be_meant_counts_as_absent(query: str) -> None:
    gateway = Gateway(registered())
    assert gateway.manage("POST", f"/models?url=echo.mar&{query}").status_code == 200
    assert gateway.link.asked == [messages.RegisterModel(1, "echo.mar")]


def test_no_time_to_start_in_is_taken_at_its_word() -> None:
    gateway = Gateway(registered())
    gateway.manage("POST", "/models?url=echo.mar&startup_timeout=0")
    assert gateway.link.asked == [messages.RegisterModel(1, "echo.mar", startup_timeout_s=0)]


def test_of_a_query_parameter_that_comes_twice_the_first_counts() -> None:
    gateway = Gateway(registered())
    gateway.manage("POST", "/models?url=echo.mar&model_name=first&model_name=second")
    assert gateway.link.asked[0].model_name == "first"


@pytest.mark.parametrize(
    ("value", "expected"), [("true", True), ("TRUE", True), ("maybe", False), ("1", False)]
)
def test_booleans_are_true_or_anything_else(value: str, expected: bool) -> None:
    gateway = Gateway(registered())
    gateway.manage("POST", f"/models?url=echo.mar&synchronous={value}")
    assert gateway.link.asked[0].synchronous is expected


def json_body(body: bytes) -> dict[str, Any]:
    return {"body": body, "headers": {"Content-Type": "application/json; charset=utf-8"}}


def test_a_json_body_counts_alone_and_may_write_numbers_as_texts() -> None:
    gateway = Gateway(registered())
    said = (
        b'{"url": "echo.mar", "model_name": "j", "batch_size": "2", "synchronous": "false", "handler": null}'
    )
    assert gateway.manage("POST", "/models?runtime=python", **json_body(said)).status_code == 200
    assert gateway.link.asked == [messages.RegisterModel(1, "echo.mar", "j", batch_size=2, synchronous=False)]


def test_json_may_be_as_lax_as_torchserves_own_clients_write_it() -> None:
    gateway = Gateway(registered())
    answer = gateway.manage("POST", "/models", **json_body(b"{'url': 'echo.mar', initial_workers: '1',}"))
    assert answer.status_code == 200
    asked = gateway.link.asked[-1]
    assert isinstance(asked, messages.RegisterModel)
    assert (asked.url, asked.initial_workers) == ("echo.mar", 1)


@pytest.mark.parametrize(
    "body",
    [
        b'{"url": ',
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"url": 5}',
        b'{"url": "e", "batch_size": "many"}',
        b"[" * 100_000,
    ],
    ids=["cut", "empty", "list", "null", "not utf-8", "number for text", "text for number", "deep"],
)
def test_a_json_body_that_makes_no_sense_is_400(body: bytes) -> None:
    answer = Gateway(registered()).manage("POST", "/models", **json_body(body))
    assert (answer.status_code, answer.json["type"]) == (400, "BadRequestException")


@pytest.mark.parametrize(
    ("path", "extra"),
    [
        ("/models", {}),
        ("/models?model_name=nothing", {}),
        ("/models?URL=echo.mar", {}),
        ("/models?url=echo.mar", json_body(b"{}")),
        ("/models", json_body(b'{"modelUrl": "echo.mar"}')),
        (
            "/models",
            {"body": b"url=echo.mar", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        ),
        ("/models", {"body": b'{"url": "echo.mar"}'}),
    ],
)
def test_register_needs_a_url_where_it_looks_for_it(path: str, extra: dict[str, Any]) -> None:
    answer = Gateway(registered()).manage("POST", path, **extra)
    assert (answer.status_code, answer.json["message"]) == (400, "Parameter url is required.")


def test_an_unknown_runtime_is_400() -> None:
    answer = Gateway(registered()).manage("POST", "/models?url=echo.mar&runtime=cobol")
    assert (answer.status_code, answer.json["message"]) == (400, "Invalid RuntimeType value: cobol")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Conflict("Model version 1.0 is already registered for model echo"), 409),
        (errors.ModelNotFound("empty url"), 404),
        (errors.DownloadFailed("Failed to download archive from: http://x"), 400),
        (errors.WorkerStartFailed("Failed to start workers for model echo version: 1.0", "exit code 1"), 500),
    ],
)
def test_what_the_broker_refuses_is_passed_on(error: errors.RelayError, code: int) -> None:
    answer = Gateway(lambda ask: error).manage("POST", "/models?url=echo.mar")
    wanted = {"code": code, "type": error.type, "message": error.message}
    assert answer.json == (wanted | {"details": error.details} if error.details else wanted)


def test_a_registration_body_is_bounded() -> None:
    config = GatewaySettings(enable_model_api=True, max_request_size=10)
    answer = Gateway(registered(), config=config).manage("POST", "/models", **json_body(b" " * 11))
    assert (answer.status_code, answer.content) == (413, b"")


# Scale


@pytest.mark.parametrize(
    ("path", "code", "text", "ask"),
    [
        ("/models/echo", 202, "Processing worker updates...", ("echo", None, 1, 1, False, -1)),
        ("/models/echo?min_worker=2", 202, "Processing worker updates...", ("echo", None, 2, 2, False, -1)),
        (
            "/models/echo?min_worker=2&max_worker=3&synchronous=true&timeout=0",
            200,
            "Workers scaled to 2 for model: echo",
            ("echo", None, 2, 3, True, 0),
        ),
        (
            "/models/echo?max_worker=3&synchronous=TRUE&timeout=-9",
            200,
            "Workers scaled to 1 for model: echo",
            ("echo", None, 1, 3, True, -1),
        ),
        (
            "/models/echo/2.0?min_worker=abc&max_worker=many&synchronous=true&timeout=7",
            200,
            "Workers scaled to 1 for model: echo, version: 2.0",
            ("echo", "2.0", 1, 1, True, 7),
        ),
        (
            "/models/echo?model_version=1.0&synchronous=true&number_gpu=1",
            200,
            "Workers scaled to 1 for model: echo, version: 1.0",
            ("echo", "1.0", 1, 1, True, -1),
        ),
        (
            "/models/echo/?min_worker=0&max_worker=0&synchronous=true",
            200,
            "Workers scaled to 0 for model: echo",
            ("echo", None, 0, 0, True, -1),
        ),
        (
            "/models/echo/set-default",
            202,
            "Processing worker updates...",
            ("echo", "set-default", 1, 1, False, -1),
        ),
    ],
)
def test_scale_reads_its_query_and_tells_what_came_of_it(
    path: str, code: int, text: str, ask: tuple[Any, ...]
) -> None:
    gateway = Gateway(scaled())
    answer = gateway.manage("PUT", path)
    assert (answer.status_code, answer.content) == (code, status(text))
    assert gateway.link.asked == [messages.ScaleWorkers(1, *ask)]


@pytest.mark.parametrize("query", ["min_worker=3&max_worker=2", "max_worker=0"])
def test_max_below_min_is_400(query: str) -> None:
    answer = Gateway(scaled()).manage("PUT", f"/models/echo?{query}")
    assert (answer.status_code, answer.json["message"]) == (400, "max_worker cannot be less than min_worker.")


@pytest.mark.parametrize("query", ["min_worker=-1&max_worker=1", "min_worker=-2&max_worker=-1"])
def test_a_negative_number_of_workers_is_500_and_changes_nothing(query: str) -> None:
    gateway = Gateway(scaled())
    assert gateway.manage("PUT", f"/models/echo?{query}").status_code == 500
    assert not gateway.link.asked


def test_scale_does_not_read_a_body() -> None:
    gateway = Gateway(scaled())
    assert gateway.manage("PUT", "/models/echo", **json_body(b'{"min_worker": 2}')).status_code == 202
    assert gateway.link.asked[0].min_workers == 1


# Describe


def test_what_an_archive_asks_of_its_nodes_is_described_with_what_is_missing() -> None:
    asking = msgspec.structs.replace(facts(), strategy="pack", memory_bytes=9 << 30, labels=(("zone", "a"),))
    (body,) = Gateway(described(asking)).manage("GET", "/models/echo").json
    assert body["placement"] == {"memoryBytes": 9 << 30, "labels": {"zone": "a"}, "strategy": "pack"}
    assert body["explanation"] == "wants 1, has 0"
    (body,) = Gateway(described(facts())).manage("GET", "/models/echo").json
    assert not {"placement", "explanation"} & body.keys(), "TorchServe's clients see what they know"


def test_what_the_archives_own_config_says_is_described() -> None:
    version = msgspec.structs.replace(
        facts(),
        client_timeout_ms=900,
        parallel_type="pp",
        parallel_level=2,
        device_type="gpu",
        device_ids=(1, 0),
        continuous_batching=True,
        use_job_ticket=True,
        use_venv=True,
        sequence_batching=True,
        sequence_max_idle_ms=1000,
        sequence_timeout_ms=2000,
        max_sequences=3,
        max_sequence_queue_jobs=4,
    )
    (entry,) = Gateway(described(version)).manage("GET", "/models/echo").json
    keys = list(entry)
    described_as = keys[keys.index("clientTimeoutInMills") : keys.index("loadedAtStartup")]
    assert {key: entry[key] for key in described_as} == {
        "clientTimeoutInMills": 900,
        "parallelType": "pp",
        "parallelLevel": 2,
        "deviceType": "gpu",
        "deviceIds": [1, 0],
        "continuousBatching": True,
        "useJobTicket": True,
        "useVenv": True,
        "stateful": True,
        "sequenceMaxIdleMSec": 1000,
        "sequenceTimeoutMSec": 2000,
        "maxNumSequence": 3,
        "maxSequenceJobQueueSize": 4,
    }


@pytest.mark.parametrize(
    ("path", "ask"),
    [
        ("/models/echo", ("echo", None, False)),
        ("/models/echo/", ("echo", None, False)),
        ("/models/echo/2.0", ("echo", "2.0", False)),
        ("/models/echo/all", ("echo", None, True)),
        ("/models/a%20b", ("a b", None, False)),
        ("/models/a%2Fb", ("a", "b", False)),
        ("/models/a+b", ("a+b", None, False)),
        ("/models/echo;x=1", ("echo;x=1", None, False)),
        ("/models/echo?customized=yes", ("echo", None, False)),
    ],
)
def test_describe_asks_for_the_version_that_the_path_names(path: str, ask: tuple[Any, ...]) -> None:
    gateway = Gateway(described(facts()))
    assert gateway.manage("GET", path).status_code == 200
    assert gateway.link.asked == [messages.DescribeModel(1, *ask)]
    assert not gateway.link.submitted


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"author": "x"}', {"author": "x"}),
        (b"plain", {}),
        (b"null", {}),
        (b"[1]", {}),
        (b"", {}),
        (b"\xff", {}),
        (b"[" * 100_000, {}),
        (b'{"rate": NaN, "text": "\\ud800"}', {"rate": None, "text": "?"}),  # what JSON can't carry
    ],
)
def test_customized_asks_the_handler_and_takes_an_object_only(body: bytes, expected: object) -> None:
    gateway = Gateway(described(facts(WORKER)), lambda request, values: codec.Response(200, "", (), body))
    (entry,) = gateway.manage("GET", "/models/echo/1.0?customized=TRUE").json
    assert entry["customizedMetadata"] == expected
    item = gateway.link.submitted[-1]
    assert (item.model, item.version, item.is_describe) == ("echo", "1.0", True)
    assert gateway.headers()["describe"] == "True"
    assert gateway.link.requests[-1].inputs == ()


def test_customized_keeps_numbers_as_the_handler_wrote_them() -> None:
    body = b'{"step": 1e-05, "id": 123456789012345678901234567890}'
    gateway = Gateway(described(facts()), lambda request, values: codec.Response(200, "", (), body))
    shown = gateway.manage("GET", "/models/echo?customized=true").text
    assert '"step": 1e-05,\n' in shown
    assert '"id": 123456789012345678901234567890\n' in shown


def test_customized_honours_the_handlers_status_and_headers() -> None:
    response = codec.Response(201, "", (("X-Own", "v"), ("Expires", "0")), b"{}")
    answer = Gateway(described(facts()), lambda request, values: response).manage(
        "GET", "/models/echo?customized=true"
    )
    assert (answer.status_code, answer.headers["x-own"]) == (201, "v")
    assert (answer.headers["content-type"], answer.headers["expires"][:3]) == ("application/json", "Thu")


def test_customized_passes_the_handlers_cookies_on() -> None:
    response = codec.Response(201, "Mine", (("Set-Cookie", "a=b"), ("set-cookie", "c=d")), b"{}")
    answer = Gateway(described(facts()), lambda request, values: response).manage(
        "GET", "/models/echo?customized=true"
    )
    assert (answer.status_code, sorted(answer.cookies)) == (201, ["a", "c"])


@pytest.mark.parametrize(
    "response",
    [
        codec.Response(0, "", (), b"{}"),
        codec.Response(100, "", (), b"{}"),
        codec.Response(1000, "", (), b"{}"),
        codec.Response(200, "a\r\nb", (), b"{}"),
        codec.Response(200, "", (("X Bad", "v"),), b"{}"),
        codec.Response(200, "", (("X-Bad", "a\r\nset-cookie: b"),), b"{}"),
    ],
)
def test_customized_fails_where_the_handler_sets_what_http_cannot_carry(response: codec.Response) -> None:
    answer = Gateway(described(facts()), lambda request, values: response).manage(
        "GET", "/models/echo?customized=true"
    )
    assert (answer.status_code, answer.json["message"]) == (503, "Prediction failed")
    assert "HTTP can't carry" in answer.json["details"]


def test_customized_of_all_versions_asks_no_handler() -> None:
    gateway = Gateway(described(facts(), facts(version="2.0")))
    assert len(gateway.manage("GET", "/models/echo/all?customized=true").json) == 2
    assert not gateway.link.submitted


@pytest.mark.parametrize(
    "worker",
    [
        lambda request, values: codec.Response(
            503, "", (), b"", ("PredictionFailed", "Prediction failed", "")
        ),
        lambda request, values: errors.ServiceUnavailable("Prediction failed"),
    ],
)
def test_customized_fails_as_the_handler_does(worker: Any) -> None:
    answer = Gateway(described(facts()), worker).manage("GET", "/models/echo?customized=true")
    assert (answer.status_code, answer.json["message"]) == (503, "Prediction failed")


# Unregister, default, list


@pytest.mark.parametrize(
    ("path", "version"), [("/models/echo", None), ("/models/echo/1.0", "1.0"), ("/models/echo/all", "all")]
)
def test_unregister(path: str, version: str | None) -> None:
    gateway = Gateway(lambda ask: messages.ModelUnregistered(ask.ask, ask.model))
    answer = gateway.manage("DELETE", path)
    assert (answer.status_code, answer.content) == (200, status('Model "echo" unregistered'))
    assert gateway.link.asked == [messages.UnregisterModel(1, "echo", version)]


@pytest.mark.parametrize("path", ["/models/echo/2.0/set-default", "/models/echo/2.0/set-default/"])
def test_set_default(path: str) -> None:
    gateway = Gateway(lambda ask: messages.DefaultSet(ask.ask))
    answer = gateway.manage("PUT", path)
    text = 'Default version successfully updated for model "echo" to "2.0"'
    assert (answer.status_code, answer.content) == (200, status(text))
    assert gateway.link.asked == [messages.SetDefault(1, "echo", "2.0")]


def test_delete_on_set_default_deletes_nothing() -> None:
    gateway = Gateway(described(facts()))
    assert gateway.manage("DELETE", "/models/echo/1.0/set-default").status_code == 405
    assert not any(isinstance(ask, messages.UnregisterModel) for ask in gateway.link.asked)


@pytest.mark.parametrize(
    ("query", "limit", "offset"),
    [
        ("", 100, 0),
        ("?limit=2&next_page_token=4", 2, 4),
        ("?limit=0", 0, 0),
        ("?limit=-1&next_page_token=-3", 100, 0),
        ("?limit=101", 100, 0),
        ("?limit=abc&next_page_token=abc", 100, 0),
        ("?limit=", 100, 0),
        ("?page=2", 100, 0),
    ],
)
def test_list_reads_its_page(query: str, limit: int, offset: int) -> None:
    gateway = Gateway(lambda ask: messages.ModelsListed(ask.ask, (), None))
    answer = gateway.manage("GET", f"/models{query}")
    assert (answer.status_code, answer.content) == (200, b'{\n  "models": []\n}\n')
    assert gateway.link.asked == [messages.ListModels(1, limit, offset)]


def test_list_names_the_next_page_first_and_as_a_text() -> None:
    entries = (messages.ModelEntry("M4", "echo.mar"), messages.ModelEntry("écho", "e.mar"))
    answer = Gateway(lambda ask: messages.ModelsListed(ask.ask, entries, 2)).manage("GET", "/models//")
    assert answer.text == (
        '{\n  "nextPageToken": "2",\n  "models": [\n'
        '    {\n      "modelName": "M4",\n      "modelUrl": "echo.mar"\n    },\n'
        '    {\n      "modelName": "écho",\n      "modelUrl": "e.mar"\n    }\n  ]\n}\n'
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"url": "a.mar", "batch_size": 0x' + b"f" * 20_000 + b"}", "must be a whole number"),
        (b'{"url": "' + b"x" * management.REGISTRATION_LIMIT_BYTES + b'"}', "more than 65536 bytes"),
        (b"[" * 60_000, "nesting"),
    ],
)
def test_json_that_would_take_long_is_refused(body: bytes, said: str) -> None:
    gateway = Gateway(registered())
    answer = gateway.manage("POST", "/models", body=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert said in answer.json["message"]
    assert gateway.link.asked == []


def test_what_a_caller_said_is_not_repeated_without_end() -> None:
    answer = Gateway(registered()).manage("POST", "/models?url=a&runtime=" + "r" * 3000)
    assert answer.status_code == 400
    assert len(answer.text) < 400
