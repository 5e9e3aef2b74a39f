"""How an archive from elsewhere gets into the model store, and what leaves nothing there."""

import os
from pathlib import Path

import pytest

from tests.broker.archives.test_store import prepare
from torchrelay.broker.archives.store import ArchiveStore
from torchrelay.shared import errors
from torchrelay.shared.settings import BrokerSettings


@pytest.fixture
def broker(tmp_path: Path) -> BrokerSettings:
    (tmp_path / "models").mkdir()
    (tmp_path / "state").mkdir()
    return BrokerSettings(
        state_dir=str(tmp_path / "state"),
        model_store=str(tmp_path / "models"),
        allowed_urls=("file://.*|http(s)?://.*", "s3://.*"),
        download_timeout_s=2.0,
    )


def refused(url: str, broker: BrokerSettings) -> errors.RelayError:
    with pytest.raises(errors.CallerFault) as caught:
        prepare(url, ArchiveStore(Path(broker.state_dir) / "archives"), broker)
    assert caught.value.status in (400, 404)
    assert len(caught.value.message) < 400
    assert not list(Path(str(broker.model_store)).iterdir())
    return caught.value


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://trusted.example@127.0.0.1/m.mar", "user name or password"),
        ("http://0x7f.1/m.mar", "IPv4 is four decimal numbers"),
        ("https://host:99999/m.mar", "99999 is no port"),
        ("http://host/m.mar\n", "control characters"),
        ("http://host/" + "m" * 9000, "more than 8192 characters"),
        ("file://host/m.mar", "file:///PATH"),
    ],
)
def test_what_is_refused_for_how_it_is_written_is_told_why(
    broker: BrokerSettings, url: str, why: str
) -> None:
    error = refused(url, broker)
    assert error.status == 400
    assert error.message.startswith("Failed to download archive from: ")
    assert why in error.message


@pytest.mark.parametrize("name", ["a%00.mar", "a%0Ab.mar", "%1b[2J.mar", "%2F", "%E2%80%A8.mar", "m" * 300])
def test_a_name_that_no_file_should_have_is_not_fetched(broker: BrokerSettings, name: str) -> None:
    assert refused(f"http://127.0.0.1:1/{name}", broker).status == 400


def test_a_password_in_a_url_is_neither_told_nor_logged(
    broker: BrokerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    error = refused("https://user:open-sesame@host/m.mar?signature=0", broker)
    assert "open-sesame" not in error.message
    assert caplog.records
    assert not [record for record in caplog.records if "open-sesame" in str(vars(record))]


def test_only_regular_files_are_copied_and_nothing_is_waited_for(
    broker: BrokerSettings, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.mar")
    for path in (tmp_path / "pipe.mar", "/dev/zero", "/proc/kmsg", "/proc/self/maps", tmp_path):
        assert refused(f"file://{path}", broker).status == 400


def test_a_pipe_or_device_in_the_model_store_is_no_model(broker: BrokerSettings) -> None:
    store = Path(str(broker.model_store))
    os.mkfifo(store / "pipe.mar")
    (store / "zero.mar").symlink_to("/dev/zero")
    for name in ("pipe.mar", "zero.mar"):
        with pytest.raises(errors.ModelNotFound):
            prepare(name, ArchiveStore(Path(broker.state_dir) / "archives"), broker)


def test_a_file_above_the_limit_is_not_copied(tmp_path: Path, broker: BrokerSettings) -> None:
    (tmp_path / "large.mar").write_bytes(b"x" * 100)
    settings = BrokerSettings(
        state_dir=broker.state_dir, model_store=broker.model_store, download_limit_bytes=99
    )
    assert "100 bytes" in refused(f"file://{tmp_path}/large.mar", settings).details
