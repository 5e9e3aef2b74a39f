"""One input's value as its handler gets it, by its content type; no I/O."""

import logging

from torchrelay.shared.wire import codec
from torchrelay.worker.common.handler_errors import one_line
from torchrelay.worker.model import json_text

logger = logging.getLogger(__name__)


def decoded(kind: str, value: codec.Payload) -> object:
    """Decode an input by its content type, which is compared with its letters' case.

    What can't be decoded stays bytes, and is the handler's to refuse.
    """
    if kind == "application/json" or kind.startswith("text"):
        try:
            return json_text.read(value) if kind == "application/json" else str(value, "utf-8")
        except (ValueError, RecursionError) as error:
            logger.warning("input.undecodable: %s", one_line(error))
    return own(value)


def own(value: codec.Payload) -> bytearray:
    """Return an input as handlers may change it; one that was copied out of memory is nobody else's."""
    return value if isinstance(value, bytearray) else bytearray(value)
