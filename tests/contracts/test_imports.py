"""Who may import whom; the arrows of the architecture."""

import sys
from pathlib import Path

import pytest

from tests.contracts.source import PACKAGES, ROOT, full_imports, imports, name, sources

ALLOWED = {
    "shared": {"shared"},
    "broker": {"broker", "shared"},
    "worker": {"worker", "shared"},
    "gateway": {"gateway", "shared"},
    "cli": set(PACKAGES),
}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    ours = set(PACKAGES)
    for path in sources(package):
        tops = {module.partition(".")[0] for module in imports(path)}
        assert tops & ours <= ALLOWED[package], f"{name(path)} imports {tops & ours - ALLOWED[package]}"


def test_our_packages_are_imported_under_their_installed_name() -> None:
    """`import shared` works in a checkout alone, or finds another project's package of that name."""
    everywhere = [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    for path in everywhere:
        bare = {module for module in full_imports(path) if module.partition(".")[0] in PACKAGES}
        assert not bare, f"{name(path)} imports {bare}"


def users_of(library: str) -> list[Path]:
    return [path for path in sources() if any(m.partition(".")[0] == library for m in imports(path))]


@pytest.mark.parametrize("package", PACKAGES)
def test_zmq_is_known_to_one_module_of_a_package(package: str) -> None:
    users = [path for path in users_of("zmq") if name(path).startswith(f"{package}/")]
    assert len(users) <= 1, f"zmq is imported by {[name(path) for path in users]}"


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("torch", "worker/"),
        ("falcon", "gateway/"),
        ("gunicorn", "gateway/"),
        ("msgpack", "shared/wire/codec.py"),
        ("sqlalchemy", "broker/storage/registry.py"),
        ("typer", "cli/"),
        ("rich", "cli/"),
    ],
)
def test_a_library_stays_in_its_home(library: str, home: str) -> None:
    strangers = [name(path) for path in users_of(library) if not name(path).startswith(home)]
    assert not strangers, f"{library} belongs to {home}, but is imported by {strangers}"


@pytest.mark.parametrize("library", ["pickle", "dill", "cloudpickle", "marshal", "shelve"])
def test_nothing_unpickles(library: str) -> None:
    assert not users_of(library)


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("time", {"shared/clock.py"}),
        ("random", set[str]()),
        ("uuid", {"shared/ids.py"}),
        ("secrets", {"shared/ids.py"}),
    ],
)
def test_clocks_and_chance_live_in_one_place(library: str, homes: set[str]) -> None:
    assert {name(path) for path in users_of(library)} <= homes


def test_no_module_shadows_the_standard_library() -> None:
    for path in sources():
        if path.parent.name in PACKAGES:
            continue
        assert path.stem not in sys.stdlib_module_names, name(path)


@pytest.mark.parametrize("folder", ["core", "jobs", "models", "fleet"])
def test_the_broker_decides_without_io(folder: str) -> None:
    impure = {"asyncio", "socket", "threading", "subprocess", "os", "pathlib", "tempfile", "zmq", "httpcore",
              "sqlalchemy", "signal"}  # fmt: skip
    assert sources(f"broker/{folder}")
    for path in sources(f"broker/{folder}"):
        tops = {module.partition(".")[0] for module in imports(path)}
        assert not tops & impure, f"{name(path)} imports {tops & impure}"
