"""The messages of open_inference.proto; compile_protos.py has made this module."""

from google.protobuf import descriptor_pool, message_factory

# AddSerializedFile returns nothing where protobuf is not written in C.
descriptor_pool.Default().AddSerializedFile(
    b'\n3torchrelay/gateway/grpc/protos/open_inference.proto\x12\tinfer'
    b'ence"\x13\n\x11ServerLiveRequest"(\n\x12ServerLiveResponse\x12\x12\n\x04live\x18\x01 \x01('
    b'\x08R\x04live"\x14\n\x12ServerReadyRequest"+\n\x13ServerReadyResponse\x12\x14\n\x05read'
    b'y\x18\x01 \x01(\x08R\x05ready"A\n\x11ModelReadyRequest\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12\x18\n\x07v'
    b'ersion\x18\x02 \x01(\tR\x07version"*\n\x12ModelReadyResponse\x12\x14\n\x05ready\x18\x01 \x01(\x08R\x05'
    b'ready"\x17\n\x15ServerMetadataRequest"f\n\x16ServerMetadataResponse\x12\x12\n\x04'
    b'name\x18\x01 \x01(\tR\x04name\x12\x18\n\x07version\x18\x02 \x01(\tR\x07version\x12\x1e\n\nextensions\x18\x03 \x03'
    b'(\tR\nextensions"D\n\x14ModelMetadataRequest\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12\x18'
    b'\n\x07version\x18\x02 \x01(\tR\x07version"\xcf\x02\n\x15ModelMetadataResponse\x12\x12\n\x04name\x18\x01'
    b' \x01(\tR\x04name\x12\x1a\n\x08versions\x18\x02 \x03(\tR\x08versions\x12\x1a\n\x08platform\x18\x03 \x01(\tR\x08pl'
    b'atform\x12G\n\x06inputs\x18\x04 \x03(\x0b2/.inference.ModelMetadataResponse.Ten'
    b'sorMetadataR\x06inputs\x12I\n\x07outputs\x18\x05 \x03(\x0b2/.inference.ModelMetada'
    b'taResponse.TensorMetadataR\x07outputs\x1aV\n\x0eTensorMetadata\x12\x12\n\x04name'
    b'\x18\x01 \x01(\tR\x04name\x12\x1a\n\x08datatype\x18\x02 \x01(\tR\x08datatype\x12\x14\n\x05shape\x18\x03 \x03(\x03R\x05sha'
    b'pe"\x9d\x08\n\x11ModelInferRequest\x12\x1d\n\nmodel_name\x18\x01 \x01(\tR\tmodelName\x12#\n\rm'
    b'odel_version\x18\x02 \x01(\tR\x0cmodelVersion\x12\x0e\n\x02id\x18\x03 \x01(\tR\x02id\x12L\n\nparamete'
    b'rs\x18\x04 \x03(\x0b2,.inference.ModelInferRequest.ParametersEntryR\npara'
    b'meters\x12E\n\x06inputs\x18\x05 \x03(\x0b2-.inference.ModelInferRequest.InferIn'
    b'putTensorR\x06inputs\x12Q\n\x07outputs\x18\x06 \x03(\x0b27.inference.ModelInferReq'
    b'uest.InferRequestedOutputTensorR\x07outputs\x12,\n\x12raw_input_conten'
    b'ts\x18\x07 \x03(\x0cR\x10rawInputContents\x1a\xcd\x02\n\x10InferInputTensor\x12\x12\n\x04name\x18\x01 \x01('
    b'\tR\x04name\x12\x1a\n\x08datatype\x18\x02 \x01(\tR\x08datatype\x12\x14\n\x05shape\x18\x03 \x03(\x03R\x05shape\x12]\n'
    b'\nparameters\x18\x04 \x03(\x0b2=.inference.ModelInferRequest.InferInputTe'
    b'nsor.ParametersEntryR\nparameters\x12:\n\x08contents\x18\x05 \x01(\x0b2\x1e.inferen'
    b'ce.InferTensorContentsR\x08contents\x1aX\n\x0fParametersEntry\x12\x10\n\x03key\x18\x01'
    b' \x01(\tR\x03key\x12/\n\x05value\x18\x02 \x01(\x0b2\x19.inference.InferParameterR\x05value:\x02'
    b'8\x01\x1a\xf3\x01\n\x1aInferRequestedOutputTensor\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12g\n\npar'
    b'ameters\x18\x02 \x03(\x0b2G.inference.ModelInferRequest.InferRequestedOu'
    b'tputTensor.ParametersEntryR\nparameters\x1aX\n\x0fParametersEntry\x12\x10\n'
    b'\x03key\x18\x01 \x01(\tR\x03key\x12/\n\x05value\x18\x02 \x01(\x0b2\x19.inference.InferParameterR\x05v'
    b'alue:\x028\x01\x1aX\n\x0fParametersEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12/\n\x05value\x18\x02 \x01(\x0b'
    b'2\x19.inference.InferParameterR\x05value:\x028\x01"\xdf\x05\n\x12ModelInferRespons'
    b'e\x12\x1d\n\nmodel_name\x18\x01 \x01(\tR\tmodelName\x12#\n\rmodel_version\x18\x02 \x01(\tR\x0cmod'
    b'elVersion\x12\x0e\n\x02id\x18\x03 \x01(\tR\x02id\x12M\n\nparameters\x18\x04 \x03(\x0b2-.inference.Mo'
    b'delInferResponse.ParametersEntryR\nparameters\x12I\n\x07outputs\x18\x05 \x03('
    b'\x0b2/.inference.ModelInferResponse.InferOutputTensorR\x07outputs\x12'
    b'.\n\x13raw_output_contents\x18\x06 \x03(\x0cR\x11rawOutputContents\x1a\xd0\x02\n\x11InferOut'
    b'putTensor\x12\x12\n\x04name\x18\x01 \x01(\tR\x04name\x12\x1a\n\x08datatype\x18\x02 \x01(\tR\x08datatype\x12\x14\n'
    b'\x05shape\x18\x03 \x03(\x03R\x05shape\x12_\n\nparameters\x18\x04 \x03(\x0b2?.inference.ModelInf'
    b'erResponse.InferOutputTensor.ParametersEntryR\nparameters\x12:\n\x08'
    b'contents\x18\x05 \x01(\x0b2\x1e.inference.InferTensorContentsR\x08contents\x1aX\n\x0f'
    b'ParametersEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12/\n\x05value\x18\x02 \x01(\x0b2\x19.inference'
    b'.InferParameterR\x05value:\x028\x01\x1aX\n\x0fParametersEntry\x12\x10\n\x03key\x18\x01 \x01(\tR\x03'
    b'key\x12/\n\x05value\x18\x02 \x01(\x0b2\x19.inference.InferParameterR\x05value:\x028\x01"\xd7\x01\n'
    b'\x0eInferParameter\x12\x1f\n\nbool_param\x18\x01 \x01(\x08H\x00R\tboolParam\x12!\n\x0bint64_pa'
    b'ram\x18\x02 \x01(\x03H\x00R\nint64Param\x12#\n\x0cstring_param\x18\x03 \x01(\tH\x00R\x0bstringParam'
    b'\x12#\n\x0cdouble_param\x18\x04 \x01(\x01H\x00R\x0bdoubleParam\x12#\n\x0cuint64_param\x18\x05 \x01(\x04H'
    b'\x00R\x0buint64ParamB\x12\n\x10parameter_choice"\xc3\x02\n\x13InferTensorContents\x12#'
    b'\n\rbool_contents\x18\x01 \x03(\x08R\x0cboolContents\x12!\n\x0cint_contents\x18\x02 \x03(\x05R\x0bi'
    b'ntContents\x12%\n\x0eint64_contents\x18\x03 \x03(\x03R\rint64Contents\x12#\n\ruint_co'
    b"ntents\x18\x04 \x03(\rR\x0cuintContents\x12'\n\x0fuint64_contents\x18\x05 \x03(\x04R\x0euint64C"
    b'ontents\x12#\n\rfp32_contents\x18\x06 \x03(\x02R\x0cfp32Contents\x12#\n\rfp64_content'
    b's\x18\x07 \x03(\x01R\x0cfp64Contents\x12%\n\x0ebytes_contents\x18\x08 \x03(\x0cR\rbytesContents'
    b'2\xf0\x03\n\x14GRPCInferenceService\x12I\n\nServerLive\x12\x1c.inference.ServerLi'
    b'veRequest\x1a\x1d.inference.ServerLiveResponse\x12L\n\x0bServerReady\x12\x1d.in'
    b'ference.ServerReadyRequest\x1a\x1e.inference.ServerReadyResponse\x12I'
    b'\n\nModelReady\x12\x1c.inference.ModelReadyRequest\x1a\x1d.inference.Model'
    b'ReadyResponse\x12U\n\x0eServerMetadata\x12 .inference.ServerMetadataRe'
    b'quest\x1a!.inference.ServerMetadataResponse\x12R\n\rModelMetadata\x12\x1f.'
    b'inference.ModelMetadataRequest\x1a .inference.ModelMetadataResp'
    b'onse\x12I\n\nModelInfer\x12\x1c.inference.ModelInferRequest\x1a\x1d.inference'
    b'.ModelInferResponseb\x06proto3'
)
DESCRIPTOR = descriptor_pool.Default().FindFileByName("torchrelay/gateway/grpc/protos/open_inference.proto")

ServerLiveRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ServerLiveRequest'])
ServerLiveResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ServerLiveResponse'])
ServerReadyRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ServerReadyRequest'])
ServerReadyResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ServerReadyResponse'])
ModelReadyRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ModelReadyRequest'])
ModelReadyResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ModelReadyResponse'])
ServerMetadataRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ServerMetadataRequest'])
ServerMetadataResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ServerMetadataResponse'])
ModelMetadataRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ModelMetadataRequest'])
ModelMetadataResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ModelMetadataResponse'])
ModelInferRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ModelInferRequest'])
ModelInferResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['ModelInferResponse'])
InferParameter = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['InferParameter'])
InferTensorContents = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name['InferTensorContents'])
