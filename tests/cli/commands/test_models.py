"""The commands about models: what they ask of a server, and how they show it."""

from tests.cli import bodies
from tests.cli.command_line import ask
from tests.cli.fake_server import Answer, serving


def test_register_asks_for_what_was_said_and_nothing_else() -> None:
    with serving({"POST /models": (202, {"status": "Processing worker updates..."})}) as server:
        result = ask(server, "models", "register", "a b.mar", "--workers", "2", "--batch-size", "4")
    assert result.output == "Processing worker updates...\n"
    assert server.asked[0].path == "/models?url=a+b.mar&batch_size=4&initial_workers=2&synchronous=false"


def test_waiting_asks_the_server_to_wait() -> None:
    with serving({"POST /models": (200, {"status": "registered"})}) as server:
        assert ask(server, "models", "register", "a.mar", "--wait").exit_code == 0
    assert server.asked[0].path == "/models?url=a.mar&synchronous=true"


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
