"""`python -m tests.simulation`: hunt through many seeds, and count the seeds that each planted fault takes.

Writes what came out as JSON, for docs/reliability.md. Ends with 1 if anything was found where nothing is
planted, or a planted fault was not.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.simulation.hunt import KINDS, hunt_and_count, simulated_s
from tests.simulation.mutants import MUTANTS
from tests.simulation.test_mutants import seeds_until_found


class Found(msgspec.Struct, frozen=True):
    """A planted fault: what it is, after how many seeds it was found (0: not at all), and by what."""

    what: str
    seeds: int
    broken: str


class Simulated(msgspec.Struct, frozen=True):
    """Seeds of the code as it is, and of its mutants."""

    seeds: int
    hours: float
    requests: int
    kinds: tuple[str, ...]
    broken: tuple[str, ...]
    mutants: tuple[Found, ...]


def simulate(seeds: int) -> Simulated:
    """Run so many seeds, and each mutant until it is found."""
    kinds = tuple(KINDS)
    ends = [hunt_and_count(seed) for seed in range(seeds)]
    broken = [f"seed {seed}: {what}" for seed, (what, _) in enumerate(ends) if what]
    requests = sum(count for _, count in ends)
    found = []
    for mutant in MUTANTS:
        count, what = seeds_until_found(mutant)
        found.append(Found(mutant.what, count, what.partition(":")[2].strip()[:90] or what[:90]))
    hours = seeds * simulated_s() / 3600
    return Simulated(seeds, hours, requests, kinds, tuple(broken), tuple(found))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20 * len(KINDS))
    parser.add_argument("--json", type=Path, default=Path("build/simulation.json"))
    options = parser.parse_args(arguments)
    result = simulate(options.seeds)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    for line in (*result.broken, *(f"{one.seeds:4} {one.what}" for one in result.mutants)):
        sys.stdout.write(f"{line}\n")
    return int(bool(result.broken) or not all(one.seeds for one in result.mutants))


if __name__ == "__main__":
    sys.exit(main())
