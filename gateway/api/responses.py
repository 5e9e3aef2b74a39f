"""Put bodies and errors into falcon's responses; no I/O."""

from falcon.asgi import Response

from torchrelay.gateway.http.standard_responses import JSON, error_body, pretty
from torchrelay.shared import api_bodies, errors


def answer(resp: Response, value: object, status: int = 200) -> None:
    """Answer with a body of `shared.api_bodies`, a list of them, or an OpenAPI document."""
    resp.status = status
    resp.content_type = JSON
    resp.data = pretty(value)


def answer_status(resp: Response, text: str, status: int = 200) -> None:
    """Answer with a text that says what became of a change."""
    answer(resp, api_bodies.StatusBody(status=text), status)


def answer_error(
    resp: Response, error: errors.RelayError, status: int, *, has_protocol: bool = False
) -> None:
    """Answer with an error; see `error_body`."""
    resp.status = status
    resp.content_type = JSON
    resp.data = error_body(error, status, has_protocol=has_protocol)
    if error.retryable and status == 503:
        resp.set_header("retry-after", str(error.retry_after_s))
