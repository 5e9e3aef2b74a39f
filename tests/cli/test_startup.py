"""Following a start: what is waited for, what is not, and how often it is told."""

import asyncio
import copy

import pytest

from cli.fleet import Fleet, Version
from cli.foreground import count_models, example_call
from cli.startup import LineView, Startup
from shared.settings import BrokerSettings, LoadAtStart
from tests.cli.fake_server import serving
from tests.cli.test_client_commands import FLEET


def version(name: str = "m", wanted: int = 1, ready: int = 0, **more: object) -> Version:
    facts = {"model_name": name, "model_version": "1.0", "is_default": True, "model_url": f"{name}.mar"}
    return Version(**(facts | {"workers_wanted": wanted, "workers_ready": ready} | more))  # type: ignore[arg-type]


def test_changes_are_told_once_and_not_too_often() -> None:
    lines: list[str] = []
    view = LineView(lines.append)
    for now, explanation in ((0.0, "1 %"), (0.1, "1 %"), (0.2, "2 %"), (0.5, "30 %"), (1.1, "60 %")):
        view.show((version(explanation=explanation),), now)
    view.show((version(ready=1),), 1.2)
    assert lines == [
        "  m 1.0: 0/1 workers ready: 1 %",
        "  m 1.0: 0/1 workers ready: 60 %",
        "  m 1.0: 1/1 workers ready",
    ]


async def follow(startup: Startup) -> Fleet:
    return await asyncio.wait_for(startup.follow(), timeout=5)


async def test_a_start_ends_when_every_model_is_ready_or_has_failed() -> None:
    lines: list[str] = []
    with serving({"GET /fleet": (200, FLEET)}) as server:
        startup = Startup(server.url, 2, LineView(lines.append), lambda: lines.append("up"))
        seen = await follow(startup)
    assert len(seen.models) == 2
    assert lines[0] == "up"
    assert [line.rpartition(": ")[2] for line in lines[1:]] == [
        "2/2 workers ready",
        "No module named 'torchvision'",
    ]


async def test_a_server_that_is_not_there_yet_is_waited_for() -> None:
    ups: list[str] = []
    with serving({"GET /fleet": (503, {"code": 503})}) as server:
        startup = Startup(server.url, 0, LineView(ups.append), lambda: ups.append("up"))
        following = asyncio.create_task(follow(startup))
        while len(server.asked) < 3:
            await asyncio.sleep(0)
        assert ups == []
        empty = copy.deepcopy(FLEET) | {"models": []}
        server.answers["GET /fleet"] = (200, empty)
        await following
    assert ups == ["up"]


def test_models_that_all_stands_for_are_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = tmp_path_factory.mktemp("store")
    for name in ("a.mar", "b.tar.gz", ".hidden.mar", "notes.txt"):
        (store / name).touch()
    loads = (LoadAtStart(url="all"), LoadAtStart(url="https://host/c.mar"))
    broker = BrokerSettings(state_dir="/s", model_store=str(store), load_models=loads)
    assert count_models(broker) == 3


def test_the_example_works_against_what_is_loaded() -> None:
    url = "http://127.0.0.1:8080"
    assert example_call(Fleet(), url) == f"curl {url}/ping"
    loaded = Fleet(models=(version("a"), version("b", ready=1)))
    assert example_call(loaded, url) == f"curl -T FILE {url}/predictions/b"
    assert example_call(loaded, "unix:/x.sock").startswith(
        "curl -T FILE --unix-socket /x.sock http://localhost/"
    )
