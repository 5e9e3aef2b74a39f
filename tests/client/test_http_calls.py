"""Calls as values: their targets, and how JSON is read."""

import pytest

from torchrelay.client.call_failures import ErrorStatus, UnreadableAnswer
from torchrelay.client.http_calls import NoName, ReceivedAnswer, decode, management, path_of
from torchrelay.shared.api_bodies import HealthBody


def test_a_name_can_not_break_out_of_its_place_in_the_path() -> None:
    assert path_of("models", "../a?b", None, "1/2") == "/models/..%2Fa%3Fb/1%2F2"
    for name in ("", ".", ".."):
        with pytest.raises(NoName):
            path_of("models", name)


def test_what_is_none_is_left_out_of_the_query() -> None:
    call = management("PUT", "models", "m", read=lambda _: None, query={"a": None, "b": True, "c": "x y&"})
    assert call.target == "/models/m?b=true&c=x+y%26"
    assert management("PUT", "models", read=lambda _: None).target == "/models"


def test_reading_may_be_repeated_and_changes_only_where_they_say_so() -> None:
    kinds = [management(method, "a", read=lambda _: None).repeated for method in ("GET", "POST", "DELETE")]
    assert kinds == ["harmless", "harmful", "harmful"]


def test_an_answer_is_read_as_what_was_asked_for_or_is_an_error() -> None:
    def said(content: bytes, status: int = 200) -> ReceivedAnswer:
        return ReceivedAnswer("management", "http://a:1", status, {}, [content[:3], content[3:]])

    assert decode(said(b'{"status": "Healthy"}'), HealthBody).status == "Healthy"
    assert decode(said(b'{"status": "Unhealthy"}', 500), HealthBody).status == "Unhealthy"
    with pytest.raises(UnreadableAnswer, match="http://a:1 is not torchrelay's management address"):
        decode(said(b'{"status": "Fine"}'), HealthBody)
    with pytest.raises(UnreadableAnswer):
        decode(said(b'{"status": "\xff"}'), HealthBody)
    with pytest.raises(ErrorStatus, match="answered 500"):
        decode(said(b"oops", 500), HealthBody)
