"""Purity is a folder: what may be imported and called where."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.contracts.source import PREFIX, ROOT, calls, imports, modules, plant

#: The folders of the broker that decide: values in, values out.
PURE = ("broker/core", "broker/jobs", "broker/models", "broker/fleet", "broker/membership")
#: The standard library that they may use: nothing that waits, reads or writes, and no clock.
PURE_LIBRARIES = frozenset({
    "__future__", "abc", "bisect", "collections", "dataclasses", "encodings", "enum", "fnmatch", "functools",
    "hashlib", "heapq", "hmac", "ipaddress", "itertools", "json", "math", "operator", "re", "traceback",
    "types", "typing",
    # `logging` for the names of its levels; msgspec for structs, yaml for the text of metrics.yaml, which the
    # shell has read.
    "logging", "urllib.parse", "msgspec", "yaml",
})  # fmt: skip
#: Of ours, beside each other.
PURE_SHARED = (
    "shared.archives.model_config", "shared.archives.workflow_spec", "shared.clock", "shared.containment",
    "shared.deadlines", "shared.errors", "shared.ids", "shared.labels", "shared.quoting",
    "shared.recent_mean", "shared.recent_peak", "shared.settings", "shared.torchserve.key_files",
    "shared.torchserve.snapshot_files", "shared.wire",
)  # fmt: skip
IMPURE_SHARED = ("shared.wire.sockets",)
#: `from torchrelay.shared import clock` names the folder as well.
FOLDERS = frozenset({"torchrelay", "shared", "broker"})
#: Calls of what needs no import, or whose import is allowed for something else.
IMPURE_CALLS = frozenset({"open", "print", "input", "exec", "eval", "__import__", "breakpoint"})
#: Clocks and chance: they may be handed in, or stand as a default, but are not asked.
IMPURE_FUNCTIONS = frozenset({"clock.monotonic", "clock.wall_ms", "ids.secret", "ids.seed", "ids.request_id",
                              "ids.sequence_id", "ids.routing_id", "ids.folder_suffix"})  # fmt: skip

#: Folder -> what none of its modules may import, by the beginning of a name, and why.
NEVER = {
    "gateway/http": ("gateway.api", "HTTP knows no API"),
    "worker/node": ("worker.model", "a node holds no model"),
    "worker/common": ("worker.model", "a node uses it as well"),
    "worker/compat": ("worker", "archives are tested where there is no server"),
    "broker/archives": ("broker.core.machine", "threads know nothing of the core"),
    "broker/storage": ("broker.core.machine", "threads know nothing of the core"),
}
NEVER_TORCH = ("worker/node", "worker/common", "broker", "gateway", "client", "shared", "cli")


def impurities(root: Path) -> list[str]:
    """Return what the broker's deciding folders import or call that could wait, read, write or tell time."""
    found = []
    for module in modules(root, *PURE):
        found += [f"{module.name} imports {name}" for name in sorted(imports(module)) if not _is_pure(name)]
        found += [
            f"{module.name}:{line} calls {name}"
            for name, line in calls(module.tree)
            if name in IMPURE_CALLS | IMPURE_FUNCTIONS or name.partition(".")[0] in ("logger", "logging")
        ]
    return found


def _is_pure(name: str) -> bool:
    ours = name.removeprefix(PREFIX)
    if name.startswith("logging."):
        return name.partition(".")[2].isupper()
    if ours == name and name != "torchrelay":
        return _is_below(name, PURE_LIBRARIES)
    if _is_below(ours, IMPURE_SHARED):
        return False
    return ours in FOLDERS or _is_below(ours, (*PURE_SHARED, *(folder.replace("/", ".") for folder in PURE)))


def _is_below(name: str, roots: Iterable[str]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def forbidden_imports(root: Path) -> list[str]:
    """Return the imports that a folder must not have."""
    found = []
    for folder, (never, why) in NEVER.items():
        found += [
            f"{module.name} imports {name}: {why}"
            for module in modules(root, folder)
            for name in sorted(imports(module))
            if _is_below(name.removeprefix(PREFIX), (never,))
        ]
    return found + [
        f"{module.name} imports {name}: torch is a model's alone"
        for module in modules(root, *NEVER_TORCH)
        for name in sorted(imports(module))
        if _is_below(name, ("torch", "ts"))
    ]


def test_the_broker_decides_without_reading_writing_or_waiting() -> None:
    assert impurities(ROOT) == []


def test_no_pure_folder_has_gone_without_notice() -> None:
    for folder in (*PURE, *NEVER, *NEVER_TORCH):
        assert modules(ROOT, folder), f"{folder} has no modules"


@pytest.mark.parametrize(
    "text",
    [
        "import socket",
        "import os.path",
        "from pathlib import Path",
        "import time",
        "from urllib.request import urlopen",
        "from urllib import request",
        "from logging import getLogger",
        "from torchrelay.shared.logs import logs",
        "from torchrelay.shared import host",
        "from torchrelay.shared.wire import sockets",
        "from torchrelay.broker.storage.registry import Registry",
        "from torchrelay.broker import server",
        "def f(path):\n    return open(path).read()",
        "def f():\n    logger.info('worker.joined')",
        "import logging\nlogging.getLogger()",
        "from torchrelay.shared import clock\nnow = clock.monotonic()",
    ],
)
@pytest.mark.parametrize("folder", PURE)
def test_what_is_not_pure_is_found(tmp_path: Path, folder: str, text: str) -> None:
    assert impurities(plant(tmp_path, {f"{folder}/x.py": text}))


def test_what_is_pure_is_not_found(tmp_path: Path) -> None:
    text = (
        "import logging\nfrom urllib.parse import quote\nfrom torchrelay.shared import clock, errors\n"
        "from torchrelay.shared.wire import messages as m\nfrom torchrelay.broker.core import states\n"
        "from torchrelay.broker.core.effects import Report\n"
        "class Keys:\n    def open(self):\n        return Report(logging.INFO, clock.iso(0), {})\n"
    )
    assert impurities(plant(tmp_path, {"broker/jobs/x.py": text})) == []


def test_no_folder_imports_what_it_must_not() -> None:
    assert forbidden_imports(ROOT) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gateway/http/x.py", "from torchrelay.gateway.api import bodies"),
        ("gateway/http/x.py", "def f():\n    import torchrelay.gateway.api.bodies"),
        ("worker/node/x.py", "import torch"),
        ("worker/node/x.py", "def f():\n    from torch import cuda"),
        ("worker/common/x.py", "from torchrelay.worker.model import loading"),
        ("worker/common/x.py", "from ts.context import Context"),
        ("worker/compat/ts/x.py", "from torchrelay.worker.model import loading"),
        ("shared/x.py", "import torch.cuda"),
    ],
)
def test_what_a_folder_must_not_import_is_found(tmp_path: Path, name: str, text: str) -> None:
    assert forbidden_imports(plant(tmp_path, {name: text}))
