"""`python -m ts.model_server`: the `torchserve` command by its module's name."""


def start() -> None:
    """Run the command."""
    from torchrelay.cli.torchserve.command import main

    main()


if __name__ == "__main__":
    start()
