"""Starts the fork server: `python -m torchrelay.worker.launcher`."""

import sys

from torchrelay.worker.launcher import fork_server

if __name__ == "__main__":
    sys.exit(fork_server.main())
