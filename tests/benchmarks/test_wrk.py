import re
import shutil

import pytest

from benchmarks import wrk
from benchmarks.results import Load

TIMED = """\
Running 5s test @ http://127.0.0.1:8080/predictions/echo
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.23ms  456.00us  12.34ms   89.00%
  50000 requests in 5.00s, 6.00MB read
RESULT requests=50000 duration_us=5000000 p50_us=1200 p99_us=3400 refused=3 broken=4
"""


def test_a_timed_run_is_read_from_the_line_that_our_script_writes() -> None:
    load = wrk.parse_timed(TIMED)
    assert load == Load(requests=50000, duration_us=5_000_000, p50_us=1200, p99_us=3400, refused=3, broken=4)
    assert load.rate == 10_000
    assert load.errors == 7


def test_a_checked_run_is_read_from_the_line_that_our_script_writes() -> None:
    assert wrk.parse_checked("...\nCHECKED answers=812 wrong=1\n") == wrk.Verdict(812, 1)


def test_a_run_without_a_report_fails_with_what_wrk_said() -> None:
    with pytest.raises(wrk.WrkFailed, match="unable to connect"):
        wrk.parse_timed("unable to connect to 127.0.0.1:1 Connection refused")


@pytest.mark.parametrize(
    ("script", "tag", "fields"),
    [
        ("timed.lua", "RESULT", Load.__struct_fields__),
        ("checked.lua", "CHECKED", wrk.Verdict.__struct_fields__),
    ],
)
def test_each_script_reports_every_figure_that_is_read(
    script: str, tag: str, fields: tuple[str, ...]
) -> None:
    line = re.search(rf'"{tag} (.*)\\n"', (wrk.HERE / script).read_text())
    assert line is not None
    assert re.findall(r"(\w+)=%d", line[1]) == list(fields)


def test_a_machine_without_wrk_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert shutil.which("wrk") is None
    with pytest.raises(wrk.WrkFailed, match="apt-get install wrk"):
        wrk.require()
