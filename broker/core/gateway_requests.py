"""What gateways send: jobs, asks and beats, as far as it isn't passed on at once. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from torchrelay.broker.core.answers import Answers, Gateway, Send, ask_refused
from torchrelay.broker.core.early_requests import EarlyRequest, EarlyRequests
from torchrelay.broker.core.peers import Peers
from torchrelay.broker.core.questions import Questions
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.core.torchserve_metrics import Metrics
from torchrelay.broker.fleet.fleet import Fleet
from torchrelay.broker.jobs.jobs import Jobs
from torchrelay.broker.models.catalog import Catalog
from torchrelay.broker.models.changes import Management
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame, split_frames

#: Jobs of one gateway that have not ended: far above in_flight_limit_jobs.
JOBS_PER_GATEWAY_LIMIT = 32_768
#: Jobs of a version that were held up on their way and wait beside its queue's limit: as many as one gateway
#: process has in flight at most, unless it is told otherwise.
HELD_UP_LIMIT_JOBS = 2048
STATUS_CLASSES = frozenset(("1xx", "2xx", "3xx", "4xx", "5xx"))

Frames = tuple[Frame, ...]


@dataclass(eq=False)
class GatewayRequests:
    """Takes in what gateways ask for; times are the core's."""

    _catalog: Catalog
    _fleet: Fleet
    _jobs: Jobs
    _early: EarlyRequests
    _management: Management
    _questions: Questions
    _peers: Peers
    _answers: Answers
    _stats: Stats
    _metrics: Metrics
    _send: Send
    #: Turns a time of the core into milliseconds since 1970.
    _wall_ms: Callable[[float], int]

    def submit(self, gateway: Gateway, message: m.Submit, frames: Frames, now: float) -> None:
        """Take in the jobs of a Submit; one that has come before changes nothing.

        Raises WireError where its frames don't fit.
        """
        parts = split_frames([item.frames for item in message.items], frames)
        if message.serial:
            if message.serial <= gateway.submitted:
                return  # it came before; were a job of it lost all the same, a beat would ask for it
            gateway.submitted = message.serial
            if gateway.unheard:
                gateway.unheard.heard(message.answered)
        if len(gateway.jobs) + len(message.items) > JOBS_PER_GATEWAY_LIMIT:
            why = f"it has {len(gateway.jobs)} jobs of one gateway"
            full = errors.ServiceUnavailable("The broker is busy.", why)
            for item in message.items:
                if item.job not in gateway.jobs:
                    self._answers.refuse_unadmitted(gateway, item.job, full)
            return
        held_limit = self._held_limit(gateway, message)
        # One of a protocol that doesn't say so may have sent whatever it held.
        is_again = message.again or (not message.serial and message.heard == m.HELD)
        is_again = is_again and self._jobs.recovery.is_open(now)
        early = self._early.waiting
        for item, of_item in zip(message.items, parts, strict=True):
            if item.job in gateway.jobs or (early and (gateway.peer, item.job) in early):
                continue  # it was sent again
            if is_again or (early and self._is_behind(gateway, item)):
                self._early.keep(EarlyRequest(gateway, item, of_item, now, is_again=True), ())
                self._fleet.must_reconcile = True  # what need not wait goes on at the end of the turn
                continue
            error = self._jobs.admit(gateway, item, of_item, now, held_limit=held_limit)
            if error is not None:
                self._refuse_unknown(gateway, item, of_item, error, now)

    def _held_limit(self, gateway: Gateway, message: m.Submit) -> float:
        """Tell how many jobs of a version may wait beside its queue's limit for these to be let in so.

        What had been taken in before, and what waited for a broker that was away, comes once, and is bounded
        by gateways. Anything may have been held up, and again and again: this broker stood still, or the
        gateway has missed a beat, and shows so that this was sent long ago, or it.
        """
        if message.again or message.heard == m.HELD:
            return inf
        is_late = 0 < message.heard < max(gateway.held_before, self._fleet.beat - 1)
        return HELD_UP_LIMIT_JOBS if is_late else 0

    def _is_behind(self, gateway: Gateway, item: m.SubmitItem) -> bool:
        """Tell whether jobs of a new one's sequence wait, which it must not overtake."""
        if not self._early.has_before(gateway, item) or not self._catalog.knows(item.model, item.version):
            return False
        return self._catalog.resolve(item.model, item.version).config.sequence_batching

    def _refuse_unknown(
        self, gateway: Gateway, item: m.SubmitItem, frames: Frames, error: errors.RelayError, now: float
    ) -> None:
        """Answer a job of a model that isn't known, or let it wait while that can still change."""
        if self._must_wait(item):
            early = EarlyRequest(gateway, item, frames, now)
            self._early.keep(early, self._management.loading)
        else:
            self._answers.refuse_unadmitted(gateway, item.job, error)

    def cancel(self, gateway: Gateway, message: m.Cancel) -> None:
        """End jobs whose clients have gone."""
        for number in message.jobs:
            self._early.forget(gateway.peer, number)
        jobs = (gateway.jobs.get(number) for number in message.jobs)
        self._jobs.cancel([job for job in jobs if job is not None])

    def beat(self, gateway: Gateway, beat: m.GatewayBeat, now: float) -> None:
        """Count what a gateway has counted, and tell it which of its requests never came here."""
        for status_class, count in beat.responses.items():
            if status_class in STATUS_CLASSES:
                self._stats.responses[status_class] += count
                self._metrics.count_responses(status_class, count, self._wall_ms(now))
        self._stats.wrong_keys += beat.wrong_keys
        if gateway.unheard:
            gateway.unheard.heard(beat.answered)
        peer, early = gateway.peer, self._early.waiting
        jobs = tuple(n for n in beat.jobs if n not in gateway.jobs and (peer, n) not in early)
        if jobs and (answered := gateway.unheard_jobs):
            jobs = tuple(n for n in jobs if n not in answered)  # by the next beat it asks for their answers
        asks = tuple(
            n
            for n in beat.asks
            if not self._management.is_pending(peer, n)
            and (peer, n) not in early
            and (peer, n) not in self._questions.waiting
        )
        if jobs or asks:
            self._answers.flush(gateway)  # what it misses may be among the answers of this very turn
            self._send(peer, m.Forgotten(jobs, asks), ())

    def ask(self, gateway: Gateway, ask: m.Ask, now: float) -> None:
        """Answer an ask, or let it wait for the end of the start."""
        if (gateway.peer, ask.ask) in self._early.waiting:
            return  # it was sent again
        if self._must_wait(ask):
            self._early.keep(EarlyRequest(gateway, ask, (), now), self._management.loading)
        else:
            self._answer(gateway, ask, now)

    def _answer(self, gateway: Gateway, ask: m.Ask, now: float) -> None:
        if isinstance(ask, m.Question):
            self._questions.ask(gateway.peer, ask)
        elif why_not := self._peers.why_may_not_manage(gateway.peer, now):
            self._send(gateway.peer, ask_refused(ask.ask, why_not), ())
        else:
            self._management.ask(gateway.peer, ask, now)

    # While models of the start are being registered

    def _must_wait(self, request: m.SubmitItem | m.Ask) -> bool:
        """Tell whether only the end of the start shows what the answer is: no name is unknown before."""
        if not self._management.loading:
            return False
        match request:
            case m.ReadFleet() | m.ReadMetrics() | m.ReadHealth() | m.ReadReadiness() | m.RenewKey():
                return False
            case m.ReadMembers() | m.Invite() | m.EndInvitation() | m.ChangeMember() | m.RotateBrokerKey():
                return False
            case m.DescribeWorkflow() | m.ListWorkflows():  # no start brings any
                return False
            case m.ListModels() | m.DescribeModel(every=True):
                return self._management.is_starting
            case m.SubmitItem() | m.DescribeModel():
                return not self._catalog.knows(request.model, request.version)
            case _:  # a change, which the start must neither undo nor contradict
                return True

    def _must_still_wait(self, early: EarlyRequest, now: float) -> bool:
        """Tell whether a request that waits has to go on: for the end of the start, or a worker's answer."""
        job = early.request
        if not early.is_again or not isinstance(job, m.SubmitItem):
            return self._must_wait(job)
        try:
            record = self._catalog.resolve(job.model, job.version)
        except errors.RelayError:
            return self._must_wait(job)
        return self._jobs.recovery.must_wait(early.gateway.peer, job, record, now)

    def take_waiting(self, now: float) -> None:
        """Take up what waited for the models that are registered by now, or for the end of the start."""
        for early in self._early.take(lambda early: self._must_still_wait(early, now)):
            if isinstance(early.request, m.SubmitItem):
                job, gateway = early.job_now(now), early.gateway
                answer = self._jobs.recovery.claim(gateway.peer, job.job) if early.is_again else None
                if answer is not None:
                    error = self._jobs.answer_recovered(gateway, job, early.frames, answer, now)
                else:
                    has_run = self._jobs.recovery.may_have_run(gateway.peer, job.job)
                    error = self._jobs.admit_again(gateway, job, early.frames, now, has_run=has_run)
                if error is not None:
                    self._refuse_unknown(early.gateway, job, early.frames, error, now)
            else:
                self._answer(early.gateway, early.request, now)
