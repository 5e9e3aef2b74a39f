"""Some seconds of damaged bytes; see `make fuzz`."""

import pytest

from tests.fuzz import codec


@pytest.mark.parametrize("seed", range(4))
def test_what_is_read_of_damaged_bytes_can_be_written_again(seed: int) -> None:
    codec.run(seed, 500)
