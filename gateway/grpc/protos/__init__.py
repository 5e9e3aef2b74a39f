"""The services as protocol buffers; the modules are made by `python docs/generate_protos.py`."""
