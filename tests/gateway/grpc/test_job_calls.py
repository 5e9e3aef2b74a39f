"""Jobs of calls by gRPC: what refuses them, and how their failures are said."""

from typing import Any, cast

import pytest

from torchrelay.gateway.grpc import job_calls
from torchrelay.gateway.grpc.grpc_errors import CallRefused
from torchrelay.gateway.link import Link
from torchrelay.gateway.session import Answer
from torchrelay.gateway.waiter import Waiter
from torchrelay.shared import errors
from torchrelay.shared.wire import codec


class Refusing:
    """A link without room."""

    def submit(self, *_: object, **__: object) -> None:
        raise errors.ServiceUnavailable("The gateway is busy.")


class Patient:
    """A caller without a deadline."""

    def time_remaining(self) -> None:
        return None


async def test_want_of_room_is_no_fault_of_the_call() -> None:
    with pytest.raises(CallRefused) as raised:
        job_calls.submit(cast(Link, Refusing()), "m", "", [], cast(Any, Patient()))
    assert raised.value.refusal.code.name == "UNAVAILABLE"


@pytest.mark.parametrize(("status", "code"), [(404, "NOT_FOUND"), (507, "INTERNAL"), (600, "UNKNOWN")])
async def test_a_failure_has_the_code_of_the_handlers_status(status: int, code: str) -> None:
    meta, frames = codec.pack_response(
        codec.Response(status, "", (), b"", error=("PredictionFailed", "no", ""))
    )

    async def job() -> Answer:
        return Answer(meta, frames, True)

    with pytest.raises(CallRefused) as raised:
        await job_calls.part_of(cast("Waiter[Answer]", job()))
    assert (raised.value.refusal.code.name, raised.value.refusal.message) == (code, "no")
