"""What the keys of a config.properties do here."""

import pytest

from torchrelay.cli.migrate import check_config


def levels(text: str) -> dict[int, str]:
    return {one.line: one.level for one in check_config.judge(text.encode())[1:]}


@pytest.mark.parametrize(
    ("row", "level"),
    [
        ("job_queue_size=100", ""),
        ("enable_envvars_config=true", ""),
        ("number_of_netty_threads=32", "ignored"),
        ("a_key_of_mine=1", "ignored"),
        ("job_queue_size=many", "fails"),
        ("keystore_type=JKS", "fails"),
        ("models={not json", "fails"),
        ("default_response_timeout=0", "ignored"),
        ("allowed_urls=https://host/.*", "differs"),
        ("install_py_dep_per_model=true", "differs"),
        ("install_py_dep_per_model=false", ""),
        ("inference_address=http://0.0.0.0:8080", "same"),
        ("inference_address=http://127.0.0.1:8080", ""),
        ("inference_address=http://[::1:8080", "fails"),
        ("model_store=$$STORE$$", ""),
    ],
)
def test_a_key_is_judged(row: str, level: str) -> None:
    assert levels(f"# a comment\n\n{row}\n") == ({3: level} if level else {})


def test_lines_are_counted_through_what_a_backslash_joins() -> None:
    assert levels("load_models=a,\\\n  b\n\nvmargs=-Xmx4g\n") == {4: "ignored"}
    assert {one.line for one in check_config.judge(b"vmargs=x", 10)[1:]} == {11}


def test_how_many_keys_are_as_in_torchserve_is_said() -> None:
    [head] = check_config.judge(b"job_queue_size=1\nmodel_store=/models\n")
    assert (head.level, head.what.split()[:3]) == ("same", ["2", "of", "2"])


@pytest.mark.parametrize("content", [b"a=\\uZZZZ", b"\xff\xfe=\\u00"])
def test_what_is_no_properties_file_is_said_to_be_none(content: bytes) -> None:
    [found] = check_config.judge(content)
    assert found.level == "fails"
    assert check_config.values_of(content).model_store is None


def test_values_are_those_that_can_be_read() -> None:
    values = check_config.values_of(b"job_queue_size=many\ndefault_response_timeout=60\n")
    assert (values.job_queue_size, values.default_response_timeout) == (None, 60)
