"""Access keys: which of them open which API, and until when. Pure.

Keys made here are known by their text, which only the key file shows, and durable by their sha256; what
is sent to gateways is the sha256 of that. Keys that others keep (settings) stand beside them.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from torchrelay.broker.models.records import KeyRecord, PutKeys
from torchrelay.shared import clock, errors, ids
from torchrelay.shared.settings import BrokerSettings
from torchrelay.shared.torchserve.key_files import ENTRY_NAMES, KeyEntry
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import KeyedApi


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key made here; the one for the token API never expires."""

    text: str = field(repr=False)
    expires_at_ms: int | None


@dataclass(frozen=True, slots=True)
class IssuedKeys:
    """All keys made here: the newest of each API, and older ones that are valid for a while (the overlap)."""

    newest: Mapping[KeyedApi, IssuedKey]
    retiring: tuple[KeyRecord, ...] = ()

    def change(self) -> PutKeys:
        """Return what the registry is to hold."""
        newest = (KeyRecord(api, sha256(key.text), key.expires_at_ms) for api, key in self.newest.items())
        return PutKeys((*newest, *self.retiring))

    def file_content(self) -> bytes:
        """Write TorchServe's key file."""
        entries = {
            ENTRY_NAMES[api]: KeyEntry(
                key.text, "" if key.expires_at_ms is None else clock.iso(key.expires_at_ms)
            )
            for api, key in self.newest.items()
        }
        return msgspec.json.format(msgspec.json.encode(entries), indent=2) + b"\n"


@dataclass(eq=False)
class Keyring:
    """The keys of a running broker; `now` is the core's clock."""

    settings: BrokerSettings
    #: Turns `now` into milliseconds since 1970: keys expire in real time.
    wall_ms: Callable[[float], int]
    make_text: Callable[[], str] = ids.secret
    _made: IssuedKeys = field(default_factory=lambda: IssuedKeys({}))

    @property
    def makes_keys(self) -> bool:
        """Whether keys are made here: only if a key file shows them, without which nobody could use them."""
        return self.settings.token_authorization and self.settings.key_file is not None

    def open(self, known: tuple[KeyRecord, ...], texts: Mapping[KeyedApi, str], now: float) -> IssuedKeys:
        """Return the keys of a broker that starts: what it knows and the key file still shows, or new ones.

        A shorter token_expiration_min holds for keys from before, too. What the file doesn't show any more
        was taken out of use on purpose, or is in its overlap.
        """
        by_sha256 = {record.sha256: record for record in known if self._is_alive(record, now)}
        newest: dict[KeyedApi, IssuedKey] = {}
        for api in ENTRY_NAMES:
            record = by_sha256.get(sha256(texts.get(api, "")))
            newest[api] = self._new_key(api, now)
            if record is not None and record.api == api:
                del by_sha256[record.sha256]
                newest[api] = IssuedKey(texts[api], _sooner(record.expires_at_ms, newest[api].expires_at_ms))
        return IssuedKeys(newest, self._retire(by_sha256.values(), now))

    def renew(self, api: KeyedApi, now: float) -> IssuedKeys:
        """Return the keys with a new one for `api`. Raises where none is made."""
        if not self.settings.token_authorization:
            raise errors.ResourceNotFound
        if not self.makes_keys:
            raise errors.BadRequest("There is no key_file, so no key can be renewed here.")
        old = self._made.newest[api]
        retiring = (*self._made.retiring, KeyRecord(api, sha256(old.text), old.expires_at_ms))
        return IssuedKeys({**self._made.newest, api: self._new_key(api, now)}, self._retire(retiring, now))

    def use(self, made: IssuedKeys) -> None:
        """Make keys valid that have become durable."""
        self._made = made

    def message(self, now: float) -> m.KeysChanged:
        """Return the message that gives gateways every key that is valid now."""
        static = (m.AccessKey(key.api, sent_hash(key.key), None) for key in self.settings.static_keys)
        made = (
            m.AccessKey(record.api, sha256(record.sha256), self._left_ms(record, now))
            for record in self._made.change().keys
            if self._is_alive(record, now)
        )
        return m.KeysChanged((*static, *made))

    def is_proven(self, api: KeyedApi, proof: str, now: float) -> bool:
        """Tell whether a proof is that of a valid key for an API. Each is compared in constant time."""
        static = (sha256(key.key) for key in self.settings.static_keys if key.api == api)
        made = (
            record.sha256
            for record in self._made.change().keys
            if record.api == api and self._is_alive(record, now)
        )
        fits = [hmac.compare_digest(known.encode(), proof.encode()) for known in (*static, *made)]
        return any(fits)

    def _new_key(self, api: KeyedApi, now: float) -> IssuedKey:
        life_ms = int(self.settings.token_expiration_min * 60_000)
        return IssuedKey(self.make_text(), None if api == "token" else self.wall_ms(now) + life_ms)

    def _retire(self, records: Iterable[KeyRecord], now: float) -> tuple[KeyRecord, ...]:
        end_ms = self.wall_ms(now) + int(self.settings.token_overlap_s * 1000)
        ended = (replace(record, expires_at_ms=_sooner(record.expires_at_ms, end_ms)) for record in records)
        return tuple(record for record in ended if self._is_alive(record, now))

    def _is_alive(self, record: KeyRecord, now: float) -> bool:
        left_ms = self._left_ms(record, now)
        return left_ms is None or left_ms > 0

    def _left_ms(self, record: KeyRecord, now: float) -> int | None:
        return None if record.expires_at_ms is None else record.expires_at_ms - self.wall_ms(now)


def sha256(text: str) -> str:
    """Return what is kept and sent instead of a key, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def sent_hash(text: str) -> str:
    """Return what gateways are told of a key, see `AccessKey`."""
    return sha256(sha256(text))


def _sooner(one: int | None, other: int | None) -> int | None:
    return min((at for at in (one, other) if at is not None), default=None)
