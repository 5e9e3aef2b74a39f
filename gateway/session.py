"""What this gateway process waits for from the broker, as a pure machine: no socket, no clock, no log.

The shell (`gateway.link`) tells it what was asked, what was heard and what time it is; it answers with
what is settled and what is to be sent. What the shell hands in to be settled is its own kind of
`Pending`.

Rules: every job and ask that was taken is settled exactly once, with an answer or an error; it is
either still to be sent or was sent to the broker that has welcomed us, and what a broker lost on the
way or in a restart is sent again. An answer to what nobody waits for is dropped.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import msgspec

from torchrelay.gateway import auth
from torchrelay.gateway.answer_rate import AnswerRate
from torchrelay.gateway.in_flight_room import Room
from torchrelay.shared import errors, settings
from torchrelay.shared.deadlines import TIMEOUT_HEADER, Deadlines
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.presence import Presence
from torchrelay.shared.wire.reply_parts import ReplyParts
from torchrelay.shared.wire.serials import InOrder

Frames = Sequence[codec.PayloadOrPiece]

#: Jobs and inline bytes of one Submit: enough to spread a message's cost, too few to delay the first.
SUBMIT_LIMIT_JOBS = 64
SUBMIT_LIMIT_BYTES = 256 * 1024
#: So many jobs don't wait for more, or a part of those that the broker has where that is more. PERF: were all
#: that come in a turn to go together, this process, broker and worker would work in turn. With 16 and 64
#: connections in pairs: 1.01 and 1.00 (15 rounds), 1.08 and 1.04 (30), 1.04 and 1.09 (30, batches of 16).
EARLY_JOBS, EARLY_PART = 8, 3
#: Management calls waiting at a time, beside those OF_THE_MOMENT, of which `shared_questions` has one of each
#: kind. People make them: far fewer than jobs.
ASK_LIMIT = 512

#: Not worth waiting for where there is no broker: they ask how it is now, and all clients the same.
OF_THE_MOMENT = (m.ReadHealth, m.ReadReadiness, m.ReadMetrics, m.ReadFleet)
#: A second try could answer "taken" or "not found" to a first that did happen.
_NOT_REPEATABLE = (m.RegisterModel, m.UnregisterModel, m.RegisterWorkflow, m.UnregisterWorkflow)


#: The broker answers for what is late; an answer of its own has so long to come. Else it is away, or hangs.
LATE_GRACE_S = 0.25


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A worker's answer to a job, or a part of one; still packed, see `codec.unpack_response`."""

    meta: bytes
    frames: Frames
    is_final: bool = True


Outcome = Answer | m.Reply | errors.RelayError


class Pending:
    """A job or an ask that has no answer yet. Its attributes are the session's."""

    __slots__ = ("frames", "message", "number", "parts", "since", "size")

    message: m.SubmitItem | m.Ask
    #: The job's or ask's own.
    number: int
    since: float
    frames: Frames
    #: Counts towards in_flight_limit_bytes.
    size: int
    #: How many parts of its answer have come.
    parts: int


P = TypeVar("P", bound=Pending)


class GatewaySession(Presence, Generic[P]):
    """What one gateway process waits for, and its presence at the broker.

    A broker that was silent counts as there again from its next Welcome on, which tells whether it still
    holds what it was sent; answers that come before count all the same.
    """

    def __init__(self, config: settings.GatewaySettings, *, name: str, pid: int, now: float) -> None:
        super().__init__(now)
        self._config = config
        self._hello = m.HelloGateway(m.PROTOCOL_VERSION, name, pid)
        #: When the hello went out whose keys have not come yet.
        self._told_since: float | None = None
        #: Since when there is no broker.
        self._away_since = now
        self._last_id = 0
        #: All that is not settled, jobs and asks under one row of numbers, oldest first.
        self._waiting: dict[int, P] = {}
        #: What the jobs that wait, and bodies that are being read, take.
        self.room = Room(config.in_flight_bytes, self._retry_after_s)
        #: How many of `_waiting` are jobs.
        self._jobs = 0
        #: How fast they get their answers.
        self._rate = AnswerRate(now)
        #: Of the jobs whose clients have said how long they wait.
        self._deadlines: Deadlines[int] = Deadlines(lambda number: number in self._waiting)
        #: What of `_waiting` the broker has not been sent since it welcomed us, in order.
        self._unsent: dict[int, P] = {}
        #: Of those, the ones up to this number had to wait for the broker, or were sent in vain.
        self._held_to = 0
        #: Of all, the ones that a broker before this one had been sent.
        self._sent_before: set[int] = set()
        self._cancelled: list[int] = []
        #: Rises from Submit to Submit, whoever the broker is.
        self._submits = 0
        #: Which of the broker's answers have come.
        self._answers_heard = InOrder()
        self._reply_parts = ReplyParts()
        #: HTTP answers since the last beat, by the hundreds of their status.
        self._responses = [0] * 10
        #: Keys since then that opened nothing.
        self._wrong_keys = 0
        #: Metrics are being asked for, which shall count every answer that has gone out from here.
        self._is_count_due = False
        #: Keys outlive the broker that told them: who may call doesn't change while it is away.
        self.keys = auth.KnownKeys()
        #: The broker's own keys, when it has told them, until whoever keeps them has taken them from here.
        self.broker_keys: tuple[str, ...] = ()
        #: Why the broker can't be talked to, where it isn't merely away.
        self.why_unreachable = ""
        #: Whether callers need keys: because this gateway was told so, or the broker has some.
        self.asks_for_keys = config.token_authorization
        #: Whether the broker that last welcomed us has some.
        self.has_broker_keys = False
        #: Why the broker wants us gone; None while it does not.
        self.dismissed: str | None = None

    # What the shell asks

    @property
    def waiting(self) -> int:
        """How many jobs and asks have no answer yet."""
        return len(self._waiting)

    def has_outgoing(self, now: float) -> bool:
        """Tell whether `outgoing` may yield something."""
        is_said = self._unsent or self._cancelled or self._is_count_due or self._answers_heard.has_missed
        return bool(is_said) or now >= self.next_wake()

    @property
    def has_enough_to_send(self) -> bool:
        """Whether what is to be sent should not wait for more, and there is a broker to take it."""
        unsent = len(self._unsent)
        enough = min(max(EARLY_JOBS, (len(self._waiting) - unsent) // EARLY_PART), SUBMIT_LIMIT_JOBS)
        has_enough = unsent >= enough or len(self._cancelled) >= SUBMIT_LIMIT_JOBS
        return has_enough and self.state == "welcomed"

    def submit(
        self,
        pending: P,
        model: str,
        version: str | None,
        meta: bytes,
        frames: Frames,
        *,
        is_describe: bool,
        sequence: str = "",
        is_let_in: bool = False,
        answer_by: float | None = None,
        now: float,
    ) -> None:
        """Take a job in; with `is_let_in` one whose body had its room while it was read.

        Its client waits until `answer_by`. Raises ServiceUnavailable where too much is in flight,
        BrokerUnreachable where the broker has been away for too long, PredictionTimeout where it is too late.
        """
        if self.state != "welcomed" and self._is_given_up(now):
            raise self.unreachable()
        size = len(meta) + sum(map(len, frames)) if frames else len(meta)
        if self._jobs >= self._config.in_flight_limit_jobs:
            limit = self._config.in_flight_limit_jobs
            why = f"as much is in flight as in_flight_limit_jobs allows ({limit}); try again later"
            raise errors.ServiceUnavailable("The gateway is busy.", why, retry_after_s=self._retry_after_s())
        left_ms = 0
        if answer_by is not None:
            if answer_by <= now:
                raise _late("the request itself took longer to come")
            left_ms = max(1, round(1000 * (answer_by - now)))
        if is_let_in:
            self.room.held_bytes += size
        else:
            self.room.take(size)
        self._jobs += 1
        number = self._last_id + 1
        if answer_by is not None:  # not before it is sure to be taken: another would get its number
            self._deadlines.add(answer_by + LATE_GRACE_S, number)
        item = m.SubmitItem(number, model, version, is_describe, meta, len(frames), sequence, left_ms)
        self._add(pending, item, frames, size, now)

    def ask(self, pending: P, ask: m.Ask, *, now: float) -> None:
        """Queue an ask, and give it its number.

        Raises ServiceUnavailable where ASK_LIMIT asks wait, BrokerUnreachable where the broker is away for
        too long, or away at all for an ask OF_THE_MOMENT.
        """
        if self._is_given_up(now):
            raise self.unreachable()
        if self.state != "welcomed" and isinstance(ask, OF_THE_MOMENT):
            raise self.unreachable()
        if len(self._waiting) - self._jobs >= ASK_LIMIT and not isinstance(ask, OF_THE_MOMENT):
            why = f"{ASK_LIMIT} management calls wait"
            raise errors.ServiceUnavailable("The gateway is busy.", why, retry_after_s=self._retry_after_s())
        self._is_count_due |= isinstance(ask, m.ReadMetrics)
        self._add(pending, msgspec.structs.replace(ask, ask=self._last_id + 1), (), 0, now)

    def _add(self, pending: P, message: m.SubmitItem | m.Ask, frames: Frames, size: int, now: float) -> None:
        number = pending.number = self._last_id = self._last_id + 1
        pending.message = message
        pending.since = now
        pending.frames = frames
        pending.size = size
        pending.parts = 0
        self._waiting[number] = self._unsent[number] = pending

    def forget(self, pending: P) -> None:
        """Wait no longer for something; a job that the broker knows is cancelled, an ask goes on."""
        if self._remove(pending.number) is None or self._unsent.pop(pending.number, None) is not None:
            return
        if isinstance(pending.message, m.SubmitItem):
            self._cancelled.append(pending.number)

    def count_response(self, status: int) -> None:
        """Count an HTTP answer, for the next beat."""
        self._responses[status // 100] += 1

    def count_wrong_key(self) -> None:
        """Note a key that opened nothing, for the next beat."""
        self._wrong_keys += 1

    def settle_all(self, error: errors.RelayError) -> list[tuple[P, Outcome]]:
        """End everything that waits with one error; what the broker knows of it is cancelled."""
        waiting = list(self._waiting.values())
        for pending in waiting:
            self.forget(pending)
        return [(pending, error) for pending in waiting]

    # What comes and goes on the wire

    def hear(self, message: m.Message, epoch: int, frames: Frames, *, now: float) -> list[tuple[P, Outcome]]:
        """Take in a message of the broker and return what it settles."""
        match message:
            case m.Welcome():
                return self._welcome(message, epoch, now)
            case m.IntroduceYourself():
                return [] if self._is_of_before(epoch, now) else self.lose(now)
            case m.Leave():
                self.dismissed = message.reason
                return []
            case m.Misunderstood():
                # Which message it was can't be told, so nothing that waits is sure to be answered.
                return self.settle_all(errors.InternalError("The broker refused a message.", message.reason))
        if epoch != self.epoch:
            return []
        self.note(message, now)
        if isinstance(message, m.Answered | m.Refused):
            return self._answered(message, frames) if self._answers_heard.takes(message.serial) else []
        match message:
            case m.Beat():
                self._answers_heard.told(message.serial)
                return []
            case m.AskRefused():
                return self._settled([(message.ask, _error_of(message))])
            case m.Forgotten():
                return self._send_again([*message.jobs, *message.asks], "lost a message")
        if isinstance(message, m.FleetRead | m.MetricsRead):
            whole = self._reply_parts.take(message) if message.ask in self._waiting else None
            return [] if whole is None else self._settled([(message.ask, whole)])
        if isinstance(message, m.Reply):
            return self._settled([(message.ask, message)])
        self._note_keys(message, now)
        return []

    def _note_keys(self, message: m.Message, now: float) -> None:
        if isinstance(message, m.KeysChanged):
            # They were told after the hello; how long the message was on its way, nobody knows.
            self.keys.replace(message.keys, now=now if self._told_since is None else self._told_since)
            self._told_since = None
        elif isinstance(message, m.BrokerKeys):
            self.broker_keys = message.keys

    def tick(self, now: float) -> list[tuple[P, Outcome]]:
        """Let time pass and return what it settles; call it many times a second."""
        self._rate.note(self._last_id - len(self._waiting), len(self._waiting), now)
        return [*self._end_late(now), *self._see_silence(now)]

    def _end_late(self, now: float) -> list[tuple[P, Outcome]]:
        """Settle what the broker should have answered by now, since no client waits longer."""
        settled: list[tuple[P, Outcome]] = []
        for number in self._deadlines.take_due(now) if now >= self._deadlines.next else ():
            pending = self._waiting[number]
            self.forget(pending)
            settled.append((pending, _late("the broker, or the way to it, was held up")))
        return settled

    def _see_silence(self, now: float) -> list[tuple[P, Outcome]]:
        if self.state == "welcomed":
            # What is sent from the last word on goes nowhere, so the outage began with that.
            return self.lose(now, since=min(now, self._heard_at)) if self.is_silent(now) else []
        return self.settle_all(self.unreachable()) if self._is_given_up(now) else []

    def stood_still(self, seconds: float, now: float) -> None:
        """Don't count a time in which this process, or its host, was stopped as silence of the broker."""
        self._heard_at = min(now, self._heard_at + seconds)
        self._away_since = min(now, self._away_since + seconds)

    def lose(self, now: float, *, since: float | None = None) -> list[tuple[P, Outcome]]:
        """Count the broker as away, `since` then or from now on: it is silent, or takes no message."""
        if self.state != "welcomed":
            self.greet(self.state, now)
            return []
        self.greet("away", now)
        self._away_since = now if since is None else since
        momentary = [n for n, waiting in self._waiting.items() if isinstance(waiting.message, OF_THE_MOMENT)]
        return self._settled((number, self.unreachable()) for number in momentary)

    def outgoing(self, now: float) -> Iterator[tuple[m.Message, Frames]]:
        """Yield what is to be sent now; each message once, so the shell must send it or call `lose`."""
        due = self.due(now)
        if self.state != "welcomed":
            if due:
                self._told_since = now
                yield self._hello, ()
            return
        if self._answers_heard.has_missed:
            self._answers_heard.has_missed = False
            yield m.Missed(self._answers_heard.latest), ()
        if self._is_count_due:
            self._is_count_due = False
            yield self._counts(), ()
        if self._unsent:
            unsent = list(self._unsent.values())
            self._unsent.clear()
            if self._held_to:
                held_to, self._held_to = self._held_to, 0
                before = self._sent_before
                if before:
                    sent = [one for one in unsent if one.number in before]
                    yield from self._packed(sent, heard=m.HELD, again=True, now=now)
                held = [one for one in unsent if one.number <= held_to and one.number not in before]
                yield from self._packed(held, heard=m.HELD, now=now)
                unsent = [one for one in unsent if one.number > held_to]
            yield from self._packed(unsent, heard=self.heard_beat, now=now)
        if self._cancelled:
            jobs, self._cancelled = self._cancelled, []
            yield m.Cancel(tuple(jobs)), ()
        if due:
            yield self._beat(now), ()

    # Moves

    def _welcome(self, welcome: m.Welcome, epoch: int, now: float) -> list[tuple[P, Outcome]]:
        if self.state == "welcomed" and epoch == self.epoch:
            return []  # the answer to a hello that we said twice
        if self._is_of_before(epoch, now):
            return []
        if not self.epoch:
            # TorchServe's listeners are not open yet when ours say that the fleet is still coming up.
            self._responses = [0] * 10
        self._held_to = self._last_id
        is_same = epoch == self.epoch
        self.be_welcomed(welcome, epoch, now)
        self._beat_at = now  # at once: it tells what was answered meanwhile
        asked, self.has_broker_keys = self.asks_for_keys, welcome.asks_for_keys
        self.asks_for_keys = self._config.token_authorization or welcome.asks_for_keys
        # What was taken in without a key is settled and never sent.
        keyless = self.settle_all(unchecked()) if self.asks_for_keys and not asked else []
        if is_same and not welcome.is_new:
            return keyless
        what_happened = "lost sight of this gateway" if is_same else "was restarted"
        self._cancelled.clear()
        self._answers_heard = InOrder()
        sent = self._waiting.keys() - self._unsent.keys()
        settled = self._send_again(list(self._waiting), what_happened)
        self._unsent = self._waiting.copy()  # the same, oldest first
        self._sent_before = (self._sent_before | sent) & self._unsent.keys()
        return keyless + settled

    def _is_of_before(self, epoch: int, now: float) -> bool:
        """Tell whether a broker before this one has said something that comes late.

        Once this one has been silent for long, an earlier state of its registry may have been put back.
        """
        return epoch < self.epoch and now < self._heard_at + self._peer_timeout_s

    def _send_again(self, numbers: Sequence[int], what_happened: str) -> list[tuple[P, Outcome]]:
        """Queue what was sent in vain; what can't be repeated safely is settled instead."""
        refused: list[tuple[int, Outcome]] = []
        for number in numbers:
            pending = self._waiting.get(number)
            if pending is None or number in self._unsent:
                continue
            if pending.parts:
                refused.append((number, _incomplete(what_happened)))
            elif isinstance(pending.message, _NOT_REPEATABLE):
                advice = "the change may have been made; look before you try again"
                why = f"the broker {what_happened} meanwhile: {advice}"
                refused.append((number, errors.BrokerUnreachable("The broker's answer was lost.", why)))
            else:
                self._unsent[number] = pending
                self._held_to = max(self._held_to, number)
        return self._settled(refused)

    def _answered(self, message: m.Answered | m.Refused, frames: Frames) -> list[tuple[P, Outcome]]:
        if isinstance(message, m.Refused):
            return self._settled((item.job, _error_of(item)) for item in message.items)
        parts = codec.split_frames([item.frames for item in message.items], frames)
        settled: list[tuple[P, Outcome]] = []
        for item, part in zip(message.items, parts, strict=True):
            pending = self._waiting.get(item.job)
            if pending is None or item.part < pending.parts:
                continue
            if self._unsent and item.job in self._unsent and (item.part or not item.is_final):
                continue  # of an earlier sending, whose rest is lost: it will be answered from the start
            if item.part > pending.parts:
                self.forget(pending)
                settled.append((pending, _incomplete("left out a part of its answer")))
                continue
            if item.is_final:
                self._remove(item.job)
                self._unsent.pop(item.job, None)
            pending.parts += 1
            settled.append((pending, Answer(item.meta, part, item.is_final)))
        return settled

    def _settled(self, outcomes: Iterable[tuple[int, Outcome]]) -> list[tuple[P, Outcome]]:
        """Remove what has its outcome; numbers that nobody waits for are passed over."""
        settled: list[tuple[P, Outcome]] = []
        for number, outcome in outcomes:
            pending = self._remove(number)
            if pending is not None:
                self._unsent.pop(number, None)
                settled.append((pending, outcome))
        return settled

    def _remove(self, number: int) -> P | None:
        """Take a number out of `_waiting`; the only writer of what is counted with it."""
        pending = self._waiting.pop(number, None)
        if pending is not None and isinstance(pending.message, m.SubmitItem):
            self._jobs -= 1
            self.room.held_bytes -= pending.size
            pending.frames = ()  # what is lent of it is free from now on
        elif pending is not None:
            self._reply_parts.forget(number)
        return pending

    def _beat(self, now: float) -> m.GatewayBeat:
        """Name what has waited for longer than most, so that its message may have been lost.

        The broker has taken in what was sent before this beat, or never will.
        """
        jobs: list[int] = []
        asks: list[int] = []
        for number, waiting in self._waiting.items():
            if waiting.since + 2 * self._beat_interval_s > now:
                break
            (jobs if isinstance(waiting.message, m.SubmitItem) else asks).append(number)
        answered = self._answers_heard.latest
        return msgspec.structs.replace(self._counts(), jobs=tuple(jobs), asks=tuple(asks), answered=answered)

    def _counts(self) -> m.GatewayBeat:
        """Return what was counted since the last call; a handler's own status above 599 counts as 5xx."""
        wrong_keys, self._wrong_keys = self._wrong_keys, 0
        responses, self._responses = self._responses, [0] * 10
        responses[5] += sum(responses[6:])
        by_class = {f"{hundreds}xx": count for hundreds, count in enumerate(responses[:6]) if count}
        return m.GatewayBeat(by_class, wrong_keys=wrong_keys)

    def _packed(
        self, waiting: Sequence[P], *, heard: int, again: bool = False, now: float
    ) -> Iterator[tuple[m.Message, Frames]]:
        """Group jobs into as few Submits as their limits allow; asks go one by one."""
        items: list[m.SubmitItem] = []
        frames: list[codec.PayloadOrPiece] = []
        inline_bytes = 0
        for one in waiting:
            if not isinstance(one.message, m.SubmitItem):
                yield one.message, ()
                continue
            inline_bytes += len(one.message.meta)
            is_full = len(items) == SUBMIT_LIMIT_JOBS or inline_bytes > SUBMIT_LIMIT_BYTES
            if items and (is_full or len(frames) + len(one.frames) > codec.FRAMES_LIMIT):
                yield self._submit(items, heard, again=again), frames
                items, frames, inline_bytes = [], [], len(one.message.meta)
            items.append(_as_of(now, one, one.message) if one.message.left_ms else one.message)
            frames.extend(one.frames)
        if items:
            yield self._submit(items, heard, again=again), frames

    def _submit(self, items: list[m.SubmitItem], heard: int, *, again: bool) -> m.Submit:
        self._submits += 1
        return m.Submit(tuple(items), heard, self._submits, again, self._answers_heard.latest)

    # Errors

    def _retry_after_s(self) -> int:
        return self._rate.retry_after_s(len(self._waiting))

    def _is_given_up(self, now: float) -> bool:
        return self.state != "welcomed" and now - self._away_since >= self._config.broker_outage_limit_s

    def unreachable(self) -> errors.BrokerUnreachable:
        """Return the error that no broker answers."""
        why = self.why_unreachable or f"no broker answers at {self._config.broker_address}"
        return errors.BrokerUnreachable("The broker can't be reached.", why)


def _as_of(now: float, pending: Pending, item: m.SubmitItem) -> m.SubmitItem:
    """Return a job with the time that its client still waits."""
    waited_ms = round(1000 * (now - pending.since))
    return msgspec.structs.replace(item, left_ms=max(1, item.left_ms - waited_ms)) if waited_ms > 0 else item


def _late(why: str) -> errors.PredictionTimeout:
    """Return the error of a job whose client's time is over."""
    return errors.PredictionTimeout(f"No answer within the request's {TIMEOUT_HEADER}", why)


def unchecked() -> errors.ServiceUnavailable:
    """Return the error of a request that came before it was known that it needs a key; it may come again."""
    return errors.ServiceUnavailable("The keys are not known.", "the broker has only now asked for them")


def _error_of(refusal: m.RefusedItem | m.AskRefused) -> errors.RelayError:
    retry_after_s = refusal.retry_after_s if isinstance(refusal, m.RefusedItem) else 1
    return errors.rebuild(refusal.error, refusal.message, refusal.details, retry_after_s)


def _incomplete(what_happened: str) -> errors.BrokerUnreachable:
    return errors.BrokerUnreachable("The rest of the answer was lost.", f"the broker {what_happened}")
