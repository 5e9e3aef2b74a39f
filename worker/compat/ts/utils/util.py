"""What handlers and loaders share: classes, labels, configuration, what clients are told, packages, GPUs.

`Any` stands for what a model's own files hold, and for packages without types.
"""

import enum
import functools
import importlib
import inspect
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import yaml

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

#: What a text handler takes out: HTML tags and entities.
CLEANUP_REGEX = re.compile("<.*?>|&([a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")


#: Backends of torch.compile that a model config may name, each by its own name in small letters.
PT2Backend = enum.StrEnum(
    "PT2Backend",
    "EAGER AOT_EAGER INDUCTOR NVFUSER AOT_NVFUSER AOT_CUDAGRAPHS OFI FX2TRT ONNXRT IPEX TORCHXLA_TRACE_ONCE"
    " OPENVINO TENSORRT HPU_BACKEND",
)


class PredictionException(Exception):
    """Raised by a handler to answer its batch with a message and a status of its own."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """List the classes that a module defines itself, subclasses of `parent_class` only if one is given."""
    return [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__ and (parent_class is None or issubclass(member, parent_class))
    ]


def load_label_mapping(mapping_file_path: str) -> dict[str, Any] | None:
    """Read class index -> label; None, with a warning, where there is no such file.

    A list stands for its last element, and `{"object_type_names": [...]}` for labels by position.
    """
    if not os.path.isfile(mapping_file_path):
        logger.warning("%r is missing. Inference output will not include class name.", mapping_file_path)
        return None
    with open(mapping_file_path, encoding="utf-8") as file:
        mapping = json.load(file)
    if not isinstance(mapping, dict):
        raise TypeError('index->name JSON mapping should be in "class": "label" format.')
    if isinstance(mapping.get("object_type_names"), list):
        return {str(index): label for index, label in enumerate(mapping["object_type_names"])}
    labels = {key: value[-1] if isinstance(value, list) else value for key, value in mapping.items()}
    if not all(isinstance(label, str) for label in labels.values()):
        raise TypeError("labels in index->name mapping must be either str or List[str]")
    return labels


def map_class_to_label(
    probs: Sequence[Sequence[float]],
    mapping: dict[str, Any] | None = None,
    lbl_classes: Iterable[Sequence[int]] | None = None,
) -> list[dict[Any, float]]:
    """Return label -> probability for each row; without a mapping the class's index is its label.

    Without `lbl_classes` a row has a probability for each class, by index. Of two classes with one label
    the later one counts. Raises KeyError for a class that the mapping lacks.
    """
    if not isinstance(probs, list):
        raise TypeError("Convert classes to list before doing mapping")
    if mapping is not None and not isinstance(mapping, dict):
        raise TypeError("Mapping must be a dict")
    if lbl_classes is None:
        lbl_classes = [range(len(row)) for row in probs]
    return [
        {
            (str(index) if mapping is None else mapping[str(index)]): prob
            for index, prob in zip(classes, row, strict=False)
        }
        for classes, row in zip(lbl_classes, probs, strict=False)
    ]


def get_yaml_config(yaml_file_path: str) -> dict[str, Any]:
    """Read a YAML file."""
    with open(yaml_file_path, encoding="utf-8") as file:
        config: dict[str, Any] = yaml.safe_load(file)
    return config


def check_valid_pt2_backend(backend: str) -> bool:
    """Tell whether torch.compile knows the backend, with a warning if not."""
    if backend in [member.value for member in PT2Backend]:
        return True
    logger.warning("%s is not a supported backend", backend)
    return False


def deprecated(
    version: str, replacement: str = "", klass: type[Warning] = PendingDeprecationWarning
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function that will go; calling it warns."""

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            moved = f" and moved to {replacement}" if replacement else ""
            warnings.warn(f"{function.__name__} is deprecated in {version}{moved}", klass, stacklevel=2)
            return function(*args, **kwargs)

        return wrapper

    return mark


def require(name: str, user: str) -> Any:
    """Import what only some handlers need; raises ImportError that says who needs what."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(f"{user} needs the package {package}, which is not installed here") from error


def visible_to(gpu_ids: Sequence[int], visible: str | None) -> str:
    """Return the CUDA_VISIBLE_DEVICES of a process that is to see these of the GPUs that `visible` leaves."""
    if visible is None:
        return ",".join(map(str, gpu_ids))
    names = [name.strip() for name in visible.split(",")]
    return ",".join(names[gpu_id] for gpu_id in gpu_ids)
