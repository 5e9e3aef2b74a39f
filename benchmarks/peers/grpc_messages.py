"""What gRPC servers are sent, and how an answer is judged, as bytes, without their own code. Pure."""

from benchmarks.peers import dialects
from benchmarks.peers.rows import CheckedItem

PREDICTIONS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
INFER = "/inference.GRPCInferenceService/ModelInfer"


def method(server: str) -> str:
    """Name what is called."""
    return INFER if server == "triton" else PREDICTIONS


def request(server: str, item: CheckedItem, *, is_batched: bool) -> bytes:
    """Write the message that echoes an item; with batches Triton's tensor has a dimension for them."""
    if server != "triton":
        return _field(1, dialects.MODEL.encode()) + _field(3, _field(1, b"body") + _field(2, item.question))
    shape = (b"\x01" if is_batched else b"") + _number(len(item.question))
    tensor = _field(1, b"IN") + _field(2, b"UINT8") + _field(3, shape)
    return _field(1, dialects.MODEL.encode()) + _field(5, tensor) + _field(7, item.question)


def ending(item: CheckedItem) -> bytes:
    """Return how the right answer ends, whichever server's it is: with what was echoed."""
    assert isinstance(item.answer, bytes)
    return item.answer


def _field(number: int, data: bytes) -> bytes:
    """Write a field of bytes, as protocol buffers are on the wire."""
    return bytes([number << 3 | 2]) + _number(len(data)) + data


def _number(value: int) -> bytes:
    """Write a number in as few bytes of seven bits as it takes."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])
