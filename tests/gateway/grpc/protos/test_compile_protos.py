"""The modules are those of the protocol buffers beside them, whose numbers are TorchServe's."""

from google.protobuf.descriptor import Descriptor

from torchrelay.gateway.grpc.protos import (
    compile_protos,
    inference_pb2,
    management_pb2,
    open_inference_pb2,
    torchserve_open_inference_pb2,
)


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


def numbers_of(message: Descriptor) -> dict[str, int]:
    return {field.name: field.number for field in message.fields}


def test_names_and_numbers_are_those_of_the_open_inference_protocol() -> None:
    found: dict[str, dict[str, int]] = {}
    for name, message in open_inference_pb2.DESCRIPTOR.message_types_by_name.items():
        found[name] = numbers_of(message)
        own = [one for one in message.nested_types if not one.GetOptions().map_entry]
        found |= {f"{name}.{one.name}": numbers_of(one) for one in own}
    tensor = {"name": 1, "datatype": 2, "shape": 3, "parameters": 4, "contents": 5}
    assert found == {
        "ServerLiveRequest": {},
        "ServerLiveResponse": {"live": 1},
        "ServerReadyRequest": {},
        "ServerReadyResponse": {"ready": 1},
        "ModelReadyRequest": {"name": 1, "version": 2},
        "ModelReadyResponse": {"ready": 1},
        "ServerMetadataRequest": {},
        "ServerMetadataResponse": {"name": 1, "version": 2, "extensions": 3},
        "ModelMetadataRequest": {"name": 1, "version": 2},
        "ModelMetadataResponse": {"name": 1, "versions": 2, "platform": 3, "inputs": 4, "outputs": 5},
        "ModelMetadataResponse.TensorMetadata": {"name": 1, "datatype": 2, "shape": 3},
        "ModelInferRequest": {
            "model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "inputs": 5, "outputs": 6,
            "raw_input_contents": 7,
        },
        "ModelInferRequest.InferInputTensor": tensor,
        "ModelInferRequest.InferRequestedOutputTensor": {"name": 1, "parameters": 2},
        "ModelInferResponse": {
            "model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "outputs": 5,
            "raw_output_contents": 6,
        },
        "ModelInferResponse.InferOutputTensor": tensor,
        "InferParameter": {
            "bool_param": 1, "int64_param": 2, "string_param": 3, "double_param": 4, "uint64_param": 5,
        },
        "InferTensorContents": {
            "bool_contents": 1, "int_contents": 2, "int64_contents": 3, "uint_contents": 4,
            "uint64_contents": 5, "fp32_contents": 6, "fp64_contents": 7, "bytes_contents": 8,
        },
    }  # fmt: skip


def test_both_names_of_the_service_have_the_same_methods() -> None:
    ours, theirs = (
        {
            method.name: (method.input_type.full_name, method.output_type.full_name)
            for method in file.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
        }
        for file in (open_inference_pb2, torchserve_open_inference_pb2)
    )
    assert ours == theirs
    assert len(ours) == 6
