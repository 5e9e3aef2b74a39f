"""How keys are revoked, and what is then refused: contexts as those of `striking`.

Whoever is revoked is cut off, and gets nothing; it is brought back by an invitation once that was seen.
"""

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from tests.reliability.cells import Cell
from tests.reliability.hosts import MEMBERS, MODEL, PARTS, Hosts
from tests.support import eventually

NODES = tuple(part for part, role in MEMBERS.items() if role == "node")
#: So many runs elsewhere show that a worker which had half of them has none.
RUNS_SEEN = 40
#: What a member says whose key is refused.
REFUSED = "doesn't know this host's key"


@contextmanager
def of_a_node(hosts: Hosts, cell: Cell) -> Iterator[None]:
    part, pids = _node_with_workers(hosts)
    _revoke(hosts, PARTS[part])
    eventually(lambda: REFUSED in hosts.log(part))
    _see_that_none_runs(hosts, pids)
    hosts.join_anew(part)
    yield


@contextmanager
def of_a_worker(hosts: Hosts, cell: Cell) -> Iterator[None]:
    """Revoke a worker's node while it stands still: the worker's own connection is what is left to cut."""
    part, pids = _node_with_workers(hosts)
    with hosts.stopped(hosts.process(part)):
        _revoke(hosts, PARTS[part])
        eventually(lambda: not pids & {worker["pid"] for worker in hosts.workers(MODEL)})
        _see_that_none_runs(hosts, pids)
    hosts.join_anew(part)
    yield


@contextmanager
def of_a_gateway(hosts: Hosts, cell: Cell) -> Iterator[None]:
    names: list[str] = []

    def is_here() -> bool:
        names[:] = [one["name"] for one in hosts.members("gateway") if one["state"] == "here"]
        return len(names) == 1

    eventually(is_here)
    with contextlib.suppress(httpx2.HTTPError):  # it is cut off before it hears of that
        hosts.http.post(f"{hosts.management}/gateways/{names[0]}/revoke", timeout=1)
    eventually(lambda: REFUSED in hosts.log("gateway"))
    answer = hosts.predict(MODEL, b"0 ", x_request_timeout_ms="500")
    assert answer.status_code in (503, 504), answer.text
    hosts.join_anew("gateway")
    yield


@contextmanager
def of_the_broker(hosts: Hosts, cell: Cell) -> Iterator[None]:
    """Replace the broker's own key: all members follow, and know the old one no more."""
    old = _broker_keys(hosts, "gateway")[0]
    eventually(lambda: _known_broker_keys(hosts) == {(old,)})
    following = _next_key(hosts)
    eventually(lambda: _known_broker_keys(hosts) == {(old, following)})
    hosts.process("broker").kill()
    eventually(lambda: _known_broker_keys(hosts) == {(following,)})
    yield


@contextmanager
def in_the_registry(hosts: Hosts, cell: Cell) -> Iterator[None]:
    """Kill the broker once it has said that a key is revoked: it is so for the next one."""
    part, pids = _node_with_workers(hosts)
    broker = hosts.process("broker")
    _revoke(hosts, PARTS[part])
    broker.kill()
    eventually(lambda: f"{PARTS[part]} has been revoked" in hosts.log("broker"))
    _see_that_none_runs(hosts, pids)
    hosts.join_anew(part)
    yield


def _revoke(hosts: Hosts, node: str) -> None:
    def is_revoked() -> bool:
        with contextlib.suppress(httpx2.HTTPError):  # another fault may keep the answer off
            hosts.http.post(f"{hosts.management}/nodes/{node}/revoke")
        return (node, "revoked") in {(one["name"], one["state"]) for one in hosts.members("node")}

    eventually(is_revoked)


def _node_with_workers(hosts: Hosts) -> tuple[str, set[int]]:
    """Return a node that has workers of the model, and their processes."""
    found: list[tuple[str, set[int]]] = []

    def is_there() -> bool:
        workers = hosts.workers(MODEL)
        here = {one["name"] for one in hosts.members("node") if one["state"] == "here"}
        for part in NODES:
            pids = {worker["pid"] for worker in workers if worker["node"] == PARTS[part]}
            if pids and PARTS[part] in here:
                found.append((part, pids))
        return bool(found)

    eventually(is_there)
    return found[0]


def _see_that_none_runs(hosts: Hosts, pids: set[int]) -> None:
    """See to it that other processes run requests from now on, and none of these."""
    before = hosts.runs.stat().st_size
    runs: list[bytes] = []

    def are_enough() -> bool:
        runs[:] = hosts.runs.read_bytes()[before:].split(b"\n")[:-1]
        return len(runs) >= RUNS_SEEN

    eventually(are_enough)
    assert not pids & {int(run.split()[1]) for run in runs}, "a worker whose key is revoked runs requests"


def _next_key(hosts: Hosts) -> str:
    answers: list[httpx2.Response] = []

    def is_answered() -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            answers.append(hosts.http.post(f"{hosts.management}/broker/key/rotate"))
        return bool(answers) and answers[-1].status_code == 200

    eventually(is_answered)
    return str(answers[-1].json()["nextKey"])


def _known_broker_keys(hosts: Hosts) -> set[tuple[str, ...]]:
    return {_broker_keys(hosts, part) for part in MEMBERS}


def _broker_keys(hosts: Hosts, part: str) -> tuple[str, ...]:
    return tuple(json.loads(hosts.credentials(part).read_bytes())["broker_keys"])
