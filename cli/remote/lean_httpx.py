"""httpx without the command of its own, which it imports where rich and pygments are installed.

PERF: that was half of the 115 ms that its import took, in each `torchrelay status` and each start.
"""

import sys

sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # Python's way to say that there is none

import httpx  # noqa: E402

__all__ = ["httpx"]
