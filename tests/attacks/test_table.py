from tests.attacks import table
from tests.attacks.catalog import ATTACKS, MIXED
from tests.attacks.table import Row
from tests.attacks.verdicts import HonestRequests, Measurements, Memory

WORST = Measurements(
    HonestRequests(600, {}, 0.01, 10.0),
    HonestRequests(60_000, {"503": 6_000}, 9.0, 10.0),
    HonestRequests(600, {}, 0.01, 0.02),
    (Memory("broker", 1, 2, 3), Memory("gateway process", 1, 999_000_000, 3)),
)


def row(name: str = "costly-bodies", *faults: str) -> Row:
    return Row(name, WORST, faults, "400 x 12, " * 20)


def test_no_line_is_wider_than_a_terminal() -> None:
    for name in (*ATTACKS, MIXED):
        rows = [row(name, "gateway process ended", "f" * 200), row(name)]
        text = "\n".join([table.heading(100), *map(table.row, rows), table.summary(rows)])
        assert all(len(line) <= table.WIDTH for line in text.splitlines()), text


def test_a_row_names_the_largest_process_and_the_requests_that_failed() -> None:
    first = table.row(row("mixed", "p99 above 1 s")).splitlines()[0]
    assert first.split() == ["mixed", "NOT", "HELD", "6000/60000", "10.0", "s", "10.0", "s", "999", "MB",
                             "gateway", "process"]  # fmt: skip


def test_the_figures_of_two_rows_stand_below_each_other() -> None:
    lines = [table.row(row(name)).splitlines()[0] for name in ("mixed", max(ATTACKS, key=len))]
    assert len({line.index("999 MB") for line in lines}) == 1


def test_a_row_says_what_did_not_hold_before_what_was_seen() -> None:
    _, fault, seen, *_ = table.row(row("mixed", "p99 above 1 s")).splitlines()
    assert fault == "  ! p99 above 1 s"
    assert seen.startswith("  400 x 12")


def test_the_heading_says_how_much_attackers_may_send() -> None:
    assert "50 MB/s" in table.heading(100)
    assert "500 messages/s" in table.heading(100)


def test_the_summary_names_what_was_not_held() -> None:
    rows = [row("upgrades"), row("mixed", "p99 above 1 s")]
    assert table.summary(rows) == "1 of 2 attacks were held; not held: mixed"
    assert table.summary(rows[:1]) == "1 of 1 attacks were held."
