"""The commands that call a server: what they ask, how they show it, and each error as one line."""

import json
import os
import socket
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from tests.cli import bodies
from tests.cli.fake_server import Answer, FakeServer, serving
from torchrelay.cli.main import app

FLEET = {
    "epoch": 4,
    "uptimeS": 185.2,
    "gateways": 1,
    "loading": [],
    "serverId": "",
    "nodes": [
        {
            "name": "a-host-with-a-rather-long-name.rack-17.example.internal",
            "devices": [{"name": "cpu", "kind": "cpu", "description": "64 cores", "memoryBytes": 1}],
            "slots": 32,
            "slotsUsed": 3,
            "lastSeenMs": 20,
        }
    ],
    "models": [
        {
            "modelName": "digits",
            "modelVersion": "1.0",
            "isDefault": True,
            "modelUrl": "digits.mar",
            "workersWanted": 2,
            "workersReady": 2,
            "queueDepth": 3,
            "queueLimit": 100,
            "oldestWaitMs": 12,
            "explanation": "",
            "lastError": "",
            "quarantined": [],
            "workers": [],
            "aFieldOfNextYear": {},
        },
        {
            "modelName": "a-model-whose-name-nobody-would-want-to-type-twice-in-one-day",
            "modelVersion": "2024.01.31-rc1",
            "isDefault": False,
            "modelUrl": "x.mar",
            "workersWanted": 1,
            "workersReady": 0,
            "queueDepth": 0,
            "queueLimit": 100,
            "oldestWaitMs": 0,
            "explanation": "wants 1, has 0: restarting in 4 s",
            "lastError": "ModuleNotFoundError: No module named 'torchvision'",
            "quarantined": [{"requestId": "id-1", "reason": "killed by signal 11", "workersLost": 2,
                             "refused": 5, "leftMs": 250_000}],
            "workers": [],
        },
    ],
}  # fmt: skip


def run(*arguments: str, input: bytes | None = None, **env: str) -> Result:  # noqa: A002
    return CliRunner().invoke(app, list(arguments), input=input, env={"COLUMNS": "80", **env})


def error(code: int, type_: str, message: str, **more: str) -> Answer:
    return code, {"code": code, "type": type_, "message": message, **more}


def ask(server: FakeServer, *arguments: str) -> Result:
    return run(*arguments, TORCHRELAY_MANAGEMENT=server.url, TORCHRELAY_INFERENCE=server.url)


def test_status_fits_80_columns_and_names_every_trouble() -> None:
    with serving({"GET /fleet": (200, FLEET)}) as server:
        result = ask(server, "status")
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.output.splitlines()) <= 80
    for words in (
        "up 3 min 5 s",
        "digits",
        "1.0 *",
        "2/2",
        "3/100",
        "12 ms",
        "ready",
        "failing",
        "3/32",
    ):
        assert words in result.output
    flat = " ".join(result.output.split())
    assert "wants 1, has 0: restarting in 4 s" in flat
    assert "No module named 'torchvision'" in flat
    assert "requests like id-1 are refused for 250 s, 5 so far: 2 workers ended" in flat


def test_status_of_an_empty_fleet_says_what_is_missing() -> None:
    with serving({"GET /fleet": (200, bodies.fleet(nodes=()))}) as server:
        result = ask(server, "status")
    assert "No model is registered." in result.output
    assert "No node has joined" in result.output


def test_json_is_offered_for_everything_that_prints_data() -> None:
    described = [bodies.version(model_name="digits")]
    answers: dict[str, Answer] = {
        "GET /fleet": (200, FLEET),
        "GET /models": (200, {"models": [{"modelName": "digits", "modelUrl": "digits.mar"}]}),
        "GET /models/digits": (200, described),
        "PUT /models/digits": (202, {"status": "Processing worker updates..."}),
    }
    with serving(answers) as server:
        status = json.loads(ask(server, "status", "--json").stdout)
        listed = json.loads(ask(server, "models", "list", "--json").stdout)
        shown = json.loads(ask(server, "models", "describe", "digits", "--json").stdout)
        scaled = json.loads(ask(server, "models", "scale", "digits", "--min", "2", "--json").stdout)
    assert status["models"][0]["modelName"] == "digits"
    assert listed == [{"modelName": "digits", "modelUrl": "digits.mar"}]
    assert shown == msgspec.json.decode(msgspec.json.encode(described))
    assert scaled == {"status": "Processing worker updates..."}


def test_the_list_follows_every_page_to_its_end() -> None:
    pages: dict[str, Answer] = {
        "GET /models?next_page_token=0": (200, {"models": [_line("a")], "nextPageToken": "1"}),
        "GET /models?next_page_token=1": (200, {"models": [_line("b")], "nextPageToken": "2"}),
        "GET /models?next_page_token=2": (200, {"models": []}),
    }
    with serving(pages) as server:
        listed = json.loads(ask(server, "models", "list", "--json").stdout)
    assert [line["modelName"] for line in listed] == ["a", "b"]


def _line(name: str) -> dict[str, str]:
    return {"modelName": name, "modelUrl": f"{name}.mar"}


def test_register_asks_for_what_was_said_and_nothing_else() -> None:
    with serving({"POST /models": (202, {"status": "Processing worker updates..."})}) as server:
        result = ask(server, "models", "register", "a b.mar", "--workers", "2", "--batch-size", "4")
    assert result.output == "Processing worker updates...\n"
    assert server.asked[0].path == "/models?url=a+b.mar&batch_size=4&initial_workers=2&synchronous=false"


def test_waiting_asks_the_server_to_wait() -> None:
    with serving({"POST /models": (200, {"status": "registered"})}) as server:
        assert ask(server, "models", "register", "a.mar", "--wait").exit_code == 0
    assert server.asked[0].path == "/models?url=a.mar&synchronous=true"


def test_a_name_can_not_break_out_of_its_place_in_the_path() -> None:
    with serving({"DELETE /models/..%2Fa%3Fb/1%2F2": (200, {"status": "gone"})}) as server:
        assert ask(server, "models", "unregister", "../a?b", "--version", "1/2").output == "gone\n"


def test_set_default_and_scale_use_torchserves_routes() -> None:
    answers: dict[str, Answer] = {
        "PUT /models/m/2.0/set-default": (200, {"status": "one"}),
        "PUT /models/m/2.0": (202, {"status": "two"}),
    }
    with serving(answers) as server:
        assert ask(server, "models", "set-default", "m", "2.0").output == "one\n"
        assert ask(server, "models", "scale", "m", "--version", "2.0", "--min", "0").output == "two\n"
    assert server.asked[1].path == "/models/m/2.0?min_worker=0&synchronous=false"


def test_describe_fits_eighty_columns_and_leaves_out_what_is_off() -> None:
    gpu_usage = "gpuId::0 utilization.gpu [%]::0 % memory.used [MiB]::9 MiB"
    described = [
        bodies.version(
            model_url="https://archives.example.com/a/rather/long/path/" + "m" * 60 + ".mar",
            batch_size=4,
            use_venv=True,
            workers=(bodies.worker(gpu=True, gpu_usage=gpu_usage), bodies.worker()),
        ),
        bodies.version(),
    ]
    with serving({"GET /models/m/all": (200, described)}) as server:
        output = ask(server, "models", "describe", "m", "--all").output
    assert max(map(len, output.splitlines())) <= 80
    for words in (
        "batchSize",
        "minWorkers",
        "useVenv",
        "READY",
        "391 MiB",
        "cpu",
        "gpu 0",
        "2026-01-31 12:00:00",
        "remainingCapacity 100, pendingRequests 0",
        "No worker.",
    ):
        assert words in output
    for words in ("parallelLevel", "continuousBatching"):
        assert words not in output


def test_predict_sends_the_file_with_its_type_and_prints_json_for_reading(tmp_path: Path) -> None:
    picture = tmp_path / "three.png"
    picture.write_bytes(b"\x89PNG")
    with serving({"POST /predictions/digits/1.0": (200, {"class": "3", "probability": 0.5})}) as server:
        result = ask(server, "predict", "digits", str(picture), "--version", "1.0")
    assert result.output == '{\n  "class": "3",\n  "probability": 0.5\n}\n'
    assert server.asked[0].body == b"\x89PNG"
    assert server.asked[0].content_type == "image/png"


def test_predict_takes_stdin_and_hands_bytes_through_untouched() -> None:
    with serving({"POST /predictions/m": (200, b"\x00\xff\r\n")}) as server:
        result = run("predict", "m", "-", "--content-type", "a/b", "--inference", server.url, input=b"\x01")
    assert result.stdout_bytes == b"\x00\xff\r\n"
    assert (server.asked[0].body, server.asked[0].content_type) == (b"\x01", "a/b")


@pytest.mark.parametrize(
    ("arguments", "answer", "words"),
    [
        (
            ["predict", "nosuch"],
            error(404, "ModelNotFoundException", "Model not found: nosuch"),
            ["Model not found: nosuch", "models list"],
        ),
        (
            ["models", "register", "x.mar"],
            error(404, "ModelNotFoundException", "Model not found at: x.mar"),
            ["Model not found at: x.mar", "model store"],
        ),
        (
            ["models", "register", "x.mar"],
            error(405, "MethodNotAllowedException", "Requested method is not allowed"),
            ["not allowed", "--enable-model-api"],
        ),
        (
            ["models", "register", "x.mar", "--wait"],
            error(500, "InternalServerException", "Failed to start workers", details="line one\nline two"),
            ["Failed to start workers", "\n  line one\n  line two\n"],
        ),
        (["predict", "m"], (500, b"oh\nno"), ["answered 500: oh", "\n  no\n"]),
        (["predict", "m"], (400, {"error": "no picture"}), ["answered 400", "no picture"]),
        (["status"], (200, {"nodes": 3}), ["not torchrelay's management address"]),
        (["status"], (200, b"<html>"), ["not torchrelay's management address"]),
    ],
)  # fmt: skip
def test_each_error_says_what_to_do_line_by_line(
    arguments: list[str], answer: Answer, words: list[str]
) -> None:
    with serving(dict.fromkeys(("POST /models", "POST /predictions/m", "GET /fleet"), answer)) as server:
        server.answers["POST /predictions/nosuch"] = answer
        result = ask(server, *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    first, *others = result.stderr.splitlines()
    assert first.startswith("torchrelay: ")
    assert all(line.startswith("  ") for line in others)
    for word in words:
        assert word in result.stderr


def test_a_server_that_is_not_there_is_one_line_too() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        status = run("status", "--management", url)
        predict = run("predict", "m", "--inference", url)
    for result, option in ((status, "--management"), (predict, "--inference")):
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert f"no server answers at {url}" in result.stderr
        assert option in result.stderr


def test_a_file_that_is_not_there_is_one_line_too(tmp_path: Path) -> None:
    result = run("predict", "m", str(tmp_path / "missing"))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "can't be read" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "scale", "m"],
        ["predict"],
        ["nosuch"],
        ["models", "scale", "m", "--min", "-1"],
        ["serve", "a.mar"],
    ],
)
def test_a_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_server_behind_a_unix_socket_can_be_asked_too(tmp_path: Path) -> None:
    result = run("status", "--management", f"unix:{tmp_path}/nobody.sock")
    assert result.exit_code == 1
    assert "no server answers at unix:" in result.stderr


def test_an_archive_is_made_and_inspected_without_a_server(tmp_path: Path) -> None:
    handler = tmp_path / "handler.py"
    handler.write_text("def handle(data, context):\n    return data\n")
    target = tmp_path / "echo.mar"
    arguments = ["archive", "create", str(target), "--model-name", "echo", "--handler", str(handler)]
    made = run(*arguments)
    assert (made.exit_code, target.is_file()) == (0, True), made.output
    shown = run("archive", "inspect", str(target))
    assert "echo" in shown.output
    assert (
        json.loads(run("archive", "inspect", str(target), "--json").stdout)["manifest"]["handler"]
        == "handler.py"
    )
    again = run(*arguments)
    assert (again.exit_code, again.stderr.count("\n")) == (1, 1)
    assert run(*arguments, "--force").exit_code == 0


ARCHIVER_FORMS = {"default": "m.mar", "zip-store": "m.mar", "tgz": "m.tar.gz", "no-archive": "m"}


@pytest.mark.parametrize(("form", "name"), ARCHIVER_FORMS.items())
def test_an_archive_is_made_with_the_archivers_own_options(tmp_path: Path, form: str, name: str) -> None:
    for file in (
        "handler.py",
        "weights.pt",
        "a.txt",
        "b.txt",
        "vocab.json",
        "requirements.txt",
        "model.yaml",
    ):
        (tmp_path / file).write_text(f"# {file}")
    extra = f"{tmp_path}/*.txt,{tmp_path}/vocab.json"
    given = ["--model-name", "m", "-v", "2.0", "--handler", str(tmp_path / "handler"), "--extra-files", extra,
             "--serialized-file", str(tmp_path / "weights.pt"), "-r", str(tmp_path / "requirements.txt"),
             "-c", str(tmp_path / "model.yaml"), "--archive-format", form,
             "--export-path", str(tmp_path / "out")]  # fmt: skip
    assert run("archive", "create", *given).exit_code == 0
    made = tmp_path / "out" / name
    if form == "no-archive":
        shown = json.loads((made / "MAR-INF" / "MANIFEST.json").read_text())["model"]
        assert shown["requirementsFile"] == "requirements.txt"
        assert (made / "a.txt").is_file()
    else:
        shown = json.loads(run("archive", "inspect", str(made), "--json").stdout)
        assert shown["manifest"]["config_file"] == "model.yaml"
        assert shown["entries"] == 8  # seven files and the manifest
        assert shown["notes"] == []
    again = run("archive", "create", *given)
    assert (again.exit_code, "exists" in again.stderr) == (1, True)
    assert run("archive", "create", *given, "-f").exit_code == 0


def test_a_stored_archive_is_not_compressed(tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text("#" * 100_000)
    sizes = {}
    for form in ("default", "zip-store"):
        given = ["--model-name", form, "--handler", str(tmp_path / "h.py"), "--archive-format", form]
        assert run("archive", "create", *given, "--export-path", str(tmp_path)).exit_code == 0
        sizes[form] = (tmp_path / f"{form}.mar").stat().st_size
    assert sizes["default"] < 10_000 < 100_000 < sizes["zip-store"]


def test_a_folder_that_is_no_models_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "h.py").touch()
    precious = tmp_path / "m" / "precious"
    precious.parent.mkdir()
    precious.touch()
    given = ["--model-name", "m", "--handler", str(tmp_path / "h.py"), "--export-path", str(tmp_path), "-f"]
    assert run("archive", "create", *given, "--archive-format", "no-archive").exit_code == 1
    assert run("archive", "create", *given, str(tmp_path / "m")).exit_code == 1
    assert precious.exists()


def test_an_unknown_format_and_a_missing_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "h.py").touch()
    given = ["archive", "create", "--model-name", "m", "--handler", str(tmp_path / "h.py")]
    assert "is not one of default, zip-store" in run(*given, "--archive-format", "rar").stderr
    assert "no file" in run(*given, "--extra-files", f"{tmp_path}/missing*").stderr


def test_a_broken_archive_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(os.urandom(100))
    for path in (broken, tmp_path / "missing.mar"):
        result = run("archive", "inspect", str(path))
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert "torchrelay: " in result.stderr
