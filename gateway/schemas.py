"""The JSON that leaves us, as OpenAPI schemas; `gateway.presenting` and the resources write it."""

Schema = dict[str, object]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}


def whole(at_least: int | None = 0, at_most: int | None = None, default: int | None = None) -> Schema:
    """Describe a whole number."""
    limits = {"minimum": at_least, "maximum": at_most, "default": default}
    return {"type": "integer"} | {name: value for name, value in limits.items() if value is not None}


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
        "runtime": one_of("python", "python3", "LSP"),
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
        "workers": array(_FLEET_WORKER),
    }
)
_FLEET = record(
    {
        "epoch": whole(),
        "uptimeS": {"type": "number", "minimum": 0},
        "gateways": whole(),
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
    "Registration": record(
        {"url": TEXT},
        {
            "model_name": TEXT,
            "handler": TEXT,
            "runtime": one_of("python", "python3", "LSP"),
            "batch_size": whole(1, 2**31 - 1),
            "max_batch_delay": whole(0, 2**31 - 1),
            "response_timeout": whole(1, 2**31 - 1),
            "startup_timeout": whole(1, 2**31 - 1),
            "initial_workers": whole(0, 2**31 - 1),
            "synchronous": {"type": "boolean", "default": True},
            "s3_sse_kms": {"type": "boolean", "default": False},
        },
    ),
}
