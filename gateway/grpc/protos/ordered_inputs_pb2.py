"""The messages of ordered_inputs.proto; compile_protos.py has made this module."""

from google.protobuf import descriptor_pool, message_factory

# AddSerializedFile returns nothing where protobuf is not written in C.
descriptor_pool.Default().AddSerializedFile(
    b'\n3torchrelay/gateway/grpc/protos/ordered_inputs.proto\x12\x12torch'
    b'relay.gateway"\xfc\x01\n\x19OrderedPredictionsRequest\x12\x1d\n\nmodel_name\x18\x01 '
    b'\x01(\tR\tmodelName\x12#\n\rmodel_version\x18\x02 \x01(\tR\x0cmodelVersion\x12I\n\x05input'
    b'\x18\x03 \x03(\x0b23.torchrelay.gateway.OrderedPredictionsRequest.EntryR'
    b'\x05input\x12\x1f\n\x0bsequence_id\x18\x04 \x01(\tR\nsequenceId\x1a/\n\x05Entry\x12\x10\n\x03key\x18\x01 \x01('
    b'\tR\x03key\x12\x14\n\x05value\x18\x02 \x01(\x0cR\x05valueb\x06proto3'
)
DESCRIPTOR = descriptor_pool.Default().FindFileByName("torchrelay/gateway/grpc/protos/ordered_inputs.proto")

OrderedPredictionsRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['OrderedPredictionsRequest'])
