"""Requests of curl scripts and of files with JSON lines."""

from pathlib import Path

import pytest

from torchrelay.cli.migrate import request_files
from torchrelay.cli.migrate.replayed_request import ReplayedRequest
from torchrelay.cli.migrate.request_files import LeftOut


def read(folder: Path, text: str, **given: str) -> list[request_files.Item]:
    file = folder / "run.sh"
    file.write_text(text)
    return list(request_files.read(file, given, {"FROM_OUTSIDE": "outside"}))


def one(folder: Path, text: str, **given: str) -> ReplayedRequest:
    [item] = read(folder, text, **given)
    assert isinstance(item, ReplayedRequest), item
    return item


def test_a_script_is_read_as_a_shell_would_run_it(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_bytes(b'{\n"a": 1}\n')
    host = "http://127.0.0.1:8080"
    text = f"MODEL=digits\nexport HOST=${{HOST:-{host}}}\n"
    text += "curl -s $HOST/predictions/${MODEL}/$FROM_OUTSIDE -d @in.json"
    found = one(tmp_path, text)
    assert (found.method, found.path, found.body) == ("POST", "/predictions/digits/outside", b'{"a": 1}')
    assert found.source.endswith("run.sh:3")
    assert one(tmp_path, text, MODEL="other").path == "/predictions/other/outside"


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ("--data-binary @in.json", b'{\n"a": 1}\n'),
        ("-T in.json", b'{\n"a": 1}\n'),
        ("--data-raw @in.json", b"@in.json"),
        ("-d a=1 -d b=2", b"a=1&b=2"),
        ("--data-urlencode 'a=b c'", b"a=b%20c"),
        ("", b""),
    ],
)
def test_bodies_are_what_curl_sends(tmp_path: Path, options: str, body: bytes) -> None:
    (tmp_path / "in.json").write_bytes(b'{\n"a": 1}\n')
    assert one(tmp_path, f"curl http://h:8080/predictions/m {options}").body == body


def test_a_form_has_its_parts(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    found = one(tmp_path, "curl h:8080/predictions/m -F data=@a.png -F 'text=x;type=text/plain'")
    assert dict(found.headers)["Content-Type"].startswith("multipart/form-data; boundary=")
    assert b'name="data"; filename="a.png"' in found.body
    assert b"image/png" in found.body
    assert b"\r\n\r\nx\r\n" in found.body


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("curl http://h:8080/predictions/$MODEL", "--set"),
        ("curl http://h:8080/predictions/m -T nowhere.jpg", "not there"),
        ("curl http://h:8080/predictions/m -T -", "pipe"),
        ("curl http://h:8080/predictions/m -d", "curl"),
        ("curl http://h:8080/predictions/m -H 'X: $(date)'", "only a shell"),
    ],
)
def test_what_only_a_shell_could_send_is_left_out_with_the_reason(
    tmp_path: Path, line: str, why: str
) -> None:
    [item] = read(tmp_path, line)
    assert isinstance(item, LeftOut)
    assert why in item.why


def test_requests_to_others_are_none_and_keys_of_a_shell_are_left_to_the_servers(tmp_path: Path) -> None:
    assert read(tmp_path, "curl -O https://example.com/model.tar.gz") == []
    found = one(tmp_path, 'curl h:8080/ping -H "Authorization: Bearer $(jq .x key_file.json)" -H Host:x')
    assert found.headers == ()


def test_lines_of_json_are_read_and_broken_ones_left_out(tmp_path: Path) -> None:
    file = tmp_path / "recorded"
    file.write_text('\n{"method": "GET", "path": "/ping"}\nnonsense\n')
    first, second = request_files.read(file, {}, {})
    assert isinstance(first, ReplayedRequest)
    assert first.source == f"{file}:2"
    assert isinstance(second, LeftOut)


def test_files_that_hold_anything_are_read(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(bytes(range(256)) * 100)
    assert list(request_files.read(file, {}, {})) == []
    with pytest.raises(OSError, match="No such file"):
        list(request_files.read(tmp_path / "nowhere", {}, {}))
