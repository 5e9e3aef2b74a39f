"""The operations that OpenAPI documents describe; `gateway.app` routes them, and a test compares the two."""

from collections.abc import Mapping
from dataclasses import dataclass

from torchrelay.gateway.openapi.schemas import (
    FLAG,
    REGISTRATION,
    TEXT,
    Schema,
    array,
    number,
    one_of,
    ref,
    whole,
)
from torchrelay.shared.wire.fields import KeyedApi

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful response; without a schema, its body is not described."""

    words: str
    schema: Schema | None
    media_type: str = JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    method: str
    id: str
    summary: str
    answers: Mapping[int, Answer]
    #: Statuses of errors, beside 400.
    failures: tuple[int, ...] = ()
    #: The API whose key opens it; None: no key is needed.
    key: KeyedApi | None
    description: str = ""
    query: tuple[Schema, ...] = ()
    body: Schema | None = None
    is_deprecated: bool = False
    #: Whether a handler answers, with any status.
    is_handlers: bool = False


#: path -> its operations.
Paths = dict[str, tuple[Operation, ...]]


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"in": "query", "name": name, "required": False, "description": description, "schema": schema}


def _get(
    name: str,
    summary: str,
    answers: Mapping[int, Answer],
    *,
    key: KeyedApi | None,
    failures: tuple[int, ...] = (),
    description: str = "",
    query: tuple[Schema, ...] = (),
) -> tuple[Operation, ...]:
    """Describe a path that can only be read."""
    return (
        Operation(
            method="get",
            id=name,
            summary=summary,
            answers=answers,
            failures=failures,
            key=key,
            description=description,
            query=query,
        ),
    )


_DOCUMENT = {200: Answer("This document.", ref("Document"))}
DESCRIPTION: Paths = {
    "/": (
        Operation(
            method="options",
            id="apiDescription",
            summary="Describe this port.",
            answers=_DOCUMENT,
            key=None,
        ),
    ),
    "/api-description": (
        Operation(
            method="get",
            id="api-description",
            summary="Describe this port; OPTIONS / does the same.",
            answers=_DOCUMENT,
            key=None,
            is_deprecated=True,
        ),
    ),
}

PING: Paths = {
    "/ping": _get(
        "ping",
        "Tell whether the fleet is healthy.",
        {
            200: Answer("Every default version has its workers, or may still get them.", ref("Health")),
            500: Answer("A model lacks workers for good, or there is no broker.", ref("Health")),
        },
        key="inference",
        description="Any method does the same, and any path below.",
    ),
}

_HANDLERS_ANSWER = {
    200: Answer("What the handler returned. It has a content type only if the handler sets one.", None)
}
_PREDICTION_FAILURES = (404, 413, 500, 503, 507)
_INPUT: Schema = {
    "description": (
        "What the handler expects. Form fields and multipart parts are inputs by their names, anything"
        " else is one called `body`."
    ),
    "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
}


def _prediction(name: str, summary: str, *, query: tuple[Schema, ...] = ()) -> tuple[Operation, ...]:
    return (
        Operation(
            method="post",
            id=name,
            summary=summary,
            description="Any method but OPTIONS predicts; OPTIONS describes the model's routes.",
            answers=_HANDLERS_ANSWER,
            failures=_PREDICTION_FAILURES,
            key="inference",
            query=query,
            body=_INPUT,
            is_handlers=True,
        ),
    )


PREDICTIONS: Paths = {
    "/predictions/{model_name}": _prediction("predictions", "Predict with the default version."),
    "/predictions/{model_name}/{model_version}": _prediction(
        "version_predictions", "Predict with a version."
    ),
    "/predictions/{model_name}/{model_version}/{sub_path}": _prediction(
        "path_predictions", "Predict with a version, whose handler gets the rest of the path."
    ),
    "/explanations/{model_name}": _prediction("explanations", "Explain with the default version."),
    "/explanations/{model_name}/{model_version}": _prediction(
        "version_explanations", "Explain with a version."
    ),
    "/explanations/{model_name}/{model_version}/{sub_path}": _prediction(
        "path_explanations", "Explain with a version, whose handler gets the rest of the path."
    ),
    "/invocations": _prediction(
        "invocations",
        "Predict with a model that is named by a parameter.",
        query=(_query("model_name", TEXT, "The model; may be left out if one was loaded at the start."),),
    ),
    "/models/{model_name}/invoke": _prediction("invoke", "Predict; query parameters are inputs too."),
    "/v1/models/{model_name}:predict": _prediction("kserve_predictions", "Predict (KServe v1)."),
    "/v1/models/{model_name}:explain": _prediction("kserve_explanations", "Explain (KServe v1)."),
    "/v2/models/{model_name}/infer": _prediction("kserve_v2_predictions", "Predict (KServe v2)."),
    "/v2/models/{model_name}/explain": _prediction("kserve_v2_explanations", "Explain (KServe v2)."),
}


OPEN_INFERENCE_PROTOCOL: Paths = {
    "/v2": _get(
        "serverMetadata",
        "Tell what serves here.",
        {200: Answer("The name and version of the server.", ref("ProtocolServer"))},
        key="inference",
    ),
    "/v2/health/live": _get(
        "serverLive",
        "Tell that this process lives.",
        {200: Answer("The process lives.", ref("ProtocolLive"))},
        key="inference",
    ),
    "/v2/health/ready": _get(
        "serverReady",
        "Tell whether this process can take requests on to the broker.",
        {
            200: Answer("The process is ready.", ref("ProtocolReady")),
            503: Answer("There is no broker to ask.", ref("ProtocolReady")),
        },
        key="inference",
    ),
    "/v2/models/{model_name}/versions/{model_version}": _get(
        "modelVersion",
        "Refuse: models have no versions in this protocol.",
        {501: Answer("The refusal, which is the only answer.", ref("ProtocolRefusal"))},
        key="inference",
    ),
}

_LIST = (
    _query("limit", whole(None, None, 100), "How many to list; what is not from 0 to 100 counts as 100."),
    _query("next_page_token", TEXT, "The token of the page before."),
)
_REGISTER = tuple(
    _query(name, schema, words) | {"required": name == "url"}
    for name, (schema, words) in REGISTRATION.items()
)
_SCALE = (
    _query("min_worker", number(0, 1), "Workers to keep."),
    _query("max_worker", number(0), "As many at most; min_worker unless given, and not less."),
    _query("synchronous", FLAG | {"default": False}, "Whether to wait for the workers."),
    _query("timeout", number(-1, -1), "Seconds that running batches may take; -1: as long as they do."),
)
MODELS: Paths = {
    "/models": (
        *_get(
            "listModels",
            "List registered models by name.",
            {200: Answer("A page of the list.", ref("Models"))},
            failures=(503,),
            key="management",
            query=_LIST,
        ),
        Operation(
            method="post",
            id="registerModel",
            summary="Register a model archive.",
            description="With a JSON body, its fields count and the query is ignored.",
            answers={
                200: Answer("Registered; the text says with how many workers.", ref("Status")),
                202: Answer("Registered; its workers are being started.", ref("Status")),
            },
            failures=(404, 405, 408, 409, 413, 500, 503, 507),
            key="management",
            query=_REGISTER,
            body={"content": {JSON: {"schema": ref("Registration")}}},
        ),
    ),
    "/workflows": _get(
        "listWorkflows",
        "List workflows, of which there are none.",
        {200: Answer("An empty list.", ref("Workflows"))},
        key="management",
    ),
}


def _one_model(prefix: str, of: str, query: tuple[Schema, ...]) -> tuple[Operation, ...]:
    return (
        Operation(
            method="get",
            id=f"{prefix}describeModel",
            summary=f"Describe {of} and its workers.",
            description="The version `all` stands for all of them.",
            answers={200: Answer("One entry for each version asked for.", array(ref("Version")))},
            failures=(404, 500, 503, 507),
            key="management",
            query=(_query("customized", FLAG, "Whether to ask its handler too, which may set the status."),),
            is_handlers=True,
        ),
        Operation(
            method="put",
            id=f"{prefix}setAutoScale",
            summary=f"Set how many workers {of} has.",
            answers={
                200: Answer("All workers are ready.", ref("Status")),
                202: Answer("Workers are being started or stopped.", ref("Status")),
            },
            failures=(404, 408, 500, 503, 507),
            key="management",
            query=(*_SCALE, *query),
        ),
        Operation(
            method="delete",
            id=f"{prefix}unregisterModel",
            summary=f"Unregister {of}.",
            answers={200: Answer("It is unregistered.", ref("Status"))},
            failures=(403, 404, 405, 408, 503),
            key="management",
        ),
    )


MODEL: Paths = {
    "/models/{model_name}": _one_model(
        "", "the default version", (_query("model_version", TEXT, "Another version than the default one."),)
    ),
    "/models/{model_name}/{model_version}": _one_model("version_", "a version", ()),
    "/models/{model_name}/{model_version}/set-default": (
        Operation(
            method="put",
            id="setDefault",
            summary="Make a version the default one.",
            answers={200: Answer("It is the default one.", ref("Status"))},
            failures=(404, 503),
            key="management",
        ),
    ),
}


def readiness(key: KeyedApi) -> Paths:
    """Describe the question for a model's readiness, which the path's own API opens."""
    return {
        "/v1/models/{model_name}": _get(
            "modelReady",
            "Tell whether a worker of the model is ready (KServe v1).",
            {200: Answer("Whether a worker is ready.", ref("Readiness"))},
            failures=(404, 503),
            key=key,
        ),
    }


FLEET: Paths = {
    "/fleet": _get(
        "fleet",
        "Show nodes, models and workers, and why workers are missing.",
        {200: Answer("The whole fleet at one moment.", ref("Fleet"))},
        failures=(503,),
        key="management",
    ),
    "/livez": _get(
        "livez", "Tell that this process lives.", {200: Answer("The process lives.", ref("Probe"))}, key=None
    ),
    "/readyz": _get(
        "readyz",
        "Tell whether this process can take requests on to the broker.",
        {
            200: Answer("The process is ready.", ref("Probe")),
            503: Answer("The process is not ready; the body has the reason.", ref("Probe")),
        },
        key=None,
    ),
}

TOKEN: Paths = {
    "/token": _get(
        "renewKey",
        "Make a new key, which is written to the key file of the server.",
        {200: Answer("The key is made. The body is an empty line.", None)},
        failures=(500, 503),
        key="token",
        description="Any method does the same.",
        query=(
            _query("type", one_of("inference", "management"), "The API whose key is renewed.")
            | {"required": True},
        ),
    ),
}

METRICS: Paths = {
    "/metrics": _get(
        "metrics",
        "Read the whole fleet's metrics in Prometheus' text format.",
        {200: Answer("The metrics.", TEXT, "text/plain")},
        failures=(503,),
        key=None,
        description="Any method does the same, and any path below.",
        query=(_query("name[]", array(TEXT), "Samples to read, by their full names; all if none is given."),),
    ),
}
