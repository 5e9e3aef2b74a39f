"""Variables that TorchServe reads."""

import pytest

from torchrelay.cli.migrate import check_variables


@pytest.mark.parametrize(
    ("name", "value", "level"),
    [
        ("TS_CONFIG_FILE", "/x", "same"),
        ("LOG_LOCATION", "/logs", "same"),
        ("TS_JOB_QUEUE_SIZE", "10", "same"),
        ("TS_JOB_QUEUE_SIZE", "$SIZE", "same"),
        ("TS_JOB_QUEUE_SIZE", "many", "fails"),
        ("TS_ALLOWED_URLS", "https://a/.*", "differs"),
        ("TS_TOKEN_EXPIRATION_TIME_MIN", "5", "same"),
        ("TS_NUMBER_OF_NETTY_THREADS", "3", "ignored"),
        ("TS_MODELS", "{}", "ignored"),
        ("TS_REQUEST_SEQUENCE_ID", "x", "ignored"),
        ("TS_OF_MINE", "x", "ignored"),
        ("JAVA_HOME", "/jdk", "ignored"),
    ],
)
def test_a_variable_is_judged(name: str, value: str, level: str) -> None:
    assert check_variables.is_known(name)
    assert [(one.level, one.line) for one in check_variables.judge(name, value, 7)] == [(level, 7)]


def test_variables_of_others_are_none_of_torchserves() -> None:
    assert not check_variables.is_known("PATH")
    assert list(check_variables.judge("PATH", "/bin", 1)) == []
