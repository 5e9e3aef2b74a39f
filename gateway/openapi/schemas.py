"""Schemas of OpenAPI documents: those of answers are made from `shared.api_bodies`."""

from typing import Any

import msgspec

from torchrelay.shared import api_bodies
from torchrelay.shared.archives import model_archive

Schema = dict[str, object]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}


def whole(at_least: int | None = 0, at_most: int | None = None, default: int | None = None) -> Schema:
    """Describe a whole number."""
    limits = {"minimum": at_least, "maximum": at_most, "default": default}
    return {"type": "integer"} | {name: value for name, value in limits.items() if value is not None}


def number(at_least: int, default: int | None = None) -> Schema:
    """Describe a number that callers give, which has 32 bits as in TorchServe."""
    return whole(at_least, 2**31 - 1, default)


def one_of(*values: str) -> Schema:
    """Describe a string that is one of these."""
    return {"type": "string", "enum": list(values)}


def array(items: Schema) -> Schema:
    """Describe an array."""
    return {"type": "array", "items": items}


def ref(name: str) -> Schema:
    """Refer to one of `COMPONENTS`."""
    return {"$ref": f"#/components/schemas/{name}"}


RUNTIME = one_of(*model_archive.RUNTIMES)

#: The parameters of a registration, in the query or in a JSON body; only the url is required.
REGISTRATION: dict[str, tuple[Schema, str]] = {
    "url": (TEXT, "The archive: a file of the model store, or a URL."),
    "model_name": (TEXT, "Instead of the archive's own name."),
    "handler": (TEXT, "Instead of the archive's own handler."),
    "runtime": (RUNTIME, "Instead of the archive's own runtime."),
    "batch_size": (number(1), "Requests that a worker gets at once."),
    "max_batch_delay": (number(0), "Milliseconds that a batch may wait to fill."),
    "response_timeout": (number(1), "Seconds that a worker may take to answer."),
    "startup_timeout": (number(1), "Seconds that a worker may take to load."),
    "initial_workers": (number(0), "Workers to start."),
    "synchronous": (FLAG | {"default": True}, "Whether to wait for the workers."),
    "s3_sse_kms": (FLAG | {"default": False}, "Whether the archive in S3 is encrypted by KMS."),
}
#: Those of a workflow's.
WORKFLOW_REGISTRATION: dict[str, tuple[Schema, str]] = {
    "url": (TEXT, "The archive: a file of the workflow store, or a URL."),
    "workflow_name": (TEXT, "Instead of the archive's own name."),
    **{name: REGISTRATION[name] for name in ("response_timeout", "startup_timeout", "s3_sse_kms")},
}


def _components() -> dict[str, Schema]:
    """Describe all bodies of answers, each under its class's name without `Body`."""
    _, found = msgspec.json.schema_components(
        api_bodies.JsonBody.__subclasses__(), ref_template="#/components/schemas/{name}"
    )
    named: dict[str, Schema] = msgspec.json.decode(msgspec.json.encode(found).replace(b'Body"', b'"'))
    # OpenAPI 3.0 knows no empty list of required fields.
    return {
        name: {key: part for key, part in schema.items() if (key, part) != ("required", [])}
        for name, schema in named.items()
    }


COMPONENTS: dict[str, Schema] = {
    **_components(),
    "Document": {
        "type": "object",
        "required": ["openapi", "info", "paths"],
        "properties": {"openapi": TEXT, "info": {"type": "object"}, "paths": {"type": "object"}},
    },
    **{
        name: {
            "type": "object",
            "required": ["url"],
            "properties": {key: schema | {"description": words} for key, (schema, words) in fields.items()},
        }
        for name, fields in (
            ("Registration", REGISTRATION),
            ("WorkflowRegistration", WORKFLOW_REGISTRATION),
        )
    },
}

#: The parameters of an invitation, in the query or in a JSON body.
INVITATION_REQUEST: dict[str, dict[str, Any]] = COMPONENTS["InvitationRequest"]["properties"]  # type: ignore[assignment]
