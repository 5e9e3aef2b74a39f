"""The modules are those of the protocol buffers beside them, whose numbers are TorchServe's."""

from torchrelay.gateway.grpc.protos import compile_protos, inference_pb2, management_pb2


def test_modules_are_fresh() -> None:
    made = dict(compile_protos.compiled())
    assert {name for name in made if name.endswith(".py")} == {
        path.name for path in compile_protos.FOLDER.glob("*_pb2.py")
    }
    for name, text in made.items():
        assert (compile_protos.FOLDER / name).read_text(encoding="utf-8") == text, "compile them anew"


def test_names_and_numbers_are_torchserves() -> None:
    numbers = {
        message.name: {field.name: field.number for field in message.fields}
        for file in (inference_pb2.DESCRIPTOR, management_pb2.DESCRIPTOR)
        for message in file.message_types_by_name.values()
    }
    assert numbers == {
        "PredictionsRequest": {"model_name": 1, "model_version": 2, "input": 3, "sequence_id": 4},
        "PredictionResponse": {"prediction": 1, "sequence_id": 2, "status": 3},
        "TorchServeHealthResponse": {"health": 1},
        "ManagementResponse": {"msg": 1},
        "DescribeModelRequest": {"model_name": 1, "model_version": 2, "customized": 3},
        "ListModelsRequest": {"limit": 1, "next_page_token": 2},
        "RegisterModelRequest": {
            "batch_size": 1, "handler": 2, "initial_workers": 3, "max_batch_delay": 4, "model_name": 5,
            "response_timeout": 6, "runtime": 7, "synchronous": 8, "url": 9, "s3_sse_kms": 10,
            "startup_timeout": 11,
        },
        "ScaleWorkerRequest": {
            "model_name": 1, "model_version": 2, "max_worker": 3, "min_worker": 4, "number_gpu": 5,
            "synchronous": 6, "timeout": 7,
        },
        "SetDefaultRequest": {"model_name": 1, "model_version": 2},
        "UnregisterModelRequest": {"model_name": 1, "model_version": 2},
    }  # fmt: skip
    assert inference_pb2.DESCRIPTOR.package == "org.pytorch.serve.grpc.inference"
    assert management_pb2.DESCRIPTOR.package == "org.pytorch.serve.grpc.management"
