"""What is asked of TorchServe by gRPC, for `grpc_player`; the answers are in `grpc_transcripts`."""

import base64
from pathlib import Path
from typing import Any

from tests.compatibility import more_cases, replaying
from tests.compatibility.grpc_player import INFERENCE, MANAGEMENT, OPEN_INFERENCE

from cases import M, do, ready, reg  # isort: skip  # of tests/golden

JSON = Any
FILES: list[tuple[str, dict[str, JSON], list[dict[str, JSON]]]] = []
USUAL = ("--ncs", "--disable-token-auth", "--enable-model-api")
#: What a description of a model says of its workers.
WORKERS = (
    r'\\"id\\": \\"\d+\\"',
    r'\\"startTime\\": \\"[^"]+\\"',
    r'\\"memoryUsage\\": \d+',
    r'\\"pid\\": \d+',
)


def build_store(folder: Path) -> Path:
    """Build all archives that are named here."""
    replaying.build_store(folder)
    return add_archives(folder)


def add_archives(folder: Path) -> Path:
    """Add to the archives of `tests/golden` those that are named here beside them."""
    sequences = {**more_cases.ARCHIVES["sums"][1], "sequenceMaxIdleMSec": 30000}
    codes, sums = more_cases.ARCHIVES["codes"], more_cases.ARCHIVES["sums"]
    more_cases.build_archives(
        folder,
        {
            "codes": codes, "sums": sums, "sequences": ("keeps_sequences.py", sequences),
            "shows": ("shows_tensors.py", {}), "told": ("answers_as_told.py", {}),
        },
    )  # fmt: skip
    return folder


def group(name: str, flags: tuple[str, ...] = USUAL, config: tuple[str, ...] = ()) -> JSON:
    """Begin a transcript; return what adds a case to it."""
    cases: list[dict[str, JSON]] = []
    server = {"flags": list(flags), "config": ["disable_system_metrics=true", *config], "env": {}}
    FILES.append((name, server, cases))

    def case(name: str, call: JSON, setup: tuple[JSON, ...] | list[JSON] = (), **more: JSON) -> None:
        cases.append({"name": name, "setup": list(setup), "call": call, **more})

    return case


def call(method: str, *requests: JSON, **more: JSON) -> JSON:
    return {"method": method, "requests": list(requests) or [{}], **more}


def infer(method: str, *requests: JSON, **more: JSON) -> JSON:
    return call(f"{INFERENCE}/{method}", *requests, **more)


def manage(method: str, request: JSON = None, **more: JSON) -> JSON:
    return call(f"{MANAGEMENT}/{method}", request or {}, **more)


def asking(
    model: str, body: JSON = None, version: str = "", sequence: str | None = None, **inputs: JSON
) -> JSON:
    """Make a request for a prediction."""
    said: dict[str, JSON] = {
        "model_name": model,
        "input": inputs if body is None else {"body": body, **inputs},
    }
    if version:
        said["model_version"] = version
    if sequence is not None:
        said["sequence_id"] = sequence
    return said


def predict(model: str, body: JSON = None, version: str = "", **more: JSON) -> JSON:
    return infer("Predictions", asking(model, body, version), **more)


def b64(data: bytes) -> JSON:
    return {"b64": base64.b64encode(data).decode()}


case = group("grpc-inference", config=("max_request_size=20000",))
case("ping", infer("Ping"))
case("echo", predict("echo", "hello"), [reg("echo.mar", 1)])
case("echo_of_a_version", predict("echo", "hello", "1.0"))
case("echo_binary", predict("echo", b64(bytes(range(256)))))
case("echo_of_another_field", infer("Predictions", asking("echo", None, data="x")))
case("no_inputs", infer("Predictions", {"model_name": "echo"}))
case("empty_value", predict("echo", ""))
case("nothing_at_all", infer("Predictions", {}))
case("unknown_model", predict("nobody", "x"))
case("unknown_version", predict("echo", "x", "9.9"))
case("unknown_version_of_unknown_model", predict("nobody", "x", "9.9"))
case("strange_model", predict("no/such model\n", "x"))
case("with_a_sequence_id", infer("Predictions", asking("echo", "x", sequence="mine")))
case(
    "inspected",
    infer("Predictions", asking("inspect_input", "text", **{"a": "1", "ü": "2", "": "3"})),
    [reg("inspect_input.mar", 1)],
)
case(
    "inspected_with_metadata",
    infer(
        "Predictions",
        asking("inspect_input", "text"),
        metadata={
            "x-golden": "here",
            "authorization": "Bearer abc",
            "explain": "True",
            "content-type-of-input": "text/plain",
            "url_path": "a/b",
        },
    ),
)
case(
    "context",
    infer("Predictions", asking("inspect_context", "x"), metadata={"x-golden": "here"}),
    [reg("inspect_context.mar", 1)],
)
case("context_of_a_sequence", infer("Predictions", asking("inspect_context", "x", sequence="mine")))
case("no_worker", predict("dict_output", "x"), [reg("dict_output.mar")])
case("no_worker_of_a_version", predict("dict_output", "x", "1.0"))
case(
    "dict_output",
    predict("dict_output", "x"),
    [do(M("/models/dict_output?min_worker=1&synchronous=true", "PUT"), 200)],
)
for model in ("str_output", "bytes_output"):
    case(model, predict(model, "x"), [reg(f"{model}.mar", 1)])
for index, kind in enumerate(
    ("value", "memory", "cuda", "prediction", "prediction_default", "prediction_400", "key", "fine")
):
    case(f"raises_{kind}", predict("raises", kind), [] if index else [reg("raises.mar", 1)])
for index, code in enumerate(
    (
        100,
        200,
        204,
        302,
        400,
        401,
        403,
        404,
        405,
        409,
        413,
        416,
        418,
        429,
        499,
        500,
        501,
        503,
        504,
        507,
        513,
        599,
        600,
        999,
    )
):
    case(f"raised_{code}", predict("codes", f"raise {code} so it is"), [] if index else [reg("codes.mar", 1)])
    case(f"set_{code}", predict("codes", f"status {code} so it is"))
case("wrong_length", predict("wrong_length", "x"), [reg("wrong_length.mar", 1)])
case("process_exit", predict("exits_process", "exit"), [reg("exits_process.mar", 1)])
case("process_exit_hard", predict("exits_process", "hard"), [ready("exits_process")])
case("too_slow", predict("configured_short", "3"), [reg("configured_short.mar", 1)])
case("client_timeout", predict("configured_client", "2", deadline_s=4), [reg("configured_client.mar", 1)])
case("deadline", predict("slow", "2", deadline_s=0.7), [reg("slow.mar", 1)])
case(
    "queue_full",
    predict("configured_queue", "0", deadline_s=8),
    [
        reg("configured_queue.mar", 1),
        {"background_call": predict("configured_queue", "1.5")},
        {"sleep_s": 0.5},
        {"background_call": predict("configured_queue", "0")},
        {"sleep_s": 0.5},
    ],
)
case(
    "no_ticket",
    predict("configured_ticket", "0"),
    [
        reg("configured_ticket.mar", 1),
        {"background_call": predict("configured_ticket", "1")},
        {"sleep_s": 0.5},
    ],
)
case("too_large", predict("echo", {"repeat": ["x", 20001]}))
case("just_fits", infer("Predictions", asking("bytes_output", {"repeat": ["x", 19900]})))
case(
    "unknown_fields",
    infer(
        "Predictions",
        base64.b64encode(b"\x0a\x04echo\x1a\x09\x0a\x04body\x12\x01x\xc2\x3e\x03abc\xc8\x3e\x05").decode(),
    ),
)
case("no_message", infer("Predictions", base64.b64encode(b"\xff\xff\xff\xffgarbage").decode()))
case("not_utf8", infer("Predictions", base64.b64encode(b"\x0a\x02\xff\xfe").decode()))
case("empty_message", infer("Predictions", ""))
case("unknown_method", call(f"{INFERENCE}/Explanations", {}))
case("unknown_service", call("org.pytorch.serve.grpc.inference.Nobody/Predictions", {}))
case("management_on_the_inference_port", manage("ListModels", {"limit": 5}, port="inference"))
case("inference_on_the_management_port", infer("Ping", port="management"))
# Streams of answers
case("stream", infer("StreamPredictions", asking("stream_out", "3")), [reg("stream_out.mar", 1)])
case("stream_of_none", infer("StreamPredictions", asking("stream_out", "0")))
case("stream_of_json", infer("StreamPredictions", asking("stream_out", "2 json")))
case("stream_that_fails", infer("StreamPredictions", asking("stream_out", "2 fail")))
case("stream_that_dies", infer("StreamPredictions", asking("stream_out", "2 die")))
case("first_part_only", predict("stream_out", "2"), [ready("stream_out")])
case("stream_of_a_plain_handler", infer("StreamPredictions", asking("str_output", "x")))
case("stream_of_unknown_model", infer("StreamPredictions", asking("nobody", "x")))
case("stream_of_unknown_version", infer("StreamPredictions", asking("stream_out", "x", "7")))
case("stream_of_no_model", infer("StreamPredictions", asking("", "x")))
case(
    "stream_without_worker", infer("StreamPredictions", asking("batch_probe", "x")), [reg("batch_probe.mar")]
)
case("stream_that_raises", infer("StreamPredictions", asking("raises", "prediction_400")))
case("stream_too_large", infer("StreamPredictions", asking("stream_out", {"repeat": ["x", 20001]})))


# Sequences
def steps(*requests: JSON, **more: JSON) -> JSON:
    """Make a call that sends each request when the one before is answered."""
    return infer("StreamPredictions2", *requests, is_in_steps=True, **more)


case(
    "sequence",
    steps(*(asking("sums", str(n), sequence="first") for n in (1, 2, 39))),
    [do(M("/models?url=sums.mar", "POST"), 200), ready("sums")],
)
case("sequence_goes_on", steps(asking("sums", "8", sequence="first")))
case(
    "sequences_side_by_side",
    steps(asking("sums", "1", sequence="second"), asking("sums", "2", sequence="first")),
)
case("sequence_that_ends_at_once", infer("StreamPredictions2", asking("sums", "8", sequence="first")))
case("sequence_without_id", steps(asking("sums", "5")))
case("sequence_with_an_empty_id", steps(asking("sums", "5", sequence="")))
case("sequence_of_unknown_model", steps(asking("nobody", "5", sequence="a")))
case("sequence_of_no_model", steps(asking("", "5", sequence="a")))
case("sequence_of_unknown_version", steps(asking("sums", "5", "7", sequence="a")))
case(
    "sequence_that_names_itself",
    steps(*(asking("sequences", n, sequence="first") for n in ("1", "2", "0"))),
    [do(M("/models?url=sequences.mar", "POST"), 200), ready("sequences")],
)
case("sequence_after_its_end", steps(asking("sequences", "5", sequence="first")))
case(
    "sequence_without_id_but_a_start",
    steps(
        {"model_name": "sequences", "input": {"body": "5", "ts_request_sequence_start": "true"}}, deadline_s=2
    ),
)
case(
    "sequence_with_a_start",
    steps(
        {
            "model_name": "sequences",
            "sequence_id": "first",
            "input": {"body": "5", "ts_request_sequence_start": "true"},
        },
        deadline_s=2,
    ),
)
case("sequence_that_raises", steps(asking("sums", "no number", sequence="first"), deadline_s=2))
case("sequence_after_it_raised", steps(asking("sums", "1", sequence="first"), deadline_s=2))
case("one_sequence_too_many", steps(asking("sums", "1", sequence="third"), deadline_s=2))
case("sequence_without_requests", {"method": f"{INFERENCE}/StreamPredictions2", "requests": []})
case("sequence_of_no_message", infer("StreamPredictions2", base64.b64encode(b"\xff\xff").decode()))
case(
    "sequence_too_large", infer("StreamPredictions2", asking("sums", {"repeat": ["1", 20001]}, sequence="a"))
)
case("by_predictions", infer("Predictions", asking("sums", "5", sequence="first")))
case("ping_with_a_request", infer("Ping", base64.b64encode(b"\x0a\x01x").decode()))
case("sequence_of_a_plain_model", steps(asking("echo", "1", sequence="a")))
case("open_inference_where_it_is_off", call(f"{OPEN_INFERENCE}/ServerLive"))
case("model_infer_where_it_is_off", call(f"{OPEN_INFERENCE}/ModelInfer", {"model_name": "echo"}))

case = group("grpc-management")
case("list_nothing", manage("ListModels", {"limit": 10}))
case("register", manage("RegisterModel", {"url": "echo.mar"}))
case("register_again", manage("RegisterModel", {"url": "echo.mar"}))
case("register_with_a_name", manage("RegisterModel", {"url": "echo.mar", "model_name": "other"}))
case(
    "register_with_workers",
    manage("RegisterModel", {"url": "class_based.mar", "initial_workers": 1, "synchronous": True}),
)
case("register_with_workers_at_once", manage("RegisterModel", {"url": "named.mar", "initial_workers": 1}))
case(
    "register_synchronously_without_workers",
    manage("RegisterModel", {"url": "echo.mar", "model_name": "third", "synchronous": True}),
)
case(
    "register_with_everything",
    manage(
        "RegisterModel",
        {
            "url": "versioned_1.mar",
            "batch_size": 4,
            "handler": "version_teller.py",
            "initial_workers": 1,
            "max_batch_delay": 7,
            "model_name": "everything",
            "response_timeout": 33,
            "startup_timeout": 44,
            "runtime": "python",
            "synchronous": True,
            "s3_sse_kms": True,
        },
    ),
)
case("described", manage("DescribeModel", {"model_name": "everything"}), volatile=WORKERS)
case(
    "register_with_nonsense",
    manage(
        "RegisterModel",
        {
            "url": "echo.mar",
            "batch_size": -3,
            "max_batch_delay": -1,
            "response_timeout": -2,
            "startup_timeout": -4,
            "initial_workers": -5,
            "model_name": "nonsense",
        },
    ),
)
case("described_nonsense", manage("DescribeModel", {"model_name": "nonsense"}))
case("register_configured", manage("RegisterModel", {"url": "configured.mar"}))
case(
    "described_configured",
    manage("DescribeModel", {"model_name": "configured"}),
    [ready("configured")],
    volatile=WORKERS,
)
case("register_without_url", manage("RegisterModel", {}))
case("register_with_an_empty_url", manage("RegisterModel", {"url": "", "model_name": "a"}))
case("register_what_is_not_there", manage("RegisterModel", {"url": "nothing.mar"}))
case("register_from_above", manage("RegisterModel", {"url": "../echo.mar"}))
case("register_by_an_unknown_scheme", manage("RegisterModel", {"url": "ftp://127.0.0.1/none.mar"}))
case("register_by_a_broken_url", manage("RegisterModel", {"url": "http://127.0.0.1:9/echo.mar"}))
for name in (
    "no_manifest",
    "missing_handler",
    "bad_json",
    "no_model",
    "no_name",
    "no_version",
    "no_handler",
    "bad_runtime",
):
    case(f"register_broken_{name}", manage("RegisterModel", {"url": f"broken_{name}.mar"}))
case("register_bad_runtime", manage("RegisterModel", {"url": "str_output.mar", "runtime": "cobol"}))
case(
    "register_failing",
    manage("RegisterModel", {"url": "init_raises.mar", "initial_workers": 1, "synchronous": True}),
)
case("register_a_bad_name", manage("RegisterModel", {"url": "str_output.mar", "model_name": "a b"}))
case("list_without_limit", manage("ListModels"))
case("list_all", manage("ListModels", {"limit": 50}))
case("list_two", manage("ListModels", {"limit": 2}))
case("list_two_more", manage("ListModels", {"limit": 2, "next_page_token": 2}))
case("list_beyond", manage("ListModels", {"limit": 2, "next_page_token": 1000}))
case("list_too_many", manage("ListModels", {"limit": 1000}))
case("list_negative", manage("ListModels", {"limit": -1, "next_page_token": -5}))
case("describe", manage("DescribeModel", {"model_name": "echo"}))
case("describe_a_version", manage("DescribeModel", {"model_name": "echo", "model_version": "1.0"}))
case("describe_all", manage("DescribeModel", {"model_name": "echo", "model_version": "all"}))
case("describe_unknown", manage("DescribeModel", {"model_name": "nobody"}))
case("describe_all_of_unknown", manage("DescribeModel", {"model_name": "nobody", "model_version": "all"}))
case("describe_unknown_version", manage("DescribeModel", {"model_name": "echo", "model_version": "7"}))
case("describe_nothing", manage("DescribeModel", {}))
case(
    "describe_customized",
    manage("DescribeModel", {"model_name": "describes_itself", "customized": True}),
    [reg("describes_itself.mar", 1)],
    volatile=WORKERS,
)
case(
    "describe_customized_version",
    manage("DescribeModel", {"model_name": "describes_itself", "model_version": "1.0", "customized": True}),
    volatile=WORKERS,
)
case(
    "describe_customized_all",
    manage("DescribeModel", {"model_name": "describes_itself", "model_version": "all", "customized": True}),
    volatile=WORKERS,
)
case(
    "describe_customized_plain",
    manage("DescribeModel", {"model_name": "class_based", "customized": True}),
    volatile=WORKERS,
)
case(
    "describe_customized_without_worker", manage("DescribeModel", {"model_name": "echo", "customized": True})
)
case("describe_customized_unknown", manage("DescribeModel", {"model_name": "nobody", "customized": True}))
case(
    "describe_customized_unknown_version",
    manage("DescribeModel", {"model_name": "echo", "model_version": "7", "customized": True}),
)
case("describe_customized_nothing", manage("DescribeModel", {"customized": True}))
case("scale", manage("ScaleWorker", {"model_name": "echo", "min_worker": 2, "synchronous": True}))
case(
    "scale_a_version",
    manage(
        "ScaleWorker",
        {
            "model_name": "echo",
            "model_version": "1.0",
            "min_worker": 1,
            "max_worker": 2,
            "synchronous": True,
            "timeout": 5,
            "number_gpu": 3,
        },
    ),
)
case("scale_at_once", manage("ScaleWorker", {"model_name": "echo", "min_worker": 1}))
case("scale_nothing", manage("ScaleWorker", {"model_name": "echo", "synchronous": True}))
case("scale_max_only", manage("ScaleWorker", {"model_name": "other", "max_worker": 2, "synchronous": True}))
case("scale_max_below_min", manage("ScaleWorker", {"model_name": "echo", "min_worker": 3, "max_worker": 2}))
case("scale_negative", manage("ScaleWorker", {"model_name": "echo", "min_worker": -1}))
case("scale_negative_both", manage("ScaleWorker", {"model_name": "echo", "min_worker": -2, "max_worker": -1}))
case("scale_unknown", manage("ScaleWorker", {"model_name": "nobody", "min_worker": 1}))
case(
    "scale_unknown_version",
    manage("ScaleWorker", {"model_name": "echo", "model_version": "7", "min_worker": 1}),
)
case("scale_without_name", manage("ScaleWorker", {"min_worker": 1}))
case(
    "scale_failing",
    manage("ScaleWorker", {"model_name": "import_fails", "min_worker": 1, "synchronous": True}),
    [reg("import_fails.mar")],
)
case("second_version", manage("RegisterModel", {"url": "versioned_2.mar", "model_name": "everything"}))
case("set_default", manage("SetDefault", {"model_name": "everything", "model_version": "2.0"}))
case("set_default_unknown_version", manage("SetDefault", {"model_name": "everything", "model_version": "7"}))
case("set_default_unknown", manage("SetDefault", {"model_name": "nobody", "model_version": "1.0"}))
case("set_default_without_version", manage("SetDefault", {"model_name": "everything"}))
case("set_default_without_name", manage("SetDefault", {"model_version": "1.0"}))
case("unregister_the_default", manage("UnregisterModel", {"model_name": "everything"}))
case(
    "unregister_the_default_by_version",
    manage("UnregisterModel", {"model_name": "everything", "model_version": "2.0"}),
)
case("unregister_a_version", manage("UnregisterModel", {"model_name": "everything", "model_version": "1.0"}))
case("unregister_the_last", manage("UnregisterModel", {"model_name": "everything"}))
case("unregister_unknown", manage("UnregisterModel", {"model_name": "everything"}))
case("unregister_unknown_version", manage("UnregisterModel", {"model_name": "echo", "model_version": "7"}))
case("unregister_without_name", manage("UnregisterModel", {}))
case("unknown_method", call(f"{MANAGEMENT}/RenameModel", {}, port="management"))
case("no_message", manage("ListModels", base64.b64encode(b"\xff\xff\xff\xff").decode()))

case = group(
    "grpc-keys", flags=("--ncs", "--models", "echo=echo.mar"), config=("default_workers_per_model=1",)
)
KEYS = {
    "none": {},
    "wrong": {"authorization": "Bearer wrongkey"},
    "empty": {"authorization": ""},
    "without_bearer": {"authorization": "{{key:inference}}"},
    "of_inference": {"authorization": "Bearer {{key:inference}}"},
    "of_management": {"authorization": "Bearer {{key:management}}"},
    "of_the_api": {"authorization": "Bearer {{key:api}}"},
}
for key, metadata in KEYS.items():
    case(f"ping_with_{key}", infer("Ping", metadata=metadata))
    case(f"predict_with_{key}", predict("echo", "x", metadata=metadata))
    case(
        f"stream_with_{key}",
        infer("StreamPredictions2", asking("nobody", "x", sequence="a"), metadata=metadata),
    )
    case(f"list_with_{key}", manage("ListModels", {"limit": 3}, metadata=metadata))
    case(
        f"register_with_{key}",
        manage("RegisterModel", {"url": "echo.mar", "model_name": "b"}, metadata=metadata),
    )
case("predict_nobody_with_a_wrong_key", predict("nobody", "x", metadata=KEYS["wrong"]))
case(
    "no_message_with_a_wrong_key",
    infer("Predictions", base64.b64encode(b"\xff\xff\xff\xff").decode(), metadata=KEYS["wrong"]),
)
case("unknown_method_with_a_wrong_key", call(f"{INFERENCE}/Explanations", {}, metadata=KEYS["wrong"]))
case("unregister", manage("UnregisterModel", {"model_name": "echo"}, metadata=KEYS["of_management"]))
case("register_without_url", manage("RegisterModel", {}, metadata=KEYS["of_management"]))
case(
    "scale",
    manage(
        "ScaleWorker",
        {"model_name": "echo", "min_worker": 2, "synchronous": True},
        metadata=KEYS["of_management"],
    ),
)
