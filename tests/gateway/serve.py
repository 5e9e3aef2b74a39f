"""Runs the gateway as the integration tests need it: settings as JSON on the command line.

It ends with the process of the tests, however that ends.
"""

import os
import sys

import msgspec

from torchrelay.gateway import main
from torchrelay.shared.logs import logs
from torchrelay.shared.processes.parent_death import die_with_parent
from torchrelay.shared.settings import GatewaySettings

if __name__ == "__main__":
    die_with_parent(os.getppid())
    logs.configure("gateway", level="INFO")
    sys.exit(main.run(msgspec.json.decode(sys.argv[1], type=GatewaySettings)))
