"""`make fuzz`: runs one seed after the other until it is stopped, or for --seconds.

A seed that fails is printed with the line that runs it again.
"""

import argparse
import itertools
import sys
import traceback
from collections.abc import Iterator

from tests.fuzz import codec, peers
from tests.fuzz.core import Fleet
from torchrelay.shared import clock
from torchrelay.shared.containment import first_fault

STEPS = 400
TIMES = 2000
#: Seeds between two words of progress.
SEEDS_PER_LINE = 50


def run(seed: int) -> None:
    """Run what one seed says."""
    Fleet(seed).run(STEPS)
    codec.run(seed, TIMES)
    peers.run(seed, TIMES)


def seeds(options: argparse.Namespace) -> Iterator[int]:
    """Yield seeds as long as there is time."""
    ends_at = clock.monotonic() + options.seconds
    for seed in itertools.count(options.first) if options.seed is None else [options.seed]:
        if clock.monotonic() >= ends_at:
            return
        if seed % SEEDS_PER_LINE == 0:
            print(f"seed {seed}", flush=True)
        yield seed


def main() -> int:
    """Print the seeds that fail; return 1 if there are some."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--first", type=int, default=0, help="begin with this one")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    coming = seeds(parser.parse_args())
    failed = 0
    while fault := first_fault(coming, run):
        seed, error = fault
        failed += 1
        traceback.print_exception(error)
        print(f"seed {seed} failed; again: .venv/bin/python -m tests.fuzz --seed {seed}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
