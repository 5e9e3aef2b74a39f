"""Requests of scripts and programs."""

import shlex

import pytest

from torchrelay.cli.migrate import check_calls, curl_calls


@pytest.mark.parametrize(
    ("command", "level"),
    [
        ("http://h:8080/predictions/m -T a.jpg", "same"),
        ("-X POST 'http://h:8081/models?url=a.mar'", "same"),
        ("-X POST 'http://h:8081/models?url=http://10.0.0.1/a.mar'", "differs"),
        ("-X POST 'http://h:8081/models?url=s3://b/a.mar'", "differs"),
        ("-X DELETE http://h:8081/models/m/set-default", "differs"),
        ("-X PUT http://h:8081/models/m/1.0/set-default", "same"),
        ("http://h:8080/predictions/m -d '{\"a\": 1}'", "differs"),
        ("http://h:8080/predictions/m -d a=1", "same"),
        ("http://h:8080/predictions/a%zz", "differs"),
        ("http://h:8080/predictions/m -H 'Origin: http://x'", "differs"),
        ("--tlsv1.0 https://h:8080/predictions/m", "fails"),
        ("http://h:8081/a_plugin", "fails"),
        ("https://example.com/file", ""),
    ],
)
def test_a_request_is_judged(command: str, level: str) -> None:
    [call] = curl_calls.read(shlex.split(command))
    assert [(one.level, one.line) for one in check_calls.judge(call, 3)] == ([(level, 3)] if level else [])


def test_programs_are_searched_for_urls() -> None:
    text = 'import requests\nrequests.post("http://localhost:8080/predictions/m")\n# https://example.com/predictor\n'
    assert [(one.level, one.line) for one in check_calls.judge_text(text)] == [("same", 2)]
