"""The Python client and a real server: its page's examples, and what only real processes show."""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client.both_clients import Both
from tests.installation import ROOT
from tests.integration.archives import make, make_store
from tests.integration.fleet import Fleet, fleet
from tests.support import eventually
from torchrelay import client as api

pytestmark = pytest.mark.integration

PAGE = ROOT / "docs" / "client.md"
#: What the page's examples print: parts of it, in their order.
PRINTED = [
    "3 ", "[ 3. 12.]", "part 0", "part 1", "part 2", "end", "part 0", "part 1", "end", "b'01234567'",
    "ready 1 1", "'second'", " 2\n", "Healthy ready ",
    "Model not found: nosuch 404 ModelNotFoundException",
]  # fmt: skip
FUNCTIONS = 'def ask(data, context): return data and [row["body"] for row in data]'
SPEC = "models: {digits: {url: digits.mar}}\ndag: {ask: [digits]}"
HANDLERS = {
    "echo": 'def handle(data, context): return data and [row.get("body") for row in data]',
    "digits": 'def handle(data, context): return data and [{"class": "3"} for _ in data]',
    "form": """
def handle(data, context):
    return data and [{name: len(value) for name, value in row.items()} for row in data]
""",
    "counts": """
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    for number in range(int(bytes(data[0]["body"]))):
        send_intermediate_predict_response([f"part {number}"], context.request_ids, "", 200, context)
    return ["end"]
""",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("client")
    store = make_store(folder / "store", "raises")
    for name, code in HANDLERS.items():
        make(store, name, code=code)
    make(store, "sums", code=(ROOT / "examples" / "tensors" / "handler.py").read_text())
    make_workflow(store, "signs")
    config = folder / "config.properties"
    config.write_text("ts_open_inference_protocol=true\nenable_workflow_api=true\n")
    with fleet(folder, store) as made:
        made.management = f"unix:{folder}/management.sock"
        process = made.run(
            "serve", "--model-store", str(store), "--models", "all", "--enable-model-api",
            "--state-dir", str(folder / "state"), "--cache-dir", str(folder / "cache"),
            "--ts-config", str(config), *made.listeners(),
        )  # fmt: skip

        def is_up() -> bool:
            assert process.poll() is None, made.output()
            try:
                return bool(both("sync", made).call("ready").status == "ready")
            except api.ServerNotReached:
                return False

        eventually(is_up)
        for name in ("raises", "sums", *HANDLERS):
            both("sync", made).call("watch", name)
        yield made


def make_workflow(store: Path, name: str) -> None:
    described = {"workflowName": name, "specFile": "spec.yaml", "handler": "functions.py"}
    manifest = {"createdOn": "x", "archiverVersion": "1", "workflow": described}
    with zipfile.ZipFile(store / f"{name}.war", "w") as archive:
        archive.writestr("WAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("spec.yaml", SPEC)
        archive.writestr("functions.py", FUNCTIONS)


def both(kind: str, served: Fleet) -> Both:
    return Both(kind, inference=served.inference, management=served.management)


@pytest.fixture
def environment(served: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHRELAY_KEY", raising=False)
    monkeypatch.setenv("TORCHRELAY_INFERENCE", served.inference)
    monkeypatch.setenv("TORCHRELAY_MANAGEMENT", served.management)
    shutil.copy(ROOT / "examples" / "digits" / "three.png", tmp_path)


@pytest.mark.usefixtures("environment")
def test_every_example_of_the_page_runs_and_prints_what_it_is_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}  # Any: whatever the page defines
    for example in examples:
        exec(example, names)  # noqa: S102  # our own page
    names["client"].close()
    printed, at = capsys.readouterr().out, 0
    for part in PRINTED:
        assert part in printed[at:], f"{part!r} is not behind {printed[:at]!r} in {printed!r}"
        at = printed.index(part, at) + len(part)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_is_sent_is_what_the_handler_gets(kind: str, served: Fleet, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(range(256)) * 20_000)
    ask = both(kind, served)
    answer = ask.call("predict", "echo", large)
    assert answer.content == large.read_bytes()
    assert len(answer.request_id) == 36
    with large.open("rb") as file:
        file.seek(5_000_000)
        assert ask.call("predict", "echo", file).content == large.read_bytes()[5_000_000:]
    form = {"data": large, "text": "ä", "raw": b"\x00"}
    assert ask.call("predict", "form", parts=form).json() == {"data": 5_120_000, "text": 2, "raw": 1}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_errors_of_a_real_server_are_raised_as_what_they_are(
    kind: str, served: Fleet, tmp_path: Path
) -> None:
    ask = both(kind, served)
    with pytest.raises(api.PredictionFailed) as raised:
        ask.call("predict", "raises", b"x")
    assert raised.value.message == "Prediction failed"
    with pytest.raises(api.ModelVersionNotFound):
        ask.call("predict", "echo", b"x", version="9")
    with pytest.raises(api.ModelNotFound):
        ask.call("register", "missing.mar")
    with pytest.raises(api.Conflict):
        ask.call("register", "echo.mar")
    with pytest.raises(api.MemberNotFound):
        ask.call("drain", "nosuch")
    with pytest.raises(api.BadRequest):
        ask.call("scale", "echo", 2, 1)
    (tmp_path / "huge").open("wb").truncate(7_000_000)
    with pytest.raises(api.RequestTooLarge):
        ask.call("predict", "echo", tmp_path / "huge")


def test_a_worker_that_can_not_be_started_ends_the_watching(served: Fleet) -> None:
    assert served.store is not None
    make(served.store, "raises_at_load")
    ask = both("sync", served)
    ask.call("register", "raises_at_load.mar", initial_workers=0)
    ask.call("scale", "raises_at_load", 1)
    with pytest.raises(api.WorkerStartFailed, match="no weights here"):
        ask.call("watch", "raises_at_load")
    ask.call("unregister", "raises_at_load")
    with pytest.raises(api.ModelNotFound):
        ask.call("watch", "raises_at_load")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_workflow_is_registered_asked_and_unregistered(kind: str, served: Fleet) -> None:
    ask = both(kind, served)
    ask.call("register_workflow", "signs.war")
    assert [one.workflow_name for one in ask.call("workflows")] == ["signs"]
    assert ask.call("describe_workflow", "signs")[0].workflow_dag.startswith("{ask=[digits]")
    assert ask.call("predict_workflow", "signs", b"x").json() == {"class": "3"}
    ask.call("unregister_workflow", "signs")
    with pytest.raises(api.WorkflowNotFound):
        ask.call("predict_workflow", "signs", b"x")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_arrays_come_back_as_arrays_and_wrong_ones_are_refused_in_words(kind: str, served: Fleet) -> None:
    ask = both(kind, served)
    x = np.arange(200_000, dtype=np.float64).reshape(4, -1)
    answer = ask.call("infer", "sums", {"x": x}, version="1.0", id="mine")
    assert np.array_equal(answer.outputs["sums"], x.sum(axis=-1))
    assert (answer.model_name, answer.id) == ("sums", "mine")
    assert answer.request_id
    with pytest.raises(api.PredictionFailed):
        ask.call("infer", "sums", {"x": np.array(["a"])})
