"""The calls of the management API about models and the fleet; those about members are elsewhere. Pure."""

from torchrelay.client.http_calls import (
    Api,
    Call,
    Pause,
    Shown,
    Steps,
    management,
    of_json,
    pages,
)
from torchrelay.shared.api_bodies import (
    BrokerKeyBody,
    FleetBody,
    FleetModelBody,
    ModelsBody,
    ModelsEntryBody,
    ProbeBody,
    StatusBody,
    VersionBody,
)
from torchrelay.shared.errors import ModelNotFound, WorkerStartFailed

#: How often a model is looked at that is waited for.
WATCH_INTERVAL_S = 0.3


def register(
    url: str,
    *,
    model_name: str | None = None,
    handler: str | None = None,
    runtime: str | None = None,
    batch_size: int | None = None,
    max_batch_delay: int | None = None,
    initial_workers: int | None = None,
    response_timeout: int | None = None,
    startup_timeout: int | None = None,
    s3_sse_kms: bool | None = None,
    wait: bool = False,
) -> Call[StatusBody]:
    """Register an archive: a file of the server's model store, or a url.

    What is None is the archive's own, or the server's default. With `wait` the call returns when the initial
    workers are ready, and raises what kept them from it.
    """
    query = {
        "url": url,
        "model_name": model_name,
        "handler": handler,
        "runtime": runtime,
        "batch_size": batch_size,
        "max_batch_delay": max_batch_delay,
        "initial_workers": initial_workers,
        "response_timeout": response_timeout,
        "startup_timeout": startup_timeout,
        "s3_sse_kms": s3_sse_kms,
        "synchronous": wait,
    }
    return management("POST", "models", read=of_json(StatusBody), query=query, waits=wait)


def unregister(model: str, version: str | None = None) -> Call[StatusBody]:
    """Unregister a version, or the default one."""
    return management("DELETE", "models", model, version, read=of_json(StatusBody))


def scale(
    model: str,
    min_worker: int,
    max_worker: int | None = None,
    *,
    version: str | None = None,
    wait: bool = False,
) -> Call[StatusBody]:
    """Set how many workers a version has, at most `min_worker` too unless said; `wait` as in `register`."""
    query = {"min_worker": min_worker, "max_worker": max_worker, "synchronous": wait}
    return management(
        "PUT",
        "models",
        model,
        version,
        read=of_json(StatusBody),
        repeated="harmless",
        query=query,
        waits=wait,
    )


def set_default(model: str, version: str) -> Call[StatusBody]:
    """Make a version the one that calls without a version get."""
    return management(
        "PUT", "models", model, version, "set-default", read=of_json(StatusBody), repeated="harmless"
    )


def describe(
    model: str, version: str | None = None, *, customized: bool | None = None
) -> Call[list[VersionBody]]:
    """Read how the default version is served, the named one, or every one (`all`).

    With `customized` its handler is asked, too, what it says of itself.
    """
    return management(
        "GET", "models", model, version, read=of_json(list[VersionBody]), query={"customized": customized}
    )


def fleet() -> Call[FleetBody]:
    """Read all models, workers and nodes, and why workers are missing."""
    return management("GET", "fleet", read=of_json(FleetBody))


def ready(model: str | None = None, version: str | None = None) -> Call[ProbeBody]:
    """Ask whether the server takes requests, or whether a model answers them; the reason says why not."""
    return management("GET", "readyz", model, version, read=of_json(ProbeBody), also_read=(503,))


def renew_key(api: Api) -> Call[None]:
    """Have the server make a new key for an API, in its key file; needs the key for renewing."""
    return management("GET", "token", read=lambda _: None, repeated="harmful", query={"type": api})


def rotate_broker_key() -> Call[BrokerKeyBody]:
    """Have the broker make the key that it will have from its next start on."""
    return management("POST", "broker", "key", "rotate", read=of_json(BrokerKeyBody))


def models() -> Steps[ModelsEntryBody]:
    """List all models, page by page."""
    return pages("models", ModelsBody, lambda page: page.models)


def watch(model: str, version: str | None = None) -> Steps[FleetModelBody]:
    """Show how a version, the default one if none is named, gets its workers; ends when all are there.

    Raises ModelNotFound where there is none (any more), and WorkerStartFailed where it can't be loaded.
    """
    last: object = None
    while True:
        seen: FleetBody = yield fleet()
        found = next((one for one in seen.models if _is_meant(one, model, version)), None)
        if found is None:
            raise ModelNotFound(f"Model not found: {model}" + (f" {version}" if version else ""))
        if (now := _progress(found)) != last:
            last = now
            yield Shown(found)
        if found.is_ready:
            return
        if found.has_failed:
            raise WorkerStartFailed(f"{found.label} has no worker", found.last_error)
        yield Pause(WATCH_INTERVAL_S)


def _is_meant(one: FleetModelBody, model: str, version: str | None) -> bool:
    return one.model_name == model and (one.is_default if version is None else one.model_version == version)


def _progress(model: FleetModelBody) -> object:
    """Return what of a model is told anew when it changes: not its queue, nor its workers' memory."""
    workers = [(worker.id, worker.state, worker.note) for worker in model.workers]
    return model.workers_wanted, model.workers_ready, model.explanation, model.last_error, workers
