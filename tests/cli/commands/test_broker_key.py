"""The command that rotates the broker's key."""

import json

from tests.cli.command_line import ask
from tests.cli.fake_server import serving
from torchrelay.shared.api_bodies import BrokerKeyBody


def test_the_next_key_is_told_and_when_it_counts() -> None:
    with serving({"POST /broker/key/rotate": (200, BrokerKeyBody(next_key="ab" * 32))}) as server:
        said = " ".join(ask(server, "broker-key", "rotate").output.split())
        assert json.loads(ask(server, "broker-key", "rotate", "--json").stdout) == {"nextKey": "ab" * 32}
    assert "ab" * 32 in said
    assert "restart the broker" in said
