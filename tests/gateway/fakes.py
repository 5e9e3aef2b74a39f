"""A link without a socket: the real session, and a scripted broker behind the real codec."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import falcon.testing

from tests.support import HANG_S
from torchrelay.gateway.api.base_app import App
from torchrelay.gateway.app import create_app
from torchrelay.gateway.link import Link
from torchrelay.gateway.listener_app import ListenerApp
from torchrelay.gateway.session import GatewaySession
from torchrelay.gateway.shared_questions import SharedQuestion
from torchrelay.gateway.waiter import Waiter
from torchrelay.shared import clock, errors
from torchrelay.shared.settings import GatewaySettings
from torchrelay.shared.wire import codec, messages

EPOCH = 5
INFERENCE, MANAGEMENT, METRICS = 8080, 8081, 8082

#: What the scripted broker says to an ask; None leaves it unanswered.
Replies = Callable[[Any], messages.Message | errors.RelayError]
#: What the scripted worker says to a job; a list is an answer in parts.
Said = codec.Response | errors.RelayError
Worker = Callable[[codec.Request, list[bytes]], Said | list[Said]]


def echo(request: codec.Request, values: list[bytes]) -> codec.Response:
    """Answer with the first input."""
    return codec.Response(200, "", (), values[0] if values else b"")


def no_replies(ask: Any) -> errors.RelayError:
    """Refuse every ask."""
    return errors.InternalError("not scripted", type(ask).__name__)


def templates(app: App) -> list[str]:
    """Every route of an API, as it was added.

    PERF: falcon's own list of them took 180 ms, for it looks for the line of each method.
    """

    def below(nodes: Iterable[Any], parent: str) -> Iterator[str]:  # Any: falcon's, with no types
        for node in nodes:
            path = f"{parent}/{node.raw_segment}"
            if node.resource is not None:
                yield path
            yield from below(node.children, path)

    return list(below(app._router._roots, ""))


class FakeLink(Link):
    """Hands what the session wants sent to the script at once, and its answers back."""

    HOLD_BACK_S = 0.0

    def __init__(
        self,
        config: GatewaySettings,
        replies: Replies = no_replies,
        worker: Worker = echo,
        *,
        is_away: bool = False,
    ) -> None:
        super().__init__(config)
        self._replies = replies
        self._worker = worker
        self._is_away = is_away
        self.asked: list[Any] = []
        self.cancelled: list[int] = []
        self.submitted: list[messages.SubmitItem] = []
        self.requests: list[codec.Request] = []
        self.values: list[list[bytes]] = []
        self.counted: list[int] = []
        self.welcome = messages.Welcome(500, 3000, asks_for_keys=config.token_authorization)
        #: Said by the broker behind its welcome.
        self.says_at_start: list[messages.Message] = []

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._session: GatewaySession[Waiter[Any] | SharedQuestion] = GatewaySession(
            self._config, name="test", pid=1, now=0.0
        )
        if not self._is_away:
            for said in (self.welcome, *self.says_at_start):
                self._session.hear(said, EPOCH, (), now=clock.monotonic())

    async def until_up(self, is_told: Callable[[], bool], limit_s: float = 0.0) -> None:
        """Wait for nothing: what has not been said at the start never will be."""
        await super().until_up(is_told, limit_s)

    async def close(self) -> None:
        pass

    def count_response(self, status: int) -> None:
        self.counted.append(status)

    def _flush_soon(self) -> None:
        for sent, frames in list(self._session.outgoing(0.0)):
            message, _ = codec.decode(codec.encode(sent, EPOCH))
            if isinstance(message, messages.Submit):
                parts = codec.split_frames([item.frames for item in message.items], frames)
                for item, part in zip(message.items, parts, strict=True):
                    self._answer(item, part)
            elif isinstance(message, messages.Cancel):
                self.cancelled += message.jobs
            elif isinstance(message, messages.Ask):
                self._reply(message)

    def _answer(self, item: messages.SubmitItem, frames: Sequence[codec.PayloadOrPiece]) -> None:
        request, values = codec.unpack_request(item.meta, frames)
        self.submitted.append(item)
        self.requests.append(request)
        self.values.append([bytes(value) for value in values])
        answer = self._worker(request, self.values[-1])
        parts = answer if isinstance(answer, list) else [answer]
        for number, part in enumerate(parts):
            if isinstance(part, errors.RelayError):
                refused = messages.RefusedItem(
                    item.job, part.name, part.message, part.details, part.retry_after_s
                )
                self._say(messages.Refused((refused,)))
            else:
                meta, body = codec.pack_response(part)
                is_final = number == len(parts) - 1
                answered = messages.AnsweredItem(item.job, meta, len(body), is_final, number)
                self._say(messages.Answered((answered,)), body)

    def _reply(self, ask: Any) -> None:
        self.asked.append(ask)
        reply = self._replies(ask)
        if isinstance(reply, errors.RelayError):
            reply = messages.AskRefused(ask.ask, reply.name, reply.message, reply.details)
        self._say(reply)

    def _say(self, said: messages.Message, frames: Sequence[bytes] = ()) -> None:
        message, epoch = codec.decode(codec.encode(said, EPOCH))
        self._settle(self._session.hear(message, epoch, frames, now=0.0))


class LateLink(FakeLink):
    """A link whose broker welcomes it when the test says so."""

    has_started = False
    is_up = False

    async def start(self) -> None:
        await super().start()
        self.has_started = True

    async def until_up(self, is_told: Callable[[], bool], limit_s: float = HANG_S) -> None:
        """Wait as in earnest, with no limit that a busy machine could reach."""
        await super().until_up(is_told, limit_s)


class Gateway:
    """All APIs over a FakeLink, asked as a client would."""

    def __init__(
        self,
        replies: Replies = no_replies,
        worker: Worker = echo,
        *,
        is_away: bool = False,
        config: GatewaySettings | None = None,
    ) -> None:
        config = config or GatewaySettings(enable_model_api=True)
        self.link = FakeLink(config, replies, worker, is_away=is_away)
        self.app: ListenerApp = create_app(self.link, config)

    def ask(
        self,
        port: int,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        extras: Mapping[str, Any] | None = None,
        host: str = "localhost",
    ) -> falcon.testing.Result:
        stated = dict(headers or {})
        if body and "transfer-encoding" not in stated:
            stated["Content-Length"] = str(len(body))
        raw_headers = [text.encode() for header in stated.items() for text in header]
        # As the protocol adds them; falcon gives a content-length of its own to the rest.
        scope = {"raw_headers": raw_headers, **(extras or {})}
        return falcon.testing.simulate_request(
            self.app,
            method,
            path,
            body=body,
            headers=headers,
            extras=scope,
            host=host,
            port=port,
        )

    def predict(
        self, path: str, body: bytes = b"", content_type: str | None = None, method: str = "POST"
    ) -> falcon.testing.Result:
        headers = {} if content_type is None else {"Content-Type": content_type}
        return self.ask(INFERENCE, method, path, body=body, headers=headers)

    def manage(self, method: str, path: str, **kwargs: Any) -> falcon.testing.Result:
        return self.ask(MANAGEMENT, method, path, **kwargs)

    def inputs(self) -> dict[str, tuple[str, bytes]]:
        """The inputs of the last job: name -> (content type, value)."""
        pairs = zip(self.link.requests[-1].inputs, self.link.values[-1], strict=True)
        return {one.name: (one.content_type, value) for one, value in pairs}

    def headers(self) -> dict[str, str]:
        """The headers of the last job; the last of a name counts."""
        return dict(self.link.requests[-1].headers)
