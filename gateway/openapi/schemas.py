"""The JSON that leaves us, as OpenAPI schemas; `gateway.api.presenting` and the resources write it."""

from torchrelay.shared.archives import model_archive

Schema = dict[str, object]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}


def whole(at_least: int | None = 0, at_most: int | None = None, default: int | None = None) -> Schema:
    """Describe a whole number."""
    limits = {"minimum": at_least, "maximum": at_most, "default": default}
    return {"type": "integer"} | {name: value for name, value in limits.items() if value is not None}


def number(at_least: int, default: int | None = None) -> Schema:
    """Describe a parameter that is a number, all of which have 32 bits."""
    return whole(at_least, 2**31 - 1, default)


def one_of(*values: str) -> Schema:
    """Describe a text that is one of these."""
    return {"type": "string", "enum": list(values)}


def record(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """Describe an object."""
    return {
        "type": "object",
        "required": list(required),
        "properties": required | (optional or {}),
    }


def array(items: Schema) -> Schema:
    """Describe an array."""
    return {"type": "array", "items": items}


def ref(name: str) -> Schema:
    """Refer to one of `COMPONENTS`."""
    return {"$ref": f"#/components/schemas/{name}"}


RUNTIME = one_of(*model_archive.RUNTIMES)

#: What a registration says, in the query or in a JSON body; only the url must be there.
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

_ERROR = record({"code": whole(100, 999), "type": TEXT, "message": TEXT}, {"details": TEXT})
_STATUS = record({"status": TEXT})
_HEALTH = record({"status": one_of("Healthy", "Unhealthy")})
_DOCUMENT = record({"openapi": TEXT, "info": {"type": "object"}, "paths": {"type": "object"}})

_MODELS = record(
    {"models": array(record({"modelName": TEXT, "modelUrl": TEXT}))},
    {"nextPageToken": {"type": "string", "pattern": "^[0-9]+$"}},
)
_WORKFLOWS = record(
    {"workflows": {"type": "array", "maxItems": 0, "items": {"type": "object"}}},
)
_WORKER = record(
    {
        "id": TEXT,
        "startTime": {"type": "string", "format": "date-time"},
        "status": one_of("READY", "UNLOADING"),
        "memoryUsage": whole(),
        "pid": whole(-1),
        "gpu": FLAG,
        "gpuUsage": TEXT,
    }
)
_VERSION = record(
    {
        "modelName": TEXT,
        "modelVersion": TEXT,
        "modelUrl": TEXT,
        "runtime": RUNTIME,
        "minWorkers": whole(),
        "maxWorkers": whole(),
        "batchSize": whole(1),
        "maxBatchDelay": whole(),
        "responseTimeout": whole(),
        "startupTimeout": whole(),
        "maxRetryTimeoutInSec": whole(),
        "clientTimeoutInMills": whole(),
        "parallelType": one_of("", "pp", "tp", "pptp", "custom"),
        "parallelLevel": whole(),
        "deviceType": one_of("cpu", "gpu"),
        "continuousBatching": FLAG,
        "useJobTicket": FLAG,
        "useVenv": FLAG,
        "stateful": FLAG,
        "sequenceMaxIdleMSec": whole(),
        "sequenceTimeoutMSec": whole(),
        "maxNumSequence": whole(),
        "maxSequenceJobQueueSize": whole(),
        "loadedAtStartup": FLAG,
        "workers": array(ref("Worker")),
        "jobQueueStatus": record({"remainingCapacity": whole(), "pendingRequests": whole()}),
    },
    {"deviceIds": array(whole()), "customizedMetadata": {"type": "object"}},
)
_READINESS = record({"name": TEXT, "ready": FLAG})

_NODE = record(
    {
        "name": TEXT,
        "devices": array(
            record({"name": TEXT, "kind": one_of("cpu", "gpu"), "description": TEXT, "memoryBytes": whole()})
        ),
        "slots": whole(),
        "slotsUsed": whole(),
        "lastSeenMs": whole(),
    }
)
_FLEET_WORKER = record(
    {
        "id": whole(),
        "state": TEXT,
        "node": TEXT,
        "device": TEXT,
        "pid": whole(-1),
        "startTime": {"type": "string", "format": "date-time"},
        "memoryBytes": whole(),
        "jobsRunning": whole(),
        "note": TEXT,
    }
)
_QUARANTINED = record(
    {"requestId": TEXT, "reason": TEXT, "workersLost": whole(), "refused": whole(), "leftMs": whole()}
)
_FLEET_MODEL = record(
    {
        "modelName": TEXT,
        "modelVersion": TEXT,
        "isDefault": FLAG,
        "modelUrl": TEXT,
        "workersWanted": whole(),
        "workersReady": whole(),
        "queueDepth": whole(),
        "queueLimit": whole(),
        "oldestWaitMs": whole(),
        "explanation": TEXT,
        "lastError": TEXT,
        "quarantined": array(_QUARANTINED),
        "workers": array(_FLEET_WORKER),
    }
)
_FLEET = record(
    {
        "epoch": whole(),
        "uptimeS": {"type": "number", "minimum": 0},
        "gateways": whole(),
        "loading": array(TEXT),
        "serverId": TEXT,
        "nodes": array(_NODE),
        "models": array(_FLEET_MODEL),
    }
)

COMPONENTS: dict[str, Schema] = {
    "Error": _ERROR,
    "Status": _STATUS,
    "Health": _HEALTH,
    "Document": _DOCUMENT,
    "Models": _MODELS,
    "Workflows": _WORKFLOWS,
    "Worker": _WORKER,
    "Version": _VERSION,
    "Readiness": _READINESS,
    "Fleet": _FLEET,
    "ProtocolServer": record({"name": TEXT, "version": TEXT, "extenstion": array(TEXT)}),
    "ProtocolLive": record({"live": FLAG}),
    "ProtocolReady": record({"ready": FLAG}),
    "ProtocolRefusal": record({"error": TEXT}),
    "Probe": record({"status": TEXT}, {"reason": TEXT}),
    "Registration": {
        "type": "object",
        "required": ["url"],
        "properties": {
            name: schema | {"description": words} for name, (schema, words) in REGISTRATION.items()
        },
    },
}
