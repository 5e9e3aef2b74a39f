import io
import os
import sys
from types import ModuleType

import pytest
import torch

from torchrelay.worker.model import loaded_torch


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody have imported torch."""
    monkeypatch.delitem(sys.modules, "torch")


def test_a_tensor_is_written_as_torch_does_and_nothing_else_is() -> None:
    saved = loaded_torch.saved(torch.arange(3))
    assert saved is not None
    assert torch.load(io.BytesIO(saved)).tolist() == [0, 1, 2]
    assert loaded_torch.saved([0, 1, 2]) is None


@pytest.mark.usefixtures("nowhere")
def test_where_nobody_has_imported_torch_there_is_no_tensor_and_no_gpu_in_use() -> None:
    assert loaded_torch.module() is None
    assert loaded_torch.saved(object()) is None
    assert not loaded_torch.is_cuda_initialized()
    assert "torch" not in sys.modules


def test_while_torch_is_being_imported_there_is_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    assert loaded_torch.saved(object()) is None


@pytest.mark.usefixtures("nowhere")
def test_threads_that_torch_is_to_have_wait_for_it_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {"MKL_NUM_THREADS": "8"})
    loaded_torch.use_threads(3)
    assert os.environ == {"MKL_NUM_THREADS": "3", "OMP_NUM_THREADS": "3"}


def test_torch_that_is_there_is_told_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.setattr(os, "environ", {})
    loaded_torch.use_threads(3)
    assert told == [3]
    assert not os.environ
