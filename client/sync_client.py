"""The client for programs without an event loop; it may be used by several threads."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from threading import Event, Lock
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx2

from torchrelay.client import inference_calls, management_calls, member_calls, workflow_api_calls
from torchrelay.client.attempts import Attempts
from torchrelay.client.base_client import STREAM_WORDS, BaseClient, StreamedAnswer, described_as
from torchrelay.client.http_calls import Api, Call, Pause, ReceivedAnswer, Shown, Steps
from torchrelay.client.http_pools import translated
from torchrelay.client.inference_calls import Prediction
from torchrelay.shared import clock
from torchrelay.shared.errors import RelayError

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


class PredictionStream(StreamedAnswer):
    """An answer whose parts are iterated over."""

    def __iter__(self) -> Iterator[bytes]:
        with translated(self._attempts):
            for part in self._response.iter_raw():
                self._attempts.require_time_to_end(clock.monotonic())
                yield part


def _method(build: Callable[P, Call[T]]) -> "Callable[Concatenate[Client, P], T]":
    def method(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client.send(build(*args, **kwargs))

    return described_as(build, method)


def _shown(build: Callable[P, Steps[S]]) -> "Callable[Concatenate[Client, P], Iterator[S]]":
    def method(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[S]:
        return client.follow(build(*args, **kwargs))

    return described_as(build, method)


def _streamed(
    build: Callable[P, Call[Prediction]],
) -> "Callable[Concatenate[Client, P], AbstractContextManager[PredictionStream]]":
    def method(
        client: "Client", /, *args: P.args, **kwargs: P.kwargs
    ) -> AbstractContextManager[PredictionStream]:
        return client.stream_of(build(*args, **kwargs))

    return described_as(build, method, "stream", STREAM_WORDS)


class Client(BaseClient):
    """Calls a server, and waits for its answers; raises RelayError for those that are errors.

    To be closed when it isn't needed any more, as by `with Client() as client`.
    """

    predict = _method(inference_calls.predict)
    stream = _streamed(inference_calls.predict)
    explain = _method(inference_calls.explain)
    infer = _method(inference_calls.infer)
    ping = _method(inference_calls.ping)

    register = _method(management_calls.register)
    unregister = _method(management_calls.unregister)
    scale = _method(management_calls.scale)
    set_default = _method(management_calls.set_default)
    describe = _method(management_calls.describe)
    models = _shown(management_calls.models)
    watch = _shown(management_calls.watch)
    fleet = _method(management_calls.fleet)
    ready = _method(management_calls.ready)
    renew_key = _method(management_calls.renew_key)
    rotate_broker_key = _method(management_calls.rotate_broker_key)

    predict_workflow = _method(workflow_api_calls.predict_workflow)
    register_workflow = _method(workflow_api_calls.register_workflow)
    unregister_workflow = _method(workflow_api_calls.unregister_workflow)
    describe_workflow = _method(workflow_api_calls.describe_workflow)
    workflows = _shown(workflow_api_calls.workflows)

    members = _method(member_calls.members)
    member = _method(member_calls.member)
    drain = _method(member_calls.drain)
    resume = _method(member_calls.resume)
    revoke = _method(member_calls.revoke)
    forget = _method(member_calls.forget)
    invitations = _method(member_calls.invitations)
    invite = _method(member_calls.invite)
    end_invitation = _method(member_calls.end_invitation)

    #: Held while a connection pool is made.
    _making = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; a call that comes later opens new ones."""
        with self._making:
            while self._pools:
                self._pools.popitem()[1].close()

    def send(self, call: Call[T]) -> T:
        """Send a call, again where that is safe, and return what its answer says."""
        attempts = self._begin(call)
        while True:
            try:
                with self._opened(attempts) as response:
                    return call.read(_read(attempts, response))
            except RelayError as error:
                self._wait(attempts, error)

    def follow(self, steps: Steps[S]) -> Iterator[S]:
        """Send calls that follow one another, and yield what they show."""
        answer: object = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                return
            answer = None
            match step:
                case Shown():
                    yield step.value
                case Pause():
                    Event().wait(step.seconds)
                case Call():
                    answer = self.send(step)

    @contextmanager
    def stream_of(self, call: Call[Prediction]) -> Iterator[PredictionStream]:
        """Send a call, and yield its answer as soon as it has begun."""
        attempts = self._begin(call)
        with ExitStack() as stack:
            while True:
                try:
                    response = stack.enter_context(self._opened(attempts))
                    if attempts.begin(response.status_code, response.headers).is_error:
                        _read(attempts, response)
                    break
                except RelayError as error:
                    stack.close()
                    self._wait(attempts, error)
            yield PredictionStream(attempts, response)

    def _wait(self, attempts: Attempts[Any], error: RelayError) -> None:
        """Wait before the next try; raise the error if there is none."""
        Event().wait(attempts.pause_s(error, clock.monotonic(), self._chance()))

    @contextmanager
    def _opened(self, attempts: Attempts[Any]) -> Iterator[httpx2.Response]:
        """Send the request of the next try, and yield the answer, of which only the head has been read."""
        call, now = attempts.call, clock.monotonic()
        with ExitStack() as stack:
            stack.enter_context(translated(attempts))
            content = None if call.body is None else stack.enter_context(closing(call.body.chunks()))
            yield stack.enter_context(
                self._pool(call.api).stream(
                    call.method,
                    call.target,
                    headers=self._headers(attempts, now),
                    content=content,
                    timeout=httpx2.Timeout(**attempts.timeouts(now)),
                )
            )

    def _pool(self, api: Api) -> httpx2.Client:
        with self._making:
            if api not in self._pools:
                arguments, transport = self._arguments(api)
                self._pools[api] = httpx2.Client(transport=httpx2.HTTPTransport(**transport), **arguments)
            pool: httpx2.Client = self._pools[api]
            return pool


def _read(attempts: Attempts[Any], response: httpx2.Response) -> ReceivedAnswer:
    reading = attempts.begin(response.status_code, response.headers)
    for piece in response.iter_raw():
        if not reading.take(piece, clock.monotonic()):
            break
    return reading.end()
