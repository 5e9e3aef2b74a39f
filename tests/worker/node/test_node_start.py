"""A node's launcher is there before the node is."""

import subprocess
import sys
from collections.abc import Sequence
from typing import cast

import pytest

from torchrelay.shared.settings import NodeSettings, SettingsError
from torchrelay.worker.node import node_start
from torchrelay.worker.node.launcher_handle import Launcher

#: Tells which of our modules there are when the launcher's process is started, and ends there.
SPY = """
import subprocess, sys
from torchrelay.worker.node import node_start
from torchrelay.shared.settings import NodeSettings

def started(command, **more):
    print(command[command.index("-m") + 1], "torchrelay.worker.node.node" in sys.modules, flush=True)
    sys.exit()

subprocess.Popen = started
node_start.run(NodeSettings(name="n", cache_dir=sys.argv[1]))
"""


def test_it_is_started_before_what_the_node_needs_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPY, "/nowhere"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["torchrelay.worker.launcher", "False"]


class Told(Exception):
    """What a launcher has been told first."""


class PlayedLauncher:
    def preload(self, modules: Sequence[str]) -> None:
        raise Told(*modules)


def test_a_launcher_that_runs_already_is_told_what_workers_share() -> None:
    settings = NodeSettings(name="n", cache_dir="/nowhere", preload=("torch", "json"))
    with pytest.raises(Told) as told:
        node_start.run(settings, cast(Launcher, PlayedLauncher()))
    assert told.value.args == ("torch", "json")


def test_variables_that_no_regex_names_are_refused_before() -> None:
    with pytest.raises(SettingsError, match="no regular expression"):
        node_start.run(NodeSettings(name="n", cache_dir="/nowhere", blacklist_env_vars="["))
