"""A fleet in one thread and virtual time: real cores and sessions over a network that misbehaves.

The broker's core, the gateway's session and the workers' sessions are the real ones, and every message
goes through the wire's codec. The network delays, drops and duplicates messages and breaks connections;
workers and nodes die, the broker is killed and restarted from its registry. All chance comes from one
seed, so that a run can be repeated to the last message.
"""

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count, repeat

from tests.broker import invariants
from tests.broker.rig import MemoryRegistry
from torchrelay.broker.core.effects import Effect, Prepare, Report, Send, Store
from torchrelay.broker.core.events import ArchivePrepared, Event, Garbled, Received, Stored, Unreachable
from torchrelay.broker.core.machine import BrokerCore
from torchrelay.broker.fleet.worker_claims import Claims
from torchrelay.broker.models.records import Prepared
from torchrelay.gateway.session import LATE_GRACE_S, Answer, GatewaySession, Outcome, Pending
from torchrelay.shared import errors
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.settings import BrokerSettings, GatewaySettings
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.worker.common.peer_session import PeerSession
from torchrelay.worker.model.held_leases import Batch, HeldLeases, batches_of

TICK_S = 0.05
#: What a thread of the broker needs for its work.
DISK_S = 0.005
#: A connection on which nothing is acknowledged for so long is given up, and what is on it lost.
CONNECTION_LASTS_S = 3.0
#: How long a node that is told to stop waits for its workers to be replaced; what it says last has so long.
NODE_GRACE_S, NODE_LAST_SENDS_S = 8.0, 0.6
MODEL = "m"
#: What a client's leaving, and a batch that was under way to its worker then, may take.
LEFT_LONG_AGO_S = 0.6
#: Each gateway's clients have so many sequences, if the model batches by them.
SEQUENCES = 3


@dataclass(frozen=True)
class Faults:
    """How the network and the processes misbehave; rates per message or per second."""

    drop: float = 0.0
    duplicate: float = 0.0
    delay_s: float = 0.002
    breaks_per_s: float = 0.0
    worker_deaths_per_s: float = 0.0
    node_deaths_per_s: float = 0.0
    broker_deaths_per_s: float = 0.0
    broker_pauses_per_s: float = 0.0
    cuts_per_s: float = 0.0
    failed_loads: float = 0.0
    #: A node that is told to stop.
    node_stops_per_s: float = 0.0
    #: A worker that never goes on with what it runs, and one that stands still for a while.
    worker_hangs_per_s: float = 0.0
    worker_pauses_per_s: float = 0.0
    #: A host that stands still, with its node and workers.
    node_pauses_per_s: float = 0.0
    gateway_deaths_per_s: float = 0.0
    #: Of the registry's writes: its disk is full, or read-only.
    failed_stores: float = 0.0
    #: Of what is on its way when the broker dies: it comes to, or from, the next one's peers.
    late: float = 0.0
    #: Of messages: a bit is another, and nothing authenticates them.
    corrupted: float = 0.0


@dataclass
class SimulatedPeer:
    """Somebody with a connection to the broker."""

    identity: bytes
    hear: Callable[[m.Message, int, Sequence[bytes]], None]
    #: Rises when the connection breaks: what was under way then is lost.
    connection: int = 0
    is_alive: bool = True


class World:
    """The clock, the network, and everybody on it."""

    def __init__(
        self, seed: int, faults: Faults, broker_settings: BrokerSettings, config: ModelConfig | None = None
    ) -> None:
        self.rng = random.Random(seed)
        #: How the model wants its jobs, and the most parts that an answer of it has beside the last one.
        self.config = config or ModelConfig()
        self.parts_max = 0
        #: Jobs of sequences by the order in which workers began them.
        self.begun: defaultdict[str, list[int]] = defaultdict(list)
        #: When clients hung up, by payload, and the payloads that workers began long after that.
        self.left: dict[bytes, float] = {}
        self.begun_in_vain: list[bytes] = []
        #: How often a handler began each request, by its meta.
        self.runs: Counter[bytes] = Counter()
        #: Metas of requests that end the worker which runs them, and how often one did.
        self.poisons: set[bytes] = set()
        self.poisoned = 0
        #: The least and the most that loading the model takes, and running a batch.
        self.loading_s = 0.1, 1.0
        self.running_s = 0.001, 0.2
        #: How long workers say that a batch ran; None: as long as it did.
        self.told_s: float | None = None
        self.faults = faults
        self.now = 0.0
        self.settings = broker_settings
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.peers: dict[bytes, SimulatedPeer] = {}
        #: When the last message of a connection and direction arrives: a connection keeps its order.
        self._arrival: dict[tuple[bytes, int, str], float] = {}
        #: Registrations that were acknowledged, and what was asked for without an answer.
        self.registrations = Registrations()
        self.broker = SimulatedBroker(self)
        self.nodes: list[SimulatedNode] = []
        self.gateways: list[SimulatedGateway] = []
        self.is_faulty = True
        #: Until when the network is cut, and whether what is under way then comes in the end.
        self._cut_until = 0.0
        self._loses_what_is_cut = False
        #: What the broker wanted done, if that is to be kept.
        self.effects: list[str] | None = None
        #: From when to when the broker stood still or was cut off.
        self.outages: list[tuple[float, float]] = []

    # Time

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._order), action))

    def run_until(self, time: float) -> None:
        while self._queue and self._queue[0][0] <= time:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = time

    def out_of_order(self) -> str:
        """Say which sequence was not begun in its order, or with a job twice."""
        wrong = [name for name, numbers in self.begun.items() if numbers != sorted(set(numbers))]
        return f"{wrong[0]} ran as {self.begun[wrong[0]]}" if wrong else ""

    # Network

    def join(self, peer: SimulatedPeer) -> None:
        self.peers[peer.identity] = peer

    def to_broker(
        self, peer: SimulatedPeer, message: m.Message, epoch: int, frames: Sequence[bytes] = ()
    ) -> None:
        head = self._perhaps_corrupted(codec.encode(message, epoch))
        self._carry(peer, "up", lambda: self.broker.receive(peer.identity, head, frames))

    def to_peer(self, identity: bytes, head: bytes, frames: Sequence[bytes]) -> bool:
        """Send to a peer; False where there is no connection to it, as a ROUTER says it."""
        peer = self.peers.get(identity)
        if peer is None:
            return False
        try:
            decoded, epoch = codec.decode(self._perhaps_corrupted(head))
        except codec.WireError:
            return True  # whoever gets it logs it, and drops it
        self._carry(peer, "down", lambda: peer.hear(decoded, epoch, frames))
        return True

    def _perhaps_corrupted(self, head: bytes) -> bytes:
        if not self.happens(self.faults.corrupted):
            return head
        changed = bytearray(head)
        changed[self.rng.randrange(len(changed))] ^= 1 << self.rng.randrange(8)
        return bytes(changed)

    def _carry(self, peer: SimulatedPeer, direction: str, deliver: Callable[[], None]) -> None:
        if not peer.is_alive or self.happens(self.faults.drop):
            return
        if self.now < self._cut_until and self._loses_what_is_cut:
            return
        copies = 2 if self.happens(self.faults.duplicate) else 1
        connection, life = peer.connection, self.broker.life
        key = (peer.identity, connection, direction)
        for _ in range(copies):
            arrives = max(
                self.now + self.rng.expovariate(1 / self.faults.delay_s),
                self._arrival.get(key, 0.0),
                self._cut_until,
            )
            self._arrival[key] = arrives

            def arrive() -> None:
                if not peer.is_alive or peer.connection != connection:
                    return
                if self.broker.life == life:
                    deliver()
                elif self.happens(self.faults.late):
                    # Something between them has kept it, and another broker is there by then.
                    self.after(self.rng.uniform(0.2, 3.0), lambda: deliver() if peer.is_alive else None)

            self.after(arrives - self.now, arrive)

    def happens(self, probability: float) -> bool:
        return self.is_faulty and self.rng.random() < probability

    # Misfortune

    def begin_misfortune(self) -> None:
        """From now on, things break at the rates of `faults`."""
        for rate, action in (
            (self.faults.breaks_per_s, self._break_a_connection),
            (self.faults.worker_deaths_per_s, self._kill_a_worker),
            (self.faults.node_deaths_per_s, self._kill_a_node),
            (self.faults.broker_deaths_per_s, self.broker.die),
            (self.faults.broker_pauses_per_s, self.broker.pause),
            (self.faults.cuts_per_s, self._cut),
            (self.faults.node_stops_per_s, self._stop_a_node),
            (self.faults.worker_hangs_per_s, lambda: self._strike_a_worker("hang")),
            (self.faults.worker_pauses_per_s, lambda: self._strike_a_worker("pause")),
            (self.faults.node_pauses_per_s, lambda: self.rng.choice(self.nodes).pause()),
            (self.faults.gateway_deaths_per_s, lambda: self.rng.choice(self.gateways).die()),
        ):
            if rate:
                self._again(rate, action)

    def _again(self, rate: float, action: Callable[[], None]) -> None:
        def strike() -> None:
            if self.is_faulty:
                action()
                self._again(rate, action)

        self.after(self.rng.expovariate(rate), strike)

    def _break_a_connection(self) -> None:
        self.peers[self.rng.choice(sorted(self.peers))].connection += 1

    def _cut(self) -> None:
        """Cut the network between the broker and all others: a short cut delays, a long one loses."""
        seconds = self.rng.uniform(1.0, 6.0)
        self._cut_until = self.now + seconds
        self.outages.append((self.now, self._cut_until))
        self._loses_what_is_cut = seconds > CONNECTION_LASTS_S

    def _kill_a_worker(self) -> None:
        self._strike_a_worker("die")

    def _strike_a_worker(self, how: str) -> None:
        workers = [worker for node in self.nodes for worker in node.workers.values()]
        if workers:
            worker = self.rng.choice(workers)
            {"die": lambda: worker.die(None), "hang": worker.hang, "pause": worker.pause}[how]()

    def _kill_a_node(self) -> None:
        self.rng.choice(self.nodes).die()

    def _stop_a_node(self) -> None:
        self.rng.choice(self.nodes).leave()


@dataclass
class Registrations:
    """What clients of the management API were told."""

    wanted: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)

    def faults(self, listed: set[str]) -> list[str]:
        """Say what is not registered though it was acknowledged, or the other way round."""
        lost, foreign = self.wanted - self.unsure - listed, listed - self.wanted - self.unsure
        return [f"{name} was acknowledged, and is not there" for name in sorted(lost)] + [
            f"{name} is there, and was not acknowledged" for name in sorted(foreign)
        ]


class SimulatedBroker:
    """The real core, with a shell whose disk takes a moment."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._registry = MemoryRegistry()
        self._events: list[Event] = []
        self._is_turn_due = False
        self.epoch = 0
        #: Rises with each death: what was on its way to or from the dead one is lost.
        self.life = 0
        self.core: BrokerCore | None = None
        self._sequences = count()
        #: Until when it stands still; what arrives meanwhile lies there.
        self._stands_still_until = 0.0
        #: Turns of its loop; a core that spins shows here.
        self.turns = 0
        self._started_at: list[float] = []
        self.start()

    def start(self) -> None:
        self.epoch += 1
        self._started_at.append(self._world.now)
        self.core = BrokerCore(self._world.settings, self._registry.load(), epoch=self.epoch,
                               now=self._world.now, wall_ms=0,
                               new_sequence_id=lambda: f"made-{next(self._sequences)}",
                               claims=Claims(b"secret"))  # fmt: skip
        self.core.peers.held_per_turn = 1  # so that the small hosts here, too, come back in several turns
        self._turn_soon(0.0)

    def starts_since(self, time: float) -> int:
        """Return how often it has been started since then."""
        return sum(started_at > time for started_at in self._started_at)

    def die(self) -> None:
        if self.core is None:
            return
        self.core = None
        self.life += 1
        self._events.clear()
        self._world.after(self._world.rng.uniform(0.1, 2.0), self.start)

    def pause(self) -> None:
        """Stop for a while: nothing is taken in, nothing is done, and no connection breaks."""
        if self._world.now < self._stands_still_until:
            return
        self._stands_still_until = self._world.now + self._world.rng.choice((0.4, 2.0, 8.0))
        self._world.outages.append((self._world.now, self._stands_still_until))

    def receive(self, identity: bytes, head: bytes, frames: Sequence[bytes]) -> None:
        if self.core is not None:
            try:
                message, epoch = codec.decode(head)
            except codec.WireError as error:
                self._add(Garbled(identity, str(error)))
                return
            self._add(Received(identity, message, epoch, tuple(frames)))

    def _add(self, event: Event) -> None:
        self._events.append(event)
        self._turn_soon(0.0001)

    def _turn_soon(self, seconds: float) -> None:
        if not self._is_turn_due:
            self._is_turn_due = True
            self._world.after(seconds, self._turn)

    def _turn(self) -> None:
        self._is_turn_due = False
        core = self.core
        if core is None:
            return
        if self._world.now < self._stands_still_until:
            self._turn_soon(self._stands_still_until - self._world.now)
            return
        self.turns += 1
        # What has come meanwhile is not all there in its first turn.
        count = self._world.rng.randint(0, len(self._events)) if self._stands_still_until else None
        self._stands_still_until = 0.0
        events, self._events = self._events[:count], self._events[count:] if count is not None else []
        if self._events:
            self._turn_soon(0.0001)
        for effect in core.handle(events, now=self._world.now):
            if self._world.effects is not None:
                self._world.effects.append(repr(effect))
            self._perform(effect)
        invariants.check(core)
        wake_s = core.next_wake() - self._world.now
        self._later(max(0.001, wake_s), lambda: self._turn_soon(0.0))

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Report(event="broker.fault"):
                raise AssertionError(f"a fault in the broker was contained: {effect}")
            case Send(peer, message, frames):
                head = codec.encode(message, self.epoch)
                if not self._world.to_peer(peer, head, frames):  # type: ignore[arg-type]  # bytes here
                    self._add(Unreachable(peer, message))
            case Prepare(token, origin):
                url = origin.url
                config = self._world.config
                prepared = Prepared(f"sha-{url}", 1, url, "1.0", "h", "python", url, config)
                self._later(DISK_S, lambda: self._add(ArchivePrepared(token, prepared)))
            case Store(token, change):
                if self._world.happens(self._world.faults.failed_stores):
                    error = errors.StoreFailed("The registry can't be written.", "its disk is full")
                    self._later(DISK_S, lambda: self._add(Stored(token, error)))
                    return
                self._registry.apply(change)
                self._later(DISK_S, lambda: self._add(Stored(token, None)))

    def registered(self) -> set[str]:
        """Return the models on its disk."""
        return {record.model for record in self._registry.catalog}

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something after a while, unless the broker has died meanwhile."""
        life = self.life

        def act() -> None:
            if life == self.life:
                action()

        self._world.after(seconds, act)


class SimulatedGateway:
    """The real session; clients whose answers are checked against what they asked."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number
        self._lives = 0
        self.requests: list[Request] = []
        self._start()

    def _start(self) -> None:
        settings = GatewaySettings(broker_outage_limit_s=20.0)
        number, world = self._number, self._world
        self.session: GatewaySession[Request] = GatewaySession(
            settings, name=f"g{number}", pid=number, now=world.now
        )
        suffix = b"-%d" % self._lives if self._lives else b""
        self._lives += 1
        self._peer = SimulatedPeer(b"g%d%s" % (number, suffix), self._hear)
        world.join(self._peer)
        self._tick(self._lives)

    def die(self) -> None:
        """End as a process does: clients see their connections break; another one is started."""
        if not self._peer.is_alive:
            return
        self._peer.is_alive = False
        del self._world.peers[self._peer.identity]
        for request in self.requests:
            if not request.outcomes:
                request.settle(None)
        self._world.after(self._world.rng.uniform(0.1, 1.0), self._start)

    def request(self, *models: str, waits_s: float | None = None) -> None:
        """Let a client of each of these models ask for something of its own, all at once."""
        for model in models or (MODEL,):
            self._submit(model, waits_s)
        self._flush()

    def _submit(self, model: str, waits_s: float | None) -> None:
        number = len(self.requests)
        payload = b"g%d-%d" % (self._number, number)
        # A sequence is one gateway's here: only then is its order known.
        sequence = f"g{self._number}/{number % SEQUENCES}"
        request = Request(payload, self._world.now, [] if number % 4 else [payload * 2])
        if waits_s is not None:
            request.answer_by = self._world.now + waits_s
        self.requests.append(request)
        if not self._peer.is_alive:
            request.settle(None)  # nobody takes its connection
            return
        try:
            self.session.submit(
                request, model, None, payload, request.bodies, is_describe=False, sequence=sequence,
                answer_by=request.answer_by, now=self._world.now,
            )  # fmt: skip
        except errors.RelayError as error:
            request.settle(error)

    def poison(self, content: bytes) -> None:
        """Let a client ask for something that ends the worker which runs it."""
        number = len(self.requests)
        meta, _ = codec.pack_request(f"{self._peer.identity.decode()}-{number}", (), [("body", "", content)])
        request = Request(meta, self._world.now, is_poison=True)
        self.requests.append(request)
        self._world.poisons.add(meta)
        self.session.submit(request, MODEL, None, meta, [], is_describe=False, now=self._world.now)
        self._flush()

    def leave(self, request: "Request") -> None:
        """Let a client hang up."""
        if request.outcomes:
            return
        self.session.forget(request)
        request.settle(None)
        self._world.left[request.payload] = self._world.now
        self._flush()

    def register(self, workers: int, batch_size: int, model: str = MODEL) -> None:
        ask = m.RegisterModel(0, model, initial_workers=workers, batch_size=batch_size,
                              max_batch_delay_ms=20, response_timeout_s=8, synchronous=False)  # fmt: skip
        self._ask(Request(b"", self._world.now), ask)

    def change(self, name: str, *, is_there: bool) -> None:
        """Let a client of the management API register a model without workers, or unregister it."""
        ask: m.Ask = m.UnregisterModel(0, name, None)
        if is_there:
            ask = m.RegisterModel(0, name, initial_workers=0, synchronous=True)
        self._ask(
            Change(
                b"", self._world.now, registrations=self._world.registrations, name=name, is_there=is_there
            ),
            ask,
        )

    def _ask(self, request: "Request", ask: m.Ask) -> None:
        if not self._peer.is_alive:
            return
        if isinstance(request, Change):
            self.requests.append(request)
        try:
            self.session.ask(request, ask, now=self._world.now)
        except errors.RelayError as error:
            request.settle(error)
        self._flush()

    def _hear(self, message: m.Message, epoch: int, frames: Sequence[bytes]) -> None:
        self._settle(self.session.hear(message, epoch, frames, now=self._world.now))
        self._flush()

    def _tick(self, life: int) -> None:
        if life != self._lives or not self._peer.is_alive:
            return
        self._settle(self.session.tick(self._world.now))
        self._flush()
        self._world.after(TICK_S, lambda: self._tick(life))

    def _settle(self, settled: Sequence[tuple["Request", Outcome]]) -> None:
        for request, outcome in settled:
            request.settle(outcome)
            if request.answer_by is not None and request.outcomes:
                late_s = self._world.now - request.answer_by
                assert late_s < LATE_GRACE_S + 2 * TICK_S, f"{request.payload!r} hears {late_s} s late"

    def _flush(self) -> None:
        for message, frames in self.session.outgoing(self._world.now):
            epoch = 0 if isinstance(message, m.HelloGateway) else self.session.epoch
            self._world.to_broker(
                self._peer, message, epoch, [bytes(codec.payload(frame)) for frame in frames]
            )


@dataclass
class Request(Pending):
    """What one client asked, and every outcome it was given; `parts` came before it."""

    payload: bytes
    asked_at: float
    #: Its large body, if it has one; the answer has the same.
    bodies: list[bytes] = field(default_factory=list)
    outcomes: list[Outcome | None] = field(default_factory=list)
    got: int = 0
    is_poison: bool = False
    #: When its client gives up, if it has said so.
    answer_by: float | None = None

    def settle(self, outcome: Outcome | None) -> None:
        assert not self.outcomes, f"{self.payload!r} is settled, and now {outcome}"
        if isinstance(outcome, Answer):
            wanted = b"%s/%d" % (self.payload, self.got)
            assert outcome.meta == wanted, f"{wanted!r} was given {outcome.meta!r}"
            assert [bytes(codec.payload(frame)) for frame in outcome.frames] == self.bodies
            if not outcome.is_final:
                self.got += 1
                return
        self.outcomes.append(outcome)


@dataclass
class Change(Request):
    """A change of what is registered: the model must be there then, or not be."""

    registrations: Registrations = field(default_factory=Registrations)
    name: str = ""
    is_there: bool = True

    def settle(self, outcome: Outcome | None) -> None:
        """Keep what the client may count on from now on."""
        assert not self.outcomes, f"{self.name} is settled, and now {outcome}"
        self.outcomes.append(outcome)
        known = self.registrations
        if isinstance(outcome, m.Reply):
            (known.wanted.add if self.is_there else known.wanted.discard)(self.name)
        else:
            known.unsure.add(self.name)


class SimulatedNode:
    """A host: starts workers as it is told; when it dies, so do they."""

    def __init__(
        self,
        world: World,
        number: int,
        slots: int,
        memory_bytes: int = 0,
        labels: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._world = world
        self.number = number
        self._slots = slots
        self.memory_bytes = memory_bytes
        self.labels = labels
        self._lives = 0
        #: What it was ordered to start, and beside which workers.
        self.orders: list[tuple[m.StartWorker, list[m.HeldWorker]]] = []
        self.workers: dict[int, SimulatedWorker] = {}
        self.stands_still_until = 0.0
        self._start()

    @property
    def name(self) -> str:
        return f"n{self.number}"

    def pause(self) -> None:
        """Stand still as a host does that sleeps: nothing is done, no connection breaks."""
        self.stands_still_until = self._world.now + self._world.rng.choice((0.5, 2.0, 5.0))

    def _start(self) -> None:
        self._lives += 1
        #: When it stops at the latest, once it is told to; None while it stays.
        self._leaves_at: float | None = None
        self._session = PeerSession(self._world.now)
        self._peer = SimulatedPeer(b"n%d-%d" % (self.number, self._lives), self._hear)
        self._world.join(self._peer)
        self._tick(self._lives)

    def die(self) -> None:
        """Lose power; come back after a while, empty."""
        if not self._peer.is_alive:
            return
        self._peer.is_alive = False
        del self._world.peers[self._peer.identity]
        for worker in list(self.workers.values()):
            worker.vanish()
        self.workers.clear()
        self._world.after(self._world.rng.uniform(0.5, 6.0), self._start)

    def leave(self) -> None:
        """Be told to stop: wait until the workers have been replaced, as far as the grace goes."""
        if self._peer.is_alive and self._leaves_at is None:
            self._leaves_at = self._world.now + NODE_GRACE_S

    def _go_on_leaving(self, leaves_at: float) -> None:
        left_s = leaves_at - self._world.now
        if self.workers and left_s > 0:
            self.report(m.NodeLeaves(max(1, int(left_s * 1000))))
            return
        self.report(m.Bye())
        for worker in list(self.workers.values()):
            worker.stop(kill=False)
        # What it has just said is under way; who loses power says nothing more.
        self._world.after(NODE_LAST_SENDS_S, self.die)

    def _hear(self, message: m.Message, epoch: int, frames: Sequence[bytes]) -> None:
        if not self._peer.is_alive:
            return
        if self._world.now < self.stands_still_until:
            left_s = self.stands_still_until - self._world.now
            self._world.after(left_s, lambda: self._hear(message, epoch, frames))
            return
        match self._session.heard(message, epoch, self._world.now):
            case m.StartWorker() as order if order.worker_id not in self.workers:
                self.orders.append((order, [worker.held for worker in self.workers.values()]))
                self.workers[order.worker_id] = SimulatedWorker(self._world, self, order)
            case m.StopWorker(worker_id, kill) if worker_id in self.workers:
                self.workers[worker_id].stop(kill)

    def report(self, message: m.Message) -> None:
        self._world.to_broker(self._peer, message, self._session.epoch)

    def _tick(self, life: int) -> None:
        if life != self._lives or not self._peer.is_alive:
            return
        if self._world.now < self.stands_still_until:
            # What came meanwhile is read first.
            left_s = self.stands_still_until - self._world.now + TICK_S
            self._world.after(left_s, lambda: self._tick(life))
            return
        match self._session.due(self._world.now):
            case "hello":
                held = tuple(worker.held for worker in self.workers.values())
                devices = (m.Device("cpu", "cpu"),)
                hello = m.HelloNode(m.PROTOCOL_VERSION, self.name, devices, self._slots, held, self.labels,
                                    self.memory_bytes)  # fmt: skip
                self._world.to_broker(self._peer, hello, 0)
            case "beat":
                self.report(m.NodeBeat(tuple((worker_id, 1) for worker_id in self.workers)))
                if self._leaves_at is not None:
                    self._go_on_leaving(self._leaves_at)
        self._world.after(TICK_S, lambda: self._tick(life))


class SimulatedWorker:
    """A worker process: one thread, so that it hears nothing while it runs a batch.

    One of a model whose jobs run side by side begins each as it comes.
    """

    def __init__(self, world: World, node: SimulatedNode, order: m.StartWorker) -> None:
        self._world = world
        self._node = node
        self._order = order
        self.held = m.HeldWorker(order.worker_id, order.model, order.version, order.archive, order.device, 1,
                                 order.claim, devices=order.devices,
                                 reserved_bytes=order.reserved_bytes)  # fmt: skip
        self._peer = SimulatedPeer(b"w%d-%d" % (node.number, order.worker_id), self._post)
        self._mail: list[tuple[m.Message, int, Sequence[bytes]]] = []
        self._leases = HeldLeases()
        self._session: PeerSession | None = None
        self._is_busy = self._is_told_to_stop = self._hangs = False
        self._stands_still_until = 0.0
        world.after(world.rng.uniform(*world.loading_s), self._loaded)

    def _loaded(self) -> None:
        if not self._peer.is_alive:
            return
        if self._world.is_faulty and self._world.rng.random() < self._world.faults.failed_loads:
            self.die("ValueError: no weights")
            return
        self._session = PeerSession(self._world.now)
        self._world.join(self._peer)
        self._turn()

    def stop(self, kill: bool) -> None:
        self._is_told_to_stop = True
        if kill or not (self._is_busy or self._hangs or self._still_s()):
            self.die("told to stop")

    def die(self, reason: str | None) -> None:
        """End; the node sees it."""
        self.vanish()
        self._node.workers.pop(self._order.worker_id, None)
        signal = 9 if reason is None else None
        self._node.report(
            m.WorkerExited(
                self._order.worker_id,
                None,
                signal,
                reason or "killed by signal 9",
                False,
                (),
                of_itself=reason is None,
            )
        )

    def hang(self) -> None:
        """Do nothing ever again."""
        self._hangs = True

    def pause(self) -> None:
        """Stand still for a while."""
        self._stands_still_until = self._world.now + self._world.rng.choice((0.5, 3.0, 10.0))

    def _still_s(self) -> float:
        """Return for how long it stands still from now on."""
        until = max(self._stands_still_until, self._node.stands_still_until)
        return max(0.0, until - self._world.now)

    def vanish(self) -> None:
        self._peer.is_alive = False
        self._world.peers.pop(self._peer.identity, None)

    def _post(self, message: m.Message, epoch: int, frames: Sequence[bytes]) -> None:
        self._mail.append((message, epoch, frames))

    def _turn(self) -> None:
        if not self._peer.is_alive or self._is_busy or self._hangs:
            return
        if still_s := self._still_s():
            self._world.after(still_s, self._turn)
            return
        self._read_mail()
        if not self._peer.is_alive:
            return
        self._send()
        self._say_what_is_due()
        while batch := self._leases.next_batch():
            self._begin(batch)
            if self._is_busy:
                return
        self._world.after(TICK_S / 2, self._turn)

    def _read_mail(self) -> None:
        session = self._session
        assert session is not None
        for message, epoch, frames in self._mail:
            match session.heard(message, epoch, self._world.now):
                case m.Assign() as assign:
                    for batch in batches_of(assign, [memoryview(frame) for frame in frames], self._world.now):
                        self._leases.assigned(batch)
                case m.Missed(after):
                    self._leases.missed(after)
                case m.AnswerAgain(leases):
                    self._leases.answer_again(leases)
                case None if isinstance(message, m.Beat) and epoch == session.epoch:
                    self._leases.heard(message.serial)
                case m.Welcome(is_new=True, keeps_leases=False):
                    self._leases.forget()
                case m.Leave():
                    self.die("sent away")
                    return
        self._mail.clear()

    def _say_what_is_due(self) -> None:
        session = self._session
        assert session is not None
        match session.due(self._world.now):
            case "hello":
                o = self._order
                hello = m.HelloWorker(m.PROTOCOL_VERSION, o.worker_id, self._node.name, o.model, o.version,
                                      o.archive, o.device, 1, o.claim, held=self._leases.named,
                                      next_serial=self._leases.serial + 1)  # fmt: skip
                self._world.to_broker(self._peer, hello, 0)
            case "beat":
                self._world.to_broker(
                    self._peer,
                    m.WorkerBeat(self._leases.held, session.heard_beat, serial=self._leases.serial),
                    session.epoch,
                )

    def _begin(self, batch: Batch) -> None:
        config = self._world.config
        self._is_busy = not (config.continuous_batching or config.async_communication)
        names = [job.sequence for job in batch.jobs if job.sequence]
        assert len(names) == len(set(names)), "two jobs of one sequence in a batch"
        self._world.runs.update(bytes(job.meta) for job in batch.jobs)
        for job in batch.jobs:
            if job.sequence:
                self._world.begun[job.sequence].append(int(bytes(job.meta).rpartition(b"-")[2]))
            left_at = self._world.left.get(bytes(job.meta))
            if left_at is not None and self._world.now - left_at > LEFT_LONG_AGO_S:
                self._world.begun_in_vain.append(bytes(job.meta))
        if any(job.meta in self._world.poisons for job in batch.jobs):
            self._world.after(self._world.rng.uniform(0.001, 0.05), self._succumb)
            return
        parts = self._world.rng.randint(0, self._world.parts_max)
        began_at = self._world.now
        self._world.after(
            self._world.rng.uniform(*self._world.running_s), lambda: self._go_on(batch, 0, parts, began_at)
        )

    def _succumb(self) -> None:
        """End by what one of its jobs did."""
        if self._peer.is_alive:
            self._world.poisoned += 1
            self.die(None)

    def _go_on(self, batch: Batch, number: int, parts: int, began_at: float) -> None:
        """Send the next part of each answer of a batch, or the last."""
        if not self._peer.is_alive or self._hangs:
            return
        if still_s := self._still_s():
            self._world.after(still_s, lambda: self._go_on(batch, number, parts, began_at))
            return
        metas = [b"%s/%d" % (job.meta, number) for job in batch.jobs]
        counts = [len(job.frames) for job in batch.jobs]
        frames = [frame for job in batch.jobs for frame in job.frames]
        if number == parts:
            items = tuple(map(m.CompletedItem, repeat(200), metas, counts))
            ran_s = self._world.told_s or self._world.now - began_at
            self._leases.completed(batch.lease, round(1e6 * ran_s), items, frames)
        else:
            self._leases.streamed(
                batch.lease, tuple(map(m.StreamedItem, range(len(metas)), metas, counts)), frames
            )
        self._send()
        if number < parts:
            self._world.after(
                self._world.rng.uniform(0.001, 0.05), lambda: self._go_on(batch, number + 1, parts, began_at)
            )
        elif self._is_busy:
            self._finish()

    def _send(self) -> None:
        assert self._session is not None
        while first := self._leases.first():
            done, frames = first
            self._world.to_broker(
                self._peer, done, self._session.epoch, [bytes(codec.payload(frame)) for frame in frames]
            )
            self._leases.sent()

    def _finish(self) -> None:
        self._is_busy = False
        if self._is_told_to_stop:
            self.die("told to stop")
        else:
            self._turn()
