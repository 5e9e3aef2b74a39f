"""Gateways, nodes and workers as peers: how they join, when they are given up, what ends with them. Pure."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from torchrelay.broker.core.answers import Answers, Gateway
from torchrelay.broker.core.early_requests import EarlyRequests
from torchrelay.broker.core.effects import Outbox
from torchrelay.broker.core.keyring import Keyring
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.nodes import FleetNode
from torchrelay.broker.fleet.worker_lifecycle import WorkerLifecycle
from torchrelay.broker.jobs.jobs import Jobs
from torchrelay.broker.models.changes import Management
from torchrelay.shared import ids
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import messages as m

#: Peers of each kind; a real fleet has a tenth of them. What is done at each beat or sweep is for all.
GATEWAYS_LIMIT = NODES_LIMIT = 1024
#: Misunderstood messages that are logged one by one between two sweeps; anybody can send thousands.
COMPLAINTS_PER_SWEEP = 20


@dataclass(eq=False)
class Peers:
    """All peers, by their ids; times are the core's, in seconds."""

    _settings: BrokerSettings
    _fleet: Fleet
    _lifecycle: WorkerLifecycle
    _answers: Answers
    _jobs: Jobs
    _management: Management
    _early: EarlyRequests
    _keys: Keyring
    _stats: Stats
    _outbox: Outbox
    #: Since when peers are listened to without a long break: silence from before counts for nothing.
    listened_since: float

    def __post_init__(self) -> None:
        self.gateways = self._answers.gateways
        self.nodes = self._fleet.nodes
        self.workers = self._lifecycle.by_peer
        self._by_hello: dict[type[m.Message], Mapping[bytes, object]] = {
            m.HelloGateway: self.gateways, m.HelloNode: self.nodes, m.HelloWorker: self.workers,
        }  # fmt: skip
        self._beat_due = self.listened_since
        #: Messages that were misunderstood since the last sweep.
        self._complaints = 0

    def knows(self, peer: bytes) -> bool:
        """Tell whether a peer has joined."""
        return any(peer in table for table in self._by_hello.values())

    # Joining

    def greet(self, peer: bytes, hello: m.Hello, now: float) -> None:
        """Take in a peer, or tell it why not; one that is known already may say hello again."""
        if why_not := self._why_not_greet(peer, hello):
            self._outbox.send(peer, m.Leave(why_not))
            return
        is_new = peer not in self._by_hello[type(hello)]
        if is_new and self.knows(peer):
            self.misunderstand(peer, f"a second hello as another kind of peer, {type(hello).__name__}")
        elif self._take_in(peer, hello, now, is_new=is_new):
            self._welcome(peer, now, is_new=is_new, is_gateway=isinstance(hello, m.HelloGateway))

    def _why_not_greet(self, peer: bytes, hello: m.Hello) -> str:
        """Say why a peer can't join, empty if it can; workers are as many as were ordered."""
        if hello.protocol != m.PROTOCOL_VERSION:
            return (
                f"this broker speaks protocol {m.PROTOCOL_VERSION}, the peer {hello.protocol}:"
                " run the same torchrelay version everywhere"
            )
        match hello:
            case m.HelloGateway() if peer not in self.gateways and len(self.gateways) >= GATEWAYS_LIMIT:
                return f"this broker has {GATEWAYS_LIMIT} gateway processes, as many as it takes"
            case m.HelloNode() if peer not in self.nodes and len(self.nodes) >= NODES_LIMIT:
                return f"this broker has {NODES_LIMIT} nodes, as many as it takes"
        return ""

    def _take_in(self, peer: bytes, hello: m.Hello, now: float, *, is_new: bool) -> bool:
        match hello:
            case m.HelloGateway():
                if is_new:
                    self.gateways[peer] = Gateway(peer, hello.name, now, held_before=self._fleet.beat)
                    self._outbox.report(logging.INFO, "gateway.joined", gateway=hello.name, pid=hello.pid)
            case m.HelloNode():
                self._fleet.add_node(peer, hello, now)
                if is_new:
                    node = self.nodes[peer]
                    self._outbox.report(logging.INFO, "node.joined", node=node.name, held=len(hello.workers))
                    if node.name != node.own_name:
                        advice = "unless it has just been restarted, give it another --name"
                        self._outbox.report(logging.WARNING, "node.name_taken", node=node.name,
                                            own_name=node.own_name, advice=advice)  # fmt: skip
            case m.HelloWorker():
                if (own := self.workers.get(peer)) and own.worker_id != hello.worker_id:
                    why = f"a second worker, {hello.worker_id}, of the peer of {own.worker_id}"
                    self.misunderstand(peer, why)
                    return False
                if why_not := self._lifecycle.ready(peer, hello, now):
                    self._outbox.send(peer, m.Leave(why_not))
                    return False
            case _:
                assert_never(hello)
        return True

    def _welcome(self, peer: bytes, now: float, *, is_new: bool, is_gateway: bool) -> None:
        beat_ms = max(1, int(self._settings.beat_interval_s * 1000))
        timeout_ms = max(1, int(self._settings.peer_timeout_s * 1000))
        asks_for_keys = is_gateway and self._settings.token_authorization
        self._outbox.send(peer, m.Welcome(beat_ms, timeout_ms, is_new, self._fleet.beat, asks_for_keys))
        if asks_for_keys:
            self._outbox.send(peer, self._keys.message(now))

    # Nonsense

    def misunderstand(self, peer: bytes, reason: str) -> None:
        """Tell a peer that its message was refused; the first ones between two sweeps are logged."""
        self._stats.misunderstood += 1
        reason = quoted(reason)
        self._outbox.send(peer, m.Misunderstood(reason))
        self._complaints += 1
        if self._complaints <= COMPLAINTS_PER_SWEEP:
            self._outbox.report(logging.WARNING, "message.misunderstood", peer=ids.shown_peer(peer),
                                reason=reason)  # fmt: skip

    def report_complaints(self) -> None:
        """Log how many misunderstood messages were not logged one by one."""
        if self._complaints > COMPLAINTS_PER_SWEEP:
            self._outbox.report(logging.WARNING, "message.misunderstood", reason="more of the same kind",
                                messages=self._complaints - COMPLAINTS_PER_SWEEP)  # fmt: skip
        self._complaints = 0

    # Leaving

    def drop(self, peer: bytes, now: float) -> None:
        """Forget a peer whose message met a fault as if it had been lost; it may say hello again."""
        if gateway := self.gateways.get(peer):
            self.drop_gateway(gateway, "a message of it met a fault")
        elif node := self.nodes.get(peer):
            self.drop_node(node, now)
        elif worker := self.workers.get(peer):
            self._lifecycle.drop(worker, "a message of it met a fault in the broker", now)

    def drop_gateway(self, gateway: Gateway, reason: str) -> None:
        """Forget a gateway; nobody waits for its jobs any more."""
        self._jobs.cancel(list(gateway.jobs.values()))
        self._management.forget_peer(gateway.peer)
        self._early.forget_gateway(gateway.peer)
        del self.gateways[gateway.peer]
        self._outbox.report(logging.INFO, "gateway.left", gateway=gateway.name, reason=reason)

    def drop_node(self, node: FleetNode, now: float) -> None:
        """Forget a node and its workers."""
        self._lifecycle.node_lost(node, now)
        level = logging.INFO if node.is_leaving else logging.WARNING
        self._outbox.report(level, "node.left", node=node.name)

    # Time

    def beat(self, now: float) -> None:
        """Send everybody a beat when it is time for one."""
        if now < self._beat_due:
            return
        self._beat_due = now + self._settings.beat_interval_s
        self._fleet.beat += 1
        for peer in (*self.gateways, *self.nodes, *self.workers):
            self._outbox.send(peer, m.Beat(self._fleet.beat))

    def drop_silent(self, now: float) -> None:
        """Drop gateways and nodes that have said nothing for a peer timeout, though they were listened to."""
        heard_by = now - self._settings.peer_timeout_s
        if heard_by <= self.listened_since:
            return
        for gateway in [one for one in self.gateways.values() if one.last_heard < heard_by]:
            self.drop_gateway(gateway, "it has been silent")
        for node in [one for one in self.nodes.values() if one.last_heard < heard_by]:
            self.drop_node(node, now)

    def hear_first(self, beat_due: float) -> None:
        """Beat no more until then, after a turn that came too late: what lies waiting is read before.

        What gateways held meanwhile is let in whatever the queues' limits are.
        """
        self._beat_due = beat_due
        for gateway in self.gateways.values():
            gateway.held_before = self._fleet.beat + 1

    def stood_still(self, seconds: float, now: float) -> None:
        """Give peers the whole timeout for coming back: the broker stood still long enough to lose them."""
        self.listened_since = now
        if self.gateways or self.nodes:  # else it has only been slow to start
            advice = "it was stopped, swapped out, overloaded, or its host slept"
            self._outbox.report(
                logging.WARNING, "broker.stood_still", seconds=round(seconds, 1), advice=advice
            )
