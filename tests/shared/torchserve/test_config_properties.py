"""config.properties: what is understood, what is refused, and that all faults come together."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.cli.start import part_settings
from torchrelay.shared.settings import LoadAtStart, SettingsError, StartupModel
from torchrelay.shared.torchserve import config_properties
from torchrelay.shared.torchserve.config_keys import ConfigValues
from torchrelay.shared.torchserve.config_properties import Configuration


def read(text: str, **environ: str) -> Configuration:
    return config_properties.read(text.encode(), environ)


def test_every_key_with_a_meaning_is_read() -> None:
    text = r"""
        # a comment
        ! another
        inference_address=http://0.0.0.0:8080
        management_address: unix:/tmp/management.sock
        metrics_address = http://[::1]:8082
        model_store=/models
        load_models=a.mar, second=b.mar ,,https://host/c.mar?key=1
        default_workers_per_model=2
        default_response_timeout=30
        default_startup_timeout=\
            40
        job_queue_size=7
        max_request_size=1000
        max_response_size=2000
        number_of_gpu=0
        allowed_urls=https://a/.*, file:///m/.*
        enable_model_api=TRUE
        enable_metrics_api=false
        decode_input_request=false
        limit_max_image_pixels=no
        service_envelope=json
        default_service_handler=handler.py
    """
    assert read(text).file == ConfigValues(
        inference_address="http://0.0.0.0:8080",
        management_address="unix:/tmp/management.sock",
        metrics_address="http://[::1]:8082",
        model_store="/models",
        load_models=(
            LoadAtStart(url="a.mar"),
            LoadAtStart(url="b.mar", name="second"),
            LoadAtStart(url="https://host/c.mar?key=1"),
        ),
        default_workers_per_model=2,
        default_response_timeout=30,
        default_startup_timeout=40,
        job_queue_size=7,
        max_request_size=1000,
        max_response_size=2000,
        number_of_gpu=0,
        allowed_urls=("https://a/.*", "file:///m/.*"),
        enable_model_api=True,
        enable_metrics_api=False,
        decode_input_request=False,
        limit_max_image_pixels=False,
        service_envelope="json",
        default_service_handler="handler.py",
    )


def test_the_rest_of_the_keys_with_a_meaning_is_read() -> None:
    text = r"""
        install_py_dep_per_model=true
        unregister_model_timeout=9
        metrics_mode=\ Prometheus
        metrics_config=/m.yaml
        model_metrics_auto_detect=true
        own_metrics=false
        grpc_server=pygrpc-native
        connection_limit=100
        head_timeout_s=11
        client_least_rate=1000
        client_stall_s=12
        unsent_limit_bytes=0
        in_flight_limit_bytes=3000
        disable_system_metrics=true
        metric_time_interval=5
        disable_token_authorization=true
        token_expiration_min=0.25
        ts_open_inference_protocol=true
        ts_header_key_sequence_id=a
        ts_header_key_sequence_start=b
        ts_header_key_sequence_end=c
        cors_allowed_origin=https://app
        cors_allowed_methods=GET, POST
        cors_allowed_headers=X-Custom
        blacklist_env_vars=AWS_.*
        install_env_vars=PYPI_.*
        install_timeout_s=1
        download_timeout_s=2
        download_min_bytes_per_s=3
        workers_limit=7
        download_grace_s=4
        keystore=/k.p12
        keystore_pass=secret
        keystore_type=pkcs12
        private_key_file=/key.pem
        certificate_file=/cert.pem
    """
    assert read(text).file == ConfigValues(
        install_py_dep_per_model=True,
        unregister_model_timeout=9,
        metrics_mode="prometheus",
        metrics_config="/m.yaml",
        model_metrics_auto_detect=True,
        own_metrics=False,
        connection_limit=100,
        head_timeout_s=11,
        client_least_rate=1000,
        client_stall_s=12,
        unsent_limit_bytes=0,
        in_flight_limit_bytes=3000,
        disable_system_metrics=True,
        metric_time_interval=5,
        disable_token_authorization=True,
        token_expiration_min=0.25,
        ts_open_inference_protocol=True,
        ts_header_key_sequence_id="a",
        ts_header_key_sequence_start="b",
        ts_header_key_sequence_end="c",
        cors_allowed_origin="https://app",
        cors_allowed_methods="GET, POST",
        cors_allowed_headers="X-Custom",
        blacklist_env_vars="AWS_.*",
        install_env_vars="PYPI_.*",
        install_timeout_s=1,
        download_timeout_s=2,
        download_min_bytes_per_s=3,
        workers_limit=7,
        download_grace_s=4,
        grpc_server="pygrpc-native",
        keystore="/k.p12",
        keystore_pass="secret",
        keystore_type="pkcs12",
        private_key_file="/key.pem",
        certificate_file="/cert.pem",
    )


def test_keys_without_a_meaning_are_named_with_the_reason_and_do_no_harm() -> None:
    config = read("number_of_netty_threads=7\nvmargs=-Xmx4g\njob_queue_size=5\nfoo=bar\nversion=0.12.0")
    assert set(config.without_effect) == {"number_of_netty_threads", "vmargs", "foo"}
    assert "Netty" in config.without_effect["number_of_netty_threads"]
    assert "Java" in config.without_effect["vmargs"]
    assert config.file == ConfigValues(job_queue_size=5)
    assert config.properties["foo"] == "bar"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("metrics_mode", "nonsense", "log"),
        ("metrics_mode", "LEGACY", "legacy"),
        ("token_expiration_min", "an hour", None),
        ("token_expiration_min", "-5", None),
        ("token_expiration_min", "0", None),
        ("token_expiration_min", ".5", 0.5),
        ("async_logging", "2", None),
    ],
)
def test_what_torchserve_forgives_is_forgiven(key: str, text: str, value: object) -> None:
    assert getattr(read(f"{key}={text}").file, key, None) == value


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("blacklist_env_vars", "("),
        ("grpc_server", "envoy"),
        ("install_env_vars", "("),
        ("keystore_type", "JKS"),
        ("models", "[]"),
        ("models", "{"),
        ("models", '{"m": 1}'),
        ("models", '{"m": {"1": []}}'),
        ("models", '{"m": {"1": {"minWorkers": "two"}}}'),
        ("models", '{"m": {"1": {"minWorkers": true}}}'),
        ("models", '{"m": {"1": {"marName": 7}}}'),
        ("models", "{m:{1.0:{minWorkers:1}}}"),
        ("models", "{'m': {'1': {'minWorkers': 'two'}}}"),
        ("models", "{'m': ["),
        ("default_response_timeout", "1.5"),
        ("default_response_timeout", "-99999999999"),
        ("model_snapshot", '{"models": {"m": {"1": {}}}}'),
        ("model_snapshot", "junk"),
    ],
)
def test_what_can_not_be_meant_is_a_fault_at_start(key: str, text: str) -> None:
    with pytest.raises(SettingsError, match=key):
        read(f"{key}={text}")


def test_models_are_read_as_torchserve_writes_them() -> None:
    (one, two) = (
        read(
            r"""models={\
          "noop": {\
            "1.0": {"defaultVersion": true, "marName": "noop.mar", "minWorkers": 1, "maxWorkers": 2,\
                    "batchSize": 4, "maxBatchDelay": 100, "responseTimeout": 120, "startupTimeout": 60,\
                    "runtimeType": "python3", "parallelLevel": 0},\
            "2.0": {"minWorkers": 0, "batchSize": -1}\
          }\
        }"""
        ).file.models
        or ()
    )
    assert one == StartupModel(
        name="noop", version="1.0", archive_name="noop.mar", is_default=True, min_workers=1, max_workers=2,
        batch_size=4, max_batch_delay_ms=100, response_timeout_s=120, startup_timeout_s=60, runtime="python3",
    )  # fmt: skip
    assert two == StartupModel(name="noop", version="2.0")


@pytest.mark.parametrize(
    "text",
    [
        "{'m':{'1.10':{'defaultVersion':true,'minWorkers':2,'marName':'m.mar'}}}",
        '{"m":{"1.10":{"defaultVersion":"true","minWorkers":"2","marName":"m.mar"}}}',
        "{m: {'1.10': {defaultVersion: true, minWorkers: 2, marName: 'm.mar'}}}",
        '{"m":{"1.10":{"defaultVersion":true,"minWorkers":2,"marName":"m.mar",},}}',
    ],
)
def test_models_may_be_quoted_in_every_way_that_torchserve_takes(text: str) -> None:
    expected = StartupModel(name="m", version="1.10", archive_name="m.mar", is_default=True, min_workers=2)
    assert read(f"models={text}").file.models == (expected,)


@pytest.mark.parametrize("key", ["default_response_timeout", "default_startup_timeout"])
@pytest.mark.parametrize("text", ["0", "-1"])
def test_a_timeout_in_which_nothing_can_be_answered_says_nothing_and_is_told(key: str, text: str) -> None:
    said = read(f"{key}={text}")
    assert said.file == ConfigValues()
    assert f"within {text} s" in said.without_effect[key]
    by_variable = read("enable_envvars_config=true", **{f"TS_{key.upper()}": text})
    assert by_variable.environment == ConfigValues()
    assert f"within {text} s" in by_variable.without_effect[key]
    assert key not in read(f"{key}=5").without_effect


@pytest.mark.parametrize(
    "content",
    [
        b"job_queue_size=50\r\nmodel_store=/m\r\n",
        b"\xef\xbb\xbfjob_queue_size=50\nmodel_store=/m\n",
        b"\tjob_queue_size\t:\t50 \n! a comment\nmodel_store /m",
        b"job_queue_size: 7\njob_queue_size: 50\nmodel_store=\\\n   /m\n# gr\xf6\xdfe\n",
    ],
)
def test_a_file_may_be_written_in_every_way_that_java_reads(content: bytes) -> None:
    assert config_properties.read(content, {}).file == ConfigValues(job_queue_size=50, model_store="/m")


def test_a_snapshot_of_torchserves_own_is_read_whole() -> None:
    content = rb"""#Saving snapshot
#Sun Nov 22 12:10:09 UTC 2026
inference_address=http\://127.0.0.1\:39080
load_models=slow.mar
model_store=store
python=/opt/venv/bin/python3
model_snapshot={\n  "name"\: "20261122121009990-snapshot.cfg",\n  "modelCount"\: 1,\n  "created"\: 1795349409990,\n  "models"\: {\n    "slow"\: {\n      "1.0"\: {\n        "defaultVersion"\: true,\n        "marName"\: "slow.mar",\n        "minWorkers"\: 1,\n        "maxWorkers"\: 1,\n        "batchSize"\: 1,\n        "maxBatchDelay"\: 100,\n        "responseTimeout"\: 2,\n        "startupTimeout"\: 120,\n        "runtimeType"\: "python"\n      }\n    }\n  }\n}
tsConfigFile=c.properties
version=0.12.0
disable_token_authorization=true
"""  # noqa: E501  # as it stands in the file
    config = config_properties.read(content, {})
    assert config.file.model_snapshot == (
        StartupModel(
            name="slow", version="1.0", archive_name="slow.mar", is_default=True, min_workers=1,
            max_workers=1, batch_size=1, max_batch_delay_ms=100, response_timeout_s=2, startup_timeout_s=120,
            runtime="python",
        ),
    )  # fmt: skip
    assert config.file.inference_address == "http://127.0.0.1:39080"
    assert config.without_effect == {}


@pytest.mark.parametrize("text", ["{}", '{"name": "x"}', ""])
def test_a_snapshot_of_no_model_is_one_all_the_same(text: str) -> None:
    assert read(f"model_snapshot={text}").file.model_snapshot == ()


def test_all_faults_are_reported_together_with_their_keys() -> None:
    with pytest.raises(SettingsError) as caught:
        read(
            "job_queue_size=0\nmax_request_size=many\ninference_address=localhost\nallowed_urls=(\n"
            "model_store=$$NOWHERE$$\nenable_envvars_config=true",
            TS_DEFAULT_RESPONSE_TIMEOUT="1.5",
        )
    text = str(caught.value)
    assert len(text.splitlines()) == 6
    for key in ("job_queue_size", "max_request_size", "inference_address", "allowed_urls", "NOWHERE"):
        assert key in text
    assert "TS_DEFAULT_RESPONSE_TIMEOUT: '1.5'" in text


@pytest.mark.parametrize("number", ["", "1_000", "٣", "1e3", "0x10", "99999999999", "9" * 5000, "2147483648"])
def test_a_number_that_java_would_not_take_is_refused(number: str) -> None:
    with pytest.raises(SettingsError, match="job_queue_size"):
        read(f"job_queue_size={number}")


def test_a_reference_to_the_environment_is_replaced_once() -> None:
    config = read("model_store=$$HOME$$/$$DIR$$", HOME="/home/x", DIR="$$HOME$$")
    assert config.file.model_store == "/home/x/$$HOME$$"


def test_a_reference_may_be_unset_only_at_the_price_of_a_fault() -> None:
    with pytest.raises(SettingsError, match="Invalid Environment Variable MISSING"):
        read("anything_at_all=$$MISSING$$")


def test_the_environment_counts_only_where_the_file_admits_it() -> None:
    environ = {"TS_JOB_QUEUE_SIZE": "9", "TS_ENABLE_ENVVARS_CONFIG": "true"}
    assert read("job_queue_size=5", **environ).environment == ConfigValues()
    assert read("enable_envvars_config=true", **environ).environment == ConfigValues(job_queue_size=9)


def test_keys_that_no_variable_overrides_stay_as_the_file_has_them() -> None:
    environ = {"TS_METRIC_TIME_INTERVAL": "1", "TS_MODELS": "junk", "TS_MODEL_SNAPSHOT": "junk"}
    assert read("enable_envvars_config=true", **environ).environment == ConfigValues()


@pytest.mark.parametrize(
    ("in_file", "variable", "is_on"),
    [
        ("false", "oip", True),
        ("true", "true", False),
        ("true", "", True),
        ("oip", None, False),
        ("true", None, True),
    ],
)
def test_the_open_inference_protocols_variable_needs_no_leave(
    in_file: str, variable: str | None, is_on: bool
) -> None:
    environ = {} if variable is None else {"TS_OPEN_INFERENCE_PROTOCOL": variable}
    config = read(f"ts_open_inference_protocol={in_file}", **environ)
    made = part_settings.merge(ConfigValues(), config, ConfigValues())
    assert made.ts_open_inference_protocol is is_on


def test_allowed_urls_from_the_environment_need_a_leave_of_their_own() -> None:
    admitted = "enable_envvars_config=true\n"
    environ = {"TS_ALLOWED_URLS": "https://evil/.*"}
    assert read(admitted, **environ).environment == ConfigValues()
    both = read(admitted + "use_env_allowed_urls=true", **environ)
    assert both.environment == ConfigValues(allowed_urls=("https://evil/.*",))


def test_an_empty_value_says_nothing() -> None:
    assert read("model_store=\nservice_envelope= ").file == ConfigValues()


@pytest.mark.parametrize(
    "content",
    [
        b"model_store=/m\xf6delle",
        "model_store=/m\u00f6delle".encode(),
        b"\xef\xbb\xbfmodel_store=/m\\u00f6delle",
    ],
)
def test_latin_1_utf_8_and_escapes_are_all_read(content: bytes) -> None:
    assert config_properties.read(content, {}).file.model_store == "/m\u00f6delle"


def test_a_broken_escape_is_a_fault_and_not_a_crash() -> None:
    with pytest.raises(SettingsError, match="not a properties file"):
        read(r"model_store=\u00zz")


@given(st.binary(max_size=200))
def test_no_bytes_at_all_can_raise_anything_but_a_settings_error(content: bytes) -> None:
    try:
        config = config_properties.read(content, {})
    except SettingsError:
        return
    assert isinstance(config, Configuration)


@given(st.dictionaries(st.sampled_from(sorted(ConfigValues.__struct_fields__)), st.text(max_size=30)))
def test_no_value_at_all_can_raise_anything_but_a_settings_error(values: dict[str, str]) -> None:
    lines = [f"{key}={value.encode('unicode_escape').decode()}" for key, value in values.items()]
    try:
        config = read("\n".join(lines))
    except SettingsError:
        return
    assert config.environment == ConfigValues()


def test_the_file_is_chosen_in_torchserves_order(tmp_path: Path) -> None:
    environ = {"TS_CONFIG_FILE": "/from/environment"}
    assert config_properties.find_file("/from/option", environ, tmp_path) == Path("/from/environment")
    assert config_properties.find_file("/from/option", {}, tmp_path) == Path("/from/option")
    assert config_properties.find_file(None, {}, tmp_path) is None
    (tmp_path / "config.properties").touch()
    assert config_properties.find_file(None, {}, tmp_path) == tmp_path / "config.properties"


def test_the_newest_snapshot_comes_before_the_file_nearby(tmp_path: Path) -> None:
    (tmp_path / "config.properties").touch()
    snapshots = tmp_path / "logs" / "config"
    nearby = tmp_path / "config.properties"
    assert config_properties.find_file(None, {}, tmp_path, snapshots) == nearby
    snapshots.mkdir(parents=True)
    for name in ("20260101000000000-startup.cfg", "20260301000000000-snapshot.cfg", "notes.cfg"):
        (snapshots / name).touch()
    (snapshots / "20990101000000000-shutdown.cfg").mkdir()
    newest = snapshots / "20260301000000000-snapshot.cfg"
    assert config_properties.find_file(None, {}, tmp_path, snapshots) == newest
    assert config_properties.find_file("/option", {}, tmp_path, snapshots) == Path("/option")
    assert config_properties.find_file(None, {}, tmp_path) == nearby


def test_of_snapshots_from_the_hour_that_comes_twice_the_one_written_last_is_the_newest(
    tmp_path: Path,
) -> None:
    for name, written_s in (
        ("20261025025900000-startup.cfg", 1000),
        ("20261025020100000-shutdown.cfg", 1001),
    ):
        path = tmp_path / name
        path.touch()
        os.utime(path, (written_s, written_s))
    assert config_properties.newest_snapshot(tmp_path) == tmp_path / "20261025020100000-shutdown.cfg"
