"""Access keys: made, kept, renewed, ended, and never shown but in the key file."""

import json
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.broker.rig import GATEWAY, Rig, settings
from torchrelay.broker.core.keyring import IssuedKey, IssuedKeys, sent_hash, sha256
from torchrelay.broker.core.machine import KEYS_INTERVAL_S
from torchrelay.broker.models.records import KeyRecord
from torchrelay.broker.storage import key_file
from torchrelay.broker.storage.registry import Registry
from torchrelay.shared import ids
from torchrelay.shared.errors import StoreFailed
from torchrelay.shared.settings import BrokerSettings, StaticKey
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.fields import KeyedApi


def rig(**changes: Any) -> Rig:  # Any: BrokerSettings' own fields, by name
    return Rig(settings(**{"token_authorization": True, "key_file": "key_file.json", **changes}))


def joined(bench: Rig, peer: bytes = GATEWAY) -> m.KeysChanged:
    bench.join_gateway(peer)
    return bench.only(peer, m.KeysChanged)


def opens(keys: m.KeysChanged, api: KeyedApi) -> set[str]:
    return {key.sha256 for key in keys.keys if key.api == api}


def proof(bench: Rig, key: KeyedApi = "token") -> str:
    """Return what shows that somebody has a key of the file."""
    return sha256(bench.key_file.get(key, ""))


def test_a_gateway_that_joins_learns_a_hash_of_every_key_and_no_key() -> None:
    bench = rig(token_expiration_min=0.5)
    keys = joined(bench)
    assert {key.api: key.sha256 for key in keys.keys} == {
        api: sent_hash(text) for api, text in bench.key_file.items()
    }
    assert {key.api: key.expires_in_ms for key in keys.keys} == {
        "inference": 30_000,
        "management": 30_000,
        "token": None,
    }
    assert not any(text in repr(keys) for text in bench.key_file.values())


def test_a_gateway_is_told_to_ask_for_keys_before_anything_else_and_others_are_not() -> None:
    for bench, asks in ((rig(), True), (Rig(), False)):
        bench.say(GATEWAY, m.HelloGateway(m.PROTOCOL_VERSION, "gateway", 1))
        first, _ = bench.inbox[GATEWAY][0]
        assert isinstance(first, m.Welcome)
        assert first.asks_for_keys == asks
        bench.say(b"n", m.HelloNode(m.PROTOCOL_VERSION, "n", (), 1, ()))
        assert not bench.only(b"n", m.Welcome).asks_for_keys


def test_without_token_authorization_there_are_no_keys_and_none_can_be_renewed() -> None:
    bench = Rig()
    bench.join_gateway()
    assert bench.take(GATEWAY, m.KeysChanged) == []
    bench.say(GATEWAY, m.RenewKey(7, "inference", proof(bench)))
    assert bench.only(GATEWAY, m.AskRefused).error == "ResourceNotFound"
    assert bench.key_file == {}


def test_gateways_that_missed_a_renewal_learn_of_it_all_the_same() -> None:
    bench = rig()
    joined(bench)
    joined(bench, b"g-2")
    bench.say(GATEWAY, m.RenewKey(7, "inference", proof(bench)))
    bench.take(b"g-2", m.KeysChanged)  # and is lost on its way
    bench.pass_time(KEYS_INTERVAL_S + 1)
    keys = bench.only(b"g-2", m.KeysChanged)
    assert opens(keys, "inference") == {sent_hash(bench.key_file["inference"])}


def test_with_an_overlap_the_key_before_opens_for_so_long_and_no_longer() -> None:
    bench = rig(token_overlap_s=10.0)
    old = sent_hash(bench.key_file["inference"])
    joined(bench)
    bench.say(GATEWAY, m.RenewKey(7, "inference", proof(bench)))
    keys = bench.only(GATEWAY, m.KeysChanged)
    assert {key.sha256: key.expires_in_ms for key in keys.keys if key.api == "inference"} == {
        old: 10_000,
        sent_hash(bench.key_file["inference"]): 3_600_000,
    }
    bench.restart()
    assert old in opens(joined(bench), "inference")
    bench.pass_time(11)
    assert old not in opens(joined(bench, b"g-2"), "inference")


def test_keys_outlive_the_broker_as_long_as_the_file_shows_them() -> None:
    bench = rig()
    before = dict(bench.key_file)
    bench.pass_time(60)
    bench.restart()
    assert bench.key_file == before
    assert {key.expires_in_ms for key in joined(bench).keys} == {3_540_000, None}
    del bench.key_file["inference"]
    bench.restart()
    assert bench.key_file["management"] == before["management"]
    assert bench.key_file["inference"] != before["inference"]
    assert opens(joined(bench), "inference") == {sent_hash(bench.key_file["inference"])}


def test_a_key_written_into_the_file_by_hand_opens_nothing() -> None:
    bench = rig()
    bench.key_file["inference"] = "chosen-by-somebody"
    bench.key_file["management"] = bench.key_file["token"]
    bench.restart()
    keys = joined(bench)
    assert sent_hash("chosen-by-somebody") not in opens(keys, "inference")
    assert opens(keys, "management").isdisjoint(opens(keys, "token"))


def test_a_key_that_has_expired_is_replaced_at_the_next_start() -> None:
    bench = rig(token_expiration_min=1.0)
    before = dict(bench.key_file)
    bench.pass_time(61)
    assert opens(joined(bench), "inference") == set()
    bench.restart()
    assert bench.key_file["inference"] != before["inference"]
    assert bench.key_file["token"] == before["token"]


def test_a_shorter_life_holds_for_keys_from_before() -> None:
    bench = rig()
    bench.settings = settings(token_authorization=True, key_file="key_file.json", token_expiration_min=0.25)
    bench.restart()
    assert {key.expires_in_ms for key in joined(bench).keys} == {15_000, None}


def test_keys_of_the_settings_stand_beside_those_made_here_by_their_names() -> None:
    static = StaticKey("inference", "team-a", "a-long-secret"), StaticKey("token", "ops", "another-one")
    bench = rig(static_keys=static)
    keys = joined(bench)
    assert m.AccessKey("inference", sent_hash("a-long-secret"), None) in keys.keys
    assert len(opens(keys, "inference")) == len(opens(keys, "token")) == 2
    bench.say(GATEWAY, m.RenewKey(7, "inference", proof(bench)))
    assert sent_hash("a-long-secret") in opens(bench.only(GATEWAY, m.KeysChanged), "inference")


def test_without_a_key_file_only_the_keys_of_the_settings_open_and_none_can_be_renewed() -> None:
    mine = StaticKey("inference", "team-a", "a-long-secret"), StaticKey("token", "ops", "another-secret")
    bench = rig(key_file=None, static_keys=mine)
    assert [key.api for key in joined(bench).keys] == ["inference", "token"]
    bench.say(GATEWAY, m.RenewKey(7, "inference", sha256("another-secret")))
    assert "key_file" in bench.only(GATEWAY, m.AskRefused).message


def test_keys_are_long_and_fit_a_header() -> None:
    drawn = {ids.secret() for _ in range(100)}
    assert len(drawn) == 100
    assert all(len(key) == 32 and key.replace("-", "").replace("_", "").isalnum() for key in drawn)


@pytest.mark.parametrize(
    "key", ["", "short", "has a space in it", "line\nbreak-line", "schlüssel-aus-text", "x" * 9 + "\n"]
)
def test_a_key_of_the_settings_that_no_header_could_carry_is_refused(key: str) -> None:
    written = settings(static_keys=(StaticKey("inference", "team-a", key),)).to_json()
    with pytest.raises(msgspec.ValidationError, match="static_keys"):
        msgspec.json.decode(written, type=BrokerSettings)


# On disk


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "state" / "registry.sqlite")


MADE = IssuedKeys(
    {
        "management": IssuedKey("m-1", 1_700_000_000_123),
        "inference": IssuedKey("i-1", 5),
        "token": IssuedKey("t-1", None),
    },
    (KeyRecord("inference", sha256("i-0"), 9),),
)


def test_the_file_is_torchserves_and_only_its_owner_reads_it(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "key_file.json"
    file.write_text("{}")
    file.chmod(0o644)
    key_file.keep(file, MADE, registry)
    assert json.loads(file.read_text()) == {
        "management": {"key": "m-1", "expiration time": "2023-11-14T22:13:20.123Z"},
        "inference": {"key": "i-1", "expiration time": "1970-01-01T00:00:00.005Z"},
        "API": {"key": "t-1"},
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key_file.read(file) == {"management": "m-1", "inference": "i-1", "token": "t-1"}
    assert list(tmp_path.glob(".key_file*")) == []


def test_the_registry_holds_no_key_but_their_sha256(registry: Registry, tmp_path: Path) -> None:
    key_file.keep(tmp_path / "key_file.json", MADE, registry)
    assert set(registry.load().keys) == set(MADE.change().keys)
    registry.close()
    stored = b"".join(file.read_bytes() for file in (tmp_path / "state").iterdir())
    assert sha256("m-1").encode() in stored
    assert not any(text in stored for text in (b"m-1", b"i-1", b"t-1"))


def test_a_link_in_the_files_place_is_replaced_and_not_followed(registry: Registry, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("precious")
    file = tmp_path / "key_file.json"
    file.symlink_to(other)
    key_file.keep(file, MADE, registry)
    assert other.read_text() == "precious"
    assert not file.is_symlink()


def test_a_file_that_cannot_be_written_leaves_the_registry_alone(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "key_file.json"
    folder.mkdir()
    for place in (folder, tmp_path / "nowhere" / "key_file.json"):
        with pytest.raises(StoreFailed, match="key_file"):
            key_file.keep(place, MADE, registry)
    assert registry.load().keys == ()
    assert list(tmp_path.glob(".key_file*")) == []


def test_a_registry_that_cannot_be_written_leaves_the_file_alone(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "key_file.json"
    twice = IssuedKeys(MADE.newest, (KeyRecord("inference", "same", 1), KeyRecord("inference", "same", 1)))
    with pytest.raises(StoreFailed, match="registry"):
        key_file.keep(file, twice, registry)
    assert list(tmp_path.glob("*key_file*")) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"inference": null, "management": 7, "API": []}',
        b'{"inference": {"key": 7}, "management": {"key": {"key": "x"}}, "API": {"kee": "x"}}',
        b'{"inference": {"key": "' + b"x" * 70_000 + b'"}}',
    ],
)
def test_a_file_that_is_not_ours_shows_no_keys(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key_file.json"
    file.write_bytes(content)
    assert key_file.read(file) == {}
    assert key_file.read(tmp_path) == key_file.read(tmp_path / "nosuch") == {}


def test_keys_do_not_show_when_they_are_printed() -> None:
    assert "m-1" not in repr(MADE)


MANAGING = (
    m.RegisterModel(1, "m.mar"), m.UnregisterModel(2, "m", None), m.ScaleWorkers(3, "m", None, 1, 1, False),
    m.SetDefault(4, "m", "1.0"),
)  # fmt: skip


def with_proof(ask: m.Change, shown: str) -> m.Change:
    return msgspec.structs.replace(ask, proof=shown)


@pytest.mark.parametrize("ask", [*MANAGING, m.RenewKey(5, "management")])
def test_a_change_without_the_key_for_it_is_refused_whatever_gateway_asks(ask: m.Change) -> None:
    bench = rig(static_keys=(StaticKey("inference", "team-a", "a-long-secret"),))
    told_keys = {key.sha256 for key in joined(bench).keys}
    wrong_api: KeyedApi = "management" if isinstance(ask, m.RenewKey) else "token"
    shown = ["", proof(bench, "inference"), proof(bench, wrong_api), sha256("a-long-secret"), *told_keys]
    for number, one in enumerate(shown):
        bench.say(GATEWAY, with_proof(msgspec.structs.replace(ask, ask=100 + number), one))
        assert bench.only(GATEWAY, m.AskRefused).error == "InvalidKey"
        assert not any(one and one in str(report.facts) for report in bench.reports)
    assert not list(bench.core.catalog)


@pytest.mark.parametrize("ask", MANAGING)
def test_a_change_with_the_key_for_it_is_let_in(ask: m.Change) -> None:
    bench = rig(static_keys=(StaticKey("management", "team-a", "a-long-secret"),))
    joined(bench)
    for number, shown in enumerate((proof(bench, "management"), sha256("a-long-secret"))):
        bench.say(GATEWAY, with_proof(msgspec.structs.replace(ask, ask=100 + number), shown))
        assert bench.only(GATEWAY, m.AskRefused).error in (
            "ModelNotFound",
            "ModelVersionNotFound",
            "DownloadFailed",
        )
