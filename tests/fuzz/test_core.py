"""Some seconds of anything that peers may say; `make fuzz` goes on for as long as one likes."""

import pytest

from tests.fuzz.core import Fleet

STEPS = 120


@pytest.mark.parametrize("seed", range(24))
def test_nothing_that_peers_say_breaks_the_core(seed: int) -> None:
    Fleet(seed).run(STEPS)
