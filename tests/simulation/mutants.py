"""Faults planted into the core and the sessions, to see whether the simulation finds them.

A mutant is a text of a function's source that becomes another; the function's code is exchanged while it is
planted. Each is one that a person could write on a bad day.
"""

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from torchrelay.broker.core.answers import Answers
from torchrelay.broker.core.gateway_requests import GatewayRequests
from torchrelay.broker.core.machine import BrokerCore
from torchrelay.broker.core.peers import Peers
from torchrelay.broker.jobs.leases import Leases
from torchrelay.broker.models import registering
from torchrelay.gateway.session import GatewaySession
from torchrelay.worker.model.held_leases import batches_of


@dataclass(frozen=True)
class Edit:
    """One text of one function, which must be there once, and what stands there instead."""

    function: Any  # Any: a method is a plain function of its class
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A planted fault, by what is wrong then."""

    what: str
    edits: tuple[Edit, ...]


def _one(what: str, function: Any, old: str, new: str) -> Mutant:  # Any: see Edit
    return Mutant(what, (Edit(function, old, new),))


MUTANTS = (
    _one("a lost worker's leases are not taken back", Leases.take_back,
         "for lease in tuple(leases):", "for lease in ():"),
    _one("a stale result is accepted", Leases._lease_of,
         "self.by_number.get(number)", "self.by_number.get(number) or next(iter(worker.leases), None)"),
    Mutant("an epoch is not checked: a result of another broker's lease is taken for one of its own", (
        Edit(BrokerCore._receive, "event.epoch != self.epoch", "False"),
        Edit(Leases._lease_of, "self.by_number.get(number)",
             "self.by_number.get(number) or next("
             "(one for one in worker.leases if number < one.number >> 32 << 32), None)"),
    )),
    _one("a job that was cancelled is answered as well", Leases.completed,
         "if job.state is not RUNNING:", "if False:"),
    _one("an answered job stays with its gateway", Answers._end,
         "del gateway.jobs[job.number]", "pass"),
    _one("a silent node is not dropped", Peers.drop_silent,
         "for node in [one for one in self.nodes.values() if one.last_heard < heard_by]:", "for node in ():"),
    _one("a silent gateway is not dropped", Peers.drop_silent,
         "self.drop_gateway(gateway, \"it has been silent\")", "pass"),
    _one("a client's leaving is forgotten", GatewaySession.forget,
         "self._cancelled.append(pending.number)", "pass"),
    _one("a batch that was lost on its way has used up a try", Leases.take_back,
         "job.attempt -= 1", "pass"),
    _one("a try is not counted", Leases.assign, "job.attempt += 1", "job.attempt += 0"),
    _one("a lost batch is not missed", Leases.take_back_lost, "if lost:", "if False:"),
    _one("a gateway is not told what the broker never got", GatewayRequests.beat,
         "if jobs or asks:", "if False:"),
    _one("a worker that hangs is never found", Leases.overdue,
         "lease.began_at is not None and now", "False and now"),
    _one("a request that comes twice is taken twice", GatewayRequests.submit,
         "item.job in gateway.jobs or", "False or"),
    _one("bytes of the queue are not given back", Leases.assign,
         "self.waiting.queued_bytes -= size", "pass"),
    _one("a batch that was sent ahead has the jobs of another", batches_of,
         "start += one.jobs", "start += 0"),
    _one("a change is acknowledged that is not on disk", registering.stored, "if error:", "if False:"),
)  # fmt: skip


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Have a mutant in the code for a while."""
    with ExitStack() as undo:
        for edit in mutant.edits:
            function = edit.function
            undo.callback(setattr, function, "__code__", function.__code__)
            function.__code__ = _changed(function, edit).__code__
        yield


def _changed(function: FunctionType, edit: Edit) -> FunctionType:
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(edit.old) == 1, f"{edit.old!r} is {source.count(edit.old)} times in {function}"
    assert not function.__code__.co_freevars, f"{function} needs what lies around it"
    names: dict[str, Any] = {}
    module = inspect.getmodule(function)
    code = compile(source.replace(edit.old, edit.new), f"<mutant of {module}>", "exec", flags=0x1000000)
    exec(code, dict(function.__globals__), names)  # noqa: S102  # our own source
    made = names[function.__name__]
    assert isinstance(made, FunctionType)
    return made
