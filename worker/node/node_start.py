"""Starts a node: its launcher before anything else, since that imports torch, which takes the longest."""

from functools import partial

from torchrelay.shared.processes.lasting_imports import lasting_imports
from torchrelay.shared.settings import NodeSettings, environment
from torchrelay.worker.common import worker_environment
from torchrelay.worker.node.launcher_handle import Launcher, executed

#: How long a launcher that nobody takes over may take to end.
CLOSE_S = 1.0


def run(settings: NodeSettings, launcher: Launcher | None = None) -> int:
    """Run a node, with a launcher that runs already or a new one, until it is told to stop.

    Returns its exit code. Raises OSError, SettingsError.
    """
    if launcher is None:
        variables = worker_environment.of_settings(environment(), settings)
        launcher = Launcher(partial(executed, variables))
    launcher.preload(settings.preload)
    try:
        with lasting_imports():  # PERF: 0.2 s, in which the launcher has begun to import torch
            from torchrelay.worker.node import node

        return node.run(settings, launcher)
    finally:
        launcher.close(CLOSE_S)
