"""Planted faults are found by the simulation, each within a number of seeds; without one nothing is found.

The numbers are in docs/reliability.md, written by `python -m tests.reliability.page`.
"""

import pytest

from tests.simulation.hunt import KINDS, hunt
from tests.simulation.mutants import MUTANTS, Mutant, planted

#: Each kind of trouble once where nothing is to be found, and oftener where something is.
SEEDS = range(10, 10 + len(KINDS))
HUNT_MAX = 6 * len(KINDS)


def seeds_until_found(mutant: Mutant) -> tuple[int, str]:
    """Return how many seeds it takes to find a mutant, and what was broken; 0 and nothing if it is not."""
    with planted(mutant):
        for seed in range(HUNT_MAX):
            if broken := hunt(seed):
                return seed + 1, broken
    return 0, ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what.replace(" ", "_"))
def test_a_planted_fault_is_found(mutant: Mutant) -> None:
    seeds, _ = seeds_until_found(mutant)
    assert seeds, f"{mutant.what}: not found in {HUNT_MAX} seeds"


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_found_where_nothing_is_planted(seed: int) -> None:
    assert hunt(seed) == ""
