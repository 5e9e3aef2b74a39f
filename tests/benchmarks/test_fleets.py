from benchmarks.fleets import measure


def test_a_small_fleet_goes_through_all_that_is_measured() -> None:
    """What is played says itself whether all workers came up, and all jobs were answered."""
    rows = list(measure("2x3", 10))
    assert len({row.what for row in rows}) == len(rows) == 12
    assert all(
        row.turns > 0 and row.us_each > row.deciding_us_each > 0 and row.longest_ms > 0 for row in rows
    )
