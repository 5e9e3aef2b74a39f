"""TorchServe's Python API, as model archives import it.

Of ours it imports `torchrelay.shared` and nothing else: archives are tested where there is no server.
"""

from ts.version import __version__ as __version__
