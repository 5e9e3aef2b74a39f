"""TorchServe's parser of its command line, for programs that read such command lines themselves."""

import argparse
from collections.abc import Sequence

from torchrelay.shared.torchserve import command_line


class ArgParser:
    """The flags of the `torchserve` command."""

    @staticmethod
    def ts_parser() -> argparse.ArgumentParser:
        """Make the parser."""
        return command_line.parser()

    @staticmethod
    def extract_args(args: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse these words, or the process's own."""
        return ArgParser.ts_parser().parse_args(args or None)
