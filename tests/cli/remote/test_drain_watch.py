"""Following a drain: a line for each change, an end when nothing is left, a word where there is no room."""

from typing import Any

import pytest

from tests.cli import bodies
from tests.cli.fake_server import serving
from torchrelay.cli.faults import Fault
from torchrelay.cli.remote import drain_watch
from torchrelay.client import Client
from torchrelay.shared.api_bodies import FleetBody, MemberBody, StatusBody


class Script(dict[str, Any]):
    """Answers each path with the next of its states; the last one stays."""

    def get(self, key: str, default: Any = None) -> Any:  # Any: as dict has it
        states = self[key]
        return 200, states.pop(0) if len(states) > 1 else states[0]


def follow(states: list[tuple[MemberBody, FleetBody]]) -> tuple[MemberBody, list[str]]:
    said: list[str] = []
    nodes, fleets = [node for node, _ in states], [states[0][1], *(seen for _, seen in states)]
    accepted = [StatusBody(status='Node "rack3" drains')]
    script = Script({"GET /nodes/rack3": nodes, "GET /fleet": fleets, "POST /nodes/rack3/drain": accepted})
    with serving(script) as server, Client(management=server.url) as client:
        node = drain_watch.drain(client, "rack3", said.append, interval_s=0.0)
    assert said.pop(0).startswith('Node "rack3" drains. Ctrl-C')
    return node, said


def draining(workers: int, running: int = 0, **more: Any) -> MemberBody:
    return bodies.member(**({"state": "draining", "workers": workers, "jobs_running": running} | more))


HERE = bodies.fleet_worker()
LOADING = bodies.fleet_worker(id=2, node="other", state="loading")
THERE = bodies.fleet_worker(id=2, node="other")


def test_each_change_is_a_line_and_the_end_is_when_nothing_is_left() -> None:
    of_model = [
        bodies.fleet(bodies.model(workers=workers))
        for workers in ((HERE, LOADING), (HERE, LOADING), (HERE, THERE), (THERE,))
    ]
    node, said = follow(
        list(zip([draining(1, 2), draining(1, 2), draining(1, 1), draining(0)], of_model, strict=True))
    )
    assert said == [
        "rack3: 1 worker and 2 running requests left; m 1.0 has 0 of 1 elsewhere",
        "rack3: 1 worker and 1 running request left; m 1.0 has 1 of 1 elsewhere",
    ]
    assert drain_watch.summary(node).startswith("rack3 is drained: nothing is left on it.")


def test_where_replacements_have_no_place_that_is_said_once_with_what_to_do() -> None:
    why = "wants 1, has 0: no other node has a free slot"
    stuck = bodies.fleet(bodies.model(workers=(HERE,), explanation=why))
    _, said = follow([(draining(1), stuck), (draining(1), stuck), (draining(1), stuck), (draining(0), stuck)])
    assert len(said) == 2
    assert said[1].startswith(f"m 1.0 has no place elsewhere: {why}\n")
    assert "torchrelay nodes invite" in said[1]


def test_what_went_without_a_successor_is_said_in_the_end() -> None:
    why = "wants 1, has 0, no node takes new workers: rack3 is drained, stops or can't be reached"
    before, after = bodies.fleet(bodies.model(workers=(HERE,))), bodies.fleet(bodies.model(explanation=why))
    said: list[str] = []
    script = Script({
        "GET /nodes/rack3": [draining(0)], "GET /fleet": [before, after],
        "POST /nodes/rack3/drain": [StatusBody(status="")],
    })  # fmt: skip
    with serving(script) as server, Client(management=server.url) as client:
        drain_watch.drain(client, "rack3", said.append, interval_s=0.0)
    assert said[1].startswith(f"m 1.0 has no place elsewhere: {why}\n")


def test_who_resumes_the_node_ends_the_waiting() -> None:
    with pytest.raises(Fault, match="somebody has resumed it"):
        follow([(draining(1), bodies.fleet()), (draining(1, state="here"), bodies.fleet())])


@pytest.mark.parametrize(("state", "words"), [("away", "has left"), ("revoked", "is revoked")])
def test_a_node_that_leaves_has_nothing_left(state: str, words: str) -> None:
    node, _ = follow([(draining(1), bodies.fleet()), (draining(0, state=state), bodies.fleet())])
    assert words in drain_watch.summary(node)
