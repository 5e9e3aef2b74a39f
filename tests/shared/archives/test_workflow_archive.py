"""Archives of workflows: what they say, and those that are broken, incomplete or hostile."""

import json
import stat
import zipfile
from pathlib import Path

import pytest

from tests.support import READER
from torchrelay.shared.archives import archive_entries, model_config, workflow_archive
from torchrelay.shared.errors import InvalidDag, InvalidModel, InvalidWorkflow, RelayError

SPEC = "models: {m: {url: m.mar}}\ndag: {pre: [m]}\n"
MANIFEST: dict[str, object] = {
    "createdOn": "01/01/2026",
    "archiverVersion": "0.2.15",
    "workflow": {"workflowName": "w", "specFile": "spec.yaml", "handler": "code.py"},
}


def write(path: Path, entries: dict[str, str], manifest: object = MANIFEST) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        if manifest is not None:
            text = manifest if isinstance(manifest, str) else json.dumps(manifest)
            archive.writestr("WAR-INF/MANIFEST.json", text)
    return path


def without(*keys: str) -> dict[str, object]:
    """Return the manifest without a key, which may be one of its workflow."""
    workflow = MANIFEST["workflow"]
    assert isinstance(workflow, dict)
    kept = {key: value for key, value in workflow.items() if key not in keys}
    return {key: value for key, value in (MANIFEST | {"workflow": kept}).items() if key not in keys}


def refused(path: Path) -> RelayError:
    with pytest.raises((InvalidWorkflow, InvalidDag)) as caught:
        workflow_archive.inspect(path)
    return caught.value


def test_an_archive_says_its_name_its_handler_and_its_steps(tmp_path: Path) -> None:
    path = write(tmp_path / "w.war", {"spec.yaml": SPEC, "code.py": ""})
    info = READER.inspect_workflow(path)  # in the process that servers read archives in
    assert (info.name, info.handler, [step.name for step in info.spec.steps]) == (
        "w",
        "code.py",
        ["pre", "m"],
    )


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (None, "Workflow name is not defined."),
        ("{", "Failed to parse signature.json."),
        ("[" * 100_000, "Failed to parse signature.json."),
        ([], "Failed to parse signature.json."),
        ({}, "Workflow name is not defined."),
        ({"workflow": 5}, "Workflow name is not defined."),
        (without("workflowName"), "Workflow name is not defined."),
        (without("archiverVersion"), "Workflow archive version is not defined."),
        (without("createdOn"), "Workflow archive createdOn is not defined."),
        (without("specFile"), "Workflow spec file is not defined."),
        (MANIFEST | {"workflow": {"workflowName": ["w"]}}, "Failed to parse signature.json."),
        (without("handler"), "The step 'pre' is not defined."),
    ],
)
def test_a_manifest_that_lacks_something_is_refused_in_torchserves_words(
    manifest: object, said: str, tmp_path: Path
) -> None:
    error = refused(write(tmp_path / "w.war", {"spec.yaml": SPEC, "code.py": ""}, manifest))
    assert (error.message, error.status) == (said, 500)


def test_models_alone_need_no_handler(tmp_path: Path) -> None:
    spec = "models: {m: {url: m.mar}}\ndag: {m: []}\n"
    path = write(tmp_path / "w.war", {"spec.yaml": spec}, without("handler"))
    assert workflow_archive.inspect(path).handler == ""


def test_what_is_no_archive_has_no_name(tmp_path: Path) -> None:
    path = tmp_path / "w.war"
    path.write_bytes(b"hello")
    error = refused(path)
    assert error.message == "Workflow name is not defined."
    assert "no readable archive" in error.details


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({}, "'spec.yaml' is not in the archive"),
        ({"spec.yaml": SPEC, "../../evil": "x"}, "points outside"),
        ({"spec.yaml": SPEC, "/evil": "x"}, "points outside"),
        ({"spec.yaml": "models: {m: {url: m.mar}}\ndag: {m: [m]}"}, "Self loop exception"),
        ({"spec.yaml": "#" * (model_config.SIZE_LIMIT_BYTES + 1)}, "Failed to parse yaml."),
    ],
)
def test_an_archive_that_is_hostile_or_lacks_its_spec_is_refused(
    entries: dict[str, str], said: str, tmp_path: Path
) -> None:
    assert said in refused(write(tmp_path / "w.war", entries)).message


def test_a_link_is_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "w.war"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("spec.yaml")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("WAR-INF/MANIFEST.json", json.dumps(MANIFEST))
    assert "is a link" in refused(path).message


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_entries, "RATIO_FLOOR_BYTES", 1000)
    path = write(tmp_path / "w.war", {"spec.yaml": SPEC, "zeros": "0" * 1_000_000})
    assert "would unpack to more than" in refused(path).message


def test_an_archive_that_was_made_here_is_read_here(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SPEC)
    (tmp_path / "code.py").write_text("")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "words.txt").write_text("a")
    target = tmp_path / "out" / "w.war"
    made = {"workflow_name": "w", "spec_file": tmp_path / "s.yaml", "handler": tmp_path / "code.py"}
    workflow_archive.create(target, **made, extra_files=[tmp_path / "more"])  # type: ignore[arg-type]  # of several types
    info = workflow_archive.inspect(target)
    assert (info.name, info.handler, len(info.spec.steps)) == ("w", "code.py", 2)
    with zipfile.ZipFile(target) as archive:
        assert "words.txt" in archive.namelist()
    with pytest.raises(InvalidModel, match="exists"):
        workflow_archive.create(target, **made)  # type: ignore[arg-type]  # as above
    workflow_archive.create(target, **made, force=True)  # type: ignore[arg-type]  # as above


def test_what_can_not_be_registered_is_not_made(tmp_path: Path) -> None:
    spec, target = tmp_path / "s.yaml", tmp_path / "w.war"
    spec.write_text(SPEC)
    with pytest.raises(InvalidWorkflow, match="The step 'pre' is not defined"):
        workflow_archive.create(target, workflow_name="w", spec_file=spec)
    with pytest.raises(InvalidModel, match="may have only letters"):
        workflow_archive.create(target, workflow_name="a/b", spec_file=spec)
    with pytest.raises(InvalidModel, match="There is no file"):
        workflow_archive.create(target, workflow_name="w", spec_file=tmp_path / "none.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.yaml"]
