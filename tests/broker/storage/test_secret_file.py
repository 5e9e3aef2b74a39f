"""The secret that claims of workers are made with."""

from pathlib import Path

from torchrelay.broker import server
from torchrelay.broker.storage import secret_file
from torchrelay.broker.storage.registry import Registry
from torchrelay.shared.settings import BrokerSettings


def test_the_secret_of_workers_claims_is_kept_and_drawn_anew_where_it_was_cut_short(tmp_path: Path) -> None:
    """Empty files are what a host without power leaves; claims made with nothing could be made by anybody."""

    def start() -> bytes:
        settings = BrokerSettings(addresses=(f"ipc://{tmp_path}/socket",), state_dir=str(tmp_path))
        server.BrokerServer(settings, Registry(tmp_path / "registry.sqlite")).close()
        return (tmp_path / "worker_claims").read_bytes()

    first = start()
    assert len(first) >= secret_file.SECRET_BYTES_MIN
    assert start() == first
    (tmp_path / "worker_claims").write_bytes(b"")
    assert len(start()) >= secret_file.SECRET_BYTES_MIN
    assert (tmp_path / "worker_claims").stat().st_mode & 0o77 == 0
