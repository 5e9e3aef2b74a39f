"""Who decides what about a version: the request, the archive, config.properties or a snapshot. Pure.

The order is TorchServe's, by what it concerns:

- batch size and delay: request, model-config.yaml, `models={}`, 1 and 100 ms;
- timeouts: model-config.yaml, `models={}`, request, default_*_timeout. In TorchServe a file that says
  nothing of timeouts overrides the request too, by a built-in 120 s; here only what is said counts;
- workers: model-config.yaml (if it says both numbers), then for a request initial_workers and
  default_workers_per_model, at start `models={}`, default_workers_per_model and one per device;
- runtime: `models={}`, request, manifest; handler: request, manifest, default_service_handler.

What is restored from a snapshot had been decided by all these when it was written: it comes first.
"""

from torchrelay.broker.models.records import Prepared, VersionRecord
from torchrelay.shared import errors
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings, StartupModel
from torchrelay.shared.wire import messages as m

DEFAULT_BATCH_SIZE = 1
DEFAULT_MAX_BATCH_DELAY_MS = 100
DEFAULT_VERSION = "1.0"
#: Of a model's name, and of its version: with each byte as three characters both fit a path of 4 KiB.
NAME_LIMIT_BYTES = 255

_NOTHING_SAID = StartupModel(name="", version="")
#: What TorchServe takes for "not said" in a registration; other sizes below 1 are raised to it.
_BATCH_SIZE_UNSAID = -1


def settle(
    ask: m.RegisterModel,
    prepared: Prepared,
    settings: BrokerSettings,
    *,
    at_start: bool = False,
    restored: StartupModel | None = None,
) -> VersionRecord:
    """Make the record of an archive that is to be registered.

    Raises InvalidModel or BadRequest for an archive that can't be served as it stands.
    """
    name = ask.model_name or prepared.model_name or (prepared.file_name if at_start else "")
    if not name:
        raise errors.InvalidModel("Model name is not defined.")
    check_reachable("Model name", name)
    version = prepared.model_version or DEFAULT_VERSION
    check_reachable("Model version", version)
    config = prepared.config or ModelConfig()
    _check_config(config)
    found = (model for model in settings.models if (model.name, model.version) == (name, version))
    configured = restored or next(found, _NOTHING_SAID)
    #: Of the request, what it may decide.
    batch_size = None if ask.batch_size in (None, _BATCH_SIZE_UNSAID) else ask.batch_size
    first = restored or _NOTHING_SAID
    size = _first(first.batch_size, batch_size, config.batch_size, configured.batch_size, DEFAULT_BATCH_SIZE)
    min_workers, max_workers = _workers(ask, config, configured, settings, at_start, restored)
    return VersionRecord(
        model=name,
        version=version,
        url=ask.url,
        archive=prepared.archive,
        archive_bytes=prepared.archive_bytes,
        handler=ask.handler or prepared.handler,
        runtime=configured.runtime or ask.runtime or prepared.runtime,
        min_workers=min_workers,
        max_workers=max_workers,
        batch_size=max(1, size),
        max_batch_delay_ms=_first(
            first.max_batch_delay_ms,
            _if_not_negative(ask.max_batch_delay_ms),
            config.max_batch_delay_ms or None,  # TorchServe can't tell a 0 there from nothing
            configured.max_batch_delay_ms,
            DEFAULT_MAX_BATCH_DELAY_MS,
        ),
        response_timeout_s=_first(
            first.response_timeout_s,
            config.response_timeout_s,
            configured.response_timeout_s,
            _if_not_negative(ask.response_timeout_s),
            settings.default_response_timeout_s,
        ),
        startup_timeout_s=_first(
            first.startup_timeout_s,
            config.startup_timeout_s,
            configured.startup_timeout_s,
            _if_not_negative(ask.startup_timeout_s),
            settings.default_startup_timeout_s,
        ),
        loaded_at_startup=at_start and restored is None,
        config=config,
        has_requirements=prepared.has_requirements,
        archive_path=prepared.path,
    )


def starts_workers(
    ask: m.RegisterModel, restored: StartupModel | None, settings: BrokerSettings, at_start: bool
) -> bool:
    """Tell, before its archive is known, whether a version gets workers as soon as it is registered."""
    if restored is not None:
        return bool(restored.min_workers)
    return at_start or bool(_first(ask.initial_workers, settings.default_workers_per_model))


def _workers(
    ask: m.RegisterModel,
    config: ModelConfig,
    configured: StartupModel,
    settings: BrokerSettings,
    at_start: bool,
    restored: StartupModel | None,
) -> tuple[int, int]:
    """Return min and max workers."""
    if restored is not None:
        return _range(_first(restored.min_workers, 0), restored.max_workers)
    if config.min_workers and config.max_workers and config.max_workers >= config.min_workers:
        return config.min_workers, config.max_workers
    if not at_start:
        return _range(_first(ask.initial_workers, settings.default_workers_per_model), None)
    if configured.min_workers is not None:
        return _range(configured.min_workers, configured.max_workers)
    return _range(settings.default_workers_per_model or settings.startup_workers_per_model, None)


def _range(least: int, most: int | None) -> tuple[int, int]:
    least = max(0, least)
    return least, max(least, most or 0)


def check_reachable(what: str, text: str) -> None:
    """Raise BadRequest for what no URL can name: clients resolve dots themselves, and a path has a bound."""
    is_short = len(text.encode(errors="surrogatepass")) <= NAME_LIMIT_BYTES
    if not is_short or "/" in text or text in (".", "..") or not text.isprintable():
        raise errors.BadRequest(
            f"{what} {quoted(text)!r} can't be part of a URL: it has a slash or a control character, is"
            f" a dot or two, or has more than {NAME_LIMIT_BYTES} bytes."
        )


def _check_config(config: ModelConfig) -> None:
    if config.sequence_batching and not config.sequence_max_idle_ms:
        raise errors.InvalidModel("sequenceBatching needs a sequenceMaxIdleMSec above 0 in the model config.")
    if config.torchrun and config.torchrun.nnodes > 1:
        raise errors.InvalidModel("A worker's processes share one host here: torchrun's nnodes must be 1.")
    if config.processes > 1 and config.async_communication:
        raise errors.InvalidModel(
            "Workers of several processes run the same requests in the same order, which asyncCommunication "
            "can't promise: use parallelType custom, whose worker is one process with several GPUs."
        )


def _first(*values: int | None) -> int:
    """Return the first that was said; the last one always is."""
    return next(value for value in values if value is not None)


def _if_not_negative(value: int | None) -> int | None:
    return None if value is None or value < 0 else value
