"""A call as a value: the request that it is, and how its answer is read. Pure; both clients send these."""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import UNSET

from torchrelay.client.call_failures import REQUEST_ID, UnreadableAnswer, answered_error
from torchrelay.client.request_bodies import RequestBody
from torchrelay.client.retry_policy import Repeated
from torchrelay.shared.api_bodies import ModelsBody, WorkflowsBody

T = TypeVar("T")
S = TypeVar("S")
PageT = TypeVar("PageT", ModelsBody, WorkflowsBody)
#: The addresses that a server has for callers; they may be one.
Api = Literal["inference", "management"]
#: How long management calls may take that don't wait for workers.
MANAGEMENT_TIMEOUT_S = 30.0
MEBIBYTE = 1024 * 1024
#: A fleet of thousands of models has 10 MiB.
MANAGEMENT_LIMIT_BYTES = 64 * MEBIBYTE


class NoName(ValueError):
    """A text that can't name a model, a version or a host."""


class ReceivedAnswer(msgspec.Struct, frozen=True):
    """An answer as it came, its content in pieces; `api` and `url` say whose it is."""

    api: Api
    url: str
    status: int
    headers: Mapping[str, str]
    pieces: Sequence[bytes]

    @property
    def content(self) -> bytes:
        """The whole content."""
        return b"".join(self.pieces)

    @property
    def request_id(self) -> str:
        """By which the server's logs know the request."""
        return self.headers.get(REQUEST_ID, "")


class Call(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One request, and what makes a value of its answer."""

    api: Api
    method: str
    path: str
    read: Callable[[ReceivedAnswer], T]
    repeated: Repeated
    #: Those that are None are left out.
    query: Mapping[str, object] = {}
    headers: Mapping[str, str] = {}
    body: RequestBody | None = None
    #: Error statuses whose answer is read all the same.
    also_read: Sequence[int] = ()
    #: How long the caller waits, with all tries; without one, as long as the server takes.
    timeout_s: float | None = None
    #: Whether the server is told how long, so that it ends what nobody waits for.
    is_deadline_told: bool = False
    #: What an answer may have; None for what the client allows.
    limit_bytes: int | None = None

    @property
    def target(self) -> str:
        """Path and query."""
        given = {key: _as_text(value) for key, value in self.query.items() if value is not None}
        return self.path + ("?" + urlencode(given) if given else "")


class Pause(msgspec.Struct, frozen=True):
    """A step of several calls: wait for so many seconds."""

    seconds: float


class Shown(msgspec.Struct, Generic[S], frozen=True):
    """A step of several calls: the caller is shown this."""

    value: S


#: Several calls that follow one another: yields each and is sent its answer; yields what is shown in between.
Steps = Generator[Call[Any] | Pause | Shown[S], Any, None]  # Any: each call's answer is of its own type


def management(
    method: str,
    *segments: str | None,
    read: Callable[[ReceivedAnswer], T],
    repeated: Repeated | None = None,
    query: Mapping[str, object] | None = None,
    waits: bool = False,
    also_read: Sequence[int] = (),
) -> Call[T]:
    """Make a call of the management API; one that waits for workers ends by the server's own limits.

    Unless it is said, reading may be repeated, and nothing else.
    """
    return Call(
        api="management",
        method=method,
        path=path_of(*segments),
        query=query or {},
        read=read,
        also_read=also_read,
        repeated=repeated or ("harmless" if method == "GET" else "harmful"),
        timeout_s=None if waits else MANAGEMENT_TIMEOUT_S,
        limit_bytes=MANAGEMENT_LIMIT_BYTES,
    )


def pages(of_what: str, what: type[PageT], entries_of: Callable[[PageT], Sequence[S]]) -> Steps[S]:
    """Show each entry of a list of the management API, page by page."""
    at = 0
    while True:
        page: PageT = yield management("GET", of_what, read=of_json(what), query={"next_page_token": at})
        entries = entries_of(page)
        for entry in entries:
            yield Shown(entry)
        if page.next_page_token is UNSET or not entries:
            return
        if int(page.next_page_token) <= at:
            raise UnreadableAnswer(f"behind {of_what} from {at} on, the server names {page.next_page_token}")
        at = int(page.next_page_token)


def of_json(what: type[T]) -> Callable[[ReceivedAnswer], T]:
    """Return what reads answers of JSON as a type."""
    return lambda answer: decode(answer, what)


def decode(answer: ReceivedAnswer, what: type[T]) -> T:
    """Decode an answer of JSON.

    Raises the error that it is instead, or UnreadableAnswer where it has another form: another server's.
    """
    content = answer.content
    try:
        return msgspec.json.decode(content, type=what)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if answer.status >= 400:
            raise answered_error(answer.status, answer.headers, content) from error
        raise UnreadableAnswer(
            f"what answers at {answer.url} is not torchrelay's {answer.api} address", str(error)
        ) from error


def path_of(*segments: str | None) -> str:
    """Write a path of these segments; what is None, as a version that isn't named, is left out.

    Raises NoName for what would lead elsewhere: an empty name, and dots alone.
    """
    named = [segment for segment in segments if segment is not None]
    for segment in named:
        if segment in ("", ".", ".."):
            raise NoName(f"{segment!r} is no name")
    return "".join("/" + quote(segment, safe="") for segment in named)


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
