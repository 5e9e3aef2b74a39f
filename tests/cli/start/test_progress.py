"""Following a start: what is waited for, what is not, and how often it is told."""

import asyncio
import copy
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.cli import bodies
from tests.cli.bodies import FLEET
from tests.cli.fake_server import FakeServer, serving
from tests.support import eventually_async
from torchrelay.cli.start.progress import LineView, Startup
from torchrelay.shared.api_bodies import FleetBody, FleetModelBody


def version(name: str = "m", wanted: int = 1, ready: int = 0, **more: object) -> FleetModelBody:
    return bodies.model(model_name=name, workers_wanted=wanted, workers_ready=ready, **more)


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


class Notes(LineView):
    """A watcher that writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        super().__init__(self.lines.append)

    def answers(self) -> None:
        self.lines.append("answers")

    def registered(self) -> None:
        self.lines.append("registered")

    def settled(self, seen: FleetBody) -> None:
        self.lines.append(f"settled {len(seen.models)}")


@asynccontextmanager
async def followed(fleet: object, key: str | None = None) -> AsyncIterator[tuple[FakeServer, list[str]]]:
    notes = Notes()
    with serving({"GET /fleet": (200, fleet)}) as server:
        following = asyncio.create_task(Startup(server.url, [notes], key).follow())
        yield server, notes.lines
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_start_is_settled_when_every_model_is_ready_or_has_failed() -> None:
    async with followed(FLEET) as (_, lines):
        await eventually_async(lambda: "settled 2" in lines)
    assert lines[:2] == ["answers", "registered"]
    assert [line.rpartition(": ")[2] for line in lines[2:4]] == [
        "2/2 workers ready",
        "No module named 'torchvision'",
    ]


async def test_a_server_that_is_not_there_yet_is_waited_for() -> None:
    async with followed(FLEET) as (server, lines):
        server.answers["GET /fleet"] = (503, {"code": 503})
        lines.clear()
        asked = len(server.asked)
        await eventually_async(lambda: len(server.asked) >= asked + 2)
        server.answers["GET /fleet"] = (200, copy.deepcopy(FLEET) | {"models": []})
        await eventually_async(lambda: "settled 0" in lines)


async def test_models_that_are_still_being_registered_are_waited_for() -> None:
    async with followed(copy.deepcopy(FLEET) | {"loading": ["big.mar"]}) as (server, lines):
        await eventually_async(lambda: len(server.asked) >= 3)
        assert lines[0] == "answers"
        assert "registered" not in lines
        server.answers["GET /fleet"] = (200, FLEET)
        await eventually_async(lambda: "registered" in lines)


async def test_a_node_is_waited_for_before_anybody_hears_that_all_is_there() -> None:
    async with followed(copy.deepcopy(FLEET) | {"nodes": []}) as (server, lines):
        await eventually_async(lambda: len(server.asked) >= 3)
        assert lines == ["answers"]
        server.answers["GET /fleet"] = (200, FLEET)
        await eventually_async(lambda: "registered" in lines)


async def test_another_server_at_the_address_is_not_taken_for_ours() -> None:
    notes = Notes()
    with serving({"GET /fleet": (200, FLEET | {"serverId": "theirs"})}) as server:
        following = asyncio.create_task(Startup(server.url, [notes], server_id="ours").follow())
        await eventually_async(lambda: len(server.asked) >= 3)
        assert notes.lines == []
        server.answers["GET /fleet"] = (200, FLEET | {"serverId": "ours"})
        await eventually_async(lambda: "registered" in notes.lines)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_our_own_server_is_asked_with_the_key_that_was_made_for_us() -> None:
    async with followed(FLEET, "the-key") as (server, _):
        await eventually_async(lambda: server.asked)
        assert server.asked[0].authorization == "Bearer the-key"


async def test_a_model_that_fails_after_the_start_is_told_of() -> None:
    healthy = copy.deepcopy(FLEET)
    models: list[dict[str, object]] = FLEET["models"]  # type: ignore[assignment]  # JSON
    healthy["models"] = [model | {"workersReady": model["workersWanted"]} for model in models]
    async with followed(healthy) as (server, lines):
        await eventually_async(lambda: "settled 2" in lines)
        server.answers["GET /fleet"] = (200, FLEET)
        await eventually_async(lambda: "torchvision" in lines[-1])


def test_a_model_that_crashes_again_and_again_is_one_line() -> None:
    lines: list[str] = []
    view = LineView(lines.append)
    crash = "ValueError: no weights"
    for now in range(20):
        view.show((version(explanation="starting"),), 10.0 * now)
        view.show((version(last_error=crash),), 10.0 * now + 5)
    assert [line for line in lines if crash in line] == [f"  m 1.0: 0/1 workers ready: {crash}"]
    view.show((version(ready=1),), 300.0)
    view.show((version(last_error=crash),), 310.0)
    assert [line for line in lines if crash in line] == 2 * [f"  m 1.0: 0/1 workers ready: {crash}"]


async def test_a_server_counts_as_up_when_all_its_listeners_are_open() -> None:
    notes = Notes()
    with serving({"GET /fleet": (200, FLEET)}) as server, socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        listeners = [late.getsockname()[:2]]
        following = asyncio.create_task(Startup(server.url, [notes], listeners=listeners).follow())
        asked = len(server.asked)
        await eventually_async(lambda: len(server.asked) > asked)
        assert notes.lines == []
        late.listen()
        await eventually_async(lambda: "registered" in notes.lines)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
