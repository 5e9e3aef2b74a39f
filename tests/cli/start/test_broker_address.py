"""Where a broker listens, and is looked for, when nobody says."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from torchrelay.cli.faults import Fault
from torchrelay.cli.start import broker_address

ME = os.getuid()


def places(folder: Path, **environ: str) -> list[Path]:
    return broker_address.folders(environ, ME, str(folder / "tmp"))


@contextmanager
def listening(folder: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / broker_address.SOCKET_NAME))
        made.listen()
        yield


def test_the_users_runtime_folder_comes_first_and_one_in_tmp_last(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    found = places(tmp_path, XDG_RUNTIME_DIR=str(tmp_path / "run"), HOME="/home/me")
    last = tmp_path / "tmp" / f"torchrelay-broker-{ME}"
    assert found == [tmp_path / "run" / "torchrelay", Path("/home/me/.local/state/torchrelay"), last]
    assert places(tmp_path, XDG_RUNTIME_DIR=str(tmp_path / "gone"), XDG_STATE_HOME="relative") == [last]
    assert places(tmp_path, HOME="/home/me", XDG_STATE_HOME="/s") == [Path("/s/torchrelay"), last]


def test_the_folder_is_the_users_alone_also_if_it_was_not(tmp_path: Path) -> None:
    folder = tmp_path / "torchrelay"
    for _ in range(2):
        place = broker_address.to_listen([folder], ME)
        assert place == broker_address.Place(f"ipc://{folder}/broker.sock")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        folder.chmod(0o755)


def test_a_folder_that_can_not_be_used_gives_way_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    long = tmp_path / ("x" * 100)
    place = broker_address.to_listen([tmp_path / "file" / "in", long, tmp_path / "good"], ME)
    assert place.address == f"ipc://{tmp_path}/good/broker.sock"
    (line,) = place.warnings
    assert "Not a directory" in line
    assert "107 bytes" in line
    assert broker_address.to_dial([long, tmp_path / "good"], ME) == place.address
    with pytest.raises(Fault, match="--address"):
        broker_address.to_listen([long], ME)


def test_who_dials_before_there_is_a_broker_looks_where_it_will_listen(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    theirs = tmp_path / "theirs"
    theirs.symlink_to(tmp_path)
    found = [tmp_path / "file" / "in", tmp_path / ("x" * 100), theirs, tmp_path / "new" / "good"]
    dialled = broker_address.to_dial(found, ME)
    assert not (tmp_path / "new").exists()
    assert dialled == broker_address.to_listen(found, ME).address == f"ipc://{tmp_path}/new/good/broker.sock"
    assert broker_address.to_dial(found, ME) == dialled
    assert broker_address.to_dial(found[:1], ME) == f"ipc://{found[0]}/broker.sock"


@pytest.mark.parametrize("how", ["owner", "link"])
def test_a_folder_of_another_user_is_neither_listened_in_nor_dialled(tmp_path: Path, how: str) -> None:
    planted = tmp_path / "planted"
    if how == "link":
        (tmp_path / "theirs").mkdir()
        planted.symlink_to(tmp_path / "theirs")
    else:
        planted.mkdir()
    with listening(planted):
        user = ME if how == "link" else ME + 1
        with pytest.raises(Fault, match="another user's"):
            broker_address.to_listen([planted], user)
        assert (
            broker_address.to_dial([tmp_path / "own", planted], user) == f"ipc://{tmp_path}/own/broker.sock"
        )


def test_who_dials_takes_the_first_folder_where_a_broker_listens(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert broker_address.to_dial([first, second], ME) == f"ipc://{first}/broker.sock"
    second.mkdir()
    with listening(second):
        assert broker_address.to_dial([first, second], ME) == f"ipc://{second}/broker.sock"
        first.mkdir()
        with listening(first):
            assert broker_address.to_dial([first, second], ME) == f"ipc://{first}/broker.sock"
        assert (first / broker_address.SOCKET_NAME).is_socket()  # as one that was killed leaves it
        assert broker_address.to_dial([first, second], ME) == f"ipc://{second}/broker.sock"


def test_a_socket_that_a_killed_broker_left_is_not_dialled(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.mkdir()
    with listening(left):
        pass
    assert broker_address.to_dial([tmp_path / "first", left], ME) == f"ipc://{tmp_path}/first/broker.sock"


def test_invitations_name_what_the_broker_listens_on_or_what_was_said() -> None:
    listened_on = ["ipc:///run/broker.sock", "tcp://10.0.0.1:7700", "tcp://[2001:db8::1]:7700"]
    assert broker_address.advertised(listened_on, ()) == tuple(listened_on[1:])
    assert broker_address.advertised(listened_on, ["tcp://broker:7700"]) == ("tcp://broker:7700",)
    assert broker_address.advertised(["ipc:///run/broker.sock"], ()) == ()


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:7701", "tcp://*:7701", "tcp://[::]:7701"])
def test_one_that_listens_on_all_addresses_is_reached_by_one_that_others_see_or_by_name(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "rack1")
    monkeypatch.setattr(broker_address, "_outward_address", lambda: "10.0.0.7")
    assert broker_address.advertised([address], ()) == ("tcp://10.0.0.7:7701", "tcp://rack1:7701")
    monkeypatch.setattr(broker_address, "_outward_address", lambda: None)
    assert broker_address.advertised([address], ()) == ("tcp://rack1:7701",)


def test_a_broker_on_tcp_has_a_socket_in_its_state_as_well() -> None:
    tcp = ["tcp://10.0.0.1:7700"]
    assert broker_address.beside(tcp, "/state").address == "ipc:///state/broker.sock"
    assert broker_address.beside([*tcp, "ipc:///own.sock"], "/state") == broker_address.Place("")
    too_long = broker_address.beside(tcp, "/" + "x" * 120)
    assert too_long.address == ""
    assert "too long" in too_long.warnings[0]
