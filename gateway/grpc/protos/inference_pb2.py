"""The messages of inference.proto; compile_protos.py has made this module."""

from google.protobuf import descriptor_pool, message_factory
from google.protobuf import empty_pb2  # noqa: F401
from google.rpc import status_pb2  # noqa: F401

# AddSerializedFile returns nothing where protobuf is not written in C.
descriptor_pool.Default().AddSerializedFile(
    b'\n.torchrelay/gateway/grpc/protos/inference.proto\x12 org.pytorc'
    b'h.serve.grpc.inference\x1a\x1bgoogle/protobuf/empty.proto\x1a\x17google/'
    b'rpc/status.proto"\x9f\x02\n\x12PredictionsRequest\x12\x1d\n\nmodel_name\x18\x01 \x01(\tR'
    b'\tmodelName\x12#\n\rmodel_version\x18\x02 \x01(\tR\x0cmodelVersion\x12U\n\x05input\x18\x03 \x03'
    b'(\x0b2?.org.pytorch.serve.grpc.inference.PredictionsRequest.Inp'
    b'utEntryR\x05input\x12$\n\x0bsequence_id\x18\x04 \x01(\tH\x00R\nsequenceId\x88\x01\x01\x1a8\n\nInpu'
    b'tEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12\x14\n\x05value\x18\x02 \x01(\x0cR\x05value:\x028\x01B\x0e\n\x0c_seque'
    b'nce_id"\xa6\x01\n\x12PredictionResponse\x12\x1e\n\nprediction\x18\x01 \x01(\x0cR\npredictio'
    b'n\x12$\n\x0bsequence_id\x18\x02 \x01(\tH\x00R\nsequenceId\x88\x01\x01\x12/\n\x06status\x18\x03 \x01(\x0b2\x12.go'
    b'ogle.rpc.StatusH\x01R\x06status\x88\x01\x01B\x0e\n\x0c_sequence_idB\t\n\x07_status"2\n\x18T'
    b'orchServeHealthResponse\x12\x16\n\x06health\x18\x01 \x01(\tR\x06health2\xf8\x03\n\x14Inferenc'
    b'eAPIsService\x12Z\n\x04Ping\x12\x16.google.protobuf.Empty\x1a:.org.pytorch.s'
    b'erve.grpc.inference.TorchServeHealthResponse\x12y\n\x0bPredictions\x12'
    b'4.org.pytorch.serve.grpc.inference.PredictionsRequest\x1a4.org.'
    b'pytorch.serve.grpc.inference.PredictionResponse\x12\x81\x01\n\x11StreamPr'
    b'edictions\x124.org.pytorch.serve.grpc.inference.PredictionsRequ'
    b'est\x1a4.org.pytorch.serve.grpc.inference.PredictionResponse0\x01\x12'
    b'\x84\x01\n\x12StreamPredictions2\x124.org.pytorch.serve.grpc.inference.Pr'
    b'edictionsRequest\x1a4.org.pytorch.serve.grpc.inference.Predicti'
    b'onResponse(\x010\x01B\x02P\x01b\x06proto3'
)
DESCRIPTOR = descriptor_pool.Default().FindFileByName("torchrelay/gateway/grpc/protos/inference.proto")

PredictionsRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['PredictionsRequest'])
PredictionResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['PredictionResponse'])
TorchServeHealthResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['TorchServeHealthResponse'])
