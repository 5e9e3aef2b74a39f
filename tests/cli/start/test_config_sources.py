"""What the sources of settings say: command line, config.properties, snapshots, environment."""

from pathlib import Path

import pytest
import typer

from torchrelay.cli.faults import Fault
from torchrelay.cli.start import config_sources
from torchrelay.shared.settings import LoadAtStart, LogLimits


def test_models_may_follow_one_option_or_several() -> None:
    said = config_sources.command_line_values(models=["a.mar", "x=b.mar"], more_models=["c.mar"])
    assert said.load_models == (LoadAtStart("a.mar"), LoadAtStart("b.mar", "x"), LoadAtStart("c.mar"))
    with pytest.raises(typer.BadParameter):
        config_sources.command_line_values(more_models=["stray"])


def test_an_address_without_scheme_is_a_fault() -> None:
    with pytest.raises(Fault, match="Invalid binding address"):
        config_sources.command_line_values(inference_address="127.0.0.1:8080")


def test_labels_are_read_and_faults_of_theirs_named_with_the_option() -> None:
    said = config_sources.command_line_values(label=["zone=a", "rack=3"])
    assert said.node_labels == (("rack", "3"), ("zone", "a"))
    assert config_sources.command_line_values(label=[]).node_labels is None, "the file's count then"
    with pytest.raises(Fault, match="--label: the label zone is given twice"):
        config_sources.command_line_values(label=["zone=a", "zone=b"])


def test_modules_to_preload_are_read_and_faults_of_theirs_named_with_the_option() -> None:
    assert config_sources.command_line_values(preload=["torch", "a.b"]).preload == ("torch", "a.b")
    assert config_sources.command_line_values(preload=["none"]).preload == ()
    assert config_sources.command_line_values(preload=[]).preload is None, "the file's count then"
    with pytest.raises(Fault, match="--preload: 'a-b' is no module's name"):
        config_sources.command_line_values(preload=["a-b"])


def test_how_long_logs_become_is_read_from_the_environment() -> None:
    assert config_sources.log_limits({}) == LogLimits(100 << 20, 5)
    variables = {"TORCHRELAY_LOG_FILE_MB": "7", "TORCHRELAY_LOG_FILES": "0"}
    assert config_sources.log_limits(variables) == LogLimits(7 << 20, 0)
    for name in variables:
        with pytest.raises(Fault, match=f"{name}=7.5 is no whole number"):
            config_sources.log_limits({name: "7.5"})


def test_a_snapshot_has_its_secrets_from_the_file_that_it_was_made_with(tmp_path: Path) -> None:
    origin, snapshot = tmp_path / "config.properties", tmp_path / "snapshot.cfg"
    origin.write_text("keystore_pass=$$THE_PASSWORD$$\njob_queue_size=7")
    environ = {"THE_PASSWORD": "p"}
    first = config_sources.read_config_file(origin, environ)
    assert first.properties["tsConfigFile"] == str(origin)
    snapshot.write_text(f"model_snapshot={{}}\ntsConfigFile={origin}\njob_queue_size=8")
    restored = config_sources.read_config_file(snapshot, environ)
    assert (restored.file.keystore_pass, restored.file.job_queue_size) == ("p", 8)
    assert restored.secret_variables == {"THE_PASSWORD"}
    assert restored.properties["tsConfigFile"] == str(origin), "so that its own snapshots name it, too"
    snapshot.write_text(f"model_snapshot={{}}\ntsConfigFile={origin}\nkeystore_pass=torchserves")
    assert config_sources.read_config_file(snapshot, environ).file.keystore_pass == "torchserves"
    origin.unlink()
    assert config_sources.read_config_file(snapshot, environ).file.keystore_pass == "torchserves"


def test_where_grpc_is_listened_for_is_read_and_faults_named_with_the_option() -> None:
    values = config_sources.command_line_values(grpc_inference="0.0.0.0:70", grpc_management="[::1]:71")
    assert (values.grpc_inference_address, values.grpc_inference_port) == ("0.0.0.0", 70)
    assert (values.grpc_management_address, values.grpc_management_port) == ("[::1]", 71)
    for text in ("7070", "host:", ":7070", "host:0", "host:70000", "http://host"):
        with pytest.raises(Fault, match="--grpc-inference"):
            config_sources.command_line_values(grpc_inference=text)


@pytest.mark.parametrize(
    ("text", "flag"), [("", None), ("yes", True), ("1", True), ("No", False), ("off", False)]
)
def test_the_torchserve_command_reads_the_flag_of_grpc_as_the_others_do(text: str, flag: bool | None) -> None:
    assert config_sources.grpc_flag({"TORCHRELAY_GRPC": text}) is flag
    with pytest.raises(Fault, match="TORCHRELAY_GRPC"):
        config_sources.grpc_flag({"TORCHRELAY_GRPC": "perhaps"})
