"""The `torchserve` command, with TorchServe's flags, messages and files."""
