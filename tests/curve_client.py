"""The client's side of CurveZMQ byte by byte (https://rfc.zeromq.org/spec/26/), to say what no library does.

Bytes in, bytes out. The cryptography is libsodium's, which pyzmq brings with it.
"""

import ctypes
import ctypes.util
import functools
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import zmq

KEY_BYTES, MAC_BYTES = 32, 16
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4
_COOKIE_BYTES, _SHORT_NONCE_BYTES, _LONG_NONCE_BYTES = 96, 8, 16


@functools.cache
def _sodium() -> ctypes.CDLL:
    beside = Path(zmq.__file__).parent.parent / "pyzmq.libs"
    found = [str(path) for path in beside.glob("libsodium*")]
    return ctypes.CDLL(found[0] if found else ctypes.util.find_library("sodium"))


def public_of(secret: bytes) -> bytes:
    """Return the public key of a secret one."""
    public = ctypes.create_string_buffer(KEY_BYTES)
    _sodium().crypto_scalarmult_base(public, secret)
    return public.raw


def shared_key(public: bytes, secret: bytes) -> bytes:
    """Return what both sides can compute, each from the other's public key."""
    key = ctypes.create_string_buffer(KEY_BYTES)
    _sodium().crypto_box_beforenm(key, public, secret)
    return key.raw


def seal(data: bytes, nonce: bytes, key: bytes) -> bytes:
    """Encrypt."""
    sealed = ctypes.create_string_buffer(len(data) + MAC_BYTES)
    _sodium().crypto_box_easy_afternm(sealed, data, ctypes.c_ulonglong(len(data)), nonce, key)
    return sealed.raw


def unseal(sealed: bytes, nonce: bytes, key: bytes) -> bytes:
    """Decrypt. Raises ValueError for what this key has not sealed."""
    data = ctypes.create_string_buffer(max(0, len(sealed) - MAC_BYTES))
    size = ctypes.c_ulonglong(len(sealed))
    if _sodium().crypto_box_open_easy_afternm(data, sealed, size, nonce, key):
        raise ValueError("not sealed by this key")
    return data.raw


def frame(body: bytes, flags: int = 0) -> bytes:
    """Return a message part, or with COMMAND a command, as it is sent."""
    if len(body) > 255:
        return bytes([flags | LONG]) + struct.pack("!Q", len(body)) + body
    return bytes([flags, len(body)]) + body


def take_frame(data: bytearray) -> bytes | None:
    """Take a frame's body off what has come; None where it isn't whole."""
    start = 9 if data and data[0] & LONG else 2
    if len(data) < start:
        return None
    size = int(struct.unpack("!Q", data[1:9])[0]) if data[0] & LONG else data[1]
    if len(data) < start + size:
        return None
    body = bytes(data[start : start + size])
    del data[: start + size]
    return body


class CurveClient:
    """One connection's keys. What a call returns is a whole frame; what it takes is a frame's body."""

    def __init__(
        self, broker_key: bytes, secret: bytes, properties: Mapping[bytes, bytes] | None = None
    ) -> None:
        self._broker_key, self._secret = broker_key, secret
        self._properties = {b"Socket-Type": b"DEALER", **(properties or {})}
        self._passing = os.urandom(KEY_BYTES)
        self._key = b""
        self._sent = 0

    def hello(self) -> bytes:
        """Return what comes behind the greeting."""
        nonce = self._next_nonce()
        signature = seal(bytes(64), b"CurveZMQHELLO---" + nonce, shared_key(self._broker_key, self._passing))
        return frame(b"\x05HELLO\1\0" + bytes(72) + public_of(self._passing) + nonce + signature, COMMAND)

    def initiate(self, welcome: bytes) -> bytes:
        """Return the answer to the broker's WELCOME. Raises ValueError where it is none."""
        nonce, sealed = welcome[8 : 8 + _LONG_NONCE_BYTES], welcome[8 + _LONG_NONCE_BYTES :]
        opened = unseal(sealed, b"WELCOME-" + nonce, shared_key(self._broker_key, self._passing))
        its_passing, cookie = opened[:KEY_BYTES], opened[KEY_BYTES:]
        self._key = shared_key(its_passing, self._passing)
        vouch_nonce = os.urandom(_LONG_NONCE_BYTES)
        vouched = public_of(self._passing) + self._broker_key
        vouch = seal(vouched, b"VOUCH---" + vouch_nonce, shared_key(its_passing, self._secret))
        metadata = b"".join(
            bytes((len(name),)) + name + struct.pack("!I", len(value)) + value
            for name, value in self._properties.items()
        )
        said = public_of(self._secret) + vouch_nonce + vouch + metadata
        nonce = self._next_nonce()
        sealed = seal(said, b"CurveZMQINITIATE" + nonce, self._key)
        return frame(b"\x08INITIATE" + cookie + nonce + sealed, COMMAND)

    def message(self, data: bytes, *, more: bool = False) -> bytes:
        """Seal a part of a message, once the broker has said READY."""
        nonce = self._next_nonce()
        sealed = seal(bytes([MORE * more]) + data, b"CurveZMQMESSAGEC" + nonce, self._key)
        return frame(b"\x07MESSAGE" + nonce + sealed)

    def heard(self, body: bytes) -> tuple[int, bytes]:
        """Open a part of a message; return its flags, and what it says."""
        nonce, sealed = body[8 : 8 + _SHORT_NONCE_BYTES], body[8 + _SHORT_NONCE_BYTES :]
        opened = unseal(sealed, b"CurveZMQMESSAGES" + nonce, self._key)
        return opened[0], opened[1:]

    def _next_nonce(self) -> bytes:
        self._sent += 1
        return struct.pack("!Q", self._sent)
