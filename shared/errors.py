"""Every error that may leave a process, as one tree.

    RelayError
    ├── CallerFault                 4xx: the request can't be served as it stands
    │   ├── BadRequest              400 BadRequestException
    │   ├── InvalidKey              400 InvalidKeyException
    │   ├── InvalidModel            400 InvalidModelException
    │   ├── DownloadFailed          400 DownloadArchiveException
    │   ├── DependenciesFailed      400 ModelException
    │   ├── ForeignPage             403 ForeignPageException
    │   ├── InvalidModelVersion     403 InvalidModelVersionException
    │   ├── ResourceNotFound        404 ResourceNotFoundException
    │   ├── ModelNotFound           404 ModelNotFoundException
    │   ├── ModelVersionNotFound    404 ModelVersionNotFoundException
    │   ├── WorkflowNotFound        404 WorkflowNotFoundException
    │   ├── MethodNotAllowed        405 MethodNotAllowedException
    │   ├── RequestTimeout          408 RequestTimeoutException
    │   ├── Conflict                409 ConflictStatusException
    │   ├── RequestTooLarge         413 RequestTooLargeException
    │   └── TooManyWrongKeys        429 InvalidKeyException
    ├── HandlerFault                5xx: the model's own code failed
    │   ├── PredictionFailed        503 InternalServerException
    │   ├── WorkerDied              500 InternalServerException
    │   ├── WorkerStartFailed       500 InternalServerException
    │   ├── RequestQuarantined      500 InternalServerException
    │   └── OutOfResources          507 InternalServerException
    └── FleetFault                  5xx: the fleet failed or is full
        ├── ServiceUnavailable      503 ServiceUnavailableException
        ├── BrokerUnreachable       503 ServiceUnavailableException
        ├── PredictionTimeout       504 RequestTimeoutException
        ├── StoreFailed             500 InternalServerException
        └── InternalError           500 InternalServerException

The class fixes TorchServe's exception name (`type`), the HTTP status, whether the same call may be
tried again, and whose fault it is. `message` is TorchServe's text where it has one, since clients
compare whole bodies; `details` holds the reason in words and leaves only with a 5xx.
"""

from typing import ClassVar, Literal

Blame = Literal["caller", "handler", "fleet"]


class RelayError(Exception):
    """Base of the tree; raise a leaf.

    `message` says what failed, `details` (may be empty) why, in words a person can act on.
    """

    type: ClassVar[str]
    status: ClassVar[int]
    retryable: ClassVar[bool] = False
    blame: ClassVar[Blame]

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message, details)
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} ({self.details})" if self.details else self.message

    @property
    def name(self) -> str:
        """The class's name, which is what travels on the wire."""
        return type(self).__name__


class CallerFault(RelayError):
    """The caller must change the request."""

    blame = "caller"


class HandlerFault(RelayError):
    """The model's own code failed while it loaded or ran."""

    blame = "handler"


class FleetFault(RelayError):
    """The fleet could not do its part."""

    blame = "fleet"


class BadRequest(CallerFault):
    """A parameter or a body that can't be read."""

    type, status = "BadRequestException", 400


class InvalidKey(CallerFault):
    """A key that is missing, wrong or expired. TorchServe says 400 here, and its clients expect it."""

    type, status = "InvalidKeyException", 400


class InvalidModel(CallerFault):
    """An archive that is broken, incomplete or unsafe."""

    type, status = "InvalidModelException", 400


class DownloadFailed(CallerFault):
    """An archive's URL that did not give an archive."""

    type, status = "DownloadArchiveException", 400


class DependenciesFailed(CallerFault):
    """The Python packages that an archive names could not be installed."""

    type, status = "ModelException", 400


class ForeignPage(CallerFault):
    """A browser asks for a page of somebody else, where nobody needs a key. Ours alone."""

    type, status = "ForeignPageException", 403


class InvalidModelVersion(CallerFault):
    """A version that can't take the change asked of it."""

    type, status = "InvalidModelVersionException", 403


class ResourceNotFound(CallerFault):
    """No such route; the text is TorchServe's."""

    type, status = "ResourceNotFoundException", 404

    def __init__(
        self,
        message: str = "Requested resource is not found, please refer to API document.",
        details: str = "",
    ) -> None:
        super().__init__(message, details)


class ModelNotFound(CallerFault):
    """No such model, or no archive where one was said to be."""

    type, status = "ModelNotFoundException", 404


class ModelVersionNotFound(CallerFault):
    """The model is known, the version is not."""

    type, status = "ModelVersionNotFoundException", 404


class WorkflowNotFound(CallerFault):
    """No such workflow; there are none here."""

    type, status = "WorkflowNotFoundException", 404


class MethodNotAllowed(CallerFault):
    """The route exists, the method does not, or is switched off; the text is TorchServe's."""

    type, status = "MethodNotAllowedException", 405

    def __init__(
        self,
        message: str = "Requested method is not allowed, please refer to API document.",
        details: str = "",
    ) -> None:
        super().__init__(message, details)


class RequestTimeout(CallerFault):
    """A management call that could not be finished in its time, or a request that came too slowly."""

    type, status, retryable = "RequestTimeoutException", 408, True


class Conflict(CallerFault):
    """The name and version are taken."""

    type, status = "ConflictStatusException", 409


class RequestTooLarge(CallerFault):
    """A body above max_request_size."""

    type, status = "RequestTooLargeException", 413


class TooManyWrongKeys(CallerFault):
    """One more wrong key from where many different ones have come from. Ours alone."""

    type, status, retryable = "InvalidKeyException", 429, True


class PredictionFailed(HandlerFault):
    """The handler raised, or returned what can't be an answer."""

    type, status = "InternalServerException", 503


class WorkerDied(HandlerFault):
    """The worker process ended, or gave no answer within response_timeout."""

    type, status = "InternalServerException", 500


class WorkerStartFailed(HandlerFault):
    """A worker could not load the model."""

    type, status = "InternalServerException", 500


class RequestQuarantined(HandlerFault):
    """The same content ended workers a while ago. TorchServe would lose another, and say 500 as well."""

    type, status = "InternalServerException", 500


class OutOfResources(HandlerFault):
    """The worker ran out of memory, on the host or on the device."""

    type, status = "InternalServerException", 507


class ServiceUnavailable(FleetFault):
    """No worker, no room in a queue, or no time left."""

    type, status, retryable = "ServiceUnavailableException", 503, True


class BrokerUnreachable(FleetFault):
    """The gateway has no broker to ask."""

    type, status, retryable = "ServiceUnavailableException", 503, True


class PredictionTimeout(FleetFault):
    """No answer within the model's clientTimeoutInMills, after which TorchServe never answers."""

    type, status, retryable = "RequestTimeoutException", 504, True


class StoreFailed(FleetFault):
    """An archive could not be stored or unpacked."""

    type, status = "InternalServerException", 500


class InternalError(FleetFault):
    """A fault of ours; the details go to the log."""

    type, status = "InternalServerException", 500


def _leaves(cls: type[RelayError]) -> dict[str, type[RelayError]]:
    found: dict[str, type[RelayError]] = {}
    for sub in cls.__subclasses__():
        found |= _leaves(sub) or {sub.__name__: sub}
    return found


#: Class name -> class, for every leaf of the tree.
BY_NAME = _leaves(RelayError)


def rebuild(name: str, message: str, details: str = "") -> RelayError:
    """Make the error that a peer named; an unknown name (a newer peer) becomes InternalError."""
    return BY_NAME.get(name, InternalError)(message, details)
