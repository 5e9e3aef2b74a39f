import sys
from pathlib import Path

import pytest

from benchmarks import environments
from benchmarks.environments import ENVIRONMENTS, MADE, PeerEnvironment, Unavailable


@pytest.mark.parametrize("name", sorted(set(ENVIRONMENTS) - {"torchserve"}))
def test_every_package_has_a_version(name: str) -> None:
    assert [package for package in ENVIRONMENTS[name].packages if "==" not in package] == []


def test_the_versions_of_what_torchserve_runs_are_ours() -> None:
    own = (environments.ROOT / "constraints.txt").read_text()
    loose = [package for package in ENVIRONMENTS["torchserve"].packages if "==" not in package]
    assert ENVIRONMENTS["torchserve"].options[0] == "--constraint"
    assert [package for package in loose if f"\n{package}==" not in own.lower()] == []


def test_a_program_that_is_missing_is_told_how_to_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match="apt-get install default-jre-headless"):
        environments.make("torchserve")


def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    folder = ENVIRONMENTS["mosec"].path
    folder.mkdir(parents=True)
    (folder / MADE).write_text("\n".join(ENVIRONMENTS["mosec"].packages))
    assert environments.make("mosec").path == folder


def test_what_pip_says_is_why_there_is_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    broken = PeerEnvironment(
        folder="x", packages=("./no-such-folder",), options=("--no-index",), is_folder=True
    )
    monkeypatch.setitem(ENVIRONMENTS, "mosec", broken)
    with pytest.raises(Unavailable, match=r"(?s)mosec can't be installed.*no-such-folder"):
        environments.make("mosec")
    assert not (broken.path / MADE).exists()


def test_a_folder_is_filled_by_our_own_interpreter() -> None:
    folder, venv = ENVIRONMENTS["encoder"], ENVIRONMENTS["mosec"]
    assert environments.install_command(folder)[0] == sys.executable
    assert str(folder.path) in environments.install_command(folder)
    assert environments.install_command(venv)[0] == str(venv.python)
    assert folder.site_packages == folder.path
    assert venv.site_packages.is_relative_to(venv.path)
