"""Turns an unpacked archive into an entry point; the one place that imports what an archive brings.

Needs `worker/compat` on sys.path, for `ts` is what archives import. Failures are the archive's own
exceptions: the caller reports the first cause, not what happened on the way.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import msgspec
from ts.context import Context
from ts.metrics.metrics_cache import MetricsCache
from ts.model_loader import EntryPoint, resolve, wrap
from ts.utils.util import get_yaml_config
from ts.version import __version__ as server_version

from shared import archive
from shared import messages as m

_OUR_PACKAGES = frozenset(("broker", "cli", "gateway", "shared", "worker"))


class Model(msgspec.Struct, frozen=True):
    """A loaded model: what to call, and the context to call it with."""

    entry_point: EntryPoint
    context: Context


def make_room(model_dir: Path) -> dict[str, ModuleType]:
    """Let an archive have modules of any name: take ours out of sys.modules, put its folder first.

    Everything of ours must have been imported; nothing of ours is imported by name afterwards. The caller
    keeps the modules returned.
    """
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in _OUR_PACKAGES}
    for name in ours:
        del sys.modules[name]
    sys.path.insert(0, str(model_dir))
    importlib.invalidate_caches()
    return ours


def load(start: m.StartWorker, model_dir: Path) -> Model:
    """Import the handler and let it load its model. Raises whatever the archive's code raises."""
    manifest = _manifest(model_dir)
    metrics = MetricsCache(start.model)
    metrics.declare(start.metrics_config)
    context = Context(
        model_name=start.model,
        model_dir=str(model_dir),
        manifest=manifest,
        batch_size=start.batch_size,
        gpu=start.gpu_id,
        mms_version=server_version,
        limit_max_image_pixels=start.limit_max_image_pixels,
        metrics=metrics,
        model_yaml_config=_yaml_config(model_dir, manifest),
    )
    entry_point, initialize = resolve(start.handler, model_dir)
    initialize(context)
    if start.service_envelope:
        entry_point = wrap(entry_point, start.service_envelope)
    return Model(entry_point, context)


def _manifest(model_dir: Path) -> dict[str, object] | None:
    file = model_dir / archive.MANIFEST_NAME
    return archive.parse_manifest(file.read_bytes()).raw if file.is_file() else None


def _yaml_config(model_dir: Path, manifest: dict[str, object] | None) -> dict[str, object]:
    model = (manifest or {}).get("model")
    name = model.get("configFile") if isinstance(model, dict) else None
    return get_yaml_config(str(model_dir / name)) or {} if name else {}
