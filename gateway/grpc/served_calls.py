"""What every call has: a check of its key, bounds, an end that says what went wrong, a line in the log.

Requests are read here, as bytes: so a call can be refused, or ended, before its request has come.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError, Message

from torchrelay.gateway.grpc.awaited_clients import AwaitedClient, AwaitedClients, UnsentAnswer
from torchrelay.gateway.grpc.grpc_errors import Api, CallRefused, GrpcRefusal, busy, refusal
from torchrelay.gateway.http.access_log import AccessLog
from torchrelay.gateway.link import Link
from torchrelay.shared import clock, errors

#: Up to this grpc takes an answer over, whether or not its client reads.
SENT_AT_ONCE_BYTES = 64 * 1024
#: What the native server says is left of a call that has no deadline.
FOR_EVER_S = float(sys.maxsize)
#: In quotes, since grpc's classes have parameters for type checkers alone.
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Method: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
#: Answers a call that has one request, with a message or with several that it writes.
Unary = Callable[[bytes, Context], Awaitable[bytes]]
InParts = Callable[[bytes, Context], Awaitable[None]]
#: Answers a call that has as many requests as it reads.
Exchange = Callable[[Context], Awaitable[None]]
M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(eq=False)
class ServedCalls:
    """Makes what grpc calls for each method."""

    link: Link
    _awaited: AwaitedClients
    _access: AccessLog | None
    #: Whether the server is the native one: it hands a call over when its one request has come, and refuses
    #: to send grpc-retry-pushback-ms.
    _is_native: bool = False

    def unary(self, api: Api, method: str, answer: Unary) -> Method:
        """Serve a method with one request and one answer."""

        async def count_and_answer(data: bytes, context: Context) -> bytes:
            answered = await answer(data, context)
            if len(answered) > SENT_AT_ONCE_BYTES:
                self._count_until_sent(len(answered))
            return answered

        if self._is_native:

            async def serve_whole(data: bytes, context: Context) -> bytes:
                return await self._serve(api, method, context, partial(count_and_answer, data))

            return grpc.unary_unary_rpc_method_handler(serve_whole)

        async def read_and_answer(context: Context) -> bytes:
            return await count_and_answer(await self._request(context), context)

        async def serve(_: object, context: Context) -> bytes:
            return await self._serve(api, method, context, read_and_answer)

        return grpc.stream_unary_rpc_method_handler(serve)

    def in_parts(self, api: Api, method: str, answer: InParts) -> Method:
        """Serve a method with one request and as many answers as it writes."""
        if self._is_native:

            async def serve_whole(data: bytes, context: Context) -> None:
                await self._serve(api, method, context, partial(answer, data))

            return grpc.unary_stream_rpc_method_handler(serve_whole)

        async def read_and_answer(context: Context) -> None:
            await answer(await self._request(context), context)

        return self.exchange(api, method, read_and_answer)

    def exchange(self, api: Api, method: str, answer: Exchange) -> Method:
        """Serve a method that reads and writes as it likes."""

        async def serve(_: object, context: Context) -> None:
            await self._serve(api, method, context, answer)

        return grpc.stream_stream_rpc_method_handler(serve)

    async def _request(self, context: Context) -> bytes:
        """Read the one request of a call."""
        data = await self.next_request(context, is_stream=False)
        if data is None:
            raise errors.BadRequest("The call has no request.")
        return data

    async def next_request(self, context: Context, *, is_stream: bool = True) -> bytes | None:
        """Read a request; None at their end."""
        task = asyncio.current_task()
        assert task is not None
        client = AwaitedClient(task.cancel, clock.monotonic(), is_stream)
        self._awaited.wait_for(client)
        try:
            data = await context.read()
        except asyncio.CancelledError:
            if not client.reason:
                raise
            task.uncancel()
            error = errors.RequestTimeout("The request was not read to its end.", client.reason)
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise CallRefused(GrpcRefusal(code, error.message, "", error)) from None
        finally:
            self._awaited.waits_no_more(client)
        return data if isinstance(data, bytes) else None

    async def write(self, context: Context, answer: bytes) -> None:
        """Send a message of a stream of answers."""
        unsent = UnsentAnswer(len(answer), clock.monotonic())
        self._awaited.send(unsent)
        try:
            await context.write(answer)
        finally:
            self._awaited.sent(unsent)

    def _count_until_sent(self, size: int) -> None:
        """Count an answer until the call's task, which goes on to send it, has ended."""
        task = asyncio.current_task()
        assert task is not None
        unsent = UnsentAnswer(size, clock.monotonic())
        self._awaited.send(unsent)
        task.add_done_callback(lambda _: self._awaited.sent(unsent))

    async def _serve(
        self, api: Api, method: str, context: Context, answer: Callable[[Context], Awaitable[T]]
    ) -> T:
        """Let a call in and await its answer; end it as an error says."""
        started = clock.monotonic()
        code = grpc.StatusCode.CANCELLED
        self._awaited.calls += 1
        try:
            self._let_in(api, context, started)
            answered = await answer(context)
            code = grpc.StatusCode.OK
            return answered
        except (errors.RelayError, CallRefused) as error:
            if isinstance(error, errors.TooManyWrongKeys):
                await self.link.hold_back()
            refused = error.refusal if isinstance(error, CallRefused) else refusal(error, api)
            code = refused.code
            metadata = refused.metadata(has_pushback=not self._is_native)
            await context.abort(code, refused.description, metadata)
        finally:
            self._awaited.calls -= 1
            if self._access is not None:
                host, port = client_of(context)
                took_s = clock.monotonic() - started
                self._access.note(host, port, f"gRPC {method} HTTP/2.0", code.value[0], took_s)

    def check_key(self, api: Api, context: Context) -> None:
        """Raise for a call without its key, as `Link.authorise` does."""
        if self.link.asks_for_keys:
            self.link.authorise(api, authorization(context), client_of(context)[0])

    def _let_in(self, api: Api, context: Context, now: float) -> None:
        """Raise for a call without its key, and for one too many."""
        try:
            self.check_key(api, context)
        except errors.ServiceUnavailable as error:  # the keys are not known yet
            raise busy(error) from error
        if not self._awaited.has_room(now):
            raise busy(
                errors.ServiceUnavailable("The gateway is busy.", "it has as many calls as it may have")
            )


def parsed(kind: type[M], data: bytes) -> M:
    """Read a request. Raises CallRefused for bytes that are none."""
    try:
        return kind.FromString(data)
    except DecodeError:
        error = errors.BadRequest("The request can't be read as the message that this method takes.")
        raise CallRefused(GrpcRefusal(grpc.StatusCode.INTERNAL, error.message, "", error)) from None


def authorization(context: Context) -> str | None:
    """Return what a call's metadata has as `authorization`, None where it has nothing."""
    for name, text in context.invocation_metadata() or ():
        if name == "authorization" and isinstance(text, str):
            return text
    return None


def client_of(context: Context) -> tuple[str, int]:
    """Return address and port of a caller."""
    _, _, address = unquote(context.peer()).partition(":")
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else 0


def answer_by(context: Context) -> float | None:
    """Return when the caller gives up, by `clock.monotonic`; None where it waits for ever."""
    left_s = context.time_remaining()
    return None if left_s is None or left_s >= FOR_EVER_S else clock.monotonic() + left_s
