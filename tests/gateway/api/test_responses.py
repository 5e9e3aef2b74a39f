"""Bodies and errors in falcon's responses."""

import falcon.asgi

from torchrelay.gateway.api import responses
from torchrelay.shared import errors


def test_only_what_may_be_tried_again_says_when() -> None:
    for error, said in (
        (errors.ServiceUnavailable("no", retry_after_s=7), "7"),
        (errors.PredictionFailed("no"), None),
    ):
        made = falcon.asgi.Response()
        responses.answer_error(made, error, 503)
        assert (made.status, made.get_header("retry-after")) == (503, said)


def test_a_change_is_a_status_in_words() -> None:
    made = falcon.asgi.Response()
    responses.answer_status(made, "Processing", 202)
    assert (made.status, made.content_type, made.data) == (
        202, "application/json", b'{\n  "status": "Processing"\n}\n',
    )  # fmt: skip
