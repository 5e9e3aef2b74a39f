"""The operations that OpenAPI documents describe; `gateway.app` routes them, and a test compares the two."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace

from torchrelay.gateway.http.standard_responses import JSON
from torchrelay.gateway.openapi.schemas import (
    FLAG,
    INVITATION_REQUEST,
    REGISTRATION,
    TEXT,
    WORKFLOW_REGISTRATION,
    Schema,
    array,
    number,
    one_of,
    ref,
    whole,
)
from torchrelay.shared.deadlines import TIMEOUT_HEADER, TIMEOUT_LIMIT_MS
from torchrelay.shared.open_inference.infer_bodies import HEADER_LENGTH
from torchrelay.shared.wire.fields import KeyedApi, MemberRole


@dataclass(frozen=True, slots=True)
class Success:
    """A successful response; without a schema, its body is not described."""

    description: str
    schema: Schema | None
    media_type: str = JSON


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    id: str
    summary: str
    #: By status.
    successes: Mapping[int, Success]
    _: KW_ONLY
    #: The API whose key opens it; None: no key is needed.
    key: KeyedApi | None
    #: Statuses of errors, beside 400.
    failures: tuple[int, ...] = ()
    description: str = ""
    #: Parameters of the query, and headers.
    query: tuple[Schema, ...] = ()
    body: Schema | None = None
    is_deprecated: bool = False
    #: Whether a handler answers, with any status.
    is_handlers: bool = False


Operations = tuple[Operation, ...]


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"in": "query", "name": name, "required": False, "description": description, "schema": schema}


_DOCUMENT = {200: Success("This document.", ref("Document"))}
DESCRIPTION: Operations = (
    Operation("options", "/", "apiDescription", "Describe this port.", _DOCUMENT, key=None),
    Operation("get", "/api-description", "api-description", "Describe this port; OPTIONS / does the same.",
              _DOCUMENT, key=None, is_deprecated=True),
)  # fmt: skip

PING: Operations = (
    Operation("get", "/ping", "ping", "Tell whether the fleet is healthy.",
              {200: Success("Every default version has its workers, or may still get them.", ref("Health")),
               500: Success("A model lacks workers for good, or there is no broker.", ref("Health"))},
              key="inference", description="Any method does the same, and any path below."),
)  # fmt: skip


_TIMEOUT = {
    "in": "header",
    "name": TIMEOUT_HEADER,
    "required": False,
    "description": (
        "How many milliseconds the client waits for its answer. What can't be answered by then is refused at"
        " once (503), or ends then (504)."
    ),
    "schema": whole(1, TIMEOUT_LIMIT_MS),
}


def _prediction(path: str, name: str, summary: str, query: tuple[Schema, ...] = ()) -> Operation:
    return Operation(
        "post", path, name, summary,
        {200: Success("What the handler returned, with a content type only if it sets one.", None)},
        key="inference", failures=(404, 413, 500, 503, 504, 507), query=(*query, _TIMEOUT), is_handlers=True,
        description="Any method but OPTIONS predicts; OPTIONS describes the model's routes.",
        body={
            "description": (
                "What the handler expects. Form fields and multipart parts are inputs by their names,"
                " anything else is one called `body`."
            ),
            "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
        },
    )  # fmt: skip


_WITH_PATH = "with a version, whose handler gets the rest of the path."
_NAMED = _query("model_name", TEXT, "The model; may be left out if one was loaded at the start.")
PREDICTIONS: Operations = (
    _prediction("/predictions/{model_name}", "predictions", "Predict with the default version."),
    _prediction("/predictions/{model_name}/{model_version}", "version_predictions",
                "Predict with a version."),
    _prediction("/predictions/{model_name}/{model_version}/{sub_path}", "path_predictions",
                f"Predict {_WITH_PATH}"),
    _prediction("/explanations/{model_name}", "explanations", "Explain with the default version."),
    _prediction("/explanations/{model_name}/{model_version}", "version_explanations",
                "Explain with a version."),
    _prediction("/explanations/{model_name}/{model_version}/{sub_path}", "path_explanations",
                f"Explain {_WITH_PATH}"),
    _prediction("/invocations", "invocations", "Predict with a model that is named by a parameter.",
                (_NAMED,)),
    _prediction("/models/{model_name}/invoke", "invoke", "Predict; query parameters are inputs too."),
    _prediction("/v1/models/{model_name}:predict", "kserve_predictions", "Predict (KServe v1)."),
    _prediction("/v1/models/{model_name}:explain", "kserve_explanations", "Explain (KServe v1)."),
)  # fmt: skip


def _of_protocol(query: tuple[Schema, ...] = (), of: str = "", version: str = "") -> Operations:
    path = "/v2/models/{model_name}" + of
    return (
        _prediction(f"{path}/infer", f"kserve_v2_{version}predictions", "Predict (KServe v2).", query),
        _prediction(f"{path}/explain", f"kserve_v2_{version}explanations", "Explain (KServe v2).", query),
    )


#: Where the open inference protocol is off, and a handler understands what it is sent.
KSERVE_V2 = _of_protocol()

_LIVES = "Tell that this process lives."
_IS_READY = "Tell whether this process can take requests on to the broker."
_ALL_READY = "Tell whether every model that should answer requests can."
_ONE_READY = "Tell whether {} can answer requests now."


def _model_probe(path: str, operation: str, of: str, body: str, key: KeyedApi = "management") -> Operation:
    return Operation("get", path, operation, _ONE_READY.format(of),
                     {200: Success("A worker is ready.", ref(body)),
                      503: Success("None is, or there is no broker to ask.", ref(body))},
                     key=key, failures=(404,))  # fmt: skip


_OF_VERSION = "/versions/{model_version}"
_HEADER_LENGTH = {
    "in": "header",
    "name": HEADER_LENGTH,
    "required": False,
    "description": "How many bytes of the body are JSON; the tensors' binary data follow.",
    "schema": whole(),
}


def _protocol_probes(key: KeyedApi) -> Operations:
    path = "/v2/models/{model_name}"
    return (
        _model_probe(f"{path}/ready", "protocolModelReady", "the default version", "Readiness", key),
        _model_probe(f"{path}{_OF_VERSION}/ready", "protocolVersionReady", "a version", "Readiness", key),
    )


def _metadata(path: str, name: str, summary: str) -> Operation:
    return Operation("get", path, name, summary,
                     {200: Success("Its versions; of tensors nothing is known.", ref("ProtocolModel"))},
                     key="inference", failures=(404, 503))  # fmt: skip


OPEN_INFERENCE_PROTOCOL: Operations = (
    Operation("get", "/v2", "serverMetadata", "Tell what serves here.",
              {200: Success("The name and version of the server.", ref("ProtocolServer"))}, key="inference"),
    Operation("get", "/v2/health/live", "serverLive", _LIVES,
              {200: Success("The process lives.", ref("ProtocolLive"))}, key="inference"),
    Operation("get", "/v2/health/ready", "serverReady", _ALL_READY,
              {200: Success("Every model is ready.", ref("ProtocolReady")),
               503: Success("A model isn't, or there is no broker to ask.", ref("ProtocolReady"))},
              key="inference"),
    _metadata("/v2/models/{model_name}", "modelMetadata", "Tell which versions a model has."),
    _metadata(f"/v2/models/{{model_name}}{_OF_VERSION}", "versionMetadata",
              "Tell which versions a model has, if it has this one."),
    *_protocol_probes("inference"),
    *_of_protocol((_HEADER_LENGTH,)),
    *_of_protocol((_HEADER_LENGTH,), _OF_VERSION, "version_"),
)  # fmt: skip

WORKFLOW_PREDICTIONS: Operations = (
    replace(
        _prediction("/wfpredict/{workflow_name}", "workflow_predictions", "Predict with a workflow."),
        successes={200: Success("What the last step returned, or an object with what each of them did.", {})},
        description="Any method predicts.",
        is_handlers=False,
    ),
)

_PAGE = (
    _query("limit", whole(None, None, 100),
           "How many to list; a number that is not from 0 to 100 counts as 100."),
    _query("next_page_token", TEXT, "The token of the page before."),
)  # fmt: skip
MODELS: Operations = (
    Operation("get", "/models", "listModels", "List registered models by name.",
              {200: Success("A page of the list.", ref("Models"))}, key="management", failures=(503,),
              query=_PAGE),
    Operation("post", "/models", "registerModel", "Register a model archive.",
              {200: Success("Registered; the text says with how many workers.", ref("Status")),
               202: Success("Registered; its workers are being started.", ref("Status"))},
              key="management", failures=(404, 405, 408, 409, 413, 500, 503, 507),
              description="With a JSON body, its fields count and the query is ignored.",
              query=tuple(_query(name, schema, words) | {"required": name == "url"}
                          for name, (schema, words) in REGISTRATION.items()),
              body={"content": {JSON: {"schema": ref("Registration")}}}),
)  # fmt: skip

WORKFLOWS: Operations = (
    Operation("get", "/workflows", "listWorkflows", "List registered workflows by name.",
              {200: Success("A page of the list.", ref("Workflows"))}, key="management", failures=(503,),
              query=_PAGE),
    Operation("post", "/workflows", "registerWorkflow", "Register a workflow's archive, if that is allowed.",
              {200: Success("Registered; all of its steps have their workers.", ref("Status"))},
              key="management", failures=(404, 409, 413, 500, 503),
              description="With a JSON body, its fields count and the query is ignored.",
              query=tuple(_query(name, schema, words) | {"required": name == "url"}
                          for name, (schema, words) in WORKFLOW_REGISTRATION.items()),
              body={"content": {JSON: {"schema": ref("WorkflowRegistration")}}}),
    Operation("get", "/workflows/{workflow_name}", "describeWorkflow", "Describe a workflow.",
              {200: Success("The workflow, in a list of one.", array(ref("Workflow")))},
              key="management", failures=(404, 503)),
    Operation("delete", "/workflows/{workflow_name}", "unregisterWorkflow",
              "Unregister a workflow, with the models that are its steps.",
              {200: Success("It is unregistered.", ref("Status"))}, key="management",
              failures=(404, 408, 503)),
)  # fmt: skip


_SCALE = (
    _query("min_worker", number(0, 1), "Workers to keep."),
    _query("max_worker", number(0), "As many at most; min_worker unless given, and not less."),
    _query("synchronous", FLAG | {"default": False}, "Whether to wait for the workers."),
    _query("timeout", number(-1, -1), "Seconds that running batches may take; -1: as long as they do."),
)


def _one_model(path: str, prefix: str, of: str, query: tuple[Schema, ...]) -> Operations:
    return (
        Operation("get", path, f"{prefix}describeModel", f"Describe {of} and its workers.",
                  {200: Success("One entry for each version asked for.", array(ref("Version")))},
                  key="management", failures=(404, 500, 503, 507),
                  description="The version `all` stands for all of them.",
                  query=(_query("customized", FLAG,
                                "Whether to ask its handler too, which may set the status."),),
                  is_handlers=True),
        Operation("put", path, f"{prefix}setAutoScale", f"Set how many workers {of} has.",
                  {200: Success("All workers are ready.", ref("Status")),
                   202: Success("Workers are being started or stopped.", ref("Status"))},
                  key="management", failures=(404, 408, 500, 503, 507),
                  query=(*_SCALE, *query)),
        Operation("delete", path, f"{prefix}unregisterModel", f"Unregister {of}.",
                  {200: Success("It is unregistered.", ref("Status"))}, key="management",
                  failures=(403, 404, 405, 408, 503)),
    )  # fmt: skip


_VERSION = _query("model_version", TEXT, "Another version than the default one.")
MODEL: Operations = (
    *_one_model("/models/{model_name}", "", "the default version", (_VERSION,)),
    *_one_model("/models/{model_name}/{model_version}", "version_", "a version", ()),
    Operation("put", "/models/{model_name}/{model_version}/set-default", "setDefault",
              "Make a version the default one.", {200: Success("It is the default one.", ref("Status"))},
              key="management", failures=(404, 503)),
)  # fmt: skip


def readiness(key: KeyedApi) -> Operations:
    """Describe the question whether a model is ready; on a shared port the inference key opens it."""
    return (
        Operation("get", "/v1/models/{model_name}", "modelReady",
                  "Tell whether a worker of the model is ready (KServe v1).",
                  {200: Success("Whether a worker is ready.", ref("Readiness"))}, key=key,
                  failures=(404, 503)),
    )  # fmt: skip


FLEET: Operations = (
    Operation("get", "/fleet", "fleet", "Show nodes, models and workers, and why workers are missing.",
              {200: Success("The whole fleet at one moment.", ref("Fleet"))}, key="management",
              failures=(503,)),
    Operation("get", "/livez", "livez", _LIVES, {200: Success("The process lives.", ref("Probe"))}, key=None),
    Operation("get", "/readyz", "readyz", _IS_READY,
              {200: Success("The process is ready.", ref("Probe")),
               503: Success("The process is not ready; the body has the reason.", ref("Probe"))},
              key=None),
)  # fmt: skip

_INVITATION: tuple[Schema, ...] = tuple(
    _query(name, {key: part for key, part in schema.items() if key != "description"}, schema["description"])
    for name, schema in INVITATION_REQUEST.items()
)


def members(role: MemberRole) -> Operations:
    """Describe what can be asked about nodes, or gateways, and the invitations by which they join."""
    path, of = f"/{role}s", role.capitalize()
    return (
        Operation("get", path, f"list{of}s", f"List all {role}s.",
                  {200: Success("All of them, by name.", ref(f"{of}s"))}, key="management", failures=(503,)),
        Operation("get", path + "/{name}", f"describe{of}", f"Show a {role}.",
                  {200: Success(f"The {role}.", ref("Member"))}, key="management", failures=(404, 503)),
        Operation("delete", path + "/{name}", f"forget{of}", f"Forget a {role}, as if it had never joined.",
                  {200: Success("It is forgotten.", ref("Status"))}, key="management",
                  failures=(404, 408, 500, 503)),
        Operation("post", path + "/{name}/revoke", f"revoke{of}", f"Revoke the key of a {role}.",
                  {200: Success("It is cut off, and never let in again.", ref("Status"))}, key="management",
                  failures=(404, 408, 500, 503)),
        Operation("get", path + "/invitations", f"list{of}Invitations",
                  f"List the invitations of {role}s that let somebody in.",
                  {200: Success("Without what is secret of them.", ref("Invitations"))}, key="management",
                  failures=(503,)),
        Operation("post", path + "/invitations", f"invite{of}", f"Make an invitation by which {role}s join.",
                  {200: Success("The invitation, which is told here alone.", ref("Invited"))},
                  key="management", failures=(408, 413, 500, 503), query=_INVITATION,
                  body={"content": {JSON: {"schema": ref("InvitationRequest")}}},
                  description="Parameters are in the query or in a JSON body. A name has one use."),
        Operation("delete", path + "/invitations/{invitation}", f"end{of}Invitation",
                  f"Withdraw an invitation of {role}s.",
                  {200: Success("It lets nobody in any more.", ref("Status"))}, key="management",
                  failures=(404, 408, 500, 503)),
    )  # fmt: skip


DRAINING: Operations = (
    Operation("post", "/nodes/{name}/drain", "drainNode", "Give a node no new work.",
              {202: Success("Its workers are replaced on other nodes, and stop when they have ended their"
                            " work.", ref("Status"))},
              key="management", failures=(404, 408, 500, 503)),
    Operation("post", "/nodes/{name}/resume", "resumeNode", "Give a node that drains work again.",
              {200: Success("It gets work again.", ref("Status"))}, key="management",
              failures=(404, 408, 500, 503)),
)  # fmt: skip

BROKER_KEY: Operations = (
    Operation("post", "/broker/key/rotate", "rotateBrokerKey",
              "Have the broker make its next key, for all members to know.",
              {200: Success("The key that the broker has from its next start on.", ref("BrokerKey"))},
              key="management", failures=(408, 500, 503)),
)  # fmt: skip


MODEL_PROBES: Operations = (
    _model_probe("/readyz/{model_name}", "modelReadyz", "the default version", "Probe"),
    _model_probe("/readyz/{model_name}/{model_version}", "versionReadyz", "a version", "Probe"),
)
#: On a port of their own alone: where there is inference, the protocol has to be on for them.
PROTOCOL_PROBES = _protocol_probes("management")

TOKEN: Operations = (
    Operation("get", "/token", "renewKey", "Make a new key, which is written to the key file of the server.",
              {200: Success("The key is made. The body is an empty line.", None)}, key="token",
              failures=(500, 503), description="Any method does the same.",
              query=(_query("type", one_of("inference", "management"), "The API whose key is renewed.")
                     | {"required": True},)),
)  # fmt: skip

METRICS: Operations = (
    Operation("get", "/metrics", "metrics", "Read the whole fleet's metrics in Prometheus' text format.",
              {200: Success("The metrics.", TEXT, "text/plain")}, key=None, failures=(503,),
              description="Any method does the same, and any path below.",
              query=(_query("name[]", array(TEXT),
                            "Samples to read, by their full names; all if none is given."),)),
)  # fmt: skip
