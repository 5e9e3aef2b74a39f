"""Runs the gateway as the integration tests need it: settings as JSON on the command line.

Behind them may stand how long it waits for last requests. It ends with the process of the tests, however
that ends.
"""

import os
import sys

import msgspec

from torchrelay.gateway import main
from torchrelay.gateway.http import uvicorn_server
from torchrelay.shared.logs import logs
from torchrelay.shared.processes.parent_death import die_with_parent
from torchrelay.shared.settings import GatewaySettings

if __name__ == "__main__":
    die_with_parent(os.getppid())
    if len(sys.argv) > 2:
        uvicorn_server.LAST_REQUESTS_S = float(sys.argv[2])
    logs.configure("gateway", level="INFO")
    sys.exit(main.run(msgspec.json.decode(sys.argv[1], type=GatewaySettings)))
