"""Sizes that a reader can take in at once."""

import ast
from pathlib import Path

from tests.contracts.source import ROOT, own_modules, plant

FILE_LIMIT_LINES = 600
FUNCTION_LIMIT_LINES = 60


def long_files(root: Path) -> list[str]:
    """Return the files that can't be read in one sitting."""
    return [m.name for m in own_modules(root) if len(m.text.splitlines()) > FILE_LIMIT_LINES]


def long_functions(root: Path) -> list[str]:
    """Return the functions that don't fit on a screen.

    The signature isn't counted: a command's options are many, and documented there.
    """
    return [
        f"{module.name}:{node.lineno} {node.name}"
        for module in own_modules(root)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.body[0].lineno + 1 > FUNCTION_LIMIT_LINES
    ]


def test_files_are_short_enough_to_be_read_in_one_sitting() -> None:
    assert long_files(ROOT) == []


def test_functions_fit_on_a_screen() -> None:
    assert long_functions(ROOT) == []


def test_what_is_long_is_found(tmp_path: Path) -> None:
    body = "    x = 1\n" * FUNCTION_LIMIT_LINES
    files = {
        "broker/long.py": "x = 1\n" * (FILE_LIMIT_LINES + 1),
        "broker/short.py": f"def fits():\n{body}",
        "gateway/function.py": f"class A:\n    def f(\n        self,\n    ):\n    {body}        x = 1\n",
    }
    files["gateway/function.py"] = files["gateway/function.py"].replace("\n    x", "\n        x")
    root = plant(tmp_path, files)
    assert long_files(root) == ["broker/long.py"]
    assert long_functions(root) == ["gateway/function.py:2 f"]
