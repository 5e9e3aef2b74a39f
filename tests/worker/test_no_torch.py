"""The node and what it shares with workers start without torch, whose import takes seconds and memory."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    f"torchrelay.worker.{folder}.{path.stem}"
    for folder in ("node", "common")
    for path in (ROOT / "worker" / folder).glob("*.py")
    if path.stem != "__init__"
)


def test_there_are_modules_to_look_at() -> None:
    assert len(MODULES) > 10


@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_the_node_imports_no_torch_not_even_by_another(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(name for name in sys.modules if name == 'torch'))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
