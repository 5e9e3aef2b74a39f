"""Answers that handlers send before they return; the old home of what `ts.handler_utils.utils` offers.

In TorchServe `context.cl_socket` is the worker's socket and an answer is bytes for it. Here it is the
worker's own sender of parts, which takes the answer as an object.
"""

import os
from typing import Any, NamedTuple

from ts.context import Context


class PredictResponse(NamedTuple):
    """Rows for requests by their index in a call; `Any`: whatever a handler answers with."""

    ret: Any
    #: Index in `ret` and in the call -> request id.
    req_id_map: dict[int, str]
    message: str
    code: int
    context: Context | None
    ts_stream_next: bool


def create_predict_response(
    ret: Any,
    req_id_map: dict[int, str],
    message: str,
    code: int,
    context: Context | None = None,
    ts_stream_next: bool = False,
) -> PredictResponse | None:
    """Make an answer for `context.cl_socket.sendall`; None in all processes of a worker but its first."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return None
    return PredictResponse(ret, req_id_map, message, code, context, ts_stream_next)


def send_intermediate_predict_response(
    ret: Any, req_id_map: dict[int, str], message: str, code: int, context: Context | None = None
) -> None:
    """Send a part of the answer to each request of `req_id_map` at once; others will follow.

    The first part fixes status and headers. May be called from any thread until the handler returns.
    """
    response = create_predict_response(ret, req_id_map, message, code, context, True)
    if response is not None:
        assert context is not None, "parts are sent through the context that the handler was given"
        context.cl_socket.sendall(response)
