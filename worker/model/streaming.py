"""What a handler says and asks before it returns: parts of answers, and who still waits for them.

It is where `context.cl_socket` leads. Any thread of the handler may send and ask, until the call it belongs
to has ended; what is sent later is dropped.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from ts.context import Context
from ts.protocol.otf_message_handler import PredictResponse

from torchrelay.shared import clock
from torchrelay.shared.wire import codec
from torchrelay.worker.model import outputs
from torchrelay.worker.model.inputs import Opened
from torchrelay.worker.model.outputs import STREAM_HEADER

logger = logging.getLogger(__name__)

#: A job, by its lease and its index in the batch.
Place = tuple[int, int]
Part = tuple[Place, codec.Response]
SendParts = Callable[[list[Part]], None]


@dataclass(slots=True, frozen=True)
class ClientWatch:
    """Tells while a handler runs who still waits for its answers."""

    #: Takes in what the broker has said meanwhile, by whatever thread of the handler.
    receive: Callable[[], None]
    #: Whether somebody waits for a job, as far as has been heard.
    is_wanted: Callable[[int, int], bool]


class PartSender:
    """Sends parts of answers for the requests of the call that runs; remembers whose stream has failed.

    Without a `watch` everybody waits as long as it takes: the processes of one worker must all do the same,
    and what each of them asks at another moment would not.
    """

    def __init__(
        self, context: Context, send: SendParts, limit_bytes: int, watch: ClientWatch | None = None
    ) -> None:
        self.context = context
        self._send = send
        self._limit_bytes = limit_bytes
        self._watch = watch
        #: The requests of the latest call.
        self._jobs: Sequence[Opened] = ()
        #: Held while a part is sent: the worker's socket is one thread's at a time. Between calls it is
        #: the main thread's, which needs no lock, for then no call runs.
        self._lock = threading.Lock()
        #: Where each request of the running call came from; None between calls.
        self._places: Sequence[Place] | None = None
        self._request_ids: dict[int, str] = {}
        #: Index in the call -> what the request is answered instead of all that its handler still says.
        self._failures: dict[int, codec.Response] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> "PartSender":
        """Return this sender: a handler may copy its context, and both lead to the same requests."""
        return self

    def open(self, places: Sequence[Place], jobs: Sequence[Opened]) -> None:
        """Begin a call of these jobs; the context has its requests already."""
        self._jobs = jobs
        self._request_ids = self.context.request_ids or {}
        if self._failures:
            self._failures = {}
        self._places = places

    def close(self) -> None:
        """End a call; on return no thread is sending any more."""
        with self._lock:
            self._places = None

    def is_cancelled(self, idx: int | None = None) -> bool:
        """Tell whether nobody waits for a request of this call any more; without an index, for none of them.

        Once the call has ended nobody does. Raises IndexError where there is no such request.
        """
        with self._lock:
            places = self._places
            if places is None:
                return True
            if self._watch is None:
                return False
            self._watch.receive()
            now = clock.monotonic()
            chosen = range(len(places)) if idx is None else (idx,)
            return all(
                self._jobs[one].given_up_at <= now or not self._watch.is_wanted(*places[one])
                for one in chosen
            )

    def remaining_ms(self, idx: int | None = None) -> int | None:
        """Return how long a request's client still waits; None where nothing was said.

        Without an index: the most patient client of this call.
        """
        if self._watch is None:
            return None
        jobs = self._jobs if idx is None else (self._jobs[idx],)
        until = max((job.given_up_at for job in jobs), default=inf)
        return None if until == inf else max(0, int(1000 * (until - clock.monotonic())))

    def sendall(self, response: PredictResponse) -> None:
        """Send one part of each request that the response names."""
        with self._lock:
            named = [self._part(response, idx, known) for idx, known in response.req_id_map.items()]
            parts = [part for part in named if part is not None]
            if parts:
                self._send(parts)

    def last(self, idx: int, value: object) -> codec.Response:
        """Return a request's final answer; its headers are the first part's if there were any."""
        processor = self.context.request_processor[idx]
        headers = processor.get_response_headers()
        if STREAM_HEADER in headers:
            headers[STREAM_HEADER] = "false"
        if self._failures and idx in self._failures:
            return self._failures[idx]
        return outputs.answer(processor, value, self._limit_bytes)

    def _part(self, response: PredictResponse, idx: int, request_id: str) -> Part | None:
        position = self._position(idx, request_id)
        if self._places is None or position is None:
            logger.warning("part.late: request %s has been answered", request_id)
            return None
        if position in self._failures:
            return None
        part = self._made(response, idx)
        if part.error is not None:
            self._failures[position] = part
            return None
        return self._places[position], part

    def _position(self, idx: int, request_id: str) -> int | None:
        """Return the index in the call of a request, which the handler may have numbered anew."""
        if self._request_ids.get(idx) == request_id:
            return idx
        return next((known for known, other in self._request_ids.items() if other == request_id), None)

    def _made(self, response: PredictResponse, idx: int) -> codec.Response:
        if response.code != 200:
            return outputs.refused(response.message, response.code)
        context = response.context or self.context
        if response.ts_stream_next:
            context.set_response_header(idx, STREAM_HEADER, "true")
        return outputs.answer(context.request_processor[idx], response.ret[idx], self._limit_bytes)
