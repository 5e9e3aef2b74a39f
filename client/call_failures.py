"""What a call raises: errors of the server's tree, and what has no place in it. Pure.

RelayError                      all of it
├── shared/errors.py            what the server answered: ModelNotFound, ServiceUnavailable, ...
├── ServerFault                500: the handler, its worker or the server failed; `details` say which
├── ErrorStatus                 an error status without the server's body: a handler's own, or a proxy's
└── CallFailed                  no answer, or none that can be used
    ├── ServerNotReached        there was no connection, so that nothing was sent
    │   └── CertificateNotTrusted
    ├── ConnectionLost          it broke before the answer had ended
    ├── AnswerTimeout           the answer took longer than the caller waits
    ├── UnreadableAnswer        cut short, too large, not what was asked for, a redirect
    └── UnusableSetting         an address, a key file or a certificate that can't be used
"""

from collections.abc import Mapping

import msgspec

from torchrelay.shared import errors
from torchrelay.shared.api_bodies import ErrorBody
from torchrelay.shared.deadlines import RETRY_AFTER_LIMIT_S

#: The one header of TorchServe's by which a request is found in the server's logs.
REQUEST_ID = "x-request-id"
RETRY_AFTER = "retry-after"
#: Of what somebody else's error says.
SHOWN_LIMIT_CHARS = 300


class ServerFault(errors.RelayError, type="InternalServerException", status=500):
    """The handler, its worker or the server itself failed; TorchServe has one name for all of these."""


class ErrorStatus(errors.RelayError):
    """An error status whose body isn't the server's own: a handler's answer, or that of a proxy."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        text = content.decode(errors="replace").strip()[:SHOWN_LIMIT_CHARS]
        super().__init__(f"the server answered {status}" + (f": {text}" if text else ""))
        self.status = status
        self.headers = headers
        self.content = content


class CallFailed(errors.RelayError):
    """There is no answer, or none that can be used."""


class ServerNotReached(CallFailed):
    """There was no connection to the server, so that nothing was sent."""


class CertificateNotTrusted(ServerNotReached):
    """The server's certificate is signed by nobody who is trusted, or is another host's."""


class ConnectionLost(CallFailed):
    """The connection broke before the answer had ended; whether the call was carried out is not known."""


class AnswerTimeout(CallFailed):
    """The answer took longer than the caller waits; whether the call was carried out is not known."""


class UnreadableAnswer(CallFailed):
    """The answer isn't what was asked for: cut short, too large, of another form, or a redirect."""


class UnusableSetting(CallFailed):
    """An address, a key file or a certificate that the client was given can't be used."""


def answered_error(status: int, headers: Mapping[str, str], content: bytes) -> errors.RelayError:
    """Make the error that an answer is; `headers` by their names in small letters."""
    error = _error_of(status, headers, content)
    error.request_id = headers.get(REQUEST_ID, "")
    error.retry_after_s = retry_after_s(headers)
    return error


def _error_of(status: int, headers: Mapping[str, str], content: bytes) -> errors.RelayError:
    try:
        said = msgspec.json.decode(content, type=ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if status == errors.RequestTooLarge.status:  # has no body, as in TorchServe
            return errors.RequestTooLarge(
                "the server takes no request of this size", "see its max_request_size"
            )
        return ErrorStatus(status, headers, content)
    kind = _KINDS.get((status, said.type))
    return kind(said.message, said.details) if kind else ErrorStatus(status, headers, content)


def retry_after_s(headers: Mapping[str, str]) -> int:
    """Read how many seconds the server asks for before the next try; what can't be read is the longest."""
    said = headers.get(RETRY_AFTER, "1")
    readable = said.isascii() and said.isdigit() and len(said) <= len(str(RETRY_AFTER_LIMIT_S))
    return int(said) if readable else RETRY_AFTER_LIMIT_S


def was_refused(error: errors.RelayError) -> bool:
    """Tell whether the server, or a proxy before it, says that the same call may be tried again."""
    if isinstance(error, ErrorStatus):
        return error.status == 503 and RETRY_AFTER in error.headers
    return isinstance(error, errors.ServiceUnavailable)


def _by_answer() -> dict[tuple[int, str], type[errors.RelayError]]:
    """Map status and type to a class; where several look alike, to the one that says what is known."""
    found: dict[tuple[int, str], type[errors.RelayError]] = {}
    for cls in errors.BY_NAME.values():
        found.setdefault((cls.status, cls.type), cls)
    found[ServerFault.status, ServerFault.type] = ServerFault
    return found


_KINDS = _by_answer()
