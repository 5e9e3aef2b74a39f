from pathlib import Path

import pytest

from tests.attacks.__main__ import main, parse
from tests.attacks.catalog import ATTACKS
from tests.attacks.run import Times, run
from tests.attacks.table import WIDTH


def test_attacks_are_listed_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*ATTACKS, "mixed"]
    assert all(len(line) <= WIDTH for line in lines)


def test_an_unknown_name_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["nonsense"])
    assert "nonsense" in capsys.readouterr().err


def test_attacks_that_run_side_by_side_are_content_with_a_server_as_it_comes() -> None:
    assert not [one.name for one in ATTACKS.values() if one.is_mixed and (one.config or one.broker_options)]


@pytest.mark.integration
def test_an_attack_runs_beside_honest_requests_and_ends_by_itself(tmp_path: Path) -> None:
    told: list[str] = []
    row = run("unclear-lengths", 1.0, tmp_path / "server", told.append, Times(0.1, 0.5, 0.1))
    assert not row.measured.breaches
    assert not row.measured.ended
    assert row.measured.during.sent > 50
    roles = {one.role for one in row.measured.memory}
    assert {"broker", "gateway process", "node", "launcher", "model worker"} <= roles
    assert "400 x" in row.seen
    assert told
