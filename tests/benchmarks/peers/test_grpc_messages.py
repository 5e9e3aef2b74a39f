from benchmarks.peers import grpc_messages
from benchmarks.peers.rows import CheckedItem
from torchrelay.gateway.grpc.protos import inference_pb2

ITEM = CheckedItem(b"x" * 300, b"x" * 300)


def test_a_request_is_what_the_servers_own_messages_would_be() -> None:
    made = grpc_messages.request("torchserve", ITEM, is_batched=False)
    wanted = inference_pb2.PredictionsRequest(model_name="model", input={"body": ITEM.question})
    assert made == wanted.SerializeToString()
    # name, tensor IN of 1 x 300 bytes, and the bytes themselves
    assert grpc_messages.request("triton", ITEM, is_batched=True) == (
        b"\x0a\x05model" + b"\x2a\x10" + b"\x0a\x02IN" + b"\x12\x05UINT8" + b"\x1a\x03\x01\xac\x02"
        + b"\x3a\xac\x02" + ITEM.question
    )  # fmt: skip


def test_an_answer_ends_with_what_was_echoed() -> None:
    answer = inference_pb2.PredictionResponse(prediction=ITEM.question).SerializeToString()
    assert answer.endswith(grpc_messages.ending(ITEM))
