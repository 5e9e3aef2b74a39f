"""The messages of workflow_management.proto; compile_protos.py has made this module."""

from google.protobuf import descriptor_pool, message_factory

# AddSerializedFile returns nothing where protobuf is not written in C.
descriptor_pool.Default().AddSerializedFile(
    b'\n8torchrelay/gateway/grpc/protos/workflow_management.proto\x12!'
    b'org.pytorch.serve.grpc.management".\n\x1aWorkflowManagementRespo'
    b'nse\x12\x10\n\x03msg\x18\x01 \x01(\tR\x03msg">\n\x17DescribeWorkflowRequest\x12#\n\rworkflow'
    b'_name\x18\x01 \x01(\tR\x0cworkflowName"T\n\x14ListWorkflowsRequest\x12\x14\n\x05limit\x18\x01'
    b' \x01(\x05R\x05limit\x12&\n\x0fnext_page_token\x18\x02 \x01(\x05R\rnextPageToken"\xc2\x01\n\x17Regi'
    b'sterWorkflowRequest\x12\x10\n\x03url\x18\x01 \x01(\tR\x03url\x12#\n\rworkflow_name\x18\x02 \x01(\t'
    b"R\x0cworkflowName\x12)\n\x10response_timeout\x18\x03 \x01(\x05R\x0fresponseTimeout\x12'\n"
    b'\x0fstartup_timeout\x18\x04 \x01(\x05R\x0estartupTimeout\x12\x1c\n\ns3_sse_kms\x18\x05 \x01(\x08R\x08'
    b's3SseKms"@\n\x19UnregisterWorkflowRequest\x12#\n\rworkflow_name\x18\x01 \x01(\t'
    b'R\x0cworkflowName2\xdd\x04\n\x1dWorkflowManagementAPIsService\x12\x8d\x01\n\x10Describ'
    b'eWorkflow\x12:.org.pytorch.serve.grpc.management.DescribeWorkfl'
    b'owRequest\x1a=.org.pytorch.serve.grpc.management.WorkflowManage'
    b'mentResponse\x12\x87\x01\n\rListWorkflows\x127.org.pytorch.serve.grpc.mana'
    b'gement.ListWorkflowsRequest\x1a=.org.pytorch.serve.grpc.managem'
    b'ent.WorkflowManagementResponse\x12\x8d\x01\n\x10RegisterWorkflow\x12:.org.py'
    b'torch.serve.grpc.management.RegisterWorkflowRequest\x1a=.org.py'
    b'torch.serve.grpc.management.WorkflowManagementResponse\x12\x91\x01\n\x12U'
    b'nregisterWorkflow\x12<.org.pytorch.serve.grpc.management.Unregi'
    b'sterWorkflowRequest\x1a=.org.pytorch.serve.grpc.management.Work'
    b'flowManagementResponseB\x02P\x01b\x06proto3'
)
DESCRIPTOR = descriptor_pool.Default().FindFileByName("torchrelay/gateway/grpc/protos/workflow_management.proto")

WorkflowManagementResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['WorkflowManagementResponse'])
DescribeWorkflowRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['DescribeWorkflowRequest'])
ListWorkflowsRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ListWorkflowsRequest'])
RegisterWorkflowRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['RegisterWorkflowRequest'])
UnregisterWorkflowRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['UnregisterWorkflowRequest'])
