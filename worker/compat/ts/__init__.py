"""TorchServe's Python API, as model archives import it.

Of ours only `ts.metrics` imports anything (`shared`, before a handler can be imported): an archive may have
modules of any name, and they win.
"""

from ts.version import __version__ as __version__
