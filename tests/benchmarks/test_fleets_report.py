from benchmarks.fleets_report import render
from benchmarks.results import FleetResults, FleetRow, Machine


def test_each_fleet_has_a_column_and_each_thing_that_was_done_a_row() -> None:
    machine = Machine(cpu="C", cores=2, memory_bytes=1, kernel="k", python="3", versions={})
    rows = tuple(
        FleetRow(fleet=fleet, what=what, turns=2, us_each=us, deciding_us_each=us / 2, longest_ms=3.25)
        for fleet, us in (("1x1", 20.25), ("1x1000", 1234.5))
        for what in ("jobs", "beats")
    )
    text = render(FleetResults(taken_at="T", command="X", revision="abc", machine=machine, rows=rows))
    assert "|  | 1x1 | 1x1000 |" in text
    assert "| jobs | 20.2 | 1,234 |" in text
    assert "| jobs | 10.1 | 617 |" in text
    assert "| beats | 3.2 | 3.2 |" in text
    assert "`X`, commit abc, T,\nC, 2 cores" in text
