"""Key files have the entries, and those the fields, that TorchServe's clients read."""

import msgspec

from torchrelay.shared.torchserve.key_files import ENTRY_NAMES, KeyEntry


def test_a_key_file_is_torchserves() -> None:
    at = "2026-01-31T12:00:00.000Z"
    written = b'{"management":{"key":"a","expiration time":"%b"},"API":{"key":"b"}}' % at.encode()
    entries = {ENTRY_NAMES["management"]: KeyEntry("a", at), ENTRY_NAMES["token"]: KeyEntry("b")}
    assert msgspec.json.encode(entries) == written
    assert msgspec.json.decode(written, type=dict[str, KeyEntry]) == entries
