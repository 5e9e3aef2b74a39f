"""The OpenAPI 3.0.1 documents that each port answers `OPTIONS /` and `/api-description` with.

Paths, methods and operation ids are TorchServe's, so that generated clients keep their names; the
words are ours.
"""

from importlib.metadata import version

Document = dict[str, object]
_Operation = tuple[str, str, str, tuple[str, ...]]

#: path -> operations: (method, operation id, summary, query parameters).
_INFERENCE: dict[str, tuple[_Operation, ...]] = {
    "/": (("options", "apiDescription", "This document.", ()),),
    "/ping": (("get", "ping", "Tell whether the fleet is healthy.", ()),),
    "/v1/models/{model_name}:predict": (("post", "predictions", "Predict (KServe v1).", ()),),
    "/v2/models/{model_name}/infer": (("post", "predictions", "Predict (KServe v2).", ()),),
    "/predictions/{model_name}": (("post", "predictions", "Predict with the default version.", ()),),
    "/predictions/{model_name}/{model_version}": (
        ("post", "version_predictions", "Predict with a version.", ()),
    ),
    "/api-description": (("get", "apiDescription", "This document; use OPTIONS / instead.", ()),),
    "/metrics": (("get", "metrics", "Read metrics; see the metrics port.", ("name[]",)),),
}
_REGISTER = (
    "url",
    "model_name",
    "handler",
    "runtime",
    "batch_size",
    "max_batch_delay",
    "initial_workers",
    "synchronous",
    "response_timeout",
    "startup_timeout",
)
_SCALE = ("min_worker", "max_worker", "synchronous", "timeout")


def _one_model(prefix: str) -> tuple[_Operation, ...]:
    return (
        ("get", f"{prefix}describeModel", "Describe a model and its workers.", ("customized",)),
        ("put", f"{prefix}setAutoScale", "Set how many workers a model has.", _SCALE),
        ("delete", f"{prefix}unregisterModel", "Unregister a model.", ()),
    )


_MANAGEMENT: dict[str, tuple[_Operation, ...]] = {
    "/": (("options", "apiDescription", "This document.", ()),),
    "/models": (
        ("get", "listModels", "List registered models.", ("limit", "next_page_token")),
        ("post", "registerModel", "Register a model archive.", _REGISTER),
    ),
    "/models/{model_name}": _one_model(""),
    "/models/{model_name}/{model_version}": _one_model("version_"),
    "/models/{model_name}/{model_version}/set-default": (
        ("put", "setDefault", "Make a version the default one.", ()),
    ),
    "/api-description": (("get", "apiDescription", "This document; use OPTIONS / instead.", ()),),
    "/metrics": (("get", "metrics", "Read metrics; see the metrics port.", ("name[]",)),),
}
_METRICS: dict[str, tuple[_Operation, ...]] = {
    "/metrics": (("get", "metrics", "Read metrics in Prometheus' text format.", ("name[]",)),),
}
_ONE_MODEL_MANAGEMENT = {path: _MANAGEMENT[path] for path in _MANAGEMENT if "{model_name}" in path}


def inference() -> Document:
    """Describe the inference port."""
    return _document(_INFERENCE)


def management() -> Document:
    """Describe the management port."""
    return _document(_MANAGEMENT)


def metrics() -> Document:
    """Describe the metrics port."""
    return _document(_METRICS)


def shared() -> Document:
    """Describe a port that serves both inference and management."""
    return _document(_INFERENCE | _MANAGEMENT)


def of_model(model: str) -> Document:
    """Describe the inference routes of one model."""
    summary = "Predict with the default version."
    paths: dict[str, tuple[_Operation, ...]] = {
        f"/prediction/{model}": (("post", "predictions", summary, ()),),
        "/v1/models/{model_name}:predict": _INFERENCE["/v1/models/{model_name}:predict"],
        "/v2/models/{model_name}/infer": _INFERENCE["/v2/models/{model_name}/infer"],
    }
    return _document(paths, title=f"RESTful API for: {model}", number="1.0.0")


def management_of_model(model: str) -> Document:
    """Describe the management routes of one model."""
    return _document(_ONE_MODEL_MANAGEMENT, title=f"RESTful Management API for: {model}", number="1.0.0")


def _document(
    paths: dict[str, tuple[_Operation, ...]], *, title: str = "TorchServe APIs", number: str = ""
) -> Document:
    return {
        "openapi": "3.0.1",
        "info": {
            "title": title,
            "description": "The REST API of torchrelay, which is TorchServe's.",
            "version": number or version("torchrelay"),
        },
        "paths": {
            path: {operation[0]: _operation(path, operation) for operation in of}
            for path, of in paths.items()
        },
    }


def _operation(path: str, operation: _Operation) -> Document:
    _, operation_id, summary, query = operation
    in_path = [name for name in ("model_name", "model_version") if f"{{{name}}}" in path]
    parameters = [_parameter(name, "path") for name in in_path] + [
        _parameter(name, "query") for name in query
    ]
    media_type = (
        "text/plain; version=0.0.4; charset=utf-8" if operation_id == "metrics" else "application/json"
    )
    if operation_id.endswith("predictions"):
        media_type = "*/*"
    described: Document = {"summary": summary, "operationId": operation_id}
    if parameters:
        described["parameters"] = parameters
    if operation_id.endswith("predictions"):
        described["requestBody"] = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    described["responses"] = {
        "200": {"description": "Done.", "content": {media_type: {"schema": {"type": "string"}}}},
        "default": {"description": "An error.", "content": {"application/json": {"schema": _ERROR}}},
    }
    return described


_ERROR: Document = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {
        "code": {"type": "integer"},
        "type": {"type": "string"},
        "message": {"type": "string"},
        "details": {"type": "string"},
    },
}


def _parameter(name: str, place: str) -> Document:
    is_required = place == "path" or name == "url"
    schema = {"type": "array", "items": {"type": "string"}} if name == "name[]" else {"type": "string"}
    return {"in": place, "name": name, "required": is_required, "schema": schema}
