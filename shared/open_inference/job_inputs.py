"""How a gateway tells a worker that a job's first input is a request of the protocol: by its content type.

What stands behind the semicolon is ours: of a client's content types a gateway passes on what is before it.
"""

from torchrelay.shared.open_inference.infer_bodies import BINARY_TYPE, JSON_TYPE

_MARK = "open-inference"
#: The content type of a request that is JSON alone.
JSON_REQUEST = f"{JSON_TYPE};{_MARK}"


def binary_request(header_length: int) -> str:
    """Return the content type of a request with binary data, in this input or in those that follow."""
    return f"{BINARY_TYPE};{_MARK}={header_length}"


def is_request(content_type: str) -> bool:
    """Tell whether an input is a request, and not whatever a client has sent."""
    return content_type.partition(";")[2].startswith(_MARK)


def header_length_in(content_type: str) -> int | None:
    """Return how many bytes of JSON a request has; None for one that is JSON alone."""
    said = content_type.partition("=")[2]
    return int(said) if said.isdecimal() else None
