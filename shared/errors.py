"""Every error that may leave a process, as one tree.

    RelayError
    ├── CallerFault                 4xx: the request can't be served as it stands
    │   ├── BadRequest              400 BadRequestException
    │   ├── InvalidKey              400 InvalidKeyException
    │   ├── InvalidModel            400 InvalidModelException
    │   ├── DownloadFailed          400 DownloadArchiveException
    │   ├── DependenciesFailed      400 ModelException
    │   ├── InvalidDag              400 InvalidDAGException
    │   ├── ForeignPage             403 ForeignPageException
    │   ├── InvalidModelVersion     403 InvalidModelVersionException
    │   ├── ResourceNotFound        404 ResourceNotFoundException
    │   ├── ModelNotFound           404 ModelNotFoundException
    │   ├── ModelVersionNotFound    404 ModelVersionNotFoundException
    │   ├── WorkflowNotFound        404 WorkflowNotFoundException
    │   ├── MemberNotFound          404 MemberNotFoundException
    │   ├── InvitationNotFound      404 InvitationNotFoundException
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
    │   ├── InvalidWorkflow         500 InvalidWorkflowException
    │   ├── WorkflowFailed          500 WorkflowException
    │   ├── WorkflowStepFailed      500 InternalServerException
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
#: TorchServe's.
_NO_ROUTE = "Requested resource is not found, please refer to API document."
_NO_METHOD = "Requested method is not allowed, please refer to API document."


class RelayError(Exception):
    """Base of the tree; raise a leaf.

    `message` says what failed, `details` (may be empty) why, in words a person can act on.
    """

    type: ClassVar[str]
    #: The class's, where it has one.
    status: int
    retryable: ClassVar[bool]
    blame: ClassVar[Blame]
    #: What `Retry-After` says where the status is 503 and the same call may be tried again.
    retry_after_s: int = 1
    #: By which the server's logs know the request, where a client has it.
    request_id: str = ""

    def __init_subclass__(
        cls, *, type: str = "", status: int = 0, retryable: bool = False, blame: Blame | None = None
    ) -> None:
        cls.type, cls.status, cls.retryable = type, status, retryable
        if blame is not None:
            cls.blame = blame

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


class CallerFault(RelayError, blame="caller"):
    """The caller must change the request."""


class HandlerFault(RelayError, blame="handler"):
    """The model's own code failed while it loaded or ran."""


class FleetFault(RelayError, blame="fleet"):
    """The fleet could not do its part."""


class BadRequest(CallerFault, type="BadRequestException", status=400):
    """A parameter or a body that can't be read."""


class InvalidKey(CallerFault, type="InvalidKeyException", status=400):
    """A key that is missing, wrong or expired. TorchServe says 400 here, and its clients expect it."""


class InvalidModel(CallerFault, type="InvalidModelException", status=400):
    """An archive that is broken, incomplete or unsafe."""


class DownloadFailed(CallerFault, type="DownloadArchiveException", status=400):
    """An archive's URL that did not give an archive."""


class DependenciesFailed(CallerFault, type="ModelException", status=400):
    """The Python packages that an archive names could not be installed."""


class InvalidDag(CallerFault, type="InvalidDAGException", status=400):
    """Steps of a workflow that can't follow one another; the texts are TorchServe's."""


class ForeignPage(CallerFault, type="ForeignPageException", status=403):
    """A browser asks for a page of somebody else, where nobody needs a key. Ours alone."""


class InvalidModelVersion(CallerFault, type="InvalidModelVersionException", status=403):
    """A version that can't take the change asked of it."""


class ResourceNotFound(CallerFault, type="ResourceNotFoundException", status=404):
    """No such route; the text is TorchServe's."""

    def __init__(self, message: str = _NO_ROUTE, details: str = "") -> None:
        super().__init__(message, details)


class ModelNotFound(CallerFault, type="ModelNotFoundException", status=404):
    """No such model, or no archive where one was said to be."""


class ModelVersionNotFound(CallerFault, type="ModelVersionNotFoundException", status=404):
    """The model is known, the version is not."""


class WorkflowNotFound(CallerFault, type="WorkflowNotFoundException", status=404):
    """No such workflow, or no archive of one where it was said to be."""


class MemberNotFound(CallerFault, type="MemberNotFoundException", status=404):
    """No node or gateway is called so. Ours alone."""


class InvitationNotFound(CallerFault, type="InvitationNotFoundException", status=404):
    """No such invitation, or it lets nobody in any more. Ours alone."""


class MethodNotAllowed(CallerFault, type="MethodNotAllowedException", status=405):
    """The route exists, the method does not, or is switched off; the text is TorchServe's."""

    def __init__(self, message: str = _NO_METHOD, details: str = "") -> None:
        super().__init__(message, details)


class RequestTimeout(CallerFault, type="RequestTimeoutException", status=408, retryable=True):
    """A management call that could not be finished in its time, or a request that came too slowly."""


class Conflict(CallerFault, type="ConflictStatusException", status=409):
    """The name and version are taken."""


class RequestTooLarge(CallerFault, type="RequestTooLargeException", status=413):
    """A body above max_request_size."""


class TooManyWrongKeys(CallerFault, type="InvalidKeyException", status=429, retryable=True):
    """One more wrong key from where many different ones have come from. Ours alone."""


class PredictionFailed(HandlerFault, type="InternalServerException", status=503):
    """The handler raised, or returned what can't be an answer."""


class WorkerDied(HandlerFault, type="InternalServerException", status=500):
    """The worker process ended, or gave no answer within response_timeout."""


class WorkerStartFailed(HandlerFault, type="InternalServerException", status=500):
    """A worker could not load the model."""


class RequestQuarantined(HandlerFault, type="InternalServerException", status=500):
    """The same content ended workers a while ago. TorchServe would lose another, and say 500 as well."""


class InvalidWorkflow(HandlerFault, type="InvalidWorkflowException", status=500):
    """An archive of a workflow that is broken, incomplete or unsafe. TorchServe says 500 here."""


class WorkflowFailed(HandlerFault, type="WorkflowException", status=500):
    """A workflow whose models could not all be registered and started."""


class WorkflowStepFailed(HandlerFault, type="InternalServerException", status=500):
    """A step of a workflow failed, however often it was tried."""


class OutOfResources(HandlerFault, type="InternalServerException", status=507):
    """The worker ran out of memory, on the host or on the device."""


class ServiceUnavailable(FleetFault, type="ServiceUnavailableException", status=503, retryable=True):
    """No worker, no room in a queue, or no time left."""

    def __init__(self, message: str, details: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(message, details)
        self.retry_after_s = retry_after_s


class BrokerUnreachable(FleetFault, type="ServiceUnavailableException", status=503, retryable=True):
    """The gateway has no broker to ask."""


class PredictionTimeout(FleetFault, type="RequestTimeoutException", status=504, retryable=True):
    """No answer within the time that the client gave, or the model's clientTimeoutInMills.

    After the latter TorchServe never answers. A client's own header is ours alone.
    """


class StoreFailed(FleetFault, type="InternalServerException", status=500):
    """An archive could not be stored or unpacked."""


class InternalError(FleetFault, type="InternalServerException", status=500):
    """A fault of ours; the details go to the log."""


def _leaves(cls: type[RelayError]) -> dict[str, type[RelayError]]:
    found: dict[str, type[RelayError]] = {}
    for sub in cls.__subclasses__():
        found |= _leaves(sub) or {sub.__name__: sub}
    return found


#: Class name -> class, for every leaf of the tree.
BY_NAME = _leaves(RelayError)


def rebuild(name: str, message: str, details: str = "", retry_after_s: int = 1) -> RelayError:
    """Make the error that a peer named; an unknown name (a newer peer) becomes InternalError."""
    error = BY_NAME.get(name, InternalError)(message, details)
    error.retry_after_s = retry_after_s
    return error
