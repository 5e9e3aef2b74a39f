"""HTTP/2 byte by byte, for clients that do what no library would."""

import asyncio

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, GOAWAY = 0, 1, 3, 7
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


SETTINGS = frame(4, 0, 0, b"")
PING = frame(6, 0, 0, bytes(8))


def call(path: str, message: bytes) -> bytes:
    """Begin a connection and make a whole call on it; no window is ever made larger than it is at first."""
    headers = {
        b":method": b"POST", b":scheme": b"http", b":path": path.encode(), b":authority": b"localhost",
        b"content-type": b"application/grpc", b"te": b"trailers",
    }  # fmt: skip
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in headers.items()
    )
    data = b"\x00" + len(message).to_bytes(4, "big") + message
    return PREFACE + SETTINGS + frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, END_STREAM, 1, data)


async def first(reader: asyncio.StreamReader, wanted: int) -> bytes:
    """Return the payload of the first frame of a kind that comes."""
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == wanted:
            return payload
