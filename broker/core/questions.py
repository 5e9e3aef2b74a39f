"""Answers to questions about the broker's state: they read, and change nothing. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import msgspec

from torchrelay.broker.core.answers import Gateway, Send, ask_refused
from torchrelay.broker.core.states import LIVE, WorkerState
from torchrelay.broker.core.stats import Stats, VersionStats, samples_of
from torchrelay.broker.core.torchserve_metrics import Metrics
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.nodes import FleetNode
from torchrelay.broker.fleet.worker import FleetWorker
from torchrelay.broker.jobs.jobs import Jobs
from torchrelay.broker.jobs.queues import VersionQueue
from torchrelay.broker.membership.members import Members
from torchrelay.broker.membership.shown_members import members_read
from torchrelay.broker.models.catalog import Catalog, Key
from torchrelay.broker.models.changes import Management
from torchrelay.broker.models.records import VersionRecord, WorkflowRecord, model_of_step
from torchrelay.shared import errors
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.reply_parts import joined

#: Questions answered in one turn; one of the whole fleet, which takes the longer the larger that is, is one.
QUESTIONS_PER_TURN = 8
#: Of a question about the whole fleet, what one turn answers, in about 2 ms with its message: versions that
#: are looked at, samples of metrics, and versions of which those are read; ten for a version and one for a
#: worker of the facts.
RECORDS_PER_STEP = 500
SAMPLES_PER_PART = 400
VERSIONS_PER_STEP = 30
HISTOGRAMS_PER_STEP = 5
FACTS_PER_PART = 1000
#: Questions that wait: as many as two gateways may have.
QUESTIONS_LIMIT = 1024
#: Contents of a version that are shown as quarantined; somebody who sends many sends much the same.
QUARANTINED_SHOWN = 10

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class BrokerState:
    """What is read for answers."""

    settings: BrokerSettings
    catalog: Catalog
    fleet: Fleet
    jobs: Jobs
    management: Management
    stats: Stats
    metrics: Metrics
    gateways: Mapping[bytes, Gateway]
    members: Members
    epoch: int
    started_at: float
    #: Turn a time of the core into milliseconds since 1970, and into one of the monotonic clock.
    wall_ms: Callable[[float], int]
    real_time: Callable[[float], float]


@dataclass(eq=False)
class Questions:
    """The questions that wait; some are answered each turn, so that many hold nobody else up for long.

    One of the whole fleet is answered in steps, one a turn.
    """

    _state: BrokerState
    _send: Send
    #: By gateway and its own number, in the order in which they came but for the one that is being answered.
    waiting: dict[tuple[bytes, int], m.Question] = field(default_factory=dict)
    #: Whose question that is, and the steps that are left of it.
    _begun: tuple[tuple[bytes, int], Iterator[m.Reply | None]] | None = None

    def ask(self, peer: bytes, question: m.Question) -> None:
        """Let a gateway's question wait for its answer, or refuse it where too many do."""
        if len(self.waiting) < QUESTIONS_LIMIT:
            self.waiting[peer, question.ask] = question
        else:
            why = f"{QUESTIONS_LIMIT} questions wait for their answers"
            busy = errors.ServiceUnavailable("The broker is busy.", why)
            self._send(peer, ask_refused(question.ask, busy), ())

    def answer_some(self, now: float) -> None:
        """Answer the oldest questions, as many as a turn has; those of gateways that left are dropped."""
        left = QUESTIONS_PER_TURN
        while left > 0 and self.waiting:
            if self._begun is not None:
                (asker, steps), self._begun = self._begun, None
                question = self.waiting.pop(asker)
            else:
                asker, question = next(iter(self.waiting.items()))
                del self.waiting[asker]
                steps = _steps(self._state, question, now)
            left -= _cost(question)
            if not self._take_step(asker, steps):
                self.waiting[asker] = question
                self._begun = asker, steps

    def _take_step(self, asker: tuple[bytes, int], steps: Iterator[m.Reply | None]) -> bool:
        """Take one step to an answer, and send what came of it; tell whether it was the last."""
        gateway = self._state.gateways.get(asker[0])
        if gateway is None:
            return True
        # A gateway whose protocol knows no parts gets them as one.
        reply = _in_one(steps) if gateway.unheard is None else next(steps)
        if reply is None:
            return False
        self._send(gateway.peer, reply, ())
        return not isinstance(reply, m.FleetRead | m.MetricsRead) or reply.is_last


def _cost(question: m.Question) -> int:
    match question:
        case m.ReadFleet() | m.ReadMetrics() | m.ReadHealth() | m.ReadReadiness() | m.ListModels():
            return QUESTIONS_PER_TURN
        case m.ListWorkflows():
            return QUESTIONS_PER_TURN
        case m.DescribeModel() | m.DescribeWorkflow() | m.ReadMembers():
            return 1


def _in_one(steps: Iterator[m.Reply | None]) -> m.Reply:
    """Take all steps, and make one reply of all parts."""
    replies = [reply for reply in steps if reply is not None]
    parts = [reply for reply in replies if isinstance(reply, m.FleetRead | m.MetricsRead)]
    return joined(parts) if parts else replies[-1]


def _steps(state: BrokerState, question: m.Question, now: float) -> Iterator[m.Reply | None]:
    """Answer a question in steps, of which each takes a few milliseconds; the last gives the answer."""
    match question:
        case m.ReadFleet(number):
            yield from fleet_parts(state, number, now)
        case m.ReadMetrics(number):
            yield from metrics_parts(state, number, now)
        case m.ReadHealth(number):
            reasons: list[str] = []
            for records in _some(state.catalog, RECORDS_PER_STEP):
                reasons += health_reasons(state, records, now)
                if len(records) == RECORDS_PER_STEP:
                    yield None
            is_starting = state.management.is_starting
            yield m.HealthRead(number, not (reasons or is_starting), is_starting)
        case m.ReadReadiness(number):
            versions: list[m.VersionReadiness] = []
            for records in _some(state.catalog, RECORDS_PER_STEP):
                versions += [readiness_of(state, record, now) for record in records]
                if len(records) == RECORDS_PER_STEP:
                    yield None
            versions += readiness_of_missing(state)
            yield m.ReadinessRead(number, tuple(versions), state.management.is_starting)
        case _:
            yield _answer(state, question, now)


def _some(items: Iterable[ItemT], count: int) -> Iterator[list[ItemT]]:
    """Yield the items that there are now, some at a time, and [] once where there are none."""
    every = list(items)
    return (every[start : start + count] for start in range(0, len(every) or 1, count))


def _answer(
    state: BrokerState,
    question: m.DescribeModel | m.ListModels | m.ReadMembers | m.WorkflowQuestion,
    now: float,
) -> m.Reply:
    """Answer a question at once; an unknown model or workflow is refused."""
    try:
        match question:
            case m.DescribeModel(number, model, version, every):
                catalog = state.catalog
                records = catalog.versions_of(model) if every else [catalog.resolve(model, version)]
                return m.ModelDescribed(number, _all_facts(state, records, now))
            case m.ListModels(number, limit, offset):
                entries, next_offset = state.catalog.page(limit, offset)
                return m.ModelsListed(number, tuple(entries), next_offset)
            case m.DescribeWorkflow(number, workflow):
                return workflow_described(number, state.catalog.workflow(workflow))
            case m.ListWorkflows(number, limit, offset):
                listed, next_offset = state.catalog.workflow_page(limit, offset)
                return m.WorkflowsListed(number, tuple(listed), next_offset)
            case m.ReadMembers(number, role):
                here = state.fleet.nodes.values() if role == "node" else state.gateways.values()
                return members_read(number, role, here, state.fleet, state.members, now)
    except errors.RelayError as error:
        return ask_refused(question.ask, error)


def workflow_described(ask: int, record: WorkflowRecord) -> m.WorkflowDescribed:
    """Describe a workflow."""
    spec = record.spec
    successors = dict(spec.dag)
    return m.WorkflowDescribed(
        ask,
        record.name,
        record.url,
        spec.defaults.min_workers,
        spec.defaults.max_workers,
        spec.defaults.batch_size,
        spec.defaults.max_batch_delay_ms,
        tuple(
            m.StepFacts(
                step.name,
                model_of_step(record.name, step.name),
                step.settings.retry_attempts,
                step.settings.timeout_ms,
                successors.get(step.name, ()),
                step.name in successors,
            )
            for step in spec.steps
        ),
    )


def _all_facts(
    state: BrokerState, records: Iterable[VersionRecord], now: float
) -> tuple[m.VersionFacts, ...]:
    return tuple(version_facts(state, record, now) for record in records)


def version_facts(state: BrokerState, record: VersionRecord, now: float) -> m.VersionFacts:
    """Describe one version."""
    key = (record.model, record.version)
    config, wish = record.config, record.config.placement
    queue = state.jobs.queues.get(key)
    return m.VersionFacts(
        model=record.model,
        version=record.version,
        is_default=state.catalog.is_default(record),
        url=record.url,
        runtime=record.runtime,
        min_workers=record.min_workers,
        max_workers=record.max_workers,
        batch_size=record.batch_size,
        max_batch_delay_ms=record.max_batch_delay_ms,
        response_timeout_s=record.response_timeout_s,
        startup_timeout_s=record.startup_timeout_s,
        restart_window_s=_or(config.restart_window_s, state.settings.restart_window_s),
        loaded_at_startup=record.loaded_at_startup,
        queue_depth=len(queue) if queue else 0,
        queue_limit=config.job_queue_size or state.settings.job_queue_size,
        oldest_wait_ms=int(_oldest_wait_s(queue, now) * 1000),
        workers=tuple(
            m.WorkerFacts(
                worker.worker_id,
                worker.state.value,
                worker.node_name,
                worker.device,
                worker.pid,
                state.wall_ms(worker.started_at),
                worker.memory_bytes,
                sum(len(lease.jobs) for lease in worker.leases),
                worker.note,
                _gpu_use(state, worker),
            )
            for worker in state.fleet.of_record(record)
        ),
        explanation=state.fleet.explain(record, now),
        last_error=state.fleet.condition(key).last_error,
        client_timeout_ms=config.client_timeout_ms,
        parallel_type=config.parallel_type,
        parallel_level=config.parallel_level,
        device_type=_device_type(state, record),
        device_ids=config.device_ids,
        continuous_batching=config.continuous_batching,
        use_job_ticket=config.use_job_ticket,
        use_venv=config.use_venv,
        sequence_batching=config.sequence_batching,
        sequence_max_idle_ms=config.sequence_max_idle_ms,
        sequence_timeout_ms=config.sequence_timeout_ms,
        # As in TorchServe, which counts sequences only where they may idle.
        max_sequences=config.max_sequences if config.sequence_max_idle_ms else 0,
        max_sequence_queue_jobs=config.max_sequence_queue_jobs if config.sequence_max_idle_ms else 0,
        quarantined=() if queue is None else _quarantined(queue, now),
        strategy=wish.strategy if wish else "",
        memory_bytes=wish.memory_bytes if wish else 0,
        labels=wish.labels if wish else (),
        workflow=record.workflow,
    )


def _oldest_wait_s(queue: VersionQueue | None, now: float) -> float:
    oldest = queue.oldest if queue else None
    return now - oldest.arrived_at if oldest else 0.0


def _quarantined(queue: VersionQueue, now: float) -> tuple[m.QuarantinedItem, ...]:
    return tuple(
        m.QuarantinedItem(
            one.request_id, one.reason, one.deaths, one.refused, int(1000 * (one.forgotten_at - now))
        )
        for one in queue.suspicions.quarantined()[:QUARANTINED_SHOWN]
        if one.forgotten_at > now
    )


def _gpu_use(state: BrokerState, worker: FleetWorker) -> m.GpuUse | None:
    node = state.fleet.nodes.get(worker.node) if worker.node is not None else None
    return node.gpus.get(worker.device) if node else None


def _device_type(state: BrokerState, record: VersionRecord) -> Literal["cpu", "gpu"]:
    """Say what its workers run on; without a word of the archive, what the fleet has."""
    workers = state.fleet.of_version((record.model, record.version))
    if workers:
        return "cpu" if workers[0].gpu_id is None else "gpu"
    if record.config.device_type == "cpu":
        return "cpu"
    has_gpu = any(device.kind == "gpu" for node in state.fleet.staying_nodes for device in node.devices)
    return "gpu" if has_gpu else "cpu"


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def fleet_parts(state: BrokerState, ask: int, now: float) -> Iterator[m.FleetRead]:
    """Describe the whole fleet, some versions in each part."""
    nodes = tuple(
        m.NodeFacts(
            node.name,
            node.devices,
            node.slots,
            len(state.fleet.of_node(node.peer)),
            state.wall_ms(node.last_heard),
            tuple(sorted(node.labels)),
            _taken_bytes(state, node),
            is_draining=state.fleet.is_draining(node),
        )
        for node in sorted(state.fleet.staying_nodes, key=lambda n: (n.name, n.peer))
    )
    uptime_s = state.real_time(now) - state.real_time(state.started_at)
    first = m.FleetRead(ask, state.epoch, uptime_s, len(state.gateways), nodes, (),
                        tuple(state.management.loading), state.catalog.not_loaded)  # fmt: skip
    rest = msgspec.structs.replace(first, nodes=(), loading=(), not_loaded=())
    records = sorted(state.catalog, key=lambda r: (r.model, r.version))
    number, size = 0, 0
    facts: list[m.VersionFacts] = []
    for record in records:
        if size >= FACTS_PER_PART:
            part = rest if number else first
            yield msgspec.structs.replace(part, versions=tuple(facts), part=number, is_last=False)
            number, size = number + 1, 0
            facts = []
        facts.append(version_facts(state, record, now))
        size += 10 + len(facts[-1].workers)
    yield msgspec.structs.replace(rest if number else first, versions=tuple(facts), part=number)


def _taken_bytes(state: BrokerState, node: FleetNode) -> tuple[int, ...]:
    taken = state.fleet.taken_bytes(node)
    return tuple(taken[device.name] for device in node.devices) if taken else ()


def health_reasons(state: BrokerState, records: Iterable[VersionRecord], now: float) -> tuple[str, ...]:
    """Name the default versions among some that lack workers and won't get them by themselves.

    As TorchServe's /ping: workers that are starting, or have crashed for less than the model's recovery
    window, count as healthy. What it doesn't know counts by what is said: a worker whose handler isn't ready
    is none, and a version that has no worker and nowhere to start one lacks it.
    """
    return tuple(
        f"{record.model} {record.version}: {state.fleet.explain(record, now)}"
        for record in records
        if state.catalog.is_default(record)
        and state.fleet.ready_count(record.key) < record.min_workers
        and (
            _is_past_recovery(state, record, now)
            or any(worker.state is WorkerState.UNREADY for worker in state.fleet.of_version(record.key))
            or state.fleet.is_unplaced(record, now)
        )
    )


def _is_past_recovery(state: BrokerState, record: VersionRecord, now: float) -> bool:
    condition = state.fleet.condition(record.key)
    window_s = _or(record.config.restart_window_s, state.settings.restart_window_s)
    return condition.failures > 0 and now - condition.first_failure_at >= window_s


def readiness_of(state: BrokerState, record: VersionRecord, now: float) -> m.VersionReadiness:
    """Tell of a version whether it can answer now."""
    is_ready = state.fleet.ready_count(record.key) > 0
    why_not = "" if is_ready else state.fleet.explain(record, now) or "it has been scaled to 0 workers"
    is_default = state.catalog.is_default(record)
    return m.VersionReadiness(*record.key, is_default, is_ready, record.min_workers > 0, why_not)


def readiness_of_missing(state: BrokerState) -> list[m.VersionReadiness]:
    """Tell the same of each model of the start that isn't registered: it can't."""
    missing = state.catalog.not_loaded
    known = {record.model for record in state.catalog} if missing else set()
    return [
        m.VersionReadiness(one.model, "", one.model not in known, False, True,
                           f"it could not be loaded at start: {one.reason}") for one in missing
    ]  # fmt: skip


def metrics_parts(state: BrokerState, ask: int, now: float) -> Iterator[m.MetricsRead | None]:
    """Read all metrics, some samples in each part."""
    number, size = 0, 0
    families: list[m.MetricFamily] = []
    for some in _families(state, now):
        added = sum(len(one.samples) for one in some)
        if size + added > SAMPLES_PER_PART and families:
            yield m.MetricsRead(ask, tuple(families), number, is_last=False)
            number, size = number + 1, 0
            families = []
        elif not some:
            yield None
        families += some
        size += added
    yield m.MetricsRead(ask, tuple(families), number)


def _families(state: BrokerState, now: float) -> Iterator[list[m.MetricFamily]]:
    """Yield all families of metrics, those with many samples bit by bit, and [] after work without any.

    Names follow Prometheus' habits (base units, `_total`).
    """
    for family in state.metrics.families(state.stats, state.wall_ms(now)):
        yield [] if family is None else [family]
    if not state.settings.own_metrics:
        return
    for versions in _some(state.stats.versions.items(), VERSIONS_PER_STEP):
        yield [_family("torchrelay_requests_total", "counter", "Requests that ended, by outcome.", [
            _sample({"model": model, "version": version, "outcome": outcome}, count)
            for (model, version), stats in versions
            for outcome, count in stats.outcomes.items()
        ])]  # fmt: skip
    yield [
        _family("torchrelay_http_responses_total", "counter", "HTTP answers of all gateways.", [
            _sample({"class": name}, count) for name, count in state.stats.responses.items()
        ]),
        _family("torchrelay_worker_failures_total", "counter", "Workers that ended unasked.", [
            _sample({"model": model, "version": version}, count)
            for (model, version), count in state.stats.worker_failures.items()
        ]),
        _family("torchrelay_retries_total", "counter", "Jobs given to another worker after theirs was lost.",
                [_sample({}, state.stats.retries)]),
        _family("torchrelay_stale_results_total", "counter", "Results that came after their lease had ended.",
                [_sample({}, state.stats.stale_results)]),
        _family("torchrelay_metric_points_dropped_total", "counter", "Measured values that were not taken.",
                [_sample({"reason": reason}, count) for reason, count in state.metrics.dropped.items()]),
        _family("torchrelay_misunderstood_messages_total", "counter", "Messages that could not be read.",
                [_sample({}, state.stats.misunderstood)]),
        _family("torchrelay_wrong_keys_total", "counter", "Keys that opened nothing, at all gateways.",
                [_sample({}, state.stats.wrong_keys)]),
    ]  # fmt: skip
    for records in _some(state.catalog, VERSIONS_PER_STEP):
        yield _version_gauges(state, records, now)
    yield _fleet_gauges(state)
    for workers in _some(state.fleet.workers.values(), SAMPLES_PER_PART // 2):
        yield [_family("torchrelay_worker_memory_bytes", "gauge", "Resident memory of workers.", [
            _sample({"node": worker.node_name, "model": worker.key[0], "version": worker.key[1],
                     "worker": str(worker.worker_id)}, worker.memory_bytes) for worker in workers
        ])]  # fmt: skip
    yield [
        _family("torchrelay_nodes", "gauge", "Nodes that have joined.",
                [_sample({}, len(state.fleet.staying_nodes))]),
        _family("torchrelay_gateways", "gauge", "Gateway processes.", [_sample({}, len(state.gateways))]),
    ]  # fmt: skip
    # A fleet with a thousand idle models has room for its busy ones.
    busy = (one for one in state.stats.versions.items() if one[1].submitted)
    for versions in _some(busy, HISTOGRAMS_PER_STEP):
        yield _histograms(versions)


def _version_gauges(state: BrokerState, records: Iterable[VersionRecord], now: float) -> list[m.MetricFamily]:
    depths, waits, running, workers, quarantined = [], [], [], [], []
    for record in records:
        labels = {"model": record.model, "version": record.version}
        queue = state.jobs.queues.get(record.key)
        of_version = state.fleet.of_record(record)
        depths.append(_sample(labels, len(queue) if queue else 0))
        waits.append(_sample(labels, int(_oldest_wait_s(queue, now) * 1000) / 1000))
        jobs = sum(len(lease.jobs) for worker in of_version for lease in worker.leases)
        running.append(_sample(labels, jobs))
        quarantined.append(_sample(labels, 0 if queue is None else len(queue.suspicions.quarantined())))
        workers.append(_sample({**labels, "state": "wanted"}, record.min_workers))
        states = Counter(worker.state for worker in of_version)
        workers += [_sample({**labels, "state": one.value}, states[one]) for one in WorkerState
                    if one is not WorkerState.GONE]  # fmt: skip
    return [
        _family("torchrelay_queue_depth", "gauge", "Jobs that wait.", depths),
        _family("torchrelay_queue_oldest_wait_seconds", "gauge", "How long the oldest has waited.", waits),
        _family("torchrelay_jobs_running", "gauge", "Jobs on workers.", running),
        _family("torchrelay_quarantined_contents", "gauge",
                "Contents whose requests are refused, since they ended workers.", quarantined),
        _family("torchrelay_workers", "gauge", "Workers by state, and how many are wanted.", workers),
    ]  # fmt: skip


def _fleet_gauges(state: BrokerState) -> list[m.MetricFamily]:
    nodes = state.fleet.staying_nodes
    slots = [_sample({"node": n.name, "use": "all"}, n.slots) for n in nodes]
    slots += [_sample({"node": n.name, "use": "taken"}, len(state.fleet.of_node(n.peer))) for n in nodes]
    devices = [_sample({"node": n.name, "device": device.name, "use": "all"}, device.memory_bytes)
               for n in nodes for device in n.devices]  # fmt: skip
    devices += [_sample({"node": n.name, "device": device, "use": "taken"}, used)
                for n in nodes for device, used in _used_bytes(n)]  # fmt: skip
    live = sum(worker.state in LIVE for worker in state.fleet.workers.values())
    return [
        _family("torchrelay_workers_live", "gauge", "Workers that are ready or starting.",
                [_sample({}, live)]),
        _family("torchrelay_node_slots", "gauge", "Places for workers.", slots),
        _family("torchrelay_device_memory_bytes", "gauge", "Memory of devices; cpu is the host's.", devices),
    ]  # fmt: skip


def _used_bytes(node: FleetNode) -> Iterator[tuple[str, int]]:
    if node.used_bytes is not None:
        yield "cpu", node.used_bytes
    for device, gpu in node.gpus.items():
        yield device, gpu.used_bytes


def _histograms(versions: Iterable[tuple[Key, VersionStats]]) -> list[m.MetricFamily]:
    queue, handler, total, batch = [], [], [], []
    for (model, version), stats in versions:
        labels = (("model", model), ("version", version))
        queue += samples_of(labels, stats.queue_seconds)
        handler += samples_of(labels, stats.handler_seconds)
        total += samples_of(labels, stats.total_seconds)
        batch += samples_of(labels, stats.batch_jobs)
    return [
        _family("torchrelay_queue_seconds", "histogram", "Time from arrival to a worker.", queue),
        _family("torchrelay_handler_seconds", "histogram", "Time in the handler, by batch.", handler),
        _family("torchrelay_request_seconds", "histogram", "Time from arrival to answer.", total),
        _family("torchrelay_batch_jobs", "histogram", "Jobs in a batch.", batch),
    ]


def _family(
    name: str, kind: Literal["counter", "gauge", "histogram"], text: str, samples: list[m.Sample]
) -> m.MetricFamily:
    return m.MetricFamily(name, kind, text, tuple(samples))


def _sample(labels: dict[str, str], value: float) -> m.Sample:
    return m.Sample("", tuple(labels.items()), float(value))
