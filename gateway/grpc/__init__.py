"""The gRPC side: TorchServe's services on grpc.aio, in a process of their own."""
