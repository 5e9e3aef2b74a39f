"""TorchServe's key_file.json: the keys that a server has made, an entry for each API. Pure."""

import msgspec

from torchrelay.shared.wire.fields import KeyedApi

#: The APIs in the order and by the names of the file.
ENTRY_NAMES: dict[KeyedApi, str] = {"management": "management", "inference": "inference", "token": "API"}


class KeyEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key; `expires_at` is ISO 8601 in UTC, and "" where the key does not expire."""

    key: str
    expires_at: str = msgspec.field(default="", name="expiration time")
