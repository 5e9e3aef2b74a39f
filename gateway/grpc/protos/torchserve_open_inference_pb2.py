"""The messages of torchserve_open_inference.proto; compile_protos.py has made this module."""

from google.protobuf import descriptor_pool, message_factory
from torchrelay.gateway.grpc.protos import open_inference_pb2  # noqa: F401

# AddSerializedFile returns nothing where protobuf is not written in C.
descriptor_pool.Default().AddSerializedFile(
    b'\n>torchrelay/gateway/grpc/protos/torchserve_open_inference.p'
    b'roto\x12$org.pytorch.serve.grpc.openinference\x1a3torchrelay/gatew'
    b'ay/grpc/protos/open_inference.proto2\xf0\x03\n\x14GRPCInferenceService'
    b'\x12I\n\nServerLive\x12\x1c.inference.ServerLiveRequest\x1a\x1d.inference.Ser'
    b'verLiveResponse\x12L\n\x0bServerReady\x12\x1d.inference.ServerReadyReques'
    b't\x1a\x1e.inference.ServerReadyResponse\x12I\n\nModelReady\x12\x1c.inference.'
    b'ModelReadyRequest\x1a\x1d.inference.ModelReadyResponse\x12U\n\x0eServerMe'
    b'tadata\x12 .inference.ServerMetadataRequest\x1a!.inference.ServerM'
    b'etadataResponse\x12R\n\rModelMetadata\x12\x1f.inference.ModelMetadataRe'
    b'quest\x1a .inference.ModelMetadataResponse\x12I\n\nModelInfer\x12\x1c.infe'
    b'rence.ModelInferRequest\x1a\x1d.inference.ModelInferResponseb\x06prot'
    b'o3'
)
DESCRIPTOR = descriptor_pool.Default().FindFileByName("torchrelay/gateway/grpc/protos/torchserve_open_inference.proto")


