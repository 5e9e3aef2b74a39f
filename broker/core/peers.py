"""Gateways, nodes and workers as peers: how they join, when they are given up, what ends with them. Pure."""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

import msgspec

from torchrelay.broker.core.answers import Answers, Gateway
from torchrelay.broker.core.early_requests import EarlyRequests
from torchrelay.broker.core.effects import Cut, Outbox
from torchrelay.broker.core.keyring import Keyring
from torchrelay.broker.core.states import JobState
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.nodes import FleetNode
from torchrelay.broker.fleet.rounds import Rounds
from torchrelay.broker.fleet.worker_lifecycle import WorkerLifecycle
from torchrelay.broker.jobs.jobs import Jobs
from torchrelay.broker.membership.members import Members
from torchrelay.broker.membership.membership_changes import MembershipChanges
from torchrelay.broker.membership.roles import may_say
from torchrelay.broker.models.changes import Management
from torchrelay.shared import errors, ids
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.curve import public_key_of

#: Peers of each kind; a real fleet has a tenth of them. What is done at each beat or sweep is for all.
GATEWAYS_LIMIT = NODES_LIMIT = 1024
#: Beats that one turn sends, 4 us each; in larger fleets the others follow in the next turns.
BEATS_PER_TURN = 250
#: How often it is noted that members live, which matters after minutes.
NOTE_INTERVAL_S = 1.0
#: Workers that nodes bring along of which one turn takes in so many, 15 us each.
HELD_PER_TURN = 100
#: For so many peer timeouts a silent gateway is kept that is owed something: most that are not dead are back
#: by then, and what runs for the dead may go on so long.
OWED_TIMEOUTS = 3
#: Misunderstood messages that are logged one by one between two sweeps; anybody can send thousands.
COMPLAINTS_PER_SWEEP = 20


@dataclass(slots=True, kw_only=True)
class ArrivingNode:
    """A node that has come with workers; `taken` of them are taken in."""

    hello: m.HelloNode
    is_new: bool
    taken: int = 0


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
    _members: Members
    _membership: MembershipChanges
    _stats: Stats
    _outbox: Outbox
    #: Since when peers are listened to without a long break: silence from before counts for nothing.
    listened_since: float
    #: Another number for simulated nodes, which are small.
    held_per_turn: int = HELD_PER_TURN

    def __post_init__(self) -> None:
        self.gateways = self._answers.gateways
        self.nodes = self._fleet.nodes
        self.workers = self._lifecycle.by_peer
        self._by_hello: dict[type[m.Message], Mapping[bytes, object]] = {
            m.HelloGateway: self.gateways, m.HelloNode: self.nodes, m.HelloWorker: self.workers,
        }  # fmt: skip
        self._beat_due = self._note_due = self.listened_since
        #: Those who haven't got the latest beat.
        self.to_beat = Rounds(lambda: (*self.gateways, *self.nodes, *self.workers), BEATS_PER_TURN)
        #: Nodes that have come with more workers than one turn takes in; they are welcome when all are known.
        self.joining: dict[bytes, ArrivingNode] = {}
        #: Messages that were misunderstood since the last sweep.
        self._complaints = 0
        #: Gateways that have joined so far.
        self._rows = 0

    def knows(self, peer: bytes) -> bool:
        """Tell whether a peer has joined."""
        return any(peer in table for table in self._by_hello.values())

    # Joining

    def greet(self, peer: bytes, hello: m.Hello, now: float) -> None:
        """Take in a peer, or tell it why not; one that is known already may say hello again."""
        if public_key_of(peer) is not None:
            proved = self._proved(peer, hello, now)
            if proved is None:
                return
            hello = proved
        if why_not := self._why_not_greet(peer, hello):
            self._outbox.send(peer, m.Leave(why_not))
            return
        is_new = peer not in self._by_hello[type(hello)]
        if is_new and self.knows(peer):
            self.misunderstand(peer, f"a second hello as another kind of peer, {type(hello).__name__}")
        elif self._take_in(peer, hello, now, is_new=is_new):
            self._welcome(peer, hello, now, is_new=is_new)

    def _why_not_greet(self, peer: bytes, hello: m.Hello) -> str:
        """Say why a peer can't join, empty if it can; workers are as many as were ordered."""
        if not m.OLDEST_PROTOCOL_VERSION <= hello.protocol <= m.PROTOCOL_VERSION:
            what_to_do = (
                "upgrade the broker first, then nodes and gateways"
                if hello.protocol > m.PROTOCOL_VERSION
                else "upgrade the peer"
            )
            return (
                f"this broker speaks protocols {m.OLDEST_PROTOCOL_VERSION} to {m.PROTOCOL_VERSION},"
                f" the peer {hello.protocol}: {what_to_do}"
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
                    gateway = Gateway(peer, hello.name, now, held_before=self._fleet.beat)
                    if hello.protocol >= m.NUMBERED_SINCE_PROTOCOL:
                        self._rows += 1
                        gateway.begin_row(self._rows)
                    self.gateways[peer] = gateway
                    self._outbox.report(logging.INFO, "gateway.joined", gateway=hello.name, pid=hello.pid)
            case m.HelloNode():
                self._take_in_node(peer, hello, now, is_new=is_new)
                return False  # it is welcome when all its workers are known
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

    def _take_in_node(self, peer: bytes, hello: m.HelloNode, now: float, *, is_new: bool) -> None:
        """Take in a node, and its workers unless they are too many for one turn."""
        if is_new and (former := self._fleet.former_self(hello)):
            self._outbox.report(logging.INFO, "node.restarted", node=former.name)
            self.drop_node(former, now)
        self._lifecycle.remove_all_lost(now)  # some may be this node's
        self._fleet.add_node(peer, hello, now)
        if (node_key := public_key_of(peer)) is not None:
            self.nodes[peer].models = self._members.members[node_key].models
        before = self.joining.pop(peer, None)  # it has said hello again meanwhile
        is_unknown = is_new or (before is not None and before.is_new)
        self.joining[peer] = ArrivingNode(hello=hello, is_new=is_unknown)
        if is_new:
            node = self.nodes[peer]
            self._outbox.report(logging.INFO, "node.joined", node=node.name, held=len(hello.workers))
            if node.name != node.own_name:
                advice = "unless it has just been restarted, give it another --name"
                self._outbox.report(logging.WARNING, "node.name_taken", node=node.name,
                                    own_name=node.own_name, advice=advice)  # fmt: skip
        if len(hello.workers) <= self.held_per_turn:
            self.end_joining(peer, now)

    def go_on_joining(self, peer: bytes, now: float) -> None:
        """Take in some more of the workers that a node has come with; welcome it with the last."""
        self._join(peer, self.held_per_turn, now)

    def _join(self, peer: bytes, count: int, now: float) -> None:
        joining = self.joining[peer]
        if self._take_held(peer, joining, count, now):
            del self.joining[peer]
            self._welcome(peer, joining.hello, now, is_new=joining.is_new)

    def end_joining(self, peer: bytes, now: float) -> None:
        """Take in all that are left of a node's: what it says now may be about any of them."""
        self._join(peer, len(self.joining[peer].hello.workers), now)

    def _take_held(self, peer: bytes, joining: ArrivingNode, count: int, now: float) -> bool:
        """Take in so many more of the workers that a node holds; tell whether all are known.

        They are let in by the keys that it made for them, and no others of it.
        """
        node, workers = self.nodes[peer], joining.hello.workers
        some = workers[joining.taken : joining.taken + count]
        joining.taken += count
        self._fleet.hold(node, some, now)
        has_all = joining.taken >= len(workers)
        if (node_key := public_key_of(peer)) is not None:
            held = {worker.worker_id for worker in self._fleet.of_node(peer)}
            if has_all:
                self._members.keep_workers(held, node_key)
            for worker in some:
                if worker.worker_id in held and worker.public_key:
                    self._members.add_worker(worker.public_key, worker.worker_id, node_key)
        if has_all:
            self._fleet.has_come(node)
        return has_all

    def _welcome(self, peer: bytes, hello: m.Hello, now: float, *, is_new: bool) -> None:
        beat_ms = max(1, int(self._settings.beat_interval_s * 1000))
        timeout_ms = max(1, int(self._settings.peer_timeout_s * 1000))
        asks_for_keys = isinstance(hello, m.HelloGateway) and self._settings.token_authorization
        worker = self.workers.get(peer)
        keeps = worker is not None and worker.keeps_leases
        shares = self._settings.shared_memory
        welcome = m.Welcome(beat_ms, timeout_ms, is_new, self._fleet.beat, asks_for_keys, keeps, shares)
        self._outbox.send(peer, welcome)
        if asks_for_keys:
            self._outbox.send(peer, self._keys.message(now))
        own = self._membership.broker_keys
        if own is not None and own.next is not None and public_key_of(peer) is not None:
            self._outbox.send(peer, m.BrokerKeys(own.public))

    # Peers with a key

    def is_admitted(self, peer: bytes, now: float) -> bool:
        """Tell whether a peer's key still lets it in, or it needs none; it is cut off where it doesn't."""
        public_key = public_key_of(peer)
        if public_key is None or self._members.identity(public_key, now) is not None:
            return True
        self._outbox.emit(Cut(public_key))
        return False

    def _proved(self, peer: bytes, hello: m.Hello, now: float) -> m.Hello | None:
        """Return a hello as the peer's key lets it be said, None where it doesn't.

        A node is called what it was enrolled as; a worker is the one whose key its node has told.
        """
        identity = self._members.identity(public_key_of(peer) or "", now)
        if identity is None:
            self.is_admitted(peer, now)
            return None
        if not may_say(identity.role, type(hello), may_manage=identity.may_manage):
            self.misunderstand(peer, f"{type(hello).__name__} is not for a {identity.role} to say")
            return None
        if isinstance(hello, m.HelloWorker):
            if hello.worker_id != identity.worker_id:
                self.misunderstand(peer, f"worker {identity.worker_id} says that it is {hello.worker_id}")
                return None
            return msgspec.structs.replace(hello, node=identity.name)
        return msgspec.structs.replace(hello, name=identity.name)

    def enrol(self, peer: bytes, enrol: m.Enrol, now: float) -> None:
        """Begin to make a member of whoever came by an invitation."""
        public_key = public_key_of(peer)
        identity = None if public_key is None else self._members.identity(public_key, now)
        if public_key is None or (identity is not None and identity.role != "newcomer"):
            self.misunderstand(peer, "Enrol is for newcomers, who came by an invitation")
        elif self.is_admitted(peer, now):
            self._membership.enrol(peer, public_key, enrol, now)

    def why_may_not_manage(self, peer: bytes, now: float) -> errors.RelayError | None:
        """Say why a gateway may not have models, keys or members changed; None where it may."""
        public_key = public_key_of(peer)
        if public_key is None:
            return None
        identity = self._members.identity(public_key, now)
        if identity is not None and identity.may_manage:
            return None
        return errors.MethodNotAllowed("This gateway was invited without the right to change anything.")

    def add_worker_key(self, node: FleetNode, worker_id: int, public_key: str) -> None:
        """Let a worker in by its own key that a node was told to start."""
        node_key, worker = public_key_of(node.peer), self._fleet.workers.get(worker_id)
        if node_key is None or worker is None or worker.node != node.peer:
            self.misunderstand(node.peer, f"a key for worker {worker_id}, which it wasn't told to start")
        elif not self._members.add_worker(public_key, worker_id, node_key):
            self.misunderstand(node.peer, f"a key for worker {worker_id} that is somebody else's")

    def remove_worker_key(self, node: FleetNode, worker_id: int) -> None:
        """Let a worker in no more whose process has ended."""
        if node_key := public_key_of(node.peer):
            self._members.remove_worker(worker_id, node_key)

    def may_fetch(self, node: FleetNode, archive: str) -> bool:
        """Tell whether a node may have an archive: one with a key only what it was told to start."""
        is_open = public_key_of(node.peer) is None
        return is_open or any(worker.archive == archive for worker in self._fleet.of_node(node.peer))

    def note_heard(self, now: float) -> None:
        """Note, once in a while, which members live."""
        if now < self._note_due:
            return
        self._note_due = now + NOTE_INTERVAL_S
        members: Iterable[Gateway | FleetNode] = (*self.gateways.values(), *self.nodes.values())
        for peer in members:
            if public_key := public_key_of(peer.peer):
                self._members.heard(public_key, min(now, peer.last_heard))

    def end(self, public_keys: Collection[str], now: float) -> None:
        """Drop and cut off whoever came by keys that have ended: what they had goes elsewhere."""
        if not public_keys:
            return
        ended = set(public_keys)
        for gateway in [one for one in self.gateways.values() if public_key_of(one.peer) in ended]:
            self.drop_gateway(gateway, "its key has ended")
        for node in [one for one in self.nodes.values() if public_key_of(one.peer) in ended]:
            self.drop_node(node, now)
        for worker in [one for peer, one in self.workers.items() if public_key_of(peer) in ended]:
            self._lifecycle.drop(worker, "its node's key has ended", now)
        for public_key in public_keys:
            self._outbox.emit(Cut(public_key))

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
        self.joining.pop(node.peer, None)
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
        self.to_beat.begin()
        self.beat_some()

    def beat_some(self) -> None:
        """Send their beat to some of those who haven't got it."""
        beat, send = self._fleet.beat, self._outbox.send
        for peer in self.to_beat.next_part():
            if gateway := self.gateways.get(peer):
                send(peer, m.Beat(beat, gateway.unheard.latest if gateway.unheard else 0))
            elif worker := self.workers.get(peer):
                send(peer, m.Beat(beat, worker.answers.latest))
            elif peer in self.nodes:
                send(peer, m.Beat(beat))

    def drop_silent(self, now: float) -> None:
        """Drop gateways and nodes that have said nothing for a peer timeout, though they were listened to.

        A gateway that is owed something has longer, in which nothing new is begun for it: should it come
        back, it gets its answers, and asks for what was dropped (`Forgotten`).
        """
        heard_by = now - self._settings.peer_timeout_s
        if heard_by <= self.listened_since:
            return
        owed_by = now - OWED_TIMEOUTS * self._settings.peer_timeout_s
        for gateway in [one for one in self.gateways.values() if one.last_heard < heard_by]:
            if gateway.last_heard < owed_by or not gateway.is_owed:
                self.drop_gateway(gateway, "it has been silent")
                continue
            self._jobs.cancel([job for job in gateway.jobs.values() if job.state is JobState.QUEUED])
            self._early.forget_gateway(gateway.peer)
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
