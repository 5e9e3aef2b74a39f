"""What errors are by gRPC: codes, and descriptions in TorchServe's two lines. Pure.

Of an error that TorchServe has, code and description are its own: callers compare them. Where it answers
without a word, ours says what is wrong, with the same code. The reason in words is in
`grpc-status-details-bin`, where gRPC's libraries look for it.
"""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from torchrelay.shared import errors
from torchrelay.shared.deadlines import TIMEOUT_HEADER

Api = Literal["inference", "management"]

#: Of a description as it is sent: clients read 8 KiB of what stands behind an answer, all of it together.
DESCRIPTION_LIMIT_BYTES = 4096
_SENT_AS_THEY_ARE = " !\"#$&'()*+,-./:;<=>?@[]^_`{|}~\\"
#: The same of each text in the details.
DETAILS_LIMIT_CHARACTERS = 500
DOMAIN = "torchrelay"

_MODELS = "org.pytorch.serve.archive.model."
_WORKFLOWS = "org.pytorch.serve.archive.workflow."
_HTTP = "org.pytorch.serve.http."
#: The second line of a description.
_TAGS: dict[type[errors.RelayError], str] = {
    errors.ModelNotFound: f"{_MODELS}ModelNotFoundException",
    errors.ModelVersionNotFound: f"{_MODELS}ModelVersionNotFoundException",
    errors.InvalidModel: f"{_MODELS}InvalidModelException",
    errors.InvalidModelVersion: f"{_MODELS}InvalidModelVersionException",
    errors.DependenciesFailed: f"{_MODELS}ModelException",
    errors.DownloadFailed: "org.pytorch.serve.archive.DownloadArchiveException",
    errors.WorkflowNotFound: f"{_WORKFLOWS}WorkflowNotFoundException",
    errors.InvalidWorkflow: f"{_WORKFLOWS}InvalidWorkflowException",
    errors.WorkflowFailed: f"{_WORKFLOWS}WorkflowException",
    errors.InvalidDag: "org.pytorch.serve.ensemble.InvalidDAGException",
}
#: What only one of the two services says so.
_INFERENCE_TAGS: dict[type[errors.RelayError], str] = {
    errors.BadRequest: "BadRequestException.()",
    errors.ServiceUnavailable: "InternalServerException.()",
}
_CODES: dict[type[errors.RelayError], StatusCode] = {
    errors.InvalidKey: StatusCode.PERMISSION_DENIED,
    errors.TooManyWrongKeys: StatusCode.RESOURCE_EXHAUSTED,
    # TorchServe catches neither of these two.
    errors.InvalidModelVersion: StatusCode.UNKNOWN,
    errors.Conflict: StatusCode.UNKNOWN,
    errors.RequestTimeout: StatusCode.DEADLINE_EXCEEDED,
}
#: What TorchServe's inference service doesn't tell apart.
_INFERENCE_CODES = dict.fromkeys(
    (errors.BadRequest, errors.ModelNotFound, errors.ModelVersionNotFound, errors.ServiceUnavailable),
    StatusCode.INTERNAL,
)
_BY_STATUS = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    409: StatusCode.ABORTED,
    413: StatusCode.RESOURCE_EXHAUSTED,
    416: StatusCode.OUT_OF_RANGE,
    429: StatusCode.RESOURCE_EXHAUSTED,
    499: StatusCode.CANCELLED,
    501: StatusCode.UNIMPLEMENTED,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True, slots=True)
class GrpcRefusal:
    """An error as a caller gets it."""

    code: StatusCode
    message: str
    #: TorchServe's name of the error; "" for none.
    tag: str
    error: errors.RelayError

    @property
    def description(self) -> str:
        """Both lines."""
        return f"{_cut(self.message)}\n{self.tag}" if self.tag else _cut(self.message)

    def status(self) -> status_pb2.Status:
        """Write it as StreamPredictions2 answers: the call goes on."""
        return self._status(error_details_pb2.ErrorInfo(reason=self.tag))

    def metadata(self, *, has_pushback: bool = True) -> tuple[tuple[str, str | bytes], ...]:
        """Return what goes with it: the reason in words, and when the same call may be tried again.

        That is said twice, for who reads the details and for clients that try again by themselves; without
        `has_pushback` once.
        """
        error = self.error
        if not (error.details or error.retryable):
            return ()
        said = {"details": error.details[:DETAILS_LIMIT_CHARACTERS]} if error.details else {}
        about = error_details_pb2.ErrorInfo(reason=error.type, domain=DOMAIN, metadata=said)
        if not error.retryable:
            return (("grpc-status-details-bin", self._status(about).SerializeToString()),)
        wait = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=error.retry_after_s))
        details = ("grpc-status-details-bin", self._status(about, wait).SerializeToString())
        pushback = ("grpc-retry-pushback-ms", str(1000 * error.retry_after_s))
        return (details, pushback) if has_pushback else (details,)

    def _status(
        self, *details: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo
    ) -> status_pb2.Status:
        made = status_pb2.Status(code=self.code.value[0], message=_cut(self.message))
        for one in details:
            packed = any_pb2.Any()
            packed.Pack(one)
            made.details.append(packed)
        return made


class CallRefused(Exception):
    """Ends a call as it says."""

    def __init__(self, refusal: GrpcRefusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


def refusal(error: errors.RelayError, api: Api, status: int | None = None) -> GrpcRefusal:
    """Say an error as TorchServe's service does; `status` is the handler's own, where it has set one."""
    if isinstance(error, errors.InvalidKey):
        return GrpcRefusal(StatusCode.PERMISSION_DENIED, error.message, "", error)
    if isinstance(error, errors.MethodNotAllowed):
        return GrpcRefusal(
            StatusCode.PERMISSION_DENIED, "Model API disabled", f"{_MODELS}ModelException", error
        )
    kind = type(error)
    code = _CODES.get(kind) or code_of(error.status if status is None else status)
    tag = _TAGS.get(kind, f"{_HTTP}{error.type}")
    if api == "inference":
        code, tag = _INFERENCE_CODES.get(kind, code), _INFERENCE_TAGS.get(kind, tag)
    # By gRPC a caller has said how long it waits by the call's deadline.
    return GrpcRefusal(code, error.message.replace(TIMEOUT_HEADER, "deadline"), tag, error)


def busy(error: errors.FleetFault) -> CallRefused:
    """Refuse a call for want of room or of a broker: another process may take it, or this one in a while."""
    return CallRefused(GrpcRefusal(StatusCode.UNAVAILABLE, error.message, f"{_HTTP}{error.type}", error))


def code_of(status: int) -> StatusCode:
    """Return the code for a failure with an HTTP status; one that is none in HTTP is UNKNOWN here."""
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return {4: StatusCode.FAILED_PRECONDITION, 5: StatusCode.INTERNAL}.get(status // 100, StatusCode.UNKNOWN)


def _cut(text: str) -> str:
    """Shorten a text to what may be sent of it; most characters but ASCII's take three bytes each."""
    text = text[:DESCRIPTION_LIMIT_BYTES]
    while len(quote(text, safe=_SENT_AS_THEY_ARE)) > DESCRIPTION_LIMIT_BYTES:
        text = text[: len(text) * 3 // 4]
    return text
