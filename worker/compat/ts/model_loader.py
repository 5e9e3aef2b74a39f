"""Turns a handler's name into an entry point: the archive's own, or one that comes with the server.

Failures are the archive's own exceptions: the first cause, not what happened on the way.
"""

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple  # Any: what handlers take and return

from torchrelay.shared.archives import model_archive
from ts.context import Context
from ts.metrics.metrics_cache import MetricsCache
from ts.service import Service
from ts.utils.util import list_classes_from_module

#: Rows in, rows out; None while the model loads. What it returns is the handler's choice.
EntryPoint = Callable[[Any, Context], Any]

#: A handler's own word on whether it takes requests now: true or false, or something to be awaited for that.
IsReady = Callable[[], Any]


class Handler(NamedTuple):
    """What is called to load a model and to run it; `is_ready` is None for handlers that don't say."""

    entry_point: EntryPoint
    initialize: Callable[[Context], object]
    is_ready: IsReady | None = None


def resolve(handler: str, model_dir: Path) -> Handler:
    """Find a handler: a function of the module, or its one class."""
    name = model_archive.handler_module(handler)
    if not name:
        raise ValueError("the archive names no handler, and neither did its registration")
    function_name = handler.partition(":")[2] or "handle"
    module = _import_handler(name, model_dir)
    function: EntryPoint | None = getattr(module, function_name, None)
    if function is not None:
        return Handler(function, lambda context: function(None, context), _is_ready_of(module))
    classes = list_classes_from_module(module)
    if len(classes) != 1:
        found = ", ".join(cls.__name__ for cls in classes) or "none"
        raise ValueError(
            f"{name} must define a function {function_name} or exactly one class; its classes are: {found}"
        )
    service = classes[0]()
    if not callable(getattr(service, "handle", None)):
        raise ValueError(f"the class {classes[0].__name__} of {name} has no method handle")
    return Handler(service.handle, service.initialize, _is_ready_of(service))


def _is_ready_of(owner: object) -> IsReady | None:
    """Return the owner's `is_ready`, if it can be called without arguments: else it is something else."""
    found: IsReady | None = getattr(owner, "is_ready", None)
    if not callable(found):
        return None
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError):
        return None
    return found


def wrap(entry_point: EntryPoint, envelope: str) -> EntryPoint:
    """Put a request envelope around an entry point: the server's, or a module's first class.

    Raises ModuleNotFoundError for one that there isn't.
    """
    ours = f"ts.torch_handler.request_envelope.{envelope}"
    module = _import_if_there(ours) or importlib.import_module(envelope)
    classes = list_classes_from_module(module)
    if not classes:
        raise ValueError(f"the envelope {envelope} has no class")
    wrapped: EntryPoint = classes[0](entry_point).handle
    return wrapped


class TsModelLoader:
    """Loads an unpacked archive outside of a server, as tests of handlers do."""

    def load(
        self,
        model_name: str,
        model_dir: str,
        handler: str,
        gpu_id: int | None = None,
        batch_size: int = 1,
        envelope: str | None = None,
        limit_max_image_pixels: bool = True,
        metrics_cache: MetricsCache | None = None,
    ) -> Service:
        """Import the handler, which has to be importable, and let it load its model."""
        folder = Path(model_dir)
        file = folder / model_archive.MANIFEST_NAME
        manifest = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        entry_point, initialize, _ = resolve(handler, folder)
        if envelope:
            entry_point = wrap(entry_point, envelope)
        service = Service(
            model_name,
            model_dir,
            manifest,
            entry_point,
            gpu_id,
            batch_size,
            limit_max_image_pixels,
            metrics_cache,
        )
        initialize(service.context)
        return service


#: The name of what TsModelLoader is one of.
ModelLoader = TsModelLoader


class ModelLoaderFactory:
    """Chooses the loader; there is one."""

    @staticmethod
    def get_model_loader() -> TsModelLoader:
        """Return the loader."""
        return TsModelLoader()


def _import_handler(name: str, model_dir: Path) -> ModuleType:
    """Import a handler from the archive, or one that comes with the server."""
    if (model_dir / f"{name}.py").is_file() and name in sys.modules:
        # Called like a module that is loaded already, such as a library's: the archive's is meant.
        del sys.modules[name]
    module = _import_if_there(name) or _import_if_there(f"ts.torch_handler.{name}")
    if module is None:
        raise ModuleNotFoundError(
            f"the archive has no {name}.py, and no handler {name} comes with the server"
        )
    return module


def _import_if_there(name: str) -> ModuleType | None:
    """Import a module; None where the module itself is missing, rather than something that it imports."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
    return None
