"""How each server is asked and how it answers: paths, headers and forms of bodies. Pure.

A server gets the form that is its own and costs it least: bytes as they are for what is echoed, JSON for rows
of numbers, text for what is streamed.
"""

import json
from array import array
from collections.abc import Mapping

import msgspec

from benchmarks.peers.rows import CheckedItem, ComparisonRow

MODEL = "model"
#: Numbers may differ by this: batches are of several sizes, environments of several versions of NumPy.
TOLERANCE = 1e-4
#: Triton's own header: how much of a body is JSON, before bytes as they are.
TRITON_HEADER = "Inference-Header-Content-Length"

Answer = bytes | str | tuple[float, ...]


class Question(msgspec.Struct, frozen=True):
    """What is posted."""

    path: str
    headers: dict[str, str]
    body: bytes


class Malformed(ValueError):
    """An answer isn't in the form that it should have."""


def ask(server: str, row: ComparisonRow, item: CheckedItem) -> Question:
    """Put an item into the form that a server takes."""
    types = {"perceptron": "application/json", "stream": "text/plain"}
    headers = {"Content-Type": types.get(row.model, "application/octet-stream")}
    if server != "triton":
        paths = {"mosec": "/inference", "litserve": "/predict"}
        return Question(paths.get(server, f"/predictions/{MODEL}"), headers, item.question)
    path = f"/v2/models/{MODEL}/infer"
    if row.model == "perceptron":
        numbers = json.loads(item.question)
        tensor = {"name": "IN", "shape": [1, len(numbers)], "datatype": "FP32", "data": numbers}
        return Question(path, headers, json.dumps({"inputs": [tensor]}).encode())
    if row.model == "stream":
        body = json.dumps({"IN": item.question.decode()}).encode()
        return Question(f"/v2/models/{MODEL}/generate_stream", {"Content-Type": "application/json"}, body)
    return Question(path, headers | {TRITON_HEADER: "0"}, item.question)


def read(server: str, row: ComparisonRow, headers: Mapping[str, str], body: bytes) -> Answer:
    """Take the answer out of the form that a server gives it. Raises Malformed."""
    try:
        if row.model == "stream":
            return _streamed(server, body)
        if row.model in ("encoder", "layers"):
            return (*array("f", body),)
        if row.model != "perceptron":
            return body[int(headers[TRITON_HEADER]) :] if server == "triton" else body
        said = json.loads(body)
        numbers = said["outputs"][0]["data"] if server == "triton" else said
        return tuple(float(number) for number in numbers)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Malformed(f"{server} answered {body[:200]!r}") from error


def is_right(answer: Answer, expected: Answer) -> bool:
    """Tell whether an answer is the one that was to come, numbers within the tolerance."""
    if isinstance(answer, tuple) and isinstance(expected, tuple):
        pairs = zip(answer, expected, strict=False)
        return len(answer) == len(expected) and all(abs(one - other) <= TOLERANCE for one, other in pairs)
    return answer == expected


def _streamed(server: str, body: bytes) -> str:
    """Return the parts of an answer in one; Mosec and Triton send them as events."""
    if server == "triton":
        events = body.decode().split("\n\n")
        return "".join(json.loads(event.removeprefix("data: "))["OUT"] for event in events if event)
    if server == "mosec":
        # An event's lines: a part's own line end is a line without anything.
        events = body.decode().split("\n\n")
        return "".join(event.replace("data: ", "").rstrip("\n") + "\n" for event in events if event.strip())
    return body.decode()
