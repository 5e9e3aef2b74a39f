"""Unix sockets of the broker: whose they are, and what may be in the way."""

import os
import socket
import stat
from pathlib import Path

import msgspec
import pytest

from torchrelay.broker import server
from torchrelay.broker.network import unix_sockets
from torchrelay.broker.storage.registry import Registry
from torchrelay.shared.settings import BrokerSettings


def made(folder: Path, path: Path) -> server.BrokerServer:
    settings = BrokerSettings(addresses=(f"ipc://{path}",), state_dir=str(folder))
    return server.BrokerServer(settings, Registry(folder / "registry.sqlite"))


def test_a_socket_is_its_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        broker = made(tmp_path, tmp_path / "socket")
        broker.bind()
        assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "socket.lock").stat().st_mode) == 0o600
        assert os.umask(0) == 0
        broker.close()
    finally:
        os.umask(umask)


def test_a_socket_that_a_killed_broker_left_is_in_nobodys_way(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "socket"))
    broker = made(tmp_path, tmp_path / "socket")
    broker.bind()
    broker.close()


def test_a_second_broker_does_not_take_the_address_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    first = made(tmp_path, tmp_path / "socket")
    second = made(tmp_path / "second", tmp_path / "socket")
    first.bind()
    with pytest.raises(unix_sockets.BindFailed, match="Another broker listens"):
        second.bind()
    first.close()
    second.bind()
    second.close()


def test_a_socket_on_which_something_else_listens_is_left_to_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "socket"))
        other.listen()
        broker = made(tmp_path, tmp_path / "socket")
        with pytest.raises(unix_sockets.BindFailed, match="somebody else"):
            broker.bind()
        broker.close()
    assert (tmp_path / "socket").is_socket()


@pytest.mark.parametrize("what", ["file", "link", "folder"])
def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path, what: str) -> None:
    path = tmp_path / "precious"
    if what == "file":
        path.write_bytes(b"precious")
    elif what == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
    broker = made(tmp_path, path)
    with pytest.raises(unix_sockets.BindFailed, match="no socket"):
        broker.bind()
    broker.close()
    assert os.path.lexists(path)


def test_a_lock_is_not_followed_to_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "socket.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(unix_sockets.BindFailed):
        unix_sockets.claim(f"ipc://{tmp_path}/socket")
    assert not (tmp_path / "elsewhere").exists()


def test_addresses_without_a_file_need_no_lock() -> None:
    assert unix_sockets.claim("tcp://127.0.0.1:7700") is None
    assert unix_sockets.claim("ipc://@abstract") is None


def test_an_address_that_other_users_can_reach_without_a_key_needs_insecure() -> None:
    open_one = BrokerSettings(addresses=("ipc://@abstract",), state_dir="s")
    with pytest.raises(unix_sockets.BindFailed, match="other users of this host"):
        server.check_addresses(open_one)
    server.check_addresses(msgspec.structs.replace(open_one, insecure=True))
    tcp = BrokerSettings(addresses=("tcp://127.0.0.1:7700", "tcp://10.0.0.1:7700"), state_dir="s")
    server.check_addresses(tcp)
    assert tcp.asks_for_curve_keys
    server.check_addresses(BrokerSettings(addresses=("ipc:///x/socket",), state_dir="s"))
