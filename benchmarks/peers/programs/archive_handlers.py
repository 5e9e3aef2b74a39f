"""Handlers for archives, which torchrelay and TorchServe load; the one that only echoes is `echo_handler`."""

from functools import cache
from typing import Any

import served_models


@cache
def _perceptron() -> "served_models.Perceptron":
    return served_models.Perceptron()


@cache
def _encoder(folder: str) -> "served_models.SentenceEncoder":
    return served_models.SentenceEncoder(folder)


@cache
def _layers(folder: str) -> "served_models.Layers":
    with open(f"{folder}/layers") as file:
        return served_models.Layers(int(file.read()))


def perceptron(data: "list[dict[str, Any]] | None", context: Any) -> "list[Any]":
    """Answer each row of numbers with its probabilities, as JSON; None is the call at load."""
    model = _perceptron()
    return model.answers([served_models.numbers_of(row["body"]) for row in data]) if data else []


def stream(data: "list[dict[str, Any]] | None", context: Any) -> "list[Any]":
    """Answer a row in parts."""
    if not data:
        return []
    from ts.handler_utils.utils import send_intermediate_predict_response

    *first, last = served_models.parts(served_models.text_of(data[0]["body"]))
    for part in first:
        send_intermediate_predict_response([part], context.request_ids, "", 200, context)
    return [last]


def encoder(data: "list[dict[str, Any]] | None", context: Any) -> "list[Any]":
    """Answer each sentence with its embedding."""
    model = _encoder(context.system_properties["model_dir"])
    return model.answers([served_models.text_of(row["body"]) for row in data]) if data else []


def layers(data: "list[dict[str, Any]] | None", context: Any) -> "list[Any]":
    """Answer each row with what so many layers make of it."""
    model = _layers(context.system_properties["model_dir"])
    return list(model.answers([row["body"] for row in data])) if data else []
