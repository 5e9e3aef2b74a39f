"""Which keys open which API; pure: no clock, no I/O.

The broker makes and keeps the keys and tells only their hashes. Rules and texts are TorchServe's
(its token authorization): the header is `Authorization: Bearer KEY`, and what is wrong with it is 400.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torchrelay.shared import errors
from torchrelay.shared import messages as m

#: What a key can open; None is open to all.
Api = Literal["inference", "management", "token"]

_BEARER = re.compile(r"Bearer\s+(\S+)", re.ASCII)


def key_of(authorization: str | None) -> str | None:
    """Return the key that a header carries, None where it carries none."""
    said = _BEARER.fullmatch(authorization or "")
    return said and said[1]


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    #: By the clock of whoever asks; infinite where the key doesn't expire.
    expires_at: float


class Keyring:
    """The keys of all APIs, as the broker told them last; `now` is always the same monotonic clock."""

    def __init__(self) -> None:
        #: By API; None until the broker has told them.
        self._keys: dict[str, list[_Key]] | None = None

    @property
    def is_known(self) -> bool:
        """Whether the broker has told the keys."""
        return self._keys is not None

    def learn(self, keys: Iterable[m.AccessKey], *, now: float) -> None:
        """Take these keys instead of all before them."""
        known: dict[str, list[_Key]] = {}
        for key in keys:
            lasts_s = float("inf") if key.expires_in_ms is None else key.expires_in_ms / 1000
            known.setdefault(key.api, []).append(_Key(key.sha256.encode(), now + lasts_s))
        self._keys = known

    def opens(self, api: Api, key: str, *, now: float) -> bool:
        """Tell whether a key opens an API. All of its keys are compared, and each in constant time."""
        digest = hashlib.sha256(key.encode("latin-1", "replace")).hexdigest().encode()
        fits = [
            hmac.compare_digest(known.digest, digest) and now < known.expires_at
            for known in (self._keys or {}).get(api, ())
        ]
        return any(fits)


def refusal(api: Api) -> errors.InvalidKey:
    """Say that there was no good key; the route that renews keys says it in a word of its own."""
    failed = "Authentication" if api == "token" else "Authorization"
    return errors.InvalidKey(
        f"Token {failed} failed. Token either incorrect, expired, or not provided correctly"
    )
