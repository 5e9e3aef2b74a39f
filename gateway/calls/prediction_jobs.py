"""What all protocols ask of a prediction's inputs, and what a worker's failure means. Pure."""

from collections.abc import Sequence

from torchrelay.shared import errors
from torchrelay.shared.wire import codec

#: (name, content type or "", value), as `codec.pack_request` takes them.
Input = tuple[str, str, codec.PayloadOrPiece]

#: Far more than a model has inputs; each one costs a little everywhere on its way.
INPUTS_LIMIT = 1000
#: Of an input's name, which travels in the head of a message.
NAME_LIMIT_CHARACTERS = 1024
#: Those below 200 announce a response and are none.
STATUSES = range(200, 1000)


def require_bounds(inputs: Sequence[Input]) -> None:
    """Raise BadRequest for too many inputs, or a name that is too long."""
    if len(inputs) > INPUTS_LIMIT:
        raise too_many()
    if any(len(name) > NAME_LIMIT_CHARACTERS for name, _, _ in inputs):
        raise errors.BadRequest(f"An input has a name of more than {NAME_LIMIT_CHARACTERS} characters.")


def too_many() -> errors.BadRequest:
    """Return the error of a request with more than INPUTS_LIMIT inputs."""
    return errors.BadRequest(f"The request has more than {INPUTS_LIMIT} inputs.")


def failure(response: codec.Response) -> tuple[errors.RelayError, int]:
    """Return the error that a worker has answered, and its status: the handler's own, if HTTP has it."""
    assert response.error is not None
    error = errors.rebuild(*response.error)
    return error, response.status if response.status in STATUSES else error.status
