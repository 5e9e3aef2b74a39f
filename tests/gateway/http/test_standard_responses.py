"""What every response has: headers, errors as JSON."""

import json
import re

from torchrelay.gateway.http import standard_responses
from torchrelay.shared import errors
from torchrelay.shared.settings import GatewaySettings


def test_a_refusal_is_a_whole_response_whose_length_is_right() -> None:
    head, _, body = standard_responses.whole_error(errors.BadRequest("no"), [(b"x-more", b"1")]).partition(
        b"\r\n\r\n"
    )
    line, *headers = head.split(b"\r\n")
    named = dict(header.split(b": ", 1) for header in headers)
    assert line == b"HTTP/1.1 400 Bad Request"
    assert int(named[b"content-length"]) == len(body)
    assert (named[b"connection"], named[b"x-more"]) == (b"close", b"1")
    assert re.fullmatch(rb"[0-9a-f-]{36}", named[b"x-request-id"])
    assert json.loads(body) == {"code": 400, "type": "BadRequestException", "message": "no"}


def test_a_refusal_for_lack_of_room_says_when_to_come_again() -> None:
    busy = standard_responses.whole_error(errors.ServiceUnavailable("busy", retry_after_s=3))
    assert b"\r\nretry-after: 3\r\n" in busy
    assert b"retry-after" not in standard_responses.whole_error(errors.RequestTimeout("slow"))


def test_only_a_fault_of_ours_says_why() -> None:
    error = errors.ServiceUnavailable("busy", "the queue is full")
    assert json.loads(standard_responses.error_body(error, 503))["details"] == "the queue is full"
    assert "details" not in json.loads(standard_responses.error_body(error, 429))


def test_json_is_laid_out_as_torchserves_clients_compare_it() -> None:
    assert standard_responses.pretty({"a": [1, "ä/<"]}) == '{\n  "a": [\n    1,\n    "ä/<"\n  ]\n}\n'.encode()


def test_a_connection_that_is_kept_alive_says_so_in_the_same_headers() -> None:
    made = standard_responses.lines(standard_responses.standard_headers("id", keep_alive=True))
    assert sorted(made.splitlines()) == sorted(standard_responses.kept_alive_lines("id").splitlines())


def test_other_sites_are_let_in_only_as_configured() -> None:
    assert standard_responses.cors_headers(GatewaySettings()) == ()
    config = GatewaySettings(cors_allowed_origin="https://a", cors_allowed_methods="GET")
    assert standard_responses.cors_headers(config) == (
        (b"access-control-allow-origin", b"https://a"),
        (b"access-control-allow-methods", b"GET"),
    )
