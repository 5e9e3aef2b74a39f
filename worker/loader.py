"""Turns an unpacked archive into an entry point; the one place that imports what an archive brings.

Needs `worker/compat` on sys.path, for `ts` is what archives import. Failures are the archive's own
exceptions: the caller reports the first cause, not what happened on the way.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import msgspec
from ts.context import Context
from ts.metrics.metrics_cache import MetricsCache
from ts.utils.util import get_yaml_config, list_classes_from_module
from ts.version import __version__ as server_version

from shared import archive
from shared import messages as m

#: Rows in, rows out; None while the model loads. What it returns is the handler's choice, and checked.
EntryPoint = Callable[[list[dict[str, object]] | None, Context], object]

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
    entry_point, initialize = _resolve(start.handler, model_dir)
    initialize(context)
    if start.service_envelope:
        entry_point = _wrap(entry_point, start.service_envelope)
    return Model(entry_point, context)


def _manifest(model_dir: Path) -> dict[str, object] | None:
    file = model_dir / archive.MANIFEST_NAME
    return archive.parse_manifest(file.read_bytes()).raw if file.is_file() else None


def _yaml_config(model_dir: Path, manifest: dict[str, object] | None) -> dict[str, object]:
    model = (manifest or {}).get("model")
    name = model.get("configFile") if isinstance(model, dict) else None
    return get_yaml_config(str(model_dir / name)) or {} if name else {}


def _resolve(handler: str, model_dir: Path) -> tuple[EntryPoint, Callable[[Context], object]]:
    """Return the entry point and what initializes it: a function of the module, or its one class."""
    name = archive.handler_module(handler)
    if not name:
        raise ValueError("the archive names no handler, and neither did its registration")
    function_name = handler.partition(":")[2] or "handle"
    module = _import_handler(name, model_dir)
    function: EntryPoint | None = getattr(module, function_name, None)
    if function is not None:
        return function, lambda context: function(None, context)
    classes = list_classes_from_module(module)
    if len(classes) != 1:
        found = ", ".join(cls.__name__ for cls in classes) or "none"
        raise ValueError(
            f"{name} must define a function {function_name} or exactly one class; its classes are: {found}"
        )
    service = classes[0]()
    if not callable(getattr(service, "handle", None)):
        raise ValueError(f"the class {classes[0].__name__} of {name} has no method handle")
    return service.handle, service.initialize


def _import_handler(name: str, model_dir: Path) -> ModuleType:
    """Import a handler from the archive, or one that comes with the server."""
    if (model_dir / f"{name}.py").is_file() and name in sys.modules:
        # Called like a module that is loaded already, such as a library's: the archive's is meant.
        del sys.modules[name]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not _is_about(error, name):
            raise
    ours = f"ts.torch_handler.{name}"
    try:
        return importlib.import_module(ours)
    except ModuleNotFoundError as error:
        if not _is_about(error, ours):
            raise
    raise ModuleNotFoundError(f"the archive has no {name}.py, and no handler {name} comes with the server")


def _is_about(error: ModuleNotFoundError, name: str) -> bool:
    """Tell whether the module itself is missing, rather than something that it imports."""
    return error.name is not None and f"{name}.".startswith(f"{error.name}.")


def _wrap(entry_point: EntryPoint, envelope: str) -> EntryPoint:
    module = importlib.import_module(f"ts.torch_handler.request_envelope.{envelope}")
    wrapped: EntryPoint = list_classes_from_module(module)[0](entry_point).handle
    return wrapped
