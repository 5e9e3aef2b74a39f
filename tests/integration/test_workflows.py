"""Workflows with real processes: their steps run as models of their own, side by side where they may."""

import contextlib
import http.client
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.integration.archives import make, make_store
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually
from torchrelay.shared.archives import workflow_archive

pytestmark = pytest.mark.integration

#: Functions of all workflows; what they are to do is in the request, what they did in a folder.
CODE = """
import json, os, time

def wait_for(path):
    until = time.monotonic() + 60
    while not os.path.exists(path):
        assert time.monotonic() < until, path
        time.sleep(0.01)

def orders(data):
    return [json.loads(bytes(row["body"])) for row in data or ()]

def start(data, context):
    return None if data is None else [bytes(row["body"]) for row in data]

def left(data, context, mine="left", other="right"):
    for order in orders(data):
        open(os.path.join(order["folder"], mine), "w").close()
        wait_for(os.path.join(order["folder"], other))
    return None if data is None else [mine for _ in data]

def right(data, context):
    return left(data, context, "right", "left")

def join(data, context):
    return data and [{name: bytes(value).decode() for name, value in row.items()} for row in data]

def hold(data, context):
    for order in orders(data):
        open(os.path.join(order["folder"], "holds"), "w").close()
        wait_for(os.path.join(order["folder"], "go"))
    return None if data is None else [bytes(row["body"]) for row in data]

def after(data, context):
    for order in orders(data):
        open(os.path.join(order["folder"], order["name"]), "w").close()
    return None if data is None else ["after" for _ in data]

def breaks(data, context):
    if data is not None:
        raise ValueError("no such thing")
"""
WORKFLOWS = ("--enable-workflows",)
MODELS = "models: {echo: {url: echo.mar, min-workers: 1}}\n"


def make_workflow(folder: Path, name: str, dag: str, models: str = MODELS) -> None:
    workflow = {"workflowName": name, "specFile": "spec.yaml", "handler": "code.py"}
    manifest = {"createdOn": "01/01/2026", "archiverVersion": "0.2.15", "workflow": workflow}
    with zipfile.ZipFile(folder / f"{name}.war", "w") as archive:
        archive.writestr("WAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("spec.yaml", f"{models}dag: {dag}\n")
        archive.writestr("code.py", CODE)


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet in parts: broker, gateway, one node."""
    folder = tmp_path_factory.mktemp("workflows")
    store = folder / "flows"
    store.mkdir()
    make_workflow(store, "fork", "{start: [left, right], left: [join], right: [join], join: [echo]}")
    make_workflow(store, "held", "{hold: [echo], echo: [after]}")
    make_workflow(store, "broken", "{echo: [breaks]}")
    make_workflow(store, "unknown", "{echo: [nowhere]}")
    with fleet(folder, make_store(folder / "models", "echo")) as made:
        made.broker(*WORKFLOWS, "--workflow-store", str(store))
        made.wait_until_up(made.gateway(*WORKFLOWS))
        made.node("one", "--preload", "none")
        eventually(lambda: made.status()["nodes"])
        yield made


def register(parts: Fleet, name: str) -> httpx2.Response:
    return parts.http.post(f"{parts.management}/workflows", params={"url": f"{name}.war"})


def ask(parts: Fleet, name: str, body: object, **headers: str) -> httpx2.Response:
    url = f"{parts.inference}/wfpredict/{name}"
    return parts.http.post(url, content=json.dumps(body).encode(), headers=headers)


def unregister(parts: Fleet, name: str) -> None:
    answer = parts.http.delete(f"{parts.management}/workflows/{name}")
    assert (answer.status_code, answer.json()) == (200, {"status": f'Workflow "{name}" unregistered'})
    assert not steps(parts, name)


def steps(parts: Fleet, name: str) -> dict[str, Any]:  # Any: JSON
    return {one["modelName"]: one for one in parts.status()["models"] if one.get("workflow") == name}


def test_branches_run_side_by_side_and_a_kill_of_the_broker_takes_nothing_away(
    parts: Fleet, tmp_path: Path
) -> None:
    answer = register(parts, "fork")
    said = "Workflow fork has been registered and scaled successfully."
    assert (answer.status_code, answer.json()) == (200, {"status": said})
    assert steps(parts, "fork").keys() == {f"fork__{n}" for n in ("start", "left", "right", "join", "echo")}
    (tmp_path / "1").mkdir()
    # Each branch waits for the other to begin.
    assert ask(parts, "fork", {"folder": str(tmp_path / "1")}).json() == {"left": "left", "right": "right"}
    pids = {worker["pid"] for name in steps(parts, "fork") for worker in parts.ready(name)}
    parts.processes[0].kill()
    parts.processes[0].wait()
    parts.processes[0] = parts.broker(*WORKFLOWS, "--workflow-store", str(parts.folder / "flows"))
    parts.processes.pop()
    (tmp_path / "2").mkdir()
    assert ask(parts, "fork", {"folder": str(tmp_path / "2")}).json() == {"left": "left", "right": "right"}
    listed = parts.http.get(f"{parts.management}/workflows").json()
    assert {"workflowName": "fork", "workflowUrl": "fork.war"} in listed["workflows"]
    described = parts.http.get(f"{parts.management}/workflows/fork").json()[0]
    assert described["workflowDag"] == "{start=[left, right], left=[join], right=[join], join=[echo]}"
    eventually(lambda: parts.status()["nodes"])
    eventually(lambda: len([w for name in steps(parts, "fork") for w in parts.ready(name)]) == 5)
    assert {worker["pid"] for name in steps(parts, "fork") for worker in parts.ready(name)} == pids
    unregister(parts, "fork")


def test_a_failed_step_is_named_with_its_reason_after_its_tries(parts: Fleet) -> None:
    register(parts, "broken")
    assert ask(parts, "broken", {}).json() == {
        "code": 500,
        "type": "InternalServerException",
        "message": "Error executing breaks",
        "details": "step breaks: ValueError: no such thing, after 2 tries",
    }
    unregister(parts, "broken")


def test_a_workflow_whose_function_is_not_there_leaves_nothing_behind(parts: Fleet) -> None:
    answer = register(parts, "unknown")
    assert answer.status_code == 500
    assert answer.json()["message"] == (
        "Workflow unknown has failed to register. Failures: "
        "[Failed to start workers for model unknown__nowhere version: 1.0]"
    )
    assert "must define a function nowhere" in answer.json()["details"]
    assert not steps(parts, "unknown")
    assert parts.http.get(f"{parts.management}/workflows/unknown").status_code == 404
    assert register(parts, "nowhere").json()["type"] == "WorkflowNotFoundException"


@pytest.mark.parametrize("how", ["leaves", "gives up"])
def test_nothing_more_is_run_for_a_client_that(how: str, parts: Fleet, tmp_path: Path) -> None:
    register(parts, "held")
    order = {"folder": str(tmp_path), "name": "first"}
    if how == "gives up":
        answer = ask(parts, "held", order, **{"x-request-timeout-ms": "1500"})
        assert (answer.status_code, answer.json()["details"][:10]) == (504, "step hold:")
    else:
        with contextlib.closing(http.client.HTTPConnection(parts.address, 8080)) as connection:
            connection.request("POST", "/wfpredict/held", json.dumps(order))
            eventually(lambda: (tmp_path / "holds").exists())
        eventually(lambda: steps(parts, "held")["held__hold"]["queueDepth"] == 0)
    (tmp_path / "go").touch()
    # What comes after it through the same steps ends behind it.
    assert ask(parts, "held", {**order, "name": "second"}).text == "after"
    assert (tmp_path / "second").exists()
    assert not (tmp_path / "first").exists()
    unregister(parts, "held")


def test_the_example_finds_a_digit_on_a_page(parts: Fleet) -> None:
    pytest.importorskip("PIL")
    example, store = ROOT / "examples" / "page", parts.folder / "models"
    make(store, "finder", code=(example / "finder.py").read_text())
    # The real one takes seconds to train.
    code = (
        "def handle(data, _):\n    return data and [{'class': row['body'][1:4].decode()} for row in data]\n"
    )
    make(store, "digits", code=code)
    workflow_archive.create(
        parts.folder / "flows" / "page.war",
        workflow_name="page", spec_file=example / "spec.yaml", handler=example / "code.py",
    )  # fmt: skip
    register(parts, "page")
    answer = parts.http.post(f"{parts.inference}/wfpredict/page", content=(example / "page.png").read_bytes())
    assert answer.json() == {"digit": "PNG", "box": [198, 70, 246, 134]}
    unregister(parts, "page")
