"""What callers may say in a query or in JSON."""

import pytest

from torchrelay.gateway.calls.parameters import Parameters
from torchrelay.shared import errors
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import SAID_LIMIT_CHARS


@pytest.mark.parametrize(
    "body",
    [
        b'{"url": "' + b"x" * (SAID_LIMIT_CHARS + 1) + b'"}',
        rb'{"url": "\ud83d"}',
        rb'{"url": "\ude00\ud83d"}',
        b'{"url": 3}',
    ],
    ids=["long", "half a character", "two halves", "number"],
)
def test_a_text_that_cannot_be_sent_to_the_broker_is_the_callers_fault(body: bytes) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        Parameters.of_json(body).text("url")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "body", [rb'{"url": "\ud83d\ude00"}', b'{"url": "' + b"x" * SAID_LIMIT_CHARS + b'"}']
)
def test_any_other_text_is_understood_by_the_broker(body: bytes) -> None:
    url = Parameters.of_json(body).text("url")
    assert url is not None
    message = m.RegisterModel(1, url)
    assert codec.decode(codec.encode(message, 1)) == (message, 1)
