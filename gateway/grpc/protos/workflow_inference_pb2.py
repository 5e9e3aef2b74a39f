"""The messages of workflow_inference.proto; compile_protos.py has made this module."""

from google.protobuf import descriptor_pool, message_factory

# AddSerializedFile returns nothing where protobuf is not written in C.
descriptor_pool.Default().AddSerializedFile(
    b'\n7torchrelay/gateway/grpc/protos/workflow_inference.proto\x12 o'
    b'rg.pytorch.serve.grpc.inference"\xe0\x01\n\x1aWorkflowPredictionsReque'
    b'st\x12#\n\rworkflow_name\x18\x01 \x01(\tR\x0cworkflowName\x12]\n\x05input\x18\x03 \x03(\x0b2G.org'
    b'.pytorch.serve.grpc.inference.WorkflowPredictionsRequest.Inp'
    b'utEntryR\x05input\x1a8\n\nInputEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12\x14\n\x05value\x18\x02 \x01('
    b'\x0cR\x05value:\x028\x01J\x04\x08\x02\x10\x03"<\n\x1aWorkflowPredictionResponse\x12\x1e\n\npredicti'
    b'on\x18\x01 \x01(\x0cR\nprediction2\xaa\x01\n\x1cWorkflowInferenceAPIsService\x12\x89\x01\n\x0bPr'
    b'edictions\x12<.org.pytorch.serve.grpc.inference.WorkflowPredict'
    b'ionsRequest\x1a<.org.pytorch.serve.grpc.inference.WorkflowPredi'
    b'ctionResponseB\x02P\x01b\x06proto3'
)
DESCRIPTOR = descriptor_pool.Default().FindFileByName("torchrelay/gateway/grpc/protos/workflow_inference.proto")

WorkflowPredictionsRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['WorkflowPredictionsRequest'])
WorkflowPredictionResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['WorkflowPredictionResponse'])
