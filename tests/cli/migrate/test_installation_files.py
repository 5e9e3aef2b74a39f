"""What files are is told by their content, and hostile ones end nothing."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cli.migrate.archives import HANDLER, write, write_workflow
from torchrelay.cli.migrate import installation_files, request_files
from torchrelay.cli.migrate.findings import FileReport
from torchrelay.shared.archives import model_archive


def check(*paths: Path) -> dict[str, FileReport]:
    watched: list[str] = []
    report = installation_files.check(paths, lambda _: True, watched.append)
    assert {file.path for file in report.files} <= set(watched)
    return {Path(file.path).name: file for file in report.files}


def test_a_whole_installation_is_found_out(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    packed = write(store / "m.mar", {"h.py": HANDLER})
    model_archive.extract(packed, store / "unpacked")
    (tmp_path / "config.properties").write_text("job_queue_size=1")
    (tmp_path / "Dockerfile").write_text("FROM pytorch/torchserve:0.12")
    (tmp_path / "run.sh").write_text("torchserve --start --model-store store")
    (tmp_path / "client.py").write_text("get('http://localhost:8080/ping')")
    (tmp_path / "pod.yaml").write_text("image: pytorch/torchserve")
    (tmp_path / "notes.txt").write_text("nothing of interest")
    (tmp_path / "flow.war").write_bytes(b"PK")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "run.sh").write_text("torchserve --start")
    found = check(tmp_path)
    assert {name: (file.kind, file.verdict) for name, file in found.items()} == {
        "m.mar": ("archive", "same"),
        "unpacked": ("folder", "same"),
        "config.properties": ("configuration", "same"),
        "Dockerfile": ("script", "differs"),
        "run.sh": ("script", "same"),
        "client.py": ("program", "same"),
        "pod.yaml": ("manifest", "differs"),
        "flow.war": ("workflow", "fails"),
    }


def test_a_file_that_is_named_is_answered_for_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing of interest")
    (tmp_path / "archive").write_bytes(write(tmp_path / "m.mar", {"h.py": HANDLER}).read_bytes())
    assert check(tmp_path / "notes.txt")["notes.txt"].kind == "other"
    assert check(tmp_path / "archive")["archive"].kind == "archive"
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "nowhere")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_scripts_are_read_in_whatever_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "run.sh").write_text("# é\ntorchserve --start --model-store s\n", encoding=encoding)
    assert [one.line for one in check(tmp_path)["run.sh"].findings] == [2]


def test_a_template_that_is_no_yaml_is_read_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: [\nrun: torchserve --start --model-store s\n")
    assert check(tmp_path)["x.yaml"].kind == "script"


def test_binary_and_huge_files_links_pipes_and_circles_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"torchserve --start\0")
    with (tmp_path / "huge.sh").open("wb") as file:
        file.write(b"torchserve --start\n")
        file.truncate(1 << 40)
    os.mkfifo(tmp_path / "pipe.sh")
    (tmp_path / "gone.sh").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path)
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "run.sh").write_text("torchserve --stop")
    (inner / "back").symlink_to(tmp_path)
    assert set(check(tmp_path)) == {"run.sh"}


def test_an_archive_behind_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone.mar").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.mar").symlink_to(tmp_path / "circle.mar")
    found = check(tmp_path)
    assert {name: file.verdict for name, file in found.items()} == {
        "gone.mar": "fails",
        "circle.mar": "fails",
    }
    assert "No such file" in found["gone.mar"].findings[0].what


def test_broken_archives_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "none.mar").write_bytes(b"no archive")
    (tmp_path / "none.tar.gz").write_bytes(b"\x1f\x8bno archive")
    whole = write(tmp_path / "m.mar", {"h.py": HANDLER, "big": "0" * 4000}).read_bytes()
    (tmp_path / "cut.mar").write_bytes(whole[:200])
    write(tmp_path / "outside.mar", {"h.py": HANDLER, "../x": ""})
    with (tmp_path / "endless.tar.gz").open("wb") as file:
        file.write(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
        file.truncate(1 << 30)
    found = check(tmp_path)
    assert {name for name, file in found.items() if file.verdict == "fails"} == {
        "none.mar", "none.tar.gz", "cut.mar", "outside.mar", "endless.tar.gz",
    }  # fmt: skip
    assert "outside of the model's folder" in found["outside.mar"].findings[0].what


def test_the_configuration_counts_for_archives_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "m.mar", {"h.py": HANDLER}, handler="")
    assert check(tmp_path)["m.mar"].verdict == "fails"
    (tmp_path / "config.properties").write_text("default_service_handler=h.py")
    assert check(tmp_path)["m.mar"].verdict == "same"


def test_a_workflow_runs_once_that_is_switched_on(tmp_path: Path) -> None:
    write_workflow(tmp_path / "flow.war", "def f(data, context): ...")
    (tmp_path / "call.sh").write_text("curl -X POST 'http://h:8081/workflows?url=flow.war'")
    (tmp_path / "ask.sh").write_text("curl http://h:8080/wfpredict/w -T a.png")
    assert {name: file.verdict for name, file in check(tmp_path).items()} == {
        "flow.war": "differs", "call.sh": "differs", "ask.sh": "same",
    }  # fmt: skip
    (tmp_path / "config.properties").write_text("enable_workflow_api=true")
    assert check(tmp_path)["flow.war"].verdict == "same"


#: What scripts, manifests and configurations are made of, whole and broken.
FRAGMENTS = [
    b"curl -X POST http://h:8081/models?url=a -d ", b"torchserve --start --models ",
    b"FROM pytorch/torchserve", b"inference_address=http://[::1", b"image: ", b"!!python/name:os",
    b"env:\n  - {name: TS_X, value: ",
    b"&a [", b"*a", b"'", b'"', b"\\\n", b"\n", b"\n  ", b"$", b"${X:-", b"{{", b"}}", b": ", b"- ", b"|\n",
    b"=", b"\xff", b"\0", b"\\u00",
]  # fmt: skip


@settings(max_examples=60)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=4), max_size=30).map(b"".join))
def test_no_file_makes_the_check_fail(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("run.sh", "pod.yaml", "config.properties", "client.py", "Dockerfile"):
            Path(folder, name).write_bytes(content)
        check(Path(folder))
        assert list(request_files.read(Path(folder, "run.sh"), {}, {})) is not None
