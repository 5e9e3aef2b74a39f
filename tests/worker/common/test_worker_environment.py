from pathlib import Path

import pytest

from tests.worker.models import start_worker
from torchrelay.shared.settings import SettingsError
from torchrelay.worker.common.worker_environment import (
    for_installer,
    for_worker,
    inherited,
    threads_asked_for,
    withheld_credentials,
)
from torchrelay.worker.launcher.launcher_protocol import SequenceHeaders

HAD = {"HOME": "/root", "AWS_SECRET": "s", "MY_AWS_SECRET": "t", "PYTHONPATH": "/a:/b"}


def test_variables_whose_whole_name_is_on_the_blacklist_are_kept_back() -> None:
    assert inherited(HAD, "") == HAD
    assert inherited(HAD, "AWS.*|HOME") == {"MY_AWS_SECRET": "t", "PYTHONPATH": "/a:/b"}


def test_keys_of_the_server_never_reach_a_handler() -> None:
    keys = {"TORCHRELAY_MANAGEMENT_KEY": "k", "TORCHRELAY_KEY": "k", "TORCHRELAY_KEYS_FILE": "/keys"}
    assert inherited({**HAD, **keys}, "") == HAD
    assert inherited({**HAD, **keys}, "HOME|AWS.*|MY.*") == {"PYTHONPATH": "/a:/b"}


CLOUDS = {
    "AWS_SECRET_ACCESS_KEY": "a",
    "AWS_SESSION_TOKEN": "b",
    "AZURE_STORAGE_CONNECTION_STRING": "c",
    "GOOGLE_APPLICATION_CREDENTIALS": "/d",
    "HF_TOKEN": "e",
}
#: What says where and how, not who.
PLACES = {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://x", "HF_HOME": "/h", "AZURE_CLIENT_ID": "i"}


@pytest.mark.parametrize(
    ("passed", "names"),
    [
        ((), set()),
        (("HF_TOKEN", "AWS_SESSION_TOKEN", "NO_SUCH"), {"HF_TOKEN", "AWS_SESSION_TOKEN"}),
        (("*",), set(CLOUDS)),
    ],
)
def test_credentials_for_clouds_reach_handlers_if_they_are_named(
    passed: tuple[str, ...], names: set[str]
) -> None:
    found = inherited({**HAD, **CLOUDS, **PLACES}, "", credentials=passed)
    assert set(found) == set(HAD) | set(PLACES) | names
    assert set(withheld_credentials({**HAD, **CLOUDS, **PLACES}, passed)) == set(CLOUDS) - names


def test_no_secret_of_the_server_reaches_a_handler_though_it_be_named() -> None:
    had = {**HAD, "TS_KEYSTORE_PASS": "p", "TORCHRELAY_KEY": "k"}
    found = inherited(
        had, "", secrets=("TS_KEYSTORE_PASS",), credentials=("*", "TS_KEYSTORE_PASS", "TORCHRELAY_KEY")
    )
    assert found == HAD


def test_a_blacklist_that_is_no_regex_is_refused() -> None:
    with pytest.raises(SettingsError, match="blacklist_env_vars"):
        inherited(HAD, "AWS(")


def test_an_installer_finds_what_it_needs_and_no_secrets() -> None:
    needed = {
        "PATH": "/bin", "HOME": "/root", "LANG": "C", "LC_ALL": "C", "TMPDIR": "/t", "https_proxy": "p",
        "HTTPS_PROXY": "p", "No_Proxy": "n", "SSL_CERT_FILE": "/c", "REQUESTS_CA_BUNDLE": "/c",
        "PIP_INDEX_URL": "i", "PIP_CERT": "/c", "PYTHONPATH": "/a", "LD_LIBRARY_PATH": "/l", "CC": "cc",
        "CXXFLAGS": "-O2", "CUDA_HOME": "/cuda", "MAX_JOBS": "4",
    }  # fmt: skip
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "s", "HF_TOKEN": "s", "SECRET": "s", "TS_KEYSTORE_PASS": "s",
        "PYPI_TOKEN": "s", "MY_PATH": "s", "PATHS": "s", "GITHUB_TOKEN": "s", "DATABASE_URL": "s",
    }  # fmt: skip
    assert for_installer({**needed, **secrets}, "") == needed
    assert for_installer({**needed, **secrets}, "PYPI_.*") == {**needed, "PYPI_TOKEN": "s"}
    with pytest.raises(SettingsError, match="install_env_vars"):
        for_installer({}, "(")


def test_a_worker_finds_what_torchserves_workers_find() -> None:
    headers = SequenceHeaders("x-id", "x-start", "x-end")
    found = for_worker(HAD, start_worker(decode_input_request=False), headers, Path("/model"))
    assert found == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "TS_DECODE_INPUT_REQUEST": "false",
        "TS_IPEX_ENABLE": "false",
        "TS_IPEX_GPU_ENABLE": "false",
        "TS_REQUEST_SEQUENCE_ID": "x-id",
        "TS_REQUEST_SEQUENCE_START": "x-start",
        "TS_REQUEST_SEQUENCE_END": "x-end",
        "PYTHONPATH": "/a:/b:/model",
    }


def test_the_operators_own_order_of_gpus_stays() -> None:
    had = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    found = for_worker(had, start_worker(), SequenceHeaders(), Path("/model"))
    assert found["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_what_the_operator_has_set_for_ipex_stays() -> None:
    found = for_worker({"TS_IPEX_GPU_ENABLE": "true"}, start_worker(), SequenceHeaders(), Path("/model"))
    assert (found["TS_IPEX_GPU_ENABLE"], found["PYTHONPATH"]) == ("true", "/model")


@pytest.mark.parametrize(
    ("found", "threads"),
    [
        ({}, None),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OMP_NUM_THREADS": "many", "MKL_NUM_THREADS": "0"}, None),
    ],
)
def test_torch_is_told_its_threads_by_the_environment(found: dict[str, str], threads: int | None) -> None:
    assert threads_asked_for({**HAD, **found}) == threads
