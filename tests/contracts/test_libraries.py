"""Which library may be imported where; what archives import is no exception."""

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.contracts.source import PACKAGES, ROOT, Module, imports, libraries, modules, plant

#: Library -> the folders and files that may import it. Each of them does, or it goes from here.
HOMES = {
    "torch": ("worker/compat/ts/",),
    "numpy": ("worker/compat/ts/", "shared/open_inference/tensor_arrays.py"),
    "falcon": ("gateway/api/", "gateway/app.py"),
    "grpc": ("gateway/grpc/",),
    "grpc_health": ("gateway/grpc/standard_services.py",),
    "grpc_reflection": ("gateway/grpc/standard_services.py",),
    "grpc_tools": ("gateway/grpc/protos/compile_protos.py",),
    "google": ("gateway/grpc/",),
    "gunicorn": ("gateway/main.py",),
    "uvicorn": ("gateway/http/",),
    "httptools": ("gateway/http/connection.py",),
    "cryptography": ("gateway/http/certificates.py",),
    "msgpack": ("shared/wire/codec.py",),
    "sqlalchemy": ("broker/storage/registry.py",),
    "httpcore2": ("broker/archives/",),
    "httpx2": ("client/", "cli/migrate/", "worker/compat/ts/"),
    "typer": ("cli/",),
    "rich": ("cli/remote/rendering.py",),
    "psutil": ("worker/node/", "worker/launcher/"),
}
#: Nobody takes objects out of bytes: whoever can write those could run code.
UNPICKLING = ("pickle", "dill", "cloudpickle", "marshal", "shelve")
#: Clocks, chance: one module each, so that everything else takes them as arguments. Handlers time themselves.
CHANCE: dict[str, tuple[str, ...]] = {
    "time": ("shared/clock.py",),
    "random": (),
    "uuid": (),
    "secrets": ("shared/ids.py",),
}
#: What of zmq makes a socket, or changes how it is. One module does that, so that no socket lacks an option.
SOCKETS_HOME = "shared/wire/sockets.py"
SOCKET_WORDS = {"DEALER", "ROUTER", "REQ", "REP", "PUB", "SUB", "PUSH", "PULL", "PAIR", "STREAM", "LINGER",
                "IMMEDIATE", "RECONNECT_IVL", "RECONNECT_IVL_MAX", "CONNECT_TIMEOUT", "TCP_MAXRT",
                "HEARTBEAT_IVL", "HEARTBEAT_TIMEOUT", "HANDSHAKE_IVL", "ROUTING_ID",
                "MAXMSGSIZE"}  # fmt: skip


def outside_of_home(root: Path, homes: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the imports of these libraries elsewhere than in their homes."""
    return [
        f"{module.name} imports {library}"
        for module in modules(root)
        for library in sorted(libraries(module) & set(homes))
        if not module.name.startswith(homes[library] or "nowhere")
    ]


def empty_homes(root: Path, homes: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the homes whose library isn't imported there."""
    return [
        f"{library}: {home}"
        for library, places in homes.items()
        for home in places
        if not any(library in libraries(m) for m in modules(root) if m.name.startswith(home))
    ]


def unpickling(root: Path) -> list[str]:
    """Return what can take objects out of bytes."""
    return [module.name for module in modules(root) if _unpicklers(module)]


def _unpicklers(module: Module) -> set[str]:
    named = {full for full in imports(module) if full.partition(".")[0] in UNPICKLING}
    # What torch raises is caught by its class.
    return named - {"pickle", "pickle.UnpicklingError"} if "pickle.UnpicklingError" in named else named


def zmq_users(root: Path) -> dict[str, list[str]]:
    """Map each package to its modules that import zmq."""
    users: dict[str, list[str]] = {}
    for module in modules(root):
        if "zmq" in libraries(module):
            users.setdefault(module.package, []).append(module.name)
    return users


def makers_of_sockets(root: Path) -> list[str]:
    """Return the modules that make a zmq socket or set an option of one, beside the one that should."""
    return [m.name for m in modules(root) if m.name != SOCKETS_HOME and _zmq_words(m) & SOCKET_WORDS]


def _zmq_words(module: Module) -> set[str]:
    return {
        node.attr
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "zmq"
    } | {
        alias.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.module == "zmq"
        for alias in node.names
    }


def test_a_library_stays_in_its_home() -> None:
    assert outside_of_home(ROOT, HOMES) == []
    assert empty_homes(ROOT, HOMES) == []


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("torch", "worker/node/x.py"),
        ("torch", "worker/launcher/x.py"),
        ("falcon", "gateway/http/x.py"),
        ("falcon", "worker/compat/ts/x.py"),
        ("msgpack", "worker/compat/ts/metrics/x.py"),
        ("sqlalchemy", "broker/server.py"),
        ("typer", "worker/compat/ts/model_server.py"),
        ("uvicorn", "gateway/app.py"),
        ("rich", "cli/commands/models.py"),
    ],
)
def test_a_library_elsewhere_is_found(tmp_path: Path, library: str, name: str) -> None:
    files = {name: f"def f():\n    from {library}.x import y\n"}
    assert outside_of_home(plant(tmp_path, files), HOMES) == [f"{name} imports {library}"]


def test_a_home_that_is_not_used_is_found(tmp_path: Path) -> None:
    homes = {"torch": ("worker/model/", "worker/launcher/")}
    root = plant(tmp_path, {"worker/model/x.py": "import torch"})
    assert empty_homes(root, homes) == ["torch: worker/launcher/"]


def test_zmq_is_known_to_one_module_of_a_package() -> None:
    users = zmq_users(ROOT)
    assert set(users) == set(PACKAGES) - {"client"}  # which speaks HTTP alone
    assert {package: names for package, names in users.items() if len(names) > 1} == {}
    assert not [name for names in users.values() for name in names if name.startswith("worker/compat")]


def test_a_second_user_of_zmq_is_found(tmp_path: Path) -> None:
    files = {"broker/server.py": "import zmq", "broker/network/x.py": "def f():\n    import zmq.asyncio"}
    assert zmq_users(plant(tmp_path, files)) == {"broker": ["broker/network/x.py", "broker/server.py"]}


def test_sockets_and_their_options_are_made_in_one_place(tmp_path: Path) -> None:
    assert makers_of_sockets(ROOT) == []
    assert _zmq_words(next(m for m in modules(ROOT) if m.name == SOCKETS_HOME)) & SOCKET_WORDS
    files = {"broker/a.py": "import zmq\nx.setsockopt(zmq.LINGER, 0)", "broker/b.py": "from zmq import PAIR",
             SOCKETS_HOME: "import zmq\nzmq.ROUTER"}  # fmt: skip
    assert makers_of_sockets(plant(tmp_path, files)) == ["broker/a.py", "broker/b.py"]


def test_nothing_unpickles(tmp_path: Path) -> None:
    assert unpickling(ROOT) == []
    files = {"worker/compat/ts/x.py": "from pickle import loads", "shared/x.py": "import json",
             "cli/x.py": "import shelve", "worker/y.py": "from pickle import UnpicklingError"}  # fmt: skip
    assert unpickling(plant(tmp_path, files)) == ["cli/x.py", "worker/compat/ts/x.py"]


def test_clocks_and_chance_live_in_one_place(tmp_path: Path) -> None:
    assert [line for line in outside_of_home(ROOT, CHANCE) if not line.startswith("worker/compat/")] == []
    assert empty_homes(ROOT, CHANCE) == []
    files = {
        "broker/x.py": "import time",
        "shared/clock.py": "import time",
        "cli/x.py": "from random import random",
    }
    expected = ["broker/x.py imports time", "cli/x.py imports random"]
    assert outside_of_home(plant(tmp_path, files), CHANCE) == expected
