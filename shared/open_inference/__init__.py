"""The tensors of the open inference protocol (KServe v2), in JSON and as binary data. No I/O here."""
