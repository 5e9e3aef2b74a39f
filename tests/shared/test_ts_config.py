"""config.properties: what is understood, what is refused, and that all faults come together."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import ts_config
from shared.settings import LoadAtStart, SettingsError
from shared.ts_config import Said, TsConfig


def read(text: str, **environ: str) -> TsConfig:
    return ts_config.read(text.encode(), environ)


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
    assert read(text) == TsConfig(
        file=Said(
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
    )


def test_keys_without_a_meaning_are_named_and_do_no_harm() -> None:
    config = read("grpc_inference_port=7070\nvmargs=-Xmx4g\njob_queue_size=5\nenable_envvars_config=false")
    assert config.without_effect == ("grpc_inference_port", "vmargs")
    assert config.file == Said(job_queue_size=5)


def test_all_faults_are_reported_together_with_their_keys() -> None:
    with pytest.raises(SettingsError) as caught:
        read(
            "job_queue_size=0\nmax_request_size=many\ninference_address=localhost\nallowed_urls=(\n"
            "model_store=$$NOWHERE$$\nenable_envvars_config=true",
            TS_DEFAULT_RESPONSE_TIMEOUT="-1",
        )
    text = str(caught.value)
    assert len(text.splitlines()) == 6
    for key in ("job_queue_size", "max_request_size", "inference_address", "allowed_urls", "NOWHERE"):
        assert key in text
    assert "TS_DEFAULT_RESPONSE_TIMEOUT: '-1'" in text


@pytest.mark.parametrize("number", ["", "1_000", "٣", "1e3", "0x10", "99999999999", "9" * 5000, "2147483648"])
def test_a_number_that_java_would_not_take_is_refused(number: str) -> None:
    with pytest.raises(SettingsError, match="job_queue_size"):
        read(f"job_queue_size={number}")


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8080",
        "ftp://host",
        "http://",
        "http://:8080",
        "http://host:99999",
        "http://host:0",
        "http://user@host:1",
        "http://host/path",
        "http://[::1",
        "unix:relative",
        "unix:/",
    ],
)
def test_an_address_that_can_not_be_bound_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="Invalid binding address"):
        ts_config.parse_address(address)


def test_https_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="put a proxy"):
        ts_config.parse_address("https://127.0.0.1:8443")


def test_a_reference_to_the_environment_is_replaced_once() -> None:
    config = read("model_store=$$HOME$$/$$DIR$$", HOME="/home/x", DIR="$$HOME$$")
    assert config.file.model_store == "/home/x/$$HOME$$"


def test_a_reference_may_be_unset_only_at_the_price_of_a_fault() -> None:
    with pytest.raises(SettingsError, match="Invalid Environment Variable MISSING"):
        read("anything_at_all=$$MISSING$$")


def test_the_environment_counts_only_where_the_file_admits_it() -> None:
    environ = {"TS_JOB_QUEUE_SIZE": "9", "TS_ENABLE_ENVVARS_CONFIG": "true"}
    assert read("job_queue_size=5", **environ).environment == Said()
    assert read("enable_envvars_config=true", **environ).environment == Said(job_queue_size=9)


def test_allowed_urls_from_the_environment_need_a_leave_of_their_own() -> None:
    admitted = "enable_envvars_config=true\n"
    environ = {"TS_ALLOWED_URLS": "https://evil/.*"}
    assert read(admitted, **environ).environment == Said()
    both = read(admitted + "use_env_allowed_urls=true", **environ)
    assert both.environment == Said(allowed_urls=("https://evil/.*",))


@pytest.mark.parametrize("text", ["", "none", " NONE ", ",, ,"])
def test_no_model_at_all_is_a_list_of_none(text: str) -> None:
    assert ts_config.parse_models(text) == ()


def test_an_empty_value_says_nothing() -> None:
    assert read("model_store=\nservice_envelope= ").file == Said()


@pytest.mark.parametrize(
    "content",
    [
        b"model_store=/m\xf6delle",
        "model_store=/m\u00f6delle".encode(),
        b"\xef\xbb\xbfmodel_store=/m\\u00f6delle",
    ],
)
def test_latin_1_utf_8_and_escapes_are_all_read(content: bytes) -> None:
    assert ts_config.read(content, {}).file.model_store == "/m\u00f6delle"


def test_a_broken_escape_is_a_fault_and_not_a_crash() -> None:
    with pytest.raises(SettingsError, match="not a properties file"):
        read(r"model_store=\u00zz")


@given(st.binary(max_size=200))
def test_no_bytes_at_all_can_raise_anything_but_a_settings_error(content: bytes) -> None:
    try:
        config = ts_config.read(content, {})
    except SettingsError:
        return
    assert isinstance(config, TsConfig)


@given(st.dictionaries(st.sampled_from(sorted(Said.__struct_fields__)), st.text(max_size=30)))
def test_no_value_at_all_can_raise_anything_but_a_settings_error(values: dict[str, str]) -> None:
    lines = [f"{key}={value.encode('unicode_escape').decode()}" for key, value in values.items()]
    try:
        config = read("\n".join(lines))
    except SettingsError:
        return
    assert config.environment == Said()


def test_the_file_is_chosen_in_torchserves_order(tmp_path: Path) -> None:
    environ = {"TS_CONFIG_FILE": "/from/environment"}
    assert ts_config.find_file("/from/option", environ, tmp_path) == Path("/from/environment")
    assert ts_config.find_file("/from/option", {}, tmp_path) == Path("/from/option")
    assert ts_config.find_file(None, {}, tmp_path) is None
    (tmp_path / "config.properties").touch()
    assert ts_config.find_file(None, {}, tmp_path) == tmp_path / "config.properties"
