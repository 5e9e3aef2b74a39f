import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.watching import Watch

pytestmark = pytest.mark.integration
#: Holds as many megabytes as each line of its input says.
PROGRAM = (
    "import sys\nprint('up', flush=True)\nfor line in sys.stdin:\n held = b'x' * int(line); print(flush=True)"
)


@pytest.fixture
def process() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started
        started.kill()


def hold(process: "subprocess.Popen[str]", size: int) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{size}\n")
    process.stdin.flush()
    process.stdout.readline()


def test_the_most_that_a_process_held_is_seen_though_it_was_gone_at_once(
    process: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    watch = Watch([(process.pid, "broker")], tmp_path)
    watch.begin()
    hold(process, 200_000_000)
    hold(process, 1)
    (memory,), ended, log_bytes = watch.end()
    assert memory.role == "broker"
    assert memory.most_bytes > 200_000_000 > memory.before_bytes > 0
    assert memory.after_bytes < 200_000_000
    assert (ended, log_bytes) == ((), 0)


def test_a_process_that_ended_and_a_log_that_grew_are_told(
    process: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    (tmp_path / "broker.log").write_text("before")
    watch = Watch([(process.pid, "broker")], tmp_path)
    watch.begin()
    process.kill()
    process.wait()
    (tmp_path / "broker.log").write_text("before and after")
    _, ended, log_bytes = watch.end()
    assert ended == ("broker",)
    assert log_bytes == len(" and after")
