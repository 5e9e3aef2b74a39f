"""Runs the gateway as the integration tests need it: settings as JSON on the command line."""

import sys

import msgspec

from gateway import main
from shared import logs
from shared.settings import GatewaySettings

if __name__ == "__main__":
    logs.configure("gateway", level="INFO")
    sys.exit(main.run(msgspec.json.decode(sys.argv[1], type=GatewaySettings)))
