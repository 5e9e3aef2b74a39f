"""TorchServe's Python API, as model archives import it; self-contained, nothing of ours is imported."""

from ts.version import __version__ as __version__
