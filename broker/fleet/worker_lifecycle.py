"""The whole life of workers, from the order to start one until its process is gone. Pure.

This is the only place that moves a worker to another state, counts its failure, takes its jobs back, orders
it to stop, and reports any of that. Each method is one thing that happens to a worker: callers say what
happened, and need to do nothing else about it.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from torchrelay.broker.core.states import DRAINING, LIVE, UP, WorkerState
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.core.torchserve_metrics import Metrics
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.fleet.nodes import FleetNode
from torchrelay.broker.fleet.restarts import Condition
from torchrelay.broker.fleet.rounds import Rounds
from torchrelay.broker.fleet.worker import LOADING_NOTES, FleetWorker
from torchrelay.broker.fleet.worker_claims import Claims
from torchrelay.broker.jobs.jobs import Jobs
from torchrelay.broker.models.catalog import Catalog
from torchrelay.broker.models.records import VersionRecord
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.serials import InOrder

#: Workers that one sweep looks at, 1 us each: of ten times as many each is looked at every other beat.
SWEPT_AT_ONCE = 1000

#: Workers that were lost with their node that one turn removes, each with its line of log.
LOST_PER_TURN = 50


@dataclass(eq=False)
class WorkerLifecycle:
    """What happens to workers; times are the core's, in seconds."""

    _fleet: Fleet
    _jobs: Jobs
    _catalog: Catalog
    _stats: Stats
    _metrics: Metrics
    _settings: BrokerSettings
    _claims: Claims
    _send: Callable[[bytes, m.Message], None]
    _report: Callable[..., None]
    #: Turn a time of the core into one of the monotonic clock, and into milliseconds since 1970.
    _real_time: Callable[[float], float]
    _wall_ms: Callable[[float], int]

    #: Workers that have said hello, by peer id.
    by_peer: dict[bytes, FleetWorker] = field(default_factory=dict)
    #: Workers whose node was lost a moment ago, with that: they are still to be removed.
    lost: dict[FleetWorker, FleetNode] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rounds = Rounds(self._fleet.workers.values, SWEPT_AT_ONCE)

    # Start

    def start(self, worker: FleetWorker, record: VersionRecord, *, installs_packages: bool) -> None:
        """Order the node of a worker that was placed there to start it."""
        assert worker.node is not None, worker
        settings = self._settings
        self._send(worker.node, m.StartWorker(
            worker.worker_id, record.model, record.version, record.archive, record.archive_bytes,
            record.handler or settings.default_service_handler, worker.device, worker.gpu_id,
            record.batch_size, settings.service_envelope, settings.decode_input_request,
            settings.limit_max_image_pixels, settings.max_response_size, record.url, installs_packages,
            metrics_config=self._metrics.file_content,
            gpu_ids=worker.gpu_ids if record.config.parallel_level else (),
            installs_only=worker.installs_only,
            registration=record.registration,
            archive_path=record.archive_path,
            claim=self._claims.make(worker.worker_id, worker.key, worker.archive),
            devices=worker.devices,
            reserved_bytes=worker.reserved_bytes,
        ))  # fmt: skip

    def not_started(self, worker_id: int, reason: str, now: float, *, is_failure: bool) -> None:
        """Forget a worker whose order to start was not sent; one that can't be written is a failure."""
        if worker := self._fleet.workers.get(worker_id):
            if is_failure:
                self._fail(worker, reason, now)
            self._remove(worker, reason, now)

    def progressed(self, node: FleetNode, progress: m.WorkerProgressed, now: float) -> None:
        """Note how far a worker that starts has come."""
        worker = self._fleet.workers.get(progress.worker_id)
        if worker is None or worker.node != node.peer or worker.state is not WorkerState.STARTING:
            return
        worker.last_heard = now
        if not (worker.is_loading and progress.phase in LOADING_NOTES):
            worker.since = now  # startup_timeout is for what comes from loading on; fetching has its own pace
        if worker.note == "installing" != progress.phase:
            self._fleet.must_reconcile = True  # a caller may wait for that
        if progress.pid:
            worker.pid = progress.pid
        worker.note = LOADING_NOTES.get(progress.phase, progress.phase)
        if progress.total_bytes:
            worker.note += f" {100 * progress.done_bytes // progress.total_bytes} %"

    def ready(self, peer: bytes, hello: m.HelloWorker, now: float) -> str:
        """Take in a worker that has loaded its model; return why it must leave, or "" if it may stay."""
        record = self._catalog.get((hello.model, hello.version))
        if record is None or record.archive != hello.archive:
            return f"{hello.model} {hello.version} of this archive isn't registered"
        if not self._claims.is_genuine(hello):
            return "this broker had no such worker started"
        self.remove_all_lost(now)  # it may be one
        known = self._fleet.workers.get(hello.worker_id)
        if known is not None and known.state is WorkerState.STARTING:
            self._end_if_late(known, now)  # it may be ready, and yet too late
        # One that a node brought along when it joined had been loaded before.
        real = self._real_time
        loading_s = real(now) - real(known.started_at) if known and known.note else None
        worker = self._make_ready(peer, hello, now)
        if worker is None:
            return "it was told to stop"
        if peer not in self.by_peer:
            self._jobs.take_back(worker, worker.leases, now, reason="it joined anew")
            self.by_peer[peer] = worker
            worker.answers = InOrder(max(0, hello.next_serial - 1))
            worker.answers.has_skipped = not hello.next_serial  # its protocol doesn't number them
            worker.takes_ahead = hello.protocol >= m.AHEAD_SINCE_PROTOCOL
            worker.keeps_leases = self._jobs.recovery.named(worker, hello.held)
            if loading_s is not None:
                self._metrics.worker_loaded(worker.metrics_label, loading_s, self._wall_ms(now))
            failures = self._fleet.condition(worker.key).failures
            self._report(logging.INFO, "worker.ready", **_facts(worker), node=hello.node,
                         device=hello.device, failures=failures)  # fmt: skip
        self._jobs.touch(worker.key)
        self._said_readiness(worker, hello.why_not_ready, now)
        return ""

    def beat(self, worker: FleetWorker, beat: m.WorkerBeat, now: float) -> None:
        """Compare what a worker says of itself with what is known of it."""
        if beat.serial <= worker.answers.latest:  # else the answer to what it doesn't hold may have been lost
            self._jobs.take_back_lost(worker, frozenset(beat.leases), beat.heard, now)
        self._said_readiness(worker, beat.why_not_ready, now)

    def _said_readiness(self, worker: FleetWorker, why_not: str, now: float) -> None:
        """Take a worker out of dispatch whose handler says that it isn't ready, or back into it."""
        if worker.state not in UP:
            return
        if (state := WorkerState.UNREADY if why_not else WorkerState.READY) is worker.state:
            worker.note = why_not
            return
        worker.move(state, now)
        worker.note = why_not
        self._fleet.compare(worker.key)
        self._jobs.touch(worker.key)
        if why_not:
            self._report(logging.WARNING, "worker.unready", **_facts(worker), reason=why_not)
        else:
            self._report(logging.INFO, "worker.ready_again", **_facts(worker))

    def _make_ready(self, peer: bytes, hello: m.HelloWorker, now: float) -> FleetWorker | None:
        """Return the worker of a hello; None if it was told to stop, or another process has its id."""
        key = (hello.model, hello.version)
        worker = self._fleet.workers.get(hello.worker_id)
        if worker is None:
            # Which node holds it, that node will say.
            worker = self._fleet.enter(FleetWorker(
                hello.worker_id, key, hello.archive, hello.device, hello.node,
                None, WorkerState.STARTING, since=now, last_heard=now,
            ))  # fmt: skip
        elif (worker.key, worker.archive) != (key, hello.archive) or worker.peer not in (None, peer):
            return None
        if worker.state not in LIVE and worker.state is not WorkerState.DRAINING:
            return None
        if worker.state is WorkerState.STARTING:
            worker.move(WorkerState.READY, now)
        worker.peer, worker.pid, worker.note, worker.last_heard = peer, hello.pid, "", now
        self._fleet.compare(worker.key)
        return worker

    def completed_batch(self, worker: FleetWorker, now: float) -> None:
        """Forgive failures before it; stop it if that was the last batch of one that drains."""
        if not worker.has_answered:
            worker.has_answered = True
            worker.touch()
        if condition := self._fleet.conditions.get(worker.key):
            condition.count_success(worker)
        if worker.state is DRAINING and not worker.leases:
            self._stop(worker, "it has finished its batches", now, kill=False)

    # Its process is gone

    def said_goodbye(self, worker: FleetWorker, now: float) -> None:
        """Remove a worker whose process says that it ends."""
        if worker.state in UP and not self._fleet.is_node_stopping(worker):
            self._fail(worker, "it was told to stop, but not by the broker", now)
        self._remove(worker, "it said goodbye", now)

    def exited(self, node: FleetNode, gone: m.WorkerExited, now: float) -> None:
        """Remove a worker whose node saw its process end; unless it was told to, that is a failure."""
        worker = self._fleet.workers.get(gone.worker_id)
        if worker is None or worker.node != node.peer:
            return
        is_excused = (
            gone.of_itself
            and worker.state in (*UP, WorkerState.DRAINING)
            and not node.is_leaving
            and self._jobs.blame(worker, gone, now)
        )
        has_failed = not (worker.installs_only and gone.exit_code == 0)
        if has_failed and worker.state in LIVE and not node.is_leaving:
            was_ready = worker.state in UP
            self._fail(worker, gone.reason, now, out_of_memory=gone.out_of_memory, is_excused=is_excused)
            self._report(logging.WARNING, "worker.failed", **_facts(worker), node=node.name,
                         reason=gone.reason, exit_code=gone.exit_code, signal=gone.signal,
                         was_ready=was_ready, **self._next_start(worker, now),
                         output="\n".join(gone.last_lines))  # fmt: skip
        self._remove(worker, gone.reason, now)

    def reported(self, node: FleetNode, memory: Mapping[int, int], now: float) -> None:
        """Take in which workers a node holds, with their memory in bytes by worker id.

        Those that it should hold are lost; those that nobody knows, or another node started, it has to stop.
        """
        for worker in self._fleet.of_node(node.peer):
            worker.memory_bytes = memory.get(worker.worker_id, worker.memory_bytes)
            if worker.worker_id not in memory and now - worker.since > self._settings.peer_timeout_s:
                self._fail(worker, "its node holds no such process", now)
                self._remove(worker, "its node holds no such process", now)
        known = self._fleet.workers
        unknown = sorted(
            one for one in memory if one not in known or known[one].node not in (None, node.peer)
        )
        if unknown:
            why = "the broker doesn't know it, or had another node start it"
            self._send(node.peer, m.StopWorker(unknown[0], True, why, also=tuple(unknown[1:])))

    def node_lost(self, node: FleetNode, now: float) -> None:
        """Remove a node and the workers that are lost with it: these over some turns where they are many."""
        for worker in self._fleet.remove_node(node.peer):
            worker.is_cut = True  # it gets nothing more
            worker.touch()
            self.lost[worker] = node
        self.remove_lost(now)

    def remove_lost(self, now: float, count: int = LOST_PER_TURN) -> None:
        """Remove so many of the workers that were lost with their nodes, and take back what they had."""
        for worker in list(islice(self.lost, count)):
            node = self.lost.pop(worker)
            if worker.state is WorkerState.GONE:
                continue  # it has gone by itself meanwhile
            if not node.is_leaving:
                self._stats.worker_failures[worker.key] += 1
            self._remove(worker, f"its node {node.name} was lost", now)

    def remove_all_lost(self, now: float) -> None:
        """Remove them now: one of them comes back, as a new one."""
        if self.lost:
            self.remove_lost(now, len(self.lost))

    # It is taken out of service

    def node_will_leave(self, node: FleetNode, grace_ms: int, now: float) -> None:
        """Have the workers of a node replaced that was told to stop, and ends what is left of them then."""
        is_new = node.leaves_at is None
        self._fleet.node_will_leave(node, now + grace_ms / 1000)
        if is_new:
            self._report(logging.INFO, "node.leaving", node=node.name, grace_s=grace_ms / 1000)

    def node_leaves(self, node: FleetNode, now: float) -> None:
        """Let the workers of a node that said goodbye finish what they have."""
        if node.leaves_at is None:
            self._report(logging.INFO, "node.leaving", node=node.name)
        self._fleet.node_leaves(node)
        for worker in self._fleet.of_node(node.peer):
            if worker.state in UP:
                self._drain(worker, now)

    def retire(self, worker: FleetWorker, patience_s: float, now: float) -> None:
        """Take a worker out of service: what it runs may end within `patience_s`; negative is for ever."""
        reason = "it is not needed any more"
        if self._fleet.must_move(worker) and self._catalog.get(worker.key) is not None:
            # Its node ends it, if it has to; else what it runs ends by itself, or is found to be stuck.
            reason, patience_s = "it is replaced by one on another node", -1
        if worker.state is WorkerState.STARTING or patience_s == 0:
            self._jobs.take_back(worker, worker.leases, now, reason="it was scaled away")
            self._stop(worker, reason, now, kill=True)
            return
        self._drain(worker, now)
        worker.drain_until = None if patience_s < 0 else now + patience_s
        if not worker.leases:
            self._stop(worker, reason, now, kill=False)

    def drop(self, worker: FleetWorker, reason: str, now: float) -> None:
        """Forget the peer that a worker is, and end its process."""
        self.by_peer.pop(worker.peer or b"", None)
        self._give_up(worker, reason, now)

    def sweep(self, now: float, listened_since: float) -> None:
        """End what is late, stuck or silent, of a part of all workers; silence from before `listened_since`
        counts for nothing.
        """
        settings = self._settings
        silent_s = 2 * settings.peer_timeout_s
        for worker in self._rounds.next_part():
            match worker.state:
                case WorkerState.STARTING:
                    self._end_if_late(worker, now)
                case WorkerState.READY | WorkerState.UNREADY | WorkerState.DRAINING:
                    if worker.leases and self._end_if_stuck(worker, now):
                        continue
                    if worker.state is WorkerState.DRAINING:
                        self._end_drained(worker, now)
                    elif not worker.leases and now - max(worker.last_heard, listened_since) > silent_s:
                        self._give_up(worker, "it is idle but silent", now)
                    elif worker.state is WorkerState.UNREADY:
                        self._end_if_late(worker, now)
                case WorkerState.STOPPING if now - worker.stop_sent_at > 2 * settings.stop_grace_s:
                    self._end_again(worker, now)

    def _end_if_late(self, worker: FleetWorker, now: float) -> None:
        record = self._catalog.get(worker.key)
        limit_s = record.startup_timeout_s if record else self._settings.default_startup_timeout_s
        if now - worker.since <= limit_s:
            return
        was_ready = worker.state is WorkerState.UNREADY
        reason = f"not ready {'again ' if was_ready else ''}within startup_timeout of {limit_s} s"
        if worker.note:
            reason += f": {worker.note}" if was_ready else f": still {worker.note}"
        self._give_up(worker, reason, now)
        self._report(logging.WARNING, "worker.late", **_facts(worker), reason=reason, was_ready=was_ready,
                     **self._next_start(worker, now))  # fmt: skip

    def _end_if_stuck(self, worker: FleetWorker, now: float) -> bool:
        record = self._catalog.get(worker.key)
        limit_s = record.response_timeout_s if record else self._settings.default_response_timeout_s
        overdue = self._jobs.overdue(worker, limit_s, now)
        if not overdue:
            return False
        reason = f"no answer within response_timeout of {limit_s} s"
        self._jobs.give_up(worker, overdue, reason, now)
        self._give_up(worker, reason, now)
        self._report(logging.WARNING, "worker.stuck", **_facts(worker), reason=reason, was_ready=True,
                     **self._next_start(worker, now))  # fmt: skip
        return True

    def _end_drained(self, worker: FleetWorker, now: float) -> None:
        if worker.drain_until is not None and now >= worker.drain_until:
            self._give_up(worker, "its time to finish was over", now)
        elif not worker.leases and not self._fleet.is_node_leaving(worker):
            self._stop(worker, "it has nothing left to do", now, kill=False)

    def _end_again(self, worker: FleetWorker, now: float) -> None:
        """Repeat an order to stop that had no effect."""
        self._jobs.take_back(worker, worker.leases, now, reason="it could not be stopped")
        if worker.node is None:
            self._remove(worker, "its node never came back", now)
        else:
            self._order_stop(worker, "it has not stopped yet", now, kill=True)

    # What the above have in common

    def _fail(
        self,
        worker: FleetWorker,
        reason: str,
        now: float,
        *,
        out_of_memory: bool = False,
        is_excused: bool = False,
    ) -> None:
        """Count an end that nobody asked for, and give the worker's jobs another chance."""
        if worker.state not in LIVE:
            return
        self._stats.worker_failures[worker.key] += 1
        record = self._catalog.get(worker.key)
        window_s = record.config.restart_window_s if record else None
        self._fleet.compare(worker.key)
        self._fleet.conditions.setdefault(worker.key, Condition()).count_failure(
            worker, reason, now, out_of_memory=out_of_memory, is_excused=is_excused,
            window_s=self._settings.restart_window_s if window_s is None else window_s,
        )  # fmt: skip
        self._jobs.take_back(worker, worker.leases, now, reason=reason, out_of_memory=out_of_memory)

    def _give_up(self, worker: FleetWorker, reason: str, now: float) -> None:
        """Count a failure, take all jobs back, and have the process killed."""
        self._fail(worker, reason, now)
        self._jobs.take_back(worker, worker.leases, now, reason=reason)
        if worker.state is not WorkerState.STOPPING:
            self._stop(worker, reason, now, kill=True)

    def _drain(self, worker: FleetWorker, now: float) -> None:
        worker.move(WorkerState.DRAINING, now)
        self._jobs.leave_service(worker)

    def _stop(self, worker: FleetWorker, reason: str, now: float, *, kill: bool) -> None:
        worker.move(WorkerState.STOPPING, now)
        self._jobs.leave_service(worker)
        self._order_stop(worker, reason, now, kill=kill)

    def _order_stop(self, worker: FleetWorker, reason: str, now: float, *, kill: bool) -> None:
        worker.stop_sent_at = now
        if worker.node is not None:
            record = self._catalog.get(worker.key)
            is_unregistered = record is None or record.archive != worker.archive
            self._send(worker.node, m.StopWorker(worker.worker_id, kill, reason, is_unregistered))
        elif worker.peer is not None:
            self._send(worker.peer, m.Leave(reason))

    def _remove(self, worker: FleetWorker, reason: str, now: float) -> None:
        """Forget a worker whose process is gone."""
        self._jobs.take_back(worker, worker.leases, now, reason=reason)
        self._jobs.leave_service(worker)
        self.by_peer.pop(worker.peer or b"", None)
        self._metrics.worker_gone(worker.metrics_label)
        worker.move(WorkerState.GONE, now)
        worker.memory_bytes = 0
        self._fleet.remove_worker(worker)
        self._report(logging.INFO, "worker.gone", **_facts(worker), reason=reason)

    def _next_start(self, worker: FleetWorker, now: float) -> dict[str, object]:
        """Say for the log how often workers failed in a row, and when the next one starts."""
        condition = self._fleet.condition(worker.key)
        if condition.has_given_up:
            return {"failures": condition.failures}
        wait_s = max(0, math.ceil(condition.next_start_at - now))
        return {"failures": condition.failures, "retry_in_s": wait_s}


def _facts(worker: FleetWorker) -> dict[str, object]:
    """Return what each line of the log about a worker says."""
    model, version = worker.key
    return {"worker": worker.worker_id, "model": model, "version": version}
