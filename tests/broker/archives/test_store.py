"""Archives by content, and how a url becomes one."""

import fcntl
import hashlib
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support import READER
from torchrelay.broker.archives import store as broker_store
from torchrelay.broker.archives.fetching import PART_PREFIX, PART_SUFFIX
from torchrelay.broker.archives.store import (
    PACKING_PREFIX,
    ArchiveStore,
    remove_leftovers,
    set_aside_download,
    startup_urls,
)
from torchrelay.broker.models.origins import parse
from torchrelay.broker.models.records import Prepared
from torchrelay.shared import errors
from torchrelay.shared.archives.model_config import ModelConfig
from torchrelay.shared.archives.reader import ArchiveReader
from torchrelay.shared.archives.workflow_archive import WorkflowInfo
from torchrelay.shared.settings import BrokerSettings, LoadAtStart, StartupModel


def prepare(url: str, *others: Any, **named: Any) -> Prepared:  # Any: what the store's own takes
    return broker_store.prepare(parse(url), *others, **{"reader": READER, **named})


@pytest.fixture
def broker(tmp_path: Path) -> BrokerSettings:
    (tmp_path / "models").mkdir()
    (tmp_path / "state").mkdir()
    return BrokerSettings(state_dir=str(tmp_path / "state"), model_store=str(tmp_path / "models"))


@pytest.fixture
def store(broker: BrokerSettings) -> ArchiveStore:
    return ArchiveStore(Path(broker.state_dir) / "archives")


def write_mar(path: Path, manifest: str = '{"model": {"modelName": "m", "handler": "h.py"}}') -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", manifest)
        archive.writestr("h.py", "def handle(data, context): return data")
    return path


def test_an_archive_of_the_model_store_is_kept_by_its_content(
    broker: BrokerSettings, store: ArchiveStore
) -> None:
    path = write_mar(Path(str(broker.model_store)) / "m.mar")
    prepared = prepare("m.mar", store, broker)
    assert prepared.archive == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (prepared.model_name, prepared.handler, prepared.model_version) == ("m", "h.py", "1.0")
    path.unlink()
    assert store.read(prepared.archive, 0, 4) == (b"PK\x03\x04", prepared.archive_bytes)


@pytest.mark.parametrize("suffix", [".mar", ".tar.gz"])
def test_an_archives_own_config_and_its_need_of_packages_are_known(
    broker: BrokerSettings, store: ArchiveStore, suffix: str
) -> None:
    model = {"modelName": "m", "configFile": "serving.yaml", "requirementsFile": "requirements.txt"}
    files = {
        "serving.yaml": b"batchSize: 4\nmaxWorkers: many\n",
        "model-config.yaml": b"batchSize: 9",
        "MAR-INF/MANIFEST.json": json.dumps({"model": model}).encode(),
    }
    path = Path(str(broker.model_store)) / f"m{suffix}"
    if suffix == ".mar":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(f"top/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    prepared = prepare(path.name, store, broker)
    assert prepared.config == ModelConfig(batch_size=4)
    assert [warning.partition(":")[0] for warning in prepared.config_warnings] == ["maxWorkers"]
    assert prepared.has_requirements


def test_only_the_last_part_of_a_local_path_counts(broker: BrokerSettings, store: ArchiveStore) -> None:
    write_mar(Path(str(broker.model_store)) / "m.mar")
    assert prepare("/some/where/m.mar", store, broker).model_name == "m"


def test_a_folder_of_the_model_store_is_an_archive_too(broker: BrokerSettings, store: ArchiveStore) -> None:
    folder = Path(str(broker.model_store)) / "m"
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "MAR-INF" / "MANIFEST.json").write_text('{"model": {"modelName": "f", "handler": "h.py"}}')
    (folder / "h.py").write_text("")
    assert prepare("m", store, broker).model_name == "f"


def test_an_archive_without_a_name_is_called_as_torchserve_calls_its_file(
    broker: BrokerSettings, store: ArchiveStore
) -> None:
    for file in ("plain.mar", "no-m\u00e4nif x.mar", "b.tar.gz"):
        write_mar(Path(str(broker.model_store)) / file)
    found = [
        prepare(file, store, broker).file_name for file in ("plain.mar", "no-m\u00e4nif x.mar", "b.tar.gz")
    ]
    assert found == ["plain", "no_m_nif_x", "b_tar_gz"]


def test_a_folder_deeper_in_the_store_needs_its_whole_path_and_none_elsewhere_is_taken(
    broker: BrokerSettings, store: ArchiveStore, tmp_path: Path
) -> None:
    for place in (Path(str(broker.model_store)) / "deep" / "m", tmp_path / "elsewhere" / "m"):
        place.mkdir(parents=True)
        (place / "h.py").write_text("")
    assert prepare(f"{broker.model_store}/deep/m/", store, broker).file_name == "m"
    (tmp_path / "models" / "way_out").symlink_to(tmp_path / "elsewhere")
    for url in ("deep/m", f"{tmp_path}/elsewhere/m", f"{broker.model_store}/way_out/m"):
        with pytest.raises(errors.ModelNotFound, match=f"Model not found at: {url}"):
            prepare(url, store, broker)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("", errors.ModelNotFound, "empty url"),
        ("../x.mar", errors.ModelNotFound, "Relative path is not allowed in url: ../x.mar"),
        ("a/%2e%2e/x.mar", errors.ModelNotFound, "Relative path is not allowed in url: a/%2e%2e/x.mar"),
        ("nosuch.mar", errors.ModelNotFound, "Model not found at: nosuch.mar"),
        ("s3://bucket/x.mar", errors.ModelNotFound, "Model not found at: s3://bucket/x.mar"),
        ("/", errors.ModelNotFound, "Model not found at: /"),
        ("/etc", errors.ModelNotFound, "Model not found at: /etc"),
        ("file:///nosuch/x.mar", errors.DownloadFailed, "Failed to download archive from: file:///nosuch/x.mar"),
    ],
)  # fmt: skip
def test_urls_that_name_no_archive_are_refused_in_torchserves_words(
    broker: BrokerSettings, store: ArchiveStore, url: str, error: type[errors.RelayError], message: str
) -> None:
    with pytest.raises(error) as caught:
        prepare(url, store, broker)
    assert caught.value.message == message


def test_a_file_url_is_copied_once_and_its_copy_removed_with_the_model(
    broker: BrokerSettings, store: ArchiveStore, tmp_path: Path
) -> None:
    url = f"file://{write_mar(tmp_path / 'far.mar')}"
    assert prepare(url, store, broker).model_name == "m"
    with pytest.raises(errors.StoreFailed, match=r"^Model file already exists far\.mar$"):
        prepare(url, store, broker)
    dropped = set_aside_download(parse(url), broker)
    assert dropped
    assert prepare(url, store, broker).model_name == "m"  # before it is deleted
    assert dropped.name not in startup_urls(broker)
    assert set_aside_download(parse("m.mar"), broker) is None
    assert set_aside_download(parse("file:///nosuch/m.mar"), broker) is None


def test_a_failed_fetch_leaves_nothing_in_the_model_store(
    broker: BrokerSettings, store: ArchiveStore
) -> None:
    with pytest.raises(errors.DownloadFailed):
        prepare("file:///nosuch/x.mar", store, broker)
    assert not list(Path(str(broker.model_store)).iterdir())


def named_at_start(broker: BrokerSettings, url: str) -> BrokerSettings:
    return msgspec.structs.replace(broker, load_models=(LoadAtStart(url),))


def test_what_the_operator_has_named_may_lie_anywhere(
    tmp_path: Path, broker: BrokerSettings, store: ArchiveStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere" / "folder" / "MAR-INF").mkdir(parents=True)
    manifest = '{"model": {"modelName": "f", "handler": "h.py"}}'
    (tmp_path / "elsewhere" / "folder" / "MAR-INF" / "MANIFEST.json").write_text(manifest)
    (tmp_path / "elsewhere" / "folder" / "h.py").touch()
    write_mar(tmp_path / "elsewhere" / "m.mar")
    monkeypatch.chdir(tmp_path)
    for url in (
        "elsewhere/folder",
        f"{tmp_path}/elsewhere/folder",
        "elsewhere/m.mar",
        f"{tmp_path}/elsewhere/m.mar",
    ):
        with pytest.raises(errors.ModelNotFound):
            prepare(url, store, broker)
        named = named_at_start(broker, url)
        assert prepare(url, store, named).model_name in ("f", "m")
        assert prepare(url, store, msgspec.structs.replace(named, model_store=None)).archive
        with pytest.raises(errors.ModelNotFound):  # the name itself, and nothing beside it
            prepare(str(Path(url).parent / "other"), store, named)
    restored = msgspec.structs.replace(
        broker, snapshot=(StartupModel(name="f", version="1", archive_name=f"{tmp_path}/elsewhere/folder"),)
    )
    assert prepare(f"{tmp_path}/elsewhere/folder", store, restored).model_name == "f"


def test_a_file_of_the_store_comes_before_what_lies_elsewhere(
    tmp_path: Path, broker: BrokerSettings, store: ArchiveStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = write_mar(tmp_path / "models" / "m.mar", '{"model": {"modelName": "inside", "handler": "h.py"}}')
    write_mar(tmp_path / "m.mar")
    url = f"{tmp_path}/m.mar"
    assert prepare(url, store, named_at_start(broker, url)).model_name == "inside"
    inside.unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.ModelNotFound):  # a bare name is one of the store's
        prepare("m.mar", store, named_at_start(broker, "m.mar"))


def test_what_is_set_aside_is_gone_from_the_store_at_once(tmp_path: Path) -> None:
    store = ArchiveStore(tmp_path / "s")
    sha256, _ = store.put(write_mar(tmp_path / "m.mar"))
    dropped = store.set_aside(sha256)
    assert store.read(sha256, 0, 1) is None
    store.put(tmp_path / "m.mar")
    dropped.unlink()
    assert store.read(sha256, 0, 1) is not None


def test_leftovers_are_deleted_and_used_archives_kept(tmp_path: Path) -> None:
    store = ArchiveStore(tmp_path / "s")
    used, _ = store.put(write_mar(tmp_path / "a.mar"))
    unused, _ = store.put(write_mar(tmp_path / "b.mar", "{}"))
    (tmp_path / "s" / "x.part").write_bytes(b"half")
    store.keep_only({used})
    assert [path.stem for path in (tmp_path / "s").iterdir()] == [used]
    assert store.read(unused, 0, 1) is None


def test_what_a_killed_broker_left_half_made_is_deleted_and_nothing_else(
    broker: BrokerSettings, tmp_path: Path
) -> None:
    models, state = Path(str(broker.model_store)), Path(broker.state_dir)
    (state / f"{PACKING_PREFIX}x" / "deep").mkdir(parents=True)
    (state / f"{PACKING_PREFIX}x" / "m.mar").write_bytes(b"half")
    names = ("mine", "theirs")
    mine, theirs = (models / f"{PART_PREFIX}{name}{PART_SUFFIX}" for name in names)
    others = [models / "m.mar", models / ".x.part", models / "torchrelay-x.part", state / "registry.sqlite"]
    for path in (mine, theirs, *others):
        path.write_bytes(b"half")
    with theirs.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_leftovers(broker)
    assert sorted((*models.iterdir(), *state.iterdir())) == sorted([theirs, *others])
    remove_leftovers(BrokerSettings(state_dir=str(tmp_path / "nosuch")))


def test_what_is_being_fetched_survives_the_start_of_another_broker(
    broker: BrokerSettings, store: ArchiveStore, tmp_path: Path
) -> None:
    def another_starts() -> bool:
        remove_leftovers(broker)
        return False

    url = f"file://{write_mar(tmp_path / 'far.mar')}"
    assert prepare(url, store, broker, another_starts).model_name == "m"


@pytest.mark.parametrize("name", ["../registry", "", "x" * 64, "A" * 64])
def test_only_hashes_name_archives(tmp_path: Path, name: str) -> None:
    store = ArchiveStore(tmp_path / "s")
    (tmp_path / "registry.archive").write_bytes(b"secret")
    assert store.read(name, 0, 10) is None


def test_all_means_every_archive_and_folder_but_hidden_ones(broker: BrokerSettings) -> None:
    folder = Path(str(broker.model_store))
    for name in ("b.mar", "a.tar.gz", "c.txt", ".hidden.mar"):
        (folder / name).write_bytes(b"")
    (folder / "d").mkdir()
    assert startup_urls(broker) == ["a.tar.gz", "b.mar", "d"]


@pytest.mark.parametrize(
    "url",
    ["http://[abc/x.mar", "http://h:99999/x.mar", "http://h:abc/x.mar", "x" * 300 + ".mar", "file:///a%00b",
     "file:///dev/zero", "http://host/"],
)  # fmt: skip
def test_urls_that_cannot_be_are_the_callers_fault(
    broker: BrokerSettings, store: ArchiveStore, url: str
) -> None:
    with pytest.raises(errors.CallerFault):
        prepare(url, store, broker)


def test_a_url_whose_archive_was_broken_can_be_registered_once_it_is_mended(
    broker: BrokerSettings, store: ArchiveStore, tmp_path: Path
) -> None:
    source = write_mar(tmp_path / "far.mar", "[]")
    with pytest.raises(errors.InvalidModel):
        prepare(f"file://{source}", store, broker)
    write_mar(source)
    assert prepare(f"file://{source}", store, broker).model_name == "m"


def in_place(broker: BrokerSettings, *, folders: bool = True, archives: bool = True) -> BrokerSettings:
    return msgspec.structs.replace(broker, folders_in_place=folders, archives_in_place=archives)


def test_an_archive_whose_workers_start_at_once_can_stay_where_it_is(
    broker: BrokerSettings, store: ArchiveStore
) -> None:
    path = write_mar(Path(str(broker.model_store)) / "m.mar")
    prepared = prepare("m.mar", store, in_place(broker), is_wanted_now=True)
    assert prepared.path == str(path)
    assert prepared.archive == hashlib.sha256(path.read_bytes()).hexdigest()
    assert prepared.archive_bytes == path.stat().st_size
    assert store.read(prepared.archive, 0, 1) is None


@pytest.mark.parametrize(("archives", "is_wanted_now"), [(True, False), (False, True)])
def test_an_archive_that_may_change_before_it_is_unpacked_is_copied(
    broker: BrokerSettings, store: ArchiveStore, archives: bool, is_wanted_now: bool
) -> None:
    path = write_mar(Path(str(broker.model_store)) / "m.mar")
    prepared = prepare("m.mar", store, in_place(broker, archives=archives), is_wanted_now=is_wanted_now)
    path.write_bytes(b"the next build")
    assert prepared.path == str(store.path_of(prepared.archive))
    assert hashlib.sha256(Path(prepared.path).read_bytes()).hexdigest() == prepared.archive


def make_folder(place: Path) -> Path:
    (place / "MAR-INF").mkdir(parents=True)
    (place / "MAR-INF" / "MANIFEST.json").write_text('{"model": {"modelName": "f", "handler": "h.py"}}')
    (place / "h.py").write_text("")
    return place


def test_a_folder_used_in_place_is_known_by_what_it_says_of_itself_not_by_what_is_written_there(
    broker: BrokerSettings, store: ArchiveStore
) -> None:
    folder = make_folder(Path(str(broker.model_store)) / "f")
    first = prepare("f", store, in_place(broker))
    assert (first.path, first.model_name, first.handler, first.is_packed) == (str(folder), "f", "h.py", False)
    assert not list((Path(broker.state_dir) / "archives").iterdir())
    (folder / "feedback.txt").write_text("written by a handler")
    (folder / "h.py").write_text("edited")
    assert prepare("f", store, in_place(broker)) == first
    (folder / "MAR-INF" / "MANIFEST.json").write_text('{"model": {"modelName": "f", "handler": "other.py"}}')
    assert prepare("f", store, in_place(broker)).archive != first.archive
    other = make_folder(Path(str(broker.model_store)) / "other")
    assert prepare(other.name, store, in_place(broker)).archive != first.archive


def test_a_folder_that_goes_to_nodes_is_packed_and_says_so(
    broker: BrokerSettings, store: ArchiveStore
) -> None:
    make_folder(Path(str(broker.model_store)) / "f")
    prepared = prepare("f", store, broker)
    assert prepared.is_packed
    assert Path(prepared.path).read_bytes()[:2] == b"PK"
    assert [path.name for path in Path(broker.state_dir).iterdir()] == ["archives"]


def test_what_is_stored_already_is_not_written_again(tmp_path: Path) -> None:
    """As at each start of a server with a state of its own."""
    free = 1 << 40
    store = ArchiveStore(tmp_path / "s", lambda _: free)
    kept = store.put(write_mar(tmp_path / "m.mar"))
    before = store.path_of(kept[0]).stat()
    free = 0
    assert store.put(tmp_path / "m.mar") == kept
    assert os.path.samestat(store.path_of(kept[0]).stat(), before)
    with pytest.raises(OSError, match="No space left on device"):
        store.put(write_mar(tmp_path / "other.mar", "{}"))


def test_what_the_disk_has_no_room_for_is_refused_before_it_is_full(broker: BrokerSettings) -> None:
    path = write_mar(Path(str(broker.model_store)) / "m.mar")
    folder = Path(broker.state_dir) / "archives"
    tight = ArchiveStore(folder, lambda _: path.stat().st_size - 1)
    with pytest.raises(errors.StoreFailed, match=r"Failed to save model: m\.mar") as caught:
        prepare("m.mar", tight, broker)
    assert "No space left on device" in caught.value.details
    assert str(folder) in caught.value.details
    assert not list(folder.iterdir())


def test_an_archive_that_can_not_be_copied_is_unpacked_from_where_it_is_if_the_node_is_here(
    broker: BrokerSettings,
) -> None:
    path = write_mar(Path(str(broker.model_store)) / "m.mar")
    full = ArchiveStore(Path(broker.state_dir) / "archives", lambda _: 0)
    here = in_place(broker, archives=False)
    assert prepare("m.mar", full, here, is_wanted_now=True).path == str(path)
    with pytest.raises(errors.StoreFailed):
        prepare("m.mar", full, here)


def test_the_model_store_is_no_model_by_whatever_name(
    broker: BrokerSettings, store: ArchiveStore, tmp_path: Path
) -> None:
    models = Path(str(broker.model_store))
    write_mar(models / "of another.mar")
    (models / "sub").mkdir()
    (models / "self").symlink_to(".")
    (tmp_path / "way").symlink_to(models)
    for in_place in (False, True):
        settings = msgspec.structs.replace(broker, folders_in_place=in_place)
        for url in (
            *(".", "./", "./.", "sub/.", "self", "sub/..", "..", "/", "//"),
            *(f"{models}{end}" for end in ("", "/", "/.", "//", "/self", "/sub/../")),
            *(f"{tmp_path}/way", f"{tmp_path}"),
        ):
            with pytest.raises(errors.ModelNotFound):
                prepare(url, store, settings)
        with pytest.raises(errors.DownloadFailed):
            prepare(f"file://{models}", store, settings)
    assert not list(Path(broker.state_dir).glob(f"{PACKING_PREFIX}*"))
    assert startup_urls(broker) == ["of another.mar", "sub"]


def test_folders_of_ours_in_the_model_store_are_no_models(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("m", "state/archives", "logs/config", "cache/models/x", "above/cache"):
        (models / name).mkdir(parents=True)
        (models / name / "h.py").touch()
    broker = BrokerSettings(
        state_dir=str(models / "state"),
        model_store=str(models),
        snapshot_dir=str(models / "logs" / "config"),
        private_folders=(str(models / "cache"), str(models / "above" / "cache")),
        folders_in_place=True,
    )
    store = ArchiveStore(tmp_path / "archives")
    for url in ("state", "logs", "cache", "above", f"{models}/state/archives", f"{models}/cache/models/x"):
        with pytest.raises(errors.ModelNotFound):
            prepare(url, store, broker)
    assert startup_urls(broker) == ["m"]
    assert prepare("m", store, broker).file_name == "m"


def test_one_volume_may_hold_state_and_models(tmp_path: Path, store: ArchiveStore) -> None:
    (tmp_path / "data" / "models" / "m").mkdir(parents=True)
    (tmp_path / "data" / "models" / "m" / "h.py").touch()
    broker = BrokerSettings(state_dir=str(tmp_path / "data"), model_store=str(tmp_path / "data" / "models"))
    assert prepare("m", store, broker).file_name == "m"
    with pytest.raises(errors.ModelNotFound):
        prepare(str(tmp_path / "data"), store, broker)


def test_a_folder_that_goes_to_nodes_takes_nothing_along_that_its_links_lead_to(
    broker: BrokerSettings, store: ArchiveStore, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.json").write_text("secret")
    models = Path(str(broker.model_store))
    (models / "m").mkdir()
    (models / "m" / "h.py").touch()
    (models / "m" / "weights").symlink_to(tmp_path / "secret" / "key.json")
    (models / "linked").symlink_to(tmp_path / "secret")
    for url in ("m", "linked"):
        with pytest.raises(errors.InvalidModel, match=f"leads to '{tmp_path}/secret"):
            prepare(url, store, broker)
        assert not list(Path(broker.state_dir).glob(f"{PACKING_PREFIX}*"))
        named = msgspec.structs.replace(broker, link_targets=(str(tmp_path / "secret"),))
        assert prepare(url, store, named).is_packed


def test_an_archive_that_takes_too_long_leaves_nothing(
    broker: BrokerSettings, store: ArchiveStore, tmp_path: Path
) -> None:
    path = tmp_path / "far.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("MAR-INF/MANIFEST.json", '{"model": {"modelName": "m", "configFile": "c.yaml"}}')
        file.writestr("c.yaml", "a: {" + "b, " * 80_000 + "}")
    reader = ArchiveReader(time_limit_s=0)
    # 1 s of cpu time, or 5 s of any where that is short.
    with pytest.raises(errors.InvalidModel, match=r"inspecting it took more than [15] s"):
        prepare(f"file://{path}", store, broker, reader=reader)
    reader.close()
    assert not list(Path(str(broker.model_store)).iterdir())
    assert not list((Path(broker.state_dir) / "archives").iterdir())


def write_war(path: Path, name: str = "w") -> Path:
    manifest = {"createdOn": "x", "archiverVersion": "1",
                "workflow": {"workflowName": name, "specFile": "s.yaml", "handler": "h.py"}}  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("WAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("s.yaml", "models: {m: {url: m.mar}}\ndag: {m: [f]}")
        archive.writestr("h.py", "")
    return path


def test_an_archive_of_a_workflow_lies_in_a_store_of_its_own_or_that_of_models(
    broker: BrokerSettings, store: ArchiveStore, tmp_path: Path
) -> None:
    write_war(Path(str(broker.model_store)) / "w.war")
    prepared = broker_store.prepare_workflow(parse("w.war"), store, broker, reader=READER)
    assert (prepared.name, prepared.handler) == ("w", "h.py")
    assert Path(prepared.path) == store.path_of(prepared.archive)
    (tmp_path / "flows").mkdir()
    apart = msgspec.structs.replace(broker, workflow_store=str(tmp_path / "flows"))
    with pytest.raises(errors.WorkflowNotFound) as missing:
        broker_store.prepare_workflow(parse("w.war"), store, apart, reader=READER)
    assert missing.value.message == "Workflow not found in workflow store: w.war"
    write_war(tmp_path / "flows" / "w.war", "other")
    assert broker_store.prepare_workflow(parse("w.war"), store, apart, reader=READER).name == "other"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "Workflow not found at: "),
        ("../w.war", "Relative path is not allowed in url: ../w.war"),
        ("folder", "Workflow not found in workflow store: folder"),
        ("ftp://host/w.war", "Workflow not found in workflow store: ftp://host/w.war"),
    ],
)
def test_a_workflow_that_is_not_there_is_said_to_be_missing_in_torchserves_words(
    url: str, said: str, broker: BrokerSettings, store: ArchiveStore
) -> None:
    (Path(str(broker.model_store)) / "folder").mkdir()
    with pytest.raises(errors.WorkflowNotFound) as missing:
        broker_store.prepare_workflow(parse(url), store, broker, reader=READER)
    assert missing.value.message == said


def test_a_workflows_archive_that_is_broken_or_takes_too_much_is_its_own_fault(
    broker: BrokerSettings, store: ArchiveStore
) -> None:
    path = Path(str(broker.model_store)) / "w.war"
    path.write_bytes(b"hello")
    with pytest.raises(errors.InvalidWorkflow, match="Workflow name is not defined"):
        broker_store.prepare_workflow(parse("w.war"), store, broker, reader=READER)
    write_war(path)

    class Exhausted(ArchiveReader):
        def inspect_workflow(self, path: Path) -> WorkflowInfo:
            raise errors.InvalidModel("The archive can't be read: it takes too much.")

    with pytest.raises(errors.InvalidWorkflow, match="takes too much"):
        broker_store.prepare_workflow(parse("w.war"), store, broker, reader=Exhausted())
