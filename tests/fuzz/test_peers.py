"""Some seconds of a broker that says anything; see `make fuzz`."""

import pytest

from tests.fuzz import peers


@pytest.mark.parametrize("seed", range(4))
def test_no_peer_ends_by_what_a_broken_broker_says(seed: int) -> None:
    peers.run(seed, 500)
