"""What is asked of TorchServe by the open inference protocol's gRPC.

Written in the words of `grpc_cases`, to whose FILES these groups are added: it has all.
"""

import base64
import json

from tests.compatibility.grpc_cases import FILES as FILES
from tests.compatibility.grpc_cases import JSON, call, group
from tests.compatibility.grpc_player import OPEN_INFERENCE

from cases import reg  # isort: skip  # of tests/golden


def ask(method: str, request: JSON = None, **more: JSON) -> JSON:
    return call(f"{OPEN_INFERENCE}/{method}", request or {}, **more)


def tensor(datatype: str, *data: JSON, name: str = "x", shape: JSON = None, **more: JSON) -> JSON:
    """Make an input; its data go where the protocol has those of its datatype."""
    field = CONTENTS.get(datatype, "bytes_contents")
    contents = {"contents": {field: list(data)}} if data else {}
    shape = [len(data)] if shape is None else shape
    return {"name": name, "datatype": datatype, "shape": shape, **contents, **more}


def ask_for(model: str, *inputs: JSON, **more: JSON) -> JSON:
    return ask("ModelInfer", {"model_name": model, "inputs": list(inputs), **more})


def told(answer: JSON) -> JSON:
    """Ask for an answer: a text, or JSON."""
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return ask_for("told", tensor("BYTES", base64.b64encode(text.encode()).decode()))


CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
VALUES: dict[str, list[JSON]] = {
    "BOOL": [True, False],
    "INT8": [-128, 127],
    "INT16": [-32768, 32767],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "UINT8": [0, 255],
    "UINT16": [0, 65535],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "FP32": [1.5, -0.0, 1e10],
    "FP64": [0.1, 1e308],
    "BYTES": [base64.b64encode(b"a text").decode(), base64.b64encode(b"\xff\x00").decode()],
}
ANSWER = {"id": "7", "model_name": "m", "model_version": "v"}


def output(datatype: str, data: JSON, **more: JSON) -> JSON:
    return {"name": "y", "datatype": datatype, "shape": [len(data)], "data": data, **more}


case = group(
    "grpc-open-inference",
    config=("ts_open_inference_protocol=true", "max_request_size=20000"),
)
case("live", ask("ServerLive"))
case("ready_without_models", ask("ServerReady"))
case("metadata", ask("ServerMetadata"))
case("model_ready", ask("ModelReady", {"name": "shows"}), [reg("shows.mar", 1)])
case("model_ready_by_version", ask("ModelReady", {"name": "shows", "version": "1.0"}))
case("model_ready_unknown", ask("ModelReady", {"name": "nobody"}))
case("model_ready_unknown_version", ask("ModelReady", {"name": "shows", "version": "9"}))
case("model_ready_without_name", ask("ModelReady"))
case("model_ready_without_worker", ask("ModelReady", {"name": "echo"}), [reg("echo.mar")])
case("ready", ask("ServerReady"))
case("model_metadata", ask("ModelMetadata", {"name": "shows"}))
case("model_metadata_by_version", ask("ModelMetadata", {"name": "shows", "version": "1.0"}))
case(
    "model_metadata_of_versions",
    ask("ModelMetadata", {"name": "both"}),
    [reg("versioned_1.mar", model_name="both"), reg("versioned_2.mar", model_name="both")],
)
case(
    "model_metadata_of_the_other_version",
    ask("ModelMetadata", {"name": "both", "version": "2.0"}),
)
case("model_metadata_unknown", ask("ModelMetadata", {"name": "nobody"}))
case("model_metadata_unknown_version", ask("ModelMetadata", {"name": "shows", "version": "9"}))
case("model_metadata_without_name", ask("ModelMetadata"))
for kind, values in VALUES.items():
    case(f"shown_{kind}", ask_for("shows", tensor(kind, *values)))
case("shown_FP32_of_decimals", ask_for("shows", tensor("FP32", 0.1, 16777216.0, 1e-10)))
case("shown_FP32_of_no_numbers", ask_for("shows", tensor("FP32", "NaN", "Infinity", "-Infinity")))
case("shown_INT8_of_larger_ones", ask_for("shows", tensor("INT8", 1000)))
case("shown_FP16", ask_for("shows", tensor("FP16", base64.b64encode(b"1234").decode(), shape=[2])))
case("shown_unknown_datatype", ask_for("shows", tensor("FP31", "AAAA")))
case(
    "shown_without_datatype", ask_for("shows", {"name": "x", "shape": [1], "contents": {"int_contents": [1]}})
)
case("shown_of_other_contents", ask_for("shows", {**tensor("FP32", 1.5), "contents": {"int_contents": [1]}}))
case("shown_without_contents", ask_for("shows", {"name": "x", "datatype": "INT32", "shape": [2]}))
case("shown_without_shape", ask_for("shows", {**tensor("INT32", 1), "shape": []}))
case("shown_negative_shape", ask_for("shows", tensor("INT32", 1, shape=[-1, 4])))
case("shown_other_shape", ask_for("shows", tensor("INT32", 1, 2, 3, shape=[2, 2])))
case("shown_two", ask_for("shows", tensor("INT32", 1), tensor("BYTES", "YQ==", name="z")))
case("shown_two_of_a_name", ask_for("shows", tensor("INT32", 1), tensor("INT32", 2)))
case("shown_with_id", ask_for("shows", tensor("INT32", 1), id="my id"))
case("shown_with_version", ask_for("shows", tensor("INT32", 1), model_version="1.0"))
case(
    "shown_with_parameters",
    ask_for(
        "shows",
        tensor("INT32", 1, parameters={"a": {"bool_param": True}}),
        parameters={"b": {"int64_param": 3}, "c": {"string_param": "text"}},
        outputs=[{"name": "shown", "parameters": {"d": {"int64_param": 4}}}],
    ),
)
case("shown_without_inputs", ask_for("shows"))
case("infer_without_model", ask("ModelInfer", {"inputs": [tensor("INT32", 1)]}))
case("infer_unknown", ask_for("nobody", tensor("INT32", 1)))
case("infer_unknown_version", ask_for("shows", tensor("INT32", 1), model_version="9"))
case("infer_without_worker", ask_for("echo", tensor("INT32", 1)))
case("infer_too_large", ask_for("shows", tensor("BYTES", base64.b64encode(bytes(30000)).decode())))
case("infer_no_message", ask("ModelInfer", base64.b64encode(b"\xff\xff\xff\xff").decode()))
case(
    "infer_of_a_handler_that_raises",
    ask_for("fails", tensor("INT32", 1)),
    [reg("raises_value_error.mar", 1, model_name="fails")],
)
case("told_of_whom", told({**ANSWER, "outputs": []}), [reg("told.mar", 1)])
for kind, values in VALUES.items():
    case(f"told_{kind}", told({**ANSWER, "outputs": [output(kind, values)]}))
case("told_BYTES_of_texts", told({**ANSWER, "outputs": [output("BYTES", ["a text", "ä"])]}))
case("told_FP16", told({**ANSWER, "outputs": [output("FP16", [1.5])]}))
case("told_unknown_datatype", told({**ANSWER, "outputs": [output("FP31", [1.5])]}))
case("told_nested", told({**ANSWER, "outputs": [output("FP32", [[1.5, 2.5]], shape=[1, 2])]}))
case("told_two", told({**ANSWER, "outputs": [output("FP32", [1.5]), output("INT32", [1], name="z")]}))
case("told_other_values", told({**ANSWER, "outputs": [output("INT32", ["a"])]}))
case("told_fractions", told({**ANSWER, "outputs": [output("INT32", [1.5])]}))
case("told_other_shape", told({**ANSWER, "outputs": [output("INT32", [1, 2], shape=[3])]}))
case(
    "told_parameters",
    told({**ANSWER, "parameters": {"a": 1}, "outputs": [output("INT32", [1], parameters={"b": 2})]}),
)
case("told_more", told({**ANSWER, "more": {}, "outputs": [output("INT32", [1], more=[])]}))
case("told_no_id", told({**ANSWER, "id": None, "outputs": []}))
case("told_without_names", told({"outputs": []}))
case("told_without_data", told({**ANSWER, "outputs": [{"name": "y", "datatype": "INT32", "shape": [1]}]}))
case("told_without_shape", told({**ANSWER, "outputs": [{"name": "y", "datatype": "INT32", "data": [1]}]}))
case("told_without_outputs", told(ANSWER))
case("told_a_list", told([1]))
case("told_a_text", told("no JSON"))

case = group(
    "grpc-open-inference-envelope",
    config=("ts_open_inference_protocol=true", "service_envelope=kservev2"),
)
case("rows", ask_for("rows", tensor("INT64", 1, 2), id="q1"), [reg("reports_rows.mar", 1, model_name="rows")])
case(
    "rows_of_two", ask_for("rows", tensor("FP32", 1.5, name="a"), tensor("BYTES", "YQ==", name="b"), id="q2")
)
case("rows_without_id", ask_for("rows", tensor("INT64", 1)), volatile=[r'"id": "[0-9a-f-]{36}"'])
case("rows_of_a_shape", ask_for("rows", tensor("INT64", 1, 2, 3, 4, shape=[2, 2]), id="q3"))
