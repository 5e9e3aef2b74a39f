"""Runs the gateway as the integration tests need it: settings as JSON on the command line."""

import sys

import msgspec

from torchrelay.gateway import main
from torchrelay.shared import logs
from torchrelay.shared.settings import GatewaySettings

if __name__ == "__main__":
    logs.configure("gateway", level="INFO")
    sys.exit(main.run(msgspec.json.decode(sys.argv[1], type=GatewaySettings)))
