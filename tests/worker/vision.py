"""Makes torchvision importable for tests, who import it from here."""

import sys
from types import ModuleType

import pytest
import torch

#: Keeps what is declared alive for as long as the tests run.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch's


def import_torchvision() -> ModuleType:
    """Return torchvision, or skip the module that asks where it isn't installed.

    Beside a torch of another build it finds none of its operators, not even their names, and its import
    fails: then their names are declared. Models that run one (detection does) still can't be tested.
    """
    try:
        return _import()
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    for operator in ("nms", "qnms"):
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        _LIBRARY.define(schema)  # type: ignore[no-untyped-call]  # torch's
    return _import()


def _import() -> ModuleType:
    module: ModuleType = pytest.importorskip("torchvision", exc_type=ModuleNotFoundError)
    return module
