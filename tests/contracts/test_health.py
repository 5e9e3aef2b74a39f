"""What docs/health.md says of each state is what a gateway answers that asks a broker in that state."""

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.broker.rig import GATEWAY, NODE, Rig
from tests.contracts.source import ROOT
from tests.gateway.fakes import INFERENCE, MANAGEMENT, Gateway
from torchrelay.broker.core.effects import Prepare
from torchrelay.broker.core.events import Started
from torchrelay.shared import errors
from torchrelay.shared.api_bodies import FleetBody
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.settings import GatewaySettings, LoadAtStart
from torchrelay.shared.wire import messages as m

COLUMNS = (
    "/livez",
    "/readyz",
    "/ping",
    "/v2/health/ready",
    "/readyz/MODEL",
    "/v1/models/MODEL",
    "status",
    "a request",
)


def table() -> dict[str, tuple[str, ...]]:
    """Return the cells of each state's row."""
    text = (ROOT / "docs" / "health.md").read_text(encoding="utf-8")
    lines = text.partition("## What they say in each state")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, _, *states = rows
    assert tuple(cell.strip("`") for cell in head[1:]) == COLUMNS
    return {state: tuple(cells) for state, *cells in states}


def joined() -> Rig:
    rig = Rig()
    rig.join_gateway()
    return rig


def starting() -> Rig:
    rig = joined()
    effects = rig.core.handle([Started((LoadAtStart("m.mar"),))], now=rig.now)
    assert any(isinstance(effect, Prepare) for effect in effects), "its archive is still being read"
    return rig


def not_loaded() -> Rig:
    rig = joined()
    rig.archives["m.mar"] = errors.InvalidModel("The archive can't be read.")
    rig.load_at_start(LoadAtStart("m.mar"))
    rig.feed()
    return rig


def without_node() -> Rig:
    rig = joined()
    rig.register()
    return rig


def progressed(*phases: str) -> Callable[[], Rig]:
    def make() -> Rig:
        rig = joined()
        rig.join_node()
        rig.register()
        order = rig.only(NODE, m.StartWorker)
        for phase in phases:
            rig.say(NODE, m.WorkerProgressed(order.worker_id, phase))  # type: ignore[arg-type]  # one of them
        return rig

    return make


def ready() -> Rig:
    rig = Rig()
    rig.ready_rig()
    return rig


def unready() -> Rig:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.say(worker, m.WorkerBeat((), 0, "is_ready() says no"))
    return rig


def ended() -> Rig:
    rig = Rig()
    (worker,) = rig.ready_rig()
    rig.exit_worker(int(worker[2:]))
    return rig


def failed_for_good() -> Rig:
    rig = Rig()
    rig.ready_rig(config=ModelConfig(restart_window_s=0))
    rig.exit_worker(9000)
    return rig


def scaled_to_0() -> Rig:
    rig = ready()
    rig.say(GATEWAY, m.ScaleWorkers(2, "m", None, 0, 0, synchronous=False))
    rig.exit_worker(9000)
    return rig


STATES: dict[str, Callable[[], Rig] | None] = {
    "no broker": None,
    "models named at start are being registered": starting,
    "it could not be registered at start": not_loaded,
    "there is no such model": joined,
    "there is no node": without_node,
    "its worker loads the model": progressed("loading"),
    "its worker isn't warmed yet": progressed("loading", "warming"),
    "its handler isn't ready for the first time yet": progressed("loading", "warming", "waiting"),
    "its worker is ready": ready,
    "its handler says that it isn't ready any more": unready,
    "its worker has ended, another is started": ended,
    "its workers have failed for `maxRetryTimeoutInSec`": failed_for_good,
    "it is scaled to 0 workers": scaled_to_0,
    "this gateway is being stopped": ready,
}


def asking(rig: Rig | None) -> Gateway:
    """Return a gateway whose questions the broker's core answers."""

    def reply(ask: Any) -> Any:  # Any: as FakeLink has it
        assert rig is not None, "nothing is asked of a broker that is away"
        rig.say(GATEWAY, ask)
        return rig.inbox[GATEWAY].pop()[0]

    config = GatewaySettings(open_inference_protocol=True)
    return Gateway(reply, config=config, is_away=rig is None)


def status_word(gateway: Gateway) -> str:
    """Return what `torchrelay status` shows of the model."""
    answer = gateway.manage("GET", "/fleet")
    if answer.status_code != 200:
        return "no answer"
    seen = msgspec.json.decode(answer.content, type=FleetBody)
    if seen.models:
        return seen.models[0].status
    return "not loaded" if seen.not_loaded else "loading" if seen.loading else "no model"


def outcome(rig: Rig | None) -> str:
    """Return what becomes of a request."""
    if rig is None:
        return "waits"  # as tests of gateway.session show
    rig.submit(77)
    if refused := rig.take(GATEWAY, m.Refused):
        return str(getattr(errors, refused[0].items[0].error).status)
    return "200" if any(rig.take(worker, m.Assign) for worker in rig.leases) else "waits"


def readiness_of(gateway: Gateway) -> str:
    answer = gateway.manage("GET", "/v1/models/m")
    return str(answer.json["ready"]).lower() if answer.status_code == 200 else str(answer.status_code)


@pytest.mark.parametrize("state", STATES)
def test_each_state_is_told_as_the_table_says(state: str) -> None:
    make = STATES[state]
    rig = make() if make else None
    gateway = asking(rig)
    gateway.link.is_leaving = state == "this gateway is being stopped"
    found = (
        *(str(gateway.ask(port, "GET", path).status_code) for port, path in (
            (MANAGEMENT, "/livez"), (MANAGEMENT, "/readyz"), (INFERENCE, "/ping"),
            (INFERENCE, "/v2/health/ready"), (MANAGEMENT, "/readyz/m"),
        )),
        readiness_of(gateway),
        status_word(gateway),
        outcome(rig),
    )  # fmt: skip
    assert dict(zip(COLUMNS, found, strict=True)) == dict(zip(COLUMNS, table()[state], strict=True))
    assert gateway.ask(INFERENCE, "GET", "/v2/health/live").status_code == int(found[0])
    assert str(gateway.manage("GET", "/v2/models/m/ready").status_code) == found[4]


def test_the_table_has_every_state_that_is_tested_and_no_other() -> None:
    assert list(table()) == list(STATES)


def test_a_reason_comes_with_every_no() -> None:
    for state, make in STATES.items():
        answer = asking(make() if make else None).manage("GET", "/readyz/m")
        if answer.status_code == 503:
            assert re.search(r"\w{3}", answer.json.get("reason") or answer.json.get("details", "")), state
