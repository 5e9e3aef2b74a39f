"""The OpenAPI 3.0.1 documents that each port answers `OPTIONS /` and `/api-description` with.

Titles, paths and operation ids are TorchServe's where its documents are right, so that generated clients
keep their names. Where they aren't (ids that come twice, defaults of the wrong type, paths, parameters
and fields that don't exist) ours say what happens. Tests compare them with a running server.
"""

from dataclasses import replace
from importlib.metadata import version
from typing import get_args
from urllib.parse import quote

from torchrelay.gateway.http.standard_responses import JSON
from torchrelay.gateway.openapi import operations, schemas
from torchrelay.gateway.openapi.operations import Operation, Operations
from torchrelay.shared.deadlines import RETRY_AFTER_LIMIT_S
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire.fields import KeyedApi

Document = dict[str, object]


def inference(config: GatewaySettings) -> Document:
    """Describe the inference port."""
    return _document(operations.DESCRIPTION + _inference(config), config)


def management(config: GatewaySettings) -> Document:
    """Describe the management port."""
    found = operations.DESCRIPTION + _management(config) + operations.readiness("management")
    found += operations.PROTOCOL_PROBES
    return _document(found, config)


def metrics(config: GatewaySettings) -> Document:
    """Describe the metrics port."""
    return _document(operations.DESCRIPTION + operations.METRICS, config)


def shared(config: GatewaySettings) -> Document:
    """Describe a port that serves both inference and management."""
    found = operations.DESCRIPTION + _inference(config) + _management(config)
    found += operations.readiness("inference")  # the path is inference's, too
    return _document(found + operations.METRICS if config.enable_metrics_api else found, config)


def of_model(model: str, config: GatewaySettings) -> Document:
    """Describe the inference routes of one model."""
    name = quote(model, safe="")
    found = tuple(
        replace(operation, path=operation.path.replace("{model_name}", name))
        for operation in operations.PREDICTIONS + operations.KSERVE_V2
        if "{model_name}" in operation.path and "{model_version}" not in operation.path
    )
    return _document(found, config, title=f"RESTful API for: {model}", number="1.0.0")


def management_of_model(model: str, config: GatewaySettings) -> Document:
    """Describe the management routes of one model."""
    return _document(operations.MODEL, config, title=f"RESTful Management API for: {model}")


def _inference(config: GatewaySettings) -> Operations:
    found = operations.PING + operations.PREDICTIONS + operations.WORKFLOW_PREDICTIONS
    is_on = config.open_inference_protocol
    return found + (operations.OPEN_INFERENCE_PROTOCOL if is_on else operations.KSERVE_V2)


def _management(config: GatewaySettings) -> Operations:
    found = operations.MODELS + operations.MODEL + operations.WORKFLOWS
    found += operations.FLEET + operations.MODEL_PROBES
    found += operations.members("node") + operations.DRAINING + operations.members("gateway")
    found += operations.BROKER_KEY
    return found + operations.TOKEN if config.token_authorization else found


def _document(
    found: Operations, config: GatewaySettings, *, title: str = "TorchServe APIs", number: str = ""
) -> Document:
    has_keys = config.token_authorization
    components: Document = {
        "schemas": schemas.COMPONENTS,
        "headers": {"RequestId": _REQUEST_ID, "RetryAfter": _RETRY_AFTER},
    }
    if has_keys:
        components["securitySchemes"] = {
            f"{api}Key": {"type": "http", "scheme": "bearer"} for api in get_args(KeyedApi)
        }
    paths: dict[str, Document] = {}
    for operation in found:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, has_keys=has_keys)
    return {
        "openapi": "3.0.1",
        "info": {
            "title": title,
            "description": "The REST API of torchrelay, which is TorchServe's.",
            "version": number or version("torchrelay"),
        },
        "paths": paths,
        "components": components,
    }


def _operation(operation: Operation, *, has_keys: bool) -> Document:
    described: Document = {"summary": operation.summary, "operationId": operation.id}
    if operation.description:
        described["description"] = operation.description
    if operation.is_deprecated:
        described["deprecated"] = True
    in_path = [name for name in _IN_PATH if f"{{{name}}}" in operation.path]
    described["parameters"] = [
        {"in": "path", "name": name, "required": True, "description": _IN_PATH[name], "schema": _SEGMENT}
        for name in in_path
    ] + list(operation.query)
    if operation.body is not None:
        described["requestBody"] = operation.body
    described["responses"] = _responses(operation, has_keys=has_keys)
    if has_keys:
        described["security"] = [{f"{operation.key}Key": []}] if operation.key else []
    return described


def _responses(operation: Operation, *, has_keys: bool) -> Document:
    described: dict[int, Document] = {
        status: _response(success.description, success.media_type, success.schema)
        for status, success in operation.successes.items()
    }
    # A path with a bad escape is 400 everywhere, as is a call without its key.
    failures = {400, *operation.failures, *((503,) if has_keys and operation.key else ())}
    for status in failures - set(described):
        error = _response(_FAILURES[status], JSON, schemas.ref("Error"))
        if status == 503:
            error = {**error, "headers": {**_REQUEST_ID_HEADER, **_RETRY_AFTER_HEADER}}
        described[status] = error if status != 413 else {"description": _FAILURES[413]}
    responses: Document = {str(status): described[status] for status in sorted(described)}
    if operation.is_handlers:
        responses["default"] = {"description": "Whatever status, headers and body the model's handler chose."}
    return responses


def _response(description: str, media_type: str, schema: schemas.Schema | None) -> Document:
    described: Document = {
        "description": description,
        "headers": _REQUEST_ID_HEADER,
    }
    if schema is not None:
        described["content"] = {media_type: {"schema": schema}}
    return described


_REQUEST_ID: Document = {
    "description": "A new UUID for each request; the handler sees the same.",
    "schema": {"type": "string", "format": "uuid"},
}
_RETRY_AFTER: Document = {
    "description": (
        "When to try again, in seconds: when what waits now will be done, as far as that is known."
        " Not where the handler itself has failed."
    ),
    "schema": {"type": "integer", "minimum": 1, "maximum": RETRY_AFTER_LIMIT_S},
}
_REQUEST_ID_HEADER: Document = {"x-request-id": {"$ref": "#/components/headers/RequestId"}}
_RETRY_AFTER_HEADER: Document = {"retry-after": {"$ref": "#/components/headers/RetryAfter"}}
_SEGMENT: Document = {"type": "string", "minLength": 1, "pattern": "^[^/]+$"}
_IN_PATH = {
    "model_name": "The name under which the model is registered.",
    "model_version": "A version of it.",
    "workflow_name": "The name under which the workflow is registered.",
    "name": "What the node or gateway is called.",
    "invitation": "The invitation's id, which is no secret.",
    "sub_path": "For the handler, as its header `url_path`; it may have slashes.",
}
_FAILURES = {
    400: "The request is malformed, or its key is missing or wrong where keys are asked for.",
    403: "The default version can't be unregistered while there are others.",
    404: "There is no such model, version, workflow, archive, node, gateway or invitation.",
    405: "The model API is off (enable_model_api).",
    408: "The change was not finished in time.",
    409: "The version is registered already.",
    413: "The body is larger than max_request_size. This answer has neither body nor x-request-id.",
    500: "A worker died, did not answer in time, or could not be started.",
    503: "No worker, no room in a queue, no time for it, no broker, or the handler failed.",
    504: "No answer within x-request-timeout-ms, or the model's clientTimeoutInMills.",
    507: "A worker ran out of memory.",
}
