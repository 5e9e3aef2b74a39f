"""What `torchrelay migrate` prints, and how it exits."""

import _thread
import gc
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command_line import run
from tests.cli.migrate.archives import HANDLER, write
from tests.cli.migrate.small_server import Said, Sent, SmallServer, answering
from tests.support import eventually


def test_a_check_says_what_runs_and_exits_with_1_if_something_doesnt(tmp_path: Path) -> None:
    write(tmp_path / "m.mar", {"h.py": HANDLER})
    done = run("migrate", "check", str(tmp_path))
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "1 file: 1 unchanged")
    write(tmp_path / "n.mar", {"h.py": f"import a_package_that_is_nowhere\n{HANDLER}"})
    done = run("migrate", "check", str(tmp_path))
    assert done.exit_code == 1
    assert "h.py:1: imports a_package_that_is_nowhere" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if str(tmp_path) not in line)
    assert run("migrate", "check", "--no-packages", str(tmp_path)).exit_code == 0


def test_a_check_is_told_to_programs_as_json(tmp_path: Path) -> None:
    write(tmp_path / "m.mar", {"h.py": "\x1b[31m"})
    done = run("migrate", "check", "--json", str(tmp_path))
    report = json.loads(done.stdout)
    assert (done.exit_code, report["summary"]["fails"]) == (1, 1)
    assert report["files"][0]["findings"][1]["inside"] == "h.py"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["check"], 2), (["check", "--nothing", "."], 2), (["check", "/nowhere/at/all"], 1)],
)
def test_wrong_usage_exits_with_2_and_a_missing_path_with_1(arguments: list[str], code: int) -> None:
    done = run("migrate", *arguments)
    assert done.exit_code == code
    assert "Traceback" not in done.output


def differing(sent: Sent) -> Said:
    return Said(200, b'{"score": 0.50001}' if sent.method == "POST" else b"{}", {"x-a": "b"})


def like_it(sent: Sent) -> Said:
    return Said(200, b'{"score": 0.50002}' if sent.method == "POST" else b"{}", {"x-a": "b"})


def script(folder: Path, server: SmallServer) -> str:
    file = folder / "predict.sh"
    file.write_text(f"curl -s {server.url}/predictions/m -d 1\ncurl -X DELETE {server.url}/models/m\n")
    return str(file)


def test_two_servers_are_compared_and_the_exit_status_says_whether_they_differ(tmp_path: Path) -> None:
    with answering(differing) as old, answering(like_it) as new:
        urls = ["--old", old.url, "--new", new.url]
        given = [*urls, "--requests", script(tmp_path, old), "--repeat", "3"]
        done = run("migrate", "diff", *given, "--rtol", "0", "--atol", "0")
        assert done.exit_code == 1, done.output
        assert "body /score: old 0.50001, new 0.50002" in done.stdout
        assert "3 requests, 3 answered otherwise, 3 not sent" in done.stdout
        assert all(len(line) <= 80 for line in done.stdout.splitlines() if str(tmp_path) not in line)
        assert run("migrate", "diff", *given, "--rtol", "0.001").exit_code == 0
        assert run("migrate", "diff", *given, "--ignore", "/score", "--rtol", "0").exit_code == 0
        told = json.loads(run("migrate", "diff", *given, "--json", "--changes").stdout)
        assert (told["sent"], told["left_out"], len(old.sent) > 0) == (6, 0, True)


def test_what_isnt_sent_at_all_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "empty.sh").write_text("echo")
    with answering() as server:
        done = run("migrate", "diff", "--old", server.url, "--new", server.url,
                   "--requests", str(tmp_path / "empty.sh"))  # fmt: skip
        assert (done.exit_code, "0 requests" in done.stdout) == (1, True)
        gone = run("migrate", "diff", "--old", server.url, "--new", "http://127.0.0.1:1",
                   "--requests", str(tmp_path / "empty.sh"))  # fmt: skip
        assert (gone.exit_code, "no server answers at http://127.0.0.1:1" in gone.stderr) == (1, True)


@pytest.mark.parametrize(
    "more",
    [
        "",
        "--requests a --record 1",
        "--requests a --set x",
        "--requests a --save b",
        "--requests a --ignore x",
    ],
)
def test_a_comparison_that_cant_be_meant_is_wrong_usage(more: str) -> None:
    done = run("migrate", "diff", "--old", "http://127.0.0.1:1", "--new", "http://127.0.0.1:1", *more.split())
    assert done.exit_code == 2, done.output


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile: an interruption that comes while somebody is told of that is lost."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
def test_ctrl_c_shows_what_there_is(tmp_path: Path) -> None:
    def stop(sent: Sent) -> Said:
        if sent.path == "/predictions/last":
            _thread.interrupt_main()  # as Ctrl-C does
        return Said(200, b"{}")

    with answering(stop) as old, answering(lambda _: Said(200, b"{}")) as new:
        file = tmp_path / "predict.sh"
        file.write_text(
            "".join(f"curl {old.url}/predictions/{name} -d 1\n" for name in ("first", "last", "never"))
        )
        done = run("migrate", "diff", "--old", old.url, "--new", new.url, "--requests", str(file))
    assert "1 request, 0 answered otherwise; interrupted" in done.stdout
    assert done.exit_code == 130


def test_a_place_that_cant_be_listened_on_is_said() -> None:
    with answering() as server:
        urls = ["--old", server.url, "--new", server.url]
        assert run("migrate", "diff", *urls, "--record", "many").exit_code == 2
        assert run("migrate", "diff", *urls, "--record", "99999").exit_code == 2
        taken = run("migrate", "diff", *urls, "--record", str(server.server_port))
        assert (taken.exit_code, "can't be listened on" in taken.stderr) == (1, True)


@pytest.mark.integration
def test_recording_ends_with_ctrl_c_and_says_what_differed() -> None:
    with answering(differing) as old, answering(like_it) as new:
        code = "from torchrelay.cli.main import main; main()"
        command = [sys.executable, "-c", code, "migrate", "diff", "--old", old.url, "--new", new.url,
                   "--record", "0", "--rtol", "0", "--json"]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            url = process.stderr.readline().split()[0]
            with urllib.request.urlopen(f"{url}/predictions/m", b"1", timeout=10) as answer:
                assert answer.read() == b'{"score": 0.50001}'
            eventually(lambda: len(new.sent) == 2, within_s=10)  # the first one is whether it is there
            process.send_signal(signal.SIGINT)
            report = json.loads(process.communicate(timeout=20)[0])
    assert (process.returncode, report["sent"], report["differing"]) == (1, 1, 1)
