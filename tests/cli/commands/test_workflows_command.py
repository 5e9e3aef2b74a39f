"""The commands about workflows: what they ask of a server, and how they show it."""

from pathlib import Path

from tests.cli.command_line import ask
from tests.cli.fake_server import serving

STATUS = {"status": "Workflow w has been registered and scaled successfully."}
DESCRIBED = {
    "workflowName": "w", "workflowUrl": "w.war", "minWorkers": 1, "maxWorkers": 2, "batchSize": 4,
    "maxBatchDelay": 50, "workflowDag": "{prepare=[" + ", ".join(f"step{n}" for n in range(30)) + "]}",
}  # fmt: skip


def test_register_asks_for_what_was_said_and_nothing_else() -> None:
    with serving({"POST /workflows": (200, STATUS)}) as server:
        result = ask(server, "workflows", "register", "a b.war", "--name", "n", "--startup-timeout", "9")
    assert result.output == "Workflow w has been registered and scaled successfully.\n"
    assert server.asked[0].path == "/workflows?url=a+b.war&workflow_name=n&startup_timeout=9"


def test_a_refusal_says_what_to_do() -> None:
    disabled = {
        "code": 400,
        "type": "BadRequestException",
        "message": "Registering new workflows is disabled.",
    }
    with serving({"POST /workflows": (400, disabled)}) as server:
        result = ask(server, "workflows", "register", "w.war")
    assert result.exit_code == 1
    assert "Registering new workflows is disabled." in result.stderr
    assert "--enable-workflows" in result.stderr


def test_workflows_are_listed_and_described_within_eighty_columns() -> None:
    entry = {"workflowName": "w", "workflowUrl": "w.war"}
    with serving(
        {"GET /workflows": (200, {"workflows": [entry]}), "GET /workflows/w": (200, [DESCRIBED])}
    ) as server:
        listed = ask(server, "workflows", "list").output
        described = ask(server, "workflows", "describe", "w").output
    assert "w.war" in listed
    assert "step29" in described
    assert max(map(len, described.splitlines())) <= 80


def test_none_is_said_to_be_none() -> None:
    with serving({"GET /workflows": (200, {"workflows": []})}) as server:
        assert ask(server, "workflows", "list").output == "No workflow is registered.\n"


def test_a_workflow_is_asked_and_unregistered(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG")
    with serving(
        {"POST /wfpredict/w": (200, {"n": 1}), "DELETE /workflows/w": (200, {"status": "gone"})}
    ) as server:
        assert ask(server, "workflows", "predict", "w", str(picture)).output == '{\n  "n": 1\n}\n'
        assert ask(server, "workflows", "unregister", "w").output == "gone\n"
    assert (server.asked[0].body, server.asked[0].content_type) == (b"\x89PNG", "image/png")
