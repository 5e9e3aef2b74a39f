"""The gateway's socket to the broker, on the event loop; the only module here that knows zmq.

It feeds `gateway.session` with what comes, sends what that wants sent, and hands outcomes to the
requests that wait for them. Rules: never a blocking call; the socket's fd tells only of changes, so
it is read until it is empty and looked at again after each send; requests of one turn of the loop
leave in one message, or in a few where they are many; one coarse timer for everything that has to do with
time.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import zmq

from torchrelay.gateway import auth, model_readiness
from torchrelay.gateway.body_reading import BodyReading
from torchrelay.gateway.http.client_pace import Unsent
from torchrelay.gateway.http.held_writes import HeldWrites
from torchrelay.gateway.in_flight_room import Room
from torchrelay.gateway.session import (
    OF_THE_MOMENT,
    Answer,
    Frames,
    GatewaySession,
    Outcome,
    unchecked,
)
from torchrelay.gateway.shared_questions import SharedQuestion, SharedQuestions
from torchrelay.gateway.waiter import Waiter
from torchrelay.shared import clock, errors, member_credentials, settings
from torchrelay.shared.containment import first_fault
from torchrelay.shared.logs import logs
from torchrelay.shared.member_credentials import REFUSED_STATUS, CredentialsError
from torchrelay.shared.processes.returned_memory import keep_some_free_memory
from torchrelay.shared.processes.shared_memory import HeldPiece, Memory
from torchrelay.shared.wire import codec, presence, sockets
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.broker_dialer import BrokerDialer
from torchrelay.shared.wire.fields import KeyedApi
from torchrelay.shared.wire.memory_sharing import MemorySharing

logger = logging.getLogger(__name__)

#: Messages read before other callbacks have their turn.
RECEIVE_BUDGET = 256
#: Fine enough for beats and outages; 20 wake-ups a second cost nothing that shows.
TICK_S = 0.05
#: A tick that is later than this comes to a process that stood still.
LATE_TICK_S = 0.5
#: How long Bye may take to leave when the process stops.
LINGER_MS = 1000
#: How long a process waits for the broker before it listens all the same, to say what is wrong; how often it
#: looks.
WELCOME_S, WELCOME_LOOK_S = 5.0, 0.02
#: Exit status that makes gunicorn stop instead of starting another process.
DISMISSED_STATUS = 3

#: Guesses of keys that wait at a time: each holds a connection.
HELD_BACK_LIMIT = 100

R = TypeVar("R")


class Link:
    """Carries requests to the broker and answers back. Use `start` and `close` on a running loop."""

    #: How long a guess of a key waits for its answer.
    HOLD_BACK_S = 1.0

    def __init__(self, config: settings.GatewaySettings) -> None:
        self._config = config
        self._is_flush_due = False
        self._wrong_keys = auth.WrongKeys()
        self._wrong_key_lines = logs.LogRateLimit()
        #: Guesses that wait for their answers.
        self._held_back = 0
        #: Questions that need not be asked for each client.
        self._shared = SharedQuestions(self._put)
        #: This process was told to stop: others shall be asked, though it still answers.
        self.is_leaving = False
        #: What is lent to workers of this host, and read of theirs.
        self._sharing = MemorySharing("gateway")
        #: What is kept for clients that take their answers slowly.
        self.unsent = Unsent(config.unsent_bytes)
        #: What clients are answered while messages are taken in.
        self.writes = HeldWrites()

    async def start(self) -> None:
        """Connect. Context and socket are made here, in the process that uses them, after the fork."""
        keep_some_free_memory()
        self.loop = asyncio.get_running_loop()
        self._session: GatewaySession[Waiter[Any] | SharedQuestion] = GatewaySession(
            self._config, name=socket.gethostname(), pid=os.getpid(), now=clock.monotonic()
        )
        self._context = zmq.Context()
        self._dial()
        self._logged = self._session.state, self._session.epoch
        self._ticked_at = clock.monotonic()
        self._timer = self.loop.call_later(0, self._tick)

    async def close(self) -> None:
        """Refuse what still waits, send Bye, and close the socket."""
        self._timer.cancel()
        self._dialer.on_closing = self._stop_listening
        self._stop_listening()
        self._settle(self._session.settle_all(errors.ServiceUnavailable("The gateway stops.")))
        self._flush()  # cancels of what has just been given up
        if self._session.state == "welcomed":
            self._send(m.Bye(), ())
        self._dialer.close(LINGER_MS)
        self._sharing.close()
        self._context.term()

    def _dial(self) -> None:
        """Begin to reach the broker. Raises SystemExit where there are no credentials that it asks for."""
        file = self._config.credentials_file
        try:
            place = member_credentials.broker_place(self._config.broker_address, file)
        except CredentialsError as error:
            logger.error("gateway.cannot_start", extra={"reason": str(error)})
            raise SystemExit(DISMISSED_STATUS) from error
        self._dialer = BrokerDialer(self._context, "gateway", place, now=clock.monotonic())
        self._dialer.on_closing, self._dialer.on_dialled = self._lose_socket, self._listen
        self._dialer.complain = self._complain
        if file is not None:
            keep = partial(member_credentials.keep_broker_keys, Path(file), place.secret_key)
            self._dialer.others_keys = partial(member_credentials.broker_keys, Path(file), place.secret_key)
            self._dialer.keep_keys = partial(self.loop.run_in_executor, None, keep)
        self._listen()

    def _listen(self) -> None:
        """Have the loop tell of the present socket."""
        self._socket = self._dialer.socket
        self._fds = {sockets.fd_of(self._socket): self._receive}
        if self._dialer.watcher_fd is not None:
            self._fds[self._dialer.watcher_fd] = self._see_dialling
        for fd, callback in self._fds.items():
            self.loop.add_reader(fd, callback)
        self.loop.call_soon(self._see_dialling)  # what has come before wakes nobody up
        self._flush_soon()

    def _stop_listening(self) -> None:
        for fd in self._fds:
            self.loop.remove_reader(fd)
        self._fds = {}

    def _lose_socket(self) -> None:
        """Count the broker as away, whose socket is about to be closed; what waits goes out on the next."""
        self._stop_listening()
        self._settle(self._session.lose(clock.monotonic()))
        self._log_change()

    def _see_dialling(self) -> None:
        self._dialer.see(clock.monotonic())
        self._session.why_unreachable = self._dialer.policy.reason
        if self._dialer.policy.is_refused and self._config.ends_when_refused:
            raise SystemExit(REFUSED_STATUS)

    def _complain(self, reason: str) -> None:
        logger.error("gateway.not_let_in", extra={"broker": self._dialer.address, "reason": reason})

    # What requests use

    @property
    def asks_for_keys(self) -> bool:
        """Whether callers need keys: settings or the broker say so."""
        return self._session.asks_for_keys

    @property
    def is_up(self) -> bool:
        """Whether the broker has welcomed this process, is heard of, and has told what keys there are."""
        has_keys = self._session.keys.is_known or not self.asks_for_keys
        return has_keys and self._session.state == "welcomed"

    async def until_up(self, is_told: Callable[[], bool], limit_s: float = WELCOME_S) -> None:
        """Wait for the welcome and the keys, until this process is told to stop, for `limit_s` at most.

        A process that listens after that has an answer for whoever comes.
        """
        until = clock.monotonic() + limit_s
        while not (self.is_up or is_told()) and clock.monotonic() < until:
            await asyncio.sleep(WELCOME_LOOK_S)

    @property
    def unreachable_reason(self) -> str:
        """Why requests can't be taken on while `is_up` is false."""
        if self._session.state == "welcomed":
            if not self._session.has_broker_keys:
                return "the broker has no keys: start it with --tokens or --keys"
            return "the broker has not told the keys yet"
        return self._session.unreachable().details

    async def why_not_ready(self) -> str:
        """Say why requests can't be served yet; "" where they can."""
        if self.is_leaving:
            return "this gateway is being stopped"
        if not self.is_up:
            return self.unreachable_reason
        try:
            health = await self.ask(m.ReadHealth(0), m.HealthRead)
        except errors.FleetFault as error:
            return error.details
        return "models named at start are being registered" if health.is_starting else ""

    async def why_no_answers(self, model: str, version: str | None = None) -> str:
        """Say why a version can't answer requests now; "" where it can.

        Raises ModelNotFound or ModelVersionNotFound, and what `ask` does.
        """
        if self.is_leaving:
            return "this gateway is being stopped"
        read = await self.ask(m.ReadReadiness(0), m.ReadinessRead)
        return model_readiness.why_not(read, model, version)

    async def why_not_all_answer(self) -> str:
        """Say why requests can't be served, or which default versions can't answer; "" where all can."""
        if why_not := await self.why_not_ready():
            return why_not
        try:
            read = await self.ask(m.ReadReadiness(0), m.ReadinessRead)
        except errors.FleetFault as error:
            return error.details
        return model_readiness.why_not_all(read)

    @property
    def room(self) -> Room:
        """What is in flight, for what requests keep beside their jobs."""
        return self._session.room

    def bodies_waiting_long(self) -> int:
        """Count the bodies that have waited for room for so long that others should make some."""
        return self._session.room.waiting_long(clock.monotonic())

    def authorise(self, api: KeyedApi, header: str | None, address: str) -> None:
        """Let a request pass whose `Authorization` opens an API.

        Raises InvalidKey, TooManyWrongKeys, or ServiceUnavailable while the broker has not told the keys.
        """
        key, known = auth.key_of(header), self._session.keys
        if key is None:
            raise auth.refusal(api)
        if not known.is_known:
            raise errors.ServiceUnavailable("The keys are not known.", self.unreachable_reason)
        now = clock.monotonic()
        if not known.opens(api, key, now=now):
            raise self._refusal(api, key, address, now)

    def _refusal(self, api: KeyedApi, key: str, address: str, now: float) -> errors.RelayError:
        self._session.count_wrong_key()
        is_guess = self._wrong_keys.is_guess(address, key, now)
        if count := self._wrong_key_lines.count(now):
            facts = {"client": address, "api": api, "count": count, "is_guess": is_guess}
            logger.warning("gateway.wrong_key", extra=facts)
        if not is_guess:
            return auth.refusal(api)
        return errors.TooManyWrongKeys("Too many wrong keys have come from this address; try again later.")

    async def hold_back(self) -> None:
        """Delay the answer to a guessed key by HOLD_BACK_S, unless HELD_BACK_LIMIT answers wait already."""
        if self._held_back >= HELD_BACK_LIMIT:
            return
        self._held_back += 1
        try:
            await asyncio.sleep(self.HOLD_BACK_S)
        finally:
            self._held_back -= 1

    def count_response(self, status: int) -> None:
        """Note an HTTP answer, for the fleet's figures."""
        self._session.count_response(status)

    def reserve(self, size: int) -> HeldPiece | None:
        """Return memory for a body that comes, and goes to a worker as it is; None where that is not lent."""
        return self._sharing.reserve(size)

    @contextmanager
    def reading(
        self, limit: int, length: int | None, answer_by: float | None = None
    ) -> Iterator[BodyReading]:
        """Count a body towards in_flight_limit_bytes while it is read; without a length it may have `limit`.

        It waits for room until `answer_by` at most. Raises as `submit` does where it never could have room,
        and ServiceUnavailable where it has turned out meanwhile that its sender should have been asked for a
        key.
        """
        asked = self.asks_for_keys
        room = self._session.room
        if length is not None and length > room.largest_body_bytes:
            raise room.full()
        most_bytes = min(limit if length is None else length, room.largest_body_bytes)
        body = BodyReading(self.loop, room, most_bytes, answer_by)
        try:
            yield body
        finally:
            room.close(body)
        if self.asks_for_keys and not asked:
            raise unchecked()

    def submit(
        self,
        model: str,
        version: str | None,
        meta: bytes,
        frames: Frames,
        *,
        is_describe: bool = False,
        sequence: str = "",
        is_let_in: bool = False,
        answer_by: float | None = None,
    ) -> Waiter[Answer]:
        """Have a job done; to be awaited once for each part of its answer, up to the final one.

        `is_let_in`: its body had its room while it was read. `answer_by`: when its client gives up.
        """
        waiter = Waiter(self, Answer)
        parts = [self._sharing.lend(frame) for frame in frames]
        self._session.submit(
            waiter, model, version, meta, parts, is_describe=is_describe, sequence=sequence,
            is_let_in=is_let_in, answer_by=answer_by, now=clock.monotonic(),
        )  # fmt: skip
        self._flush_soon()
        return waiter

    def ask(self, ask: m.Ask, reply: type[R]) -> Waiter[R]:
        """Ask the broker; to be awaited for its reply. Gives `ask` its number."""
        waiter = Waiter(self, reply)
        if isinstance(ask, (*OF_THE_MOMENT, m.DescribeWorkflow)):
            waiter.number = 0  # none of its own
            self._shared.join(ask, waiter)
        else:
            self._put(waiter, ask)
        return waiter

    def _put(self, pending: "Waiter[Any] | SharedQuestion", ask: m.Ask) -> None:
        self._session.ask(pending, ask, now=clock.monotonic())
        self._flush_soon()

    def forget(self, waiter: Waiter[Any]) -> None:
        """Wait for this answer no longer, since the client has gone."""
        waiter.drop_backlog()
        if not waiter.number:
            self._shared.leave(waiter)
        self._session.forget(waiter)
        self._flush_soon()

    # Socket and loop

    def _receive(self) -> None:
        if self._socket.closed:
            return
        coming = self._coming()
        with self.writes:
            while fault := first_fault(coming, self._hear):
                (head, _), error = fault
                # Whom it was to answer asks again with a beat, as for a message that is lost.
                facts = {"bytes": len(head), "start": head[: codec.PREFIX.size].hex()}
                logger.error("gateway.message_fault", exc_info=error, extra=facts)
        if self._session.has_outgoing(clock.monotonic()):
            self._flush_soon()

    def _coming(self) -> Iterator[tuple[bytes, list[memoryview]]]:
        """Yield what has come, head and frames, up to the turn's budget."""
        for _ in range(RECEIVE_BUDGET):
            if not sockets.is_readable(self._socket):
                return
            yield sockets.receive(self._socket)
        self.loop.call_soon(self._receive)

    def _hear(self, received: tuple[bytes, list[memoryview]]) -> None:
        head, frames = received
        asked = self.asks_for_keys
        try:
            message, epoch = codec.decode(head)
            parts = self._sharing.unpacked(head, frames) if frames else ()
            settled = self._session.hear(message, epoch, parts, now=clock.monotonic())
        except codec.WireError as error:
            logger.error("gateway.misread", extra={"reason": str(error)})
            return
        self._settle(settled)
        self._log_change()
        if self.asks_for_keys != asked:
            if asked:
                logger.warning("gateway.asks_for_no_keys", extra={"reason": "the broker has none any more"})
            else:
                reason = "the broker has keys; start the gateway with --tokens, and it asks from the start"
                logger.warning("gateway.asks_for_keys", extra={"reason": reason})
        if not settled and isinstance(message, m.OfMemory) and epoch == self._session.epoch:
            self._hear_of_memory(message, epoch)
        elif isinstance(message, m.Misunderstood):
            logger.error("gateway.misunderstood", extra={"reason": message.reason})
        if self._session.dismissed is not None:
            logger.error("gateway.dismissed", extra={"reason": self._session.dismissed})
            raise SystemExit(DISMISSED_STATUS)

    def _hear_of_memory(self, message: m.OfMemory, epoch: int) -> None:
        opening = self._sharing.heard(message)
        if isinstance(message, m.OfferMemory) and opening is not None:
            told = self.loop.run_in_executor(None, opening)
            told.add_done_callback(partial(self._opened_memory, message, epoch))

    def _opened_memory(self, offer: m.OfferMemory, epoch: int, opened: "asyncio.Future[Memory]") -> None:
        is_there = not opened.cancelled() and opened.exception() is None
        if is_there and epoch == self._session.epoch and not self._socket.closed:
            self._send(self._sharing.opened(offer, opened.result()), ())

    def _flush_soon(self) -> None:
        """Send at the end of this turn of the loop, when all that it brings has been taken in.

        Where it brings many requests, or clients that leave, the broker need not wait for all.
        """
        if self._session.has_enough_to_send:
            self._flush()
        elif not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._socket.closed:
            return
        now = clock.monotonic()
        for message, frames in self._session.outgoing(now):
            if not self._send(message, frames):
                self._settle(self._session.lose(now))
                self._log_change()
                break
        # A send can use up the fd's signal that something has come.
        if sockets.is_readable(self._socket):
            self.loop.call_soon(self._receive)

    def _send(self, message: m.Message, frames: Frames) -> bool:
        """Send one message; False where there is no broker to take it."""
        epoch = 0 if isinstance(message, m.HelloGateway) else self._session.epoch
        parts = self._sharing.packed(message, epoch, frames) if frames else (codec.encode(message, epoch),)
        ahead = presence.announcement(parts[1:]) if frames else None
        try:
            if ahead is not None:
                sockets.send(self._socket, (codec.encode(ahead, epoch),))
            sockets.send(self._socket, parts)
        except zmq.Again:
            return False
        return True

    def _tick(self) -> None:
        self._timer = self.loop.call_later(TICK_S, self._tick)
        now = clock.monotonic()
        if (stood_still_s := now - self._ticked_at - TICK_S) > LATE_TICK_S:
            self._session.stood_still(stood_still_s, now)
        self._ticked_at = now
        self._settle(self._session.tick(now))
        self._sharing.look()
        self._let_in(now)
        if now >= self._dialer.next_wake:
            self._see_dialling()
        if self._session.broker_keys:
            self._dialer.know(self._session.broker_keys)
            self._session.broker_keys = ()
        self._log_change()
        self._flush_soon()

    def _let_in(self, now: float) -> None:
        """Let bodies go on for which there is room by now, and give up those that have waited too long."""
        for body, has_room in self._session.room.settled(now):
            assert isinstance(body, BodyReading)
            body.tell(has_room=has_room)

    @staticmethod
    def _settle(settled: Sequence[tuple[Waiter[Any] | SharedQuestion, Outcome]]) -> None:
        for waiter, outcome in settled:
            waiter.tell(outcome)

    def _log_change(self) -> None:
        after = self._session.state, self._session.epoch
        if after == self._logged:
            return
        self._logged = after
        facts = {"broker": self._dialer.address, "epoch": after[1], "waiting": self._session.waiting}
        if after[0] != "welcomed":
            self._sharing.lose()
            logger.warning("gateway.broker_lost", extra=facts)
            return
        logger.info("gateway.welcomed", extra=facts)
        if self._session.shares_memory and (offer := self._sharing.offer(after[1])) is not None:
            self._send(offer, ())
