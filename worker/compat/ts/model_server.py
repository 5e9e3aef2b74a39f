"""`python -m ts.model_server`: the `torchserve` command by its module's name."""

from importlib.metadata import distribution


def start() -> None:
    """Run the command as it is installed; nothing of a worker knows the command line's code."""
    (command,) = distribution("torchrelay").entry_points.select(group="console_scripts", name="torchserve")
    command.load()()


if __name__ == "__main__":
    start()
