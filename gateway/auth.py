"""Which keys open which API; pure: no clock, no I/O.

The broker makes and keeps the keys and sends only hashes of them. Rules and texts are TorchServe's
(its token authorization): the header is `Authorization: Bearer KEY`, and what is wrong with it is 400.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import KeyedApi

#: Different wrong keys that may come from an address in so many seconds; further ones are guesses. An old key
#: that is sent again and again counts once.
WRONG_KEYS_LIMIT = 20
WRONG_KEYS_WINDOW_S = 60.0
#: Addresses that are remembered; those that were heard of last.
ADDRESSES_LIMIT = 1024

_BEARER = re.compile(r"Bearer\s+(\S+)", re.ASCII)


def key_of(authorization: str | None) -> str | None:
    """Return the key that a header carries, None where it carries none."""
    said = _BEARER.fullmatch(authorization or "")
    return said and said[1]


def proof_of(authorization: str | None) -> str:
    """Return the sha256 of the key in a header, by which the broker sees that a client has it; "" if none."""
    key = key_of(authorization)
    return "" if key is None else _sha256(key.encode("latin-1", "replace")).decode()


def _sha256(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    #: By the clock of whoever asks; infinite where the key doesn't expire.
    expires_at: float


class KnownKeys:
    """The keys of all APIs, as the broker sent them last; `now` is always the same monotonic clock."""

    def __init__(self) -> None:
        #: By API; None until the broker has sent them.
        self._keys: dict[str, list[_Key]] | None = None

    @property
    def is_known(self) -> bool:
        """Whether the broker has sent the keys."""
        return self._keys is not None

    def replace(self, keys: Iterable[m.AccessKey], *, now: float) -> None:
        """Replace all known keys; those that expire do so `expires_in_ms` after `now`.

        A key that was known already expires no later than before, however long the message was on its way.
        """
        ends = {
            (api, key.digest): key.expires_at
            for api, known_ones in (self._keys or {}).items()
            for key in known_ones
        }
        known: dict[str, list[_Key]] = {}
        for key in keys:
            lasts_s = float("inf") if key.expires_in_ms is None else key.expires_in_ms / 1000
            digest = key.sha256.encode()
            ends_at = min(now + lasts_s, ends.get((key.api, digest), float("inf")))
            known.setdefault(key.api, []).append(_Key(digest, ends_at))
        self._keys = known

    def opens(self, api: KeyedApi, key: str, *, now: float) -> bool:
        """Tell whether a key opens an API. All of its keys are compared, and each in constant time."""
        digest = _sha256(_sha256(key.encode("latin-1", "replace")))
        fits = [
            hmac.compare_digest(known.digest, digest) and now < known.expires_at
            for known in (self._keys or {}).get(api, ())
        ]
        return any(fits)


class WrongKeys:
    """Counts the different wrong keys from each address, to tell guessing from the use of an old key.

    It is not asked about good keys: behind a proxy, callers share an address with whoever guesses.
    """

    def __init__(self) -> None:
        #: By address, the one that was heard of last at the end.
        self._guesses: dict[str, _Guesses] = {}

    def is_guess(self, address: str, key: str, now: float) -> bool:
        """Count a wrong key; tell whether its address has sent too many others."""
        network = _network(address)
        found = self._guesses.pop(network, None)
        if found is None or now - found.since >= WRONG_KEYS_WINDOW_S:
            found = _Guesses(now, set())
        if len(self._guesses) >= ADDRESSES_LIMIT:
            del self._guesses[next(iter(self._guesses))]
        self._guesses[network] = found
        if hash(key) in found.keys:
            return False
        if len(found.keys) >= WRONG_KEYS_LIMIT:
            return True
        found.keys.add(hash(key))
        return False


@dataclass(frozen=True, slots=True)
class _Guesses:
    since: float
    #: Hashes of the different keys since then.
    keys: set[int]


def _network(address: str) -> str:
    """Return the network from which one host can choose its addresses: for IPv6 the first 64 bits."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


def refusal(api: KeyedApi) -> errors.InvalidKey:
    """Make TorchServe's error for a missing or wrong key; its text for the token API differs in a word."""
    failed = "Authentication" if api == "token" else "Authorization"
    return errors.InvalidKey(
        f"Token {failed} failed. Token either incorrect, expired, or not provided correctly"
    )
