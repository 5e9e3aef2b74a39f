"""Starts the fork server: `python -m torchrelay.worker.launcher`."""

import sys

from torchrelay.worker.launcher import launcher_process

if __name__ == "__main__":
    sys.exit(launcher_process.main())
