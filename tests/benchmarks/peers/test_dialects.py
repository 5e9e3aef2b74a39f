import json
from array import array

import pytest

from benchmarks.peers import dialects
from benchmarks.peers.programs import served_models
from benchmarks.peers.rows import SERVERS, CheckedItem, chosen, items

ECHO, PERCEPTRON, STREAM, ENCODER = (chosen([key])[0] for key in ("echo-16", "mlp", "stream", "encoder"))


@pytest.mark.parametrize("server", SERVERS)
def test_bytes_are_posted_as_they_are(server: str) -> None:
    (item,) = items(ECHO, 1)
    assert dialects.ask(server, ECHO, item).body == item.question


def test_bytes_are_taken_out_of_tritons_answer_by_its_header() -> None:
    question = dialects.ask("triton", ECHO, CheckedItem(b"abc", b"abc"))
    assert question.headers[dialects.TRITON_HEADER] == "0"
    headers = {dialects.TRITON_HEADER: "2"}
    assert dialects.read("triton", ECHO, headers, b"{}abc") == b"abc"
    assert dialects.read("mosec", ECHO, {}, b"{}abc") == b"{}abc"


def test_numbers_are_json_for_all_and_tensors_for_triton() -> None:
    item = CheckedItem(b"[1.5, 2.5]", (0.25, 0.75))
    assert json.loads(dialects.ask("mosec", PERCEPTRON, item).body) == [1.5, 2.5]
    (tensor,) = json.loads(dialects.ask("triton", PERCEPTRON, item).body)["inputs"]
    assert (tensor["shape"], tensor["data"]) == ([1, 2], [1.5, 2.5])
    assert dialects.read("torchserve", PERCEPTRON, {}, b"[\n  0.25,\n  0.75\n]") == item.answer
    said = json.dumps({"outputs": [{"name": "OUT", "data": [0.25, 0.75]}]}).encode()
    assert dialects.read("triton", PERCEPTRON, {}, said) == item.answer


def test_a_streams_parts_are_put_together_again() -> None:
    parts = list(served_models.parts("why"))
    events = {
        "torchrelay": "".join(parts),
        "litserve": "".join(parts),
        # By the standard of events each line of a part is a line of data, the last one empty.
        "mosec": "".join(f"data: {part.rstrip()}\ndata: \n\n" for part in parts),
        "triton": "".join(f"data: {json.dumps({'OUT': part})}\n\n" for part in parts),
    }
    for server, body in events.items():
        assert dialects.read(server, STREAM, {}, body.encode()) == "".join(parts)


def test_embeddings_are_numbers_that_may_differ_a_little() -> None:
    said = dialects.read("torchserve", ENCODER, {}, array("f", [0.5, 0.25]).tobytes())
    assert said == (0.5, 0.25)
    assert dialects.is_right(said, (0.50001, 0.25))
    assert not dialects.is_right(said, (0.51, 0.25))
    assert not dialects.is_right(said, (0.5, 0.25, 0.125))
    assert not dialects.is_right(said, b"")


@pytest.mark.parametrize("body", [b"", b"no json", b'{"outputs": []}', b'{"outputs": [{"data": ["x"]}]}'])
def test_what_is_no_answer_says_what_came(body: bytes) -> None:
    with pytest.raises(dialects.Malformed, match="triton answered"):
        dialects.read("triton", PERCEPTRON, {}, body)
