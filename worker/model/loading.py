"""Turns an unpacked archive into an entry point; the one place that imports what an archive brings.

Needs `worker/compat` on sys.path, for `ts` is what archives import. Failures are the archive's own
exceptions: the caller reports the first cause, not what happened on the way.
"""

import asyncio
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import msgspec
from ts.context import Context
from ts.metrics.metrics_cache import MetricsCache
from ts.model_loader import EntryPoint, IsReady, resolve, wrap
from ts.utils.util import get_yaml_config
from ts.version import __version__ as server_version

from torchrelay.shared.archives import model_archive, model_config
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.wire import messages as m
from torchrelay.worker.model import launcher_traces

_OUR_PACKAGE = "torchrelay"


class LoadedModel(msgspec.Struct, frozen=True):
    """A loaded model: what to call, and the context to call it with."""

    entry_point: EntryPoint
    context: Context
    config: ModelConfig = ModelConfig()
    #: Says whether the handler takes requests now; None for one that takes them whenever it has loaded.
    is_ready: IsReady | None = None
    #: The event loop of an async handler, on which it has been loaded; None for all others.
    loop: asyncio.AbstractEventLoop | None = None


def our_modules() -> dict[str, ModuleType]:
    """Find the modules of ours that are imported, to be hidden later.

    PERF: the launcher looks, once. A worker that looks through all modules writes into each that it is in
    use, and so has pages of its own for them: 4 MB.
    """
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == _OUR_PACKAGE}


def hide_our_modules(ours: Iterable[str], model_dir: Path) -> None:
    """Let an archive have modules of any name: take ours out of sys.modules, put its folder first.

    Everything of ours must have been imported; nothing of ours is imported by name afterwards. The caller
    keeps the modules.
    """
    for name in ours:
        del sys.modules[name]
    sys.path.insert(0, str(model_dir))
    _look_again(sys.path)


def _look_again(folders: Iterable[str]) -> None:
    """Forget what is known of folders that modules are looked for in.

    PERF: `importlib.invalidate_caches` does so for every package that has been imported, too, and takes 1 MB
    of each worker, for the same reason.
    """
    for folder in folders:
        finder = sys.path_importer_cache.get(folder)
        if finder is None:  # there was no such folder
            sys.path_importer_cache.pop(folder, None)
        elif hasattr(finder, "invalidate_caches"):
            finder.invalidate_caches()


def load(start: m.StartWorker, model_dir: Path) -> LoadedModel:
    """Import the handler and let it load its model. Raises whatever the archive's code raises."""
    manifest = _manifest(model_dir)
    config_file = _config_file(model_dir, manifest)
    metrics = MetricsCache(start.model)
    metrics.declare(start.metrics_config)
    context = Context(
        model_name=start.model,
        model_dir=str(model_dir),
        manifest=manifest.raw,
        batch_size=start.batch_size,
        gpu=start.gpu_id,
        mms_version=server_version,
        limit_max_image_pixels=start.limit_max_image_pixels,
        metrics=metrics,
        model_yaml_config=get_yaml_config(str(config_file)) or {} if config_file else {},
    )
    config = server_config(model_dir)
    with launcher_traces.heeding_imports():
        entry_point, initialize, is_ready = resolve(start.handler, model_dir)
    loop = None
    if config.async_communication:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    loading = initialize(context)
    if loop is not None and inspect.isawaitable(loading):
        loop.run_until_complete(loading)
    if start.service_envelope:
        entry_point = wrap(entry_point, start.service_envelope)
    return LoadedModel(entry_point, context, config, is_ready, loop)


def server_config(model_dir: Path) -> ModelConfig:
    """Read what the archive's model config asks of the server."""
    file = _config_file(model_dir, _manifest(model_dir))
    return model_config.parse(file.read_bytes())[0] if file else ModelConfig()


def _manifest(model_dir: Path) -> model_archive.Manifest:
    file = model_dir / model_archive.MANIFEST_NAME
    return model_archive.parse_manifest(file.read_bytes()) if file.is_file() else model_archive.Manifest()


def _config_file(model_dir: Path, manifest: model_archive.Manifest) -> Path | None:
    return model_dir / manifest.config_file if manifest.config_file else None
