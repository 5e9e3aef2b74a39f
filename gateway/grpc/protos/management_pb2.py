"""The messages of management.proto; compile_protos.py has made this module."""

from google.protobuf import descriptor_pool, message_factory

# AddSerializedFile returns nothing where protobuf is not written in C.
descriptor_pool.Default().AddSerializedFile(
    b'\n/torchrelay/gateway/grpc/protos/management.proto\x12!org.pytor'
    b'ch.serve.grpc.management"&\n\x12ManagementResponse\x12\x10\n\x03msg\x18\x01 \x01(\tR'
    b'\x03msg"z\n\x14DescribeModelRequest\x12\x1d\n\nmodel_name\x18\x01 \x01(\tR\tmodelName\x12'
    b'#\n\rmodel_version\x18\x02 \x01(\tR\x0cmodelVersion\x12\x1e\n\ncustomized\x18\x03 \x01(\x08R\ncu'
    b'stomized"Q\n\x11ListModelsRequest\x12\x14\n\x05limit\x18\x01 \x01(\x05R\x05limit\x12&\n\x0fnext_'
    b'page_token\x18\x02 \x01(\x05R\rnextPageToken"\xff\x02\n\x14RegisterModelRequest\x12\x1d\n\n'
    b"batch_size\x18\x01 \x01(\x05R\tbatchSize\x12\x18\n\x07handler\x18\x02 \x01(\tR\x07handler\x12'\n\x0fini"
    b'tial_workers\x18\x03 \x01(\x05R\x0einitialWorkers\x12&\n\x0fmax_batch_delay\x18\x04 \x01(\x05R'
    b'\rmaxBatchDelay\x12\x1d\n\nmodel_name\x18\x05 \x01(\tR\tmodelName\x12)\n\x10response_ti'
    b'meout\x18\x06 \x01(\x05R\x0fresponseTimeout\x12\x18\n\x07runtime\x18\x07 \x01(\tR\x07runtime\x12 \n\x0bsy'
    b'nchronous\x18\x08 \x01(\x08R\x0bsynchronous\x12\x10\n\x03url\x18\t \x01(\tR\x03url\x12\x1c\n\ns3_sse_kms'
    b'\x18\n \x01(\x08R\x08s3SseKms\x12\'\n\x0fstartup_timeout\x18\x0b \x01(\x05R\x0estartupTimeout"\xf1\x01'
    b'\n\x12ScaleWorkerRequest\x12\x1d\n\nmodel_name\x18\x01 \x01(\tR\tmodelName\x12#\n\rmodel'
    b'_version\x18\x02 \x01(\tR\x0cmodelVersion\x12\x1d\n\nmax_worker\x18\x03 \x01(\x05R\tmaxWorker\x12'
    b'\x1d\n\nmin_worker\x18\x04 \x01(\x05R\tminWorker\x12\x1d\n\nnumber_gpu\x18\x05 \x01(\x05R\tnumberGp'
    b'u\x12 \n\x0bsynchronous\x18\x06 \x01(\x08R\x0bsynchronous\x12\x18\n\x07timeout\x18\x07 \x01(\x05R\x07timeou'
    b't"W\n\x11SetDefaultRequest\x12\x1d\n\nmodel_name\x18\x01 \x01(\tR\tmodelName\x12#\n\rmod'
    b'el_version\x18\x02 \x01(\tR\x0cmodelVersion"\\\n\x16UnregisterModelRequest\x12\x1d\n\n'
    b'model_name\x18\x01 \x01(\tR\tmodelName\x12#\n\rmodel_version\x18\x02 \x01(\tR\x0cmodelVer'
    b'sion2\x92\x06\n\x15ManagementAPIsService\x12\x7f\n\rDescribeModel\x127.org.pytorc'
    b'h.serve.grpc.management.DescribeModelRequest\x1a5.org.pytorch.s'
    b'erve.grpc.management.ManagementResponse\x12y\n\nListModels\x124.org.'
    b'pytorch.serve.grpc.management.ListModelsRequest\x1a5.org.pytorc'
    b'h.serve.grpc.management.ManagementResponse\x12\x7f\n\rRegisterModel\x12'
    b'7.org.pytorch.serve.grpc.management.RegisterModelRequest\x1a5.o'
    b'rg.pytorch.serve.grpc.management.ManagementResponse\x12{\n\x0bScale'
    b'Worker\x125.org.pytorch.serve.grpc.management.ScaleWorkerReques'
    b't\x1a5.org.pytorch.serve.grpc.management.ManagementResponse\x12y\n\n'
    b'SetDefault\x124.org.pytorch.serve.grpc.management.SetDefaultReq'
    b'uest\x1a5.org.pytorch.serve.grpc.management.ManagementResponse\x12'
    b'\x83\x01\n\x0fUnregisterModel\x129.org.pytorch.serve.grpc.management.Unre'
    b'gisterModelRequest\x1a5.org.pytorch.serve.grpc.management.Manag'
    b'ementResponseB\x02P\x01b\x06proto3'
)
DESCRIPTOR = descriptor_pool.Default().FindFileByName("torchrelay/gateway/grpc/protos/management.proto")

ManagementResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ManagementResponse'])
DescribeModelRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['DescribeModelRequest'])
ListModelsRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ListModelsRequest'])
RegisterModelRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['RegisterModelRequest'])
ScaleWorkerRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ScaleWorkerRequest'])
SetDefaultRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['SetDefaultRequest'])
UnregisterModelRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['UnregisterModelRequest'])
