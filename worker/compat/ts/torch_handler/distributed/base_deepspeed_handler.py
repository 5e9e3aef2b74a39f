"""The base of handlers whose model DeepSpeed spreads over processes."""

import os
from typing import Any

from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler


class BaseDeepSpeedHandler(BaseHandler):
    """Knows its device; a subclass loads the model, and `get_ds_engine` makes the engine."""

    device: Any  # the number of the process's GPU, which is what DeepSpeed takes

    def initialize(self, context: Context) -> None:
        """Take the GPU of the process's rank."""
        self.context = context
        self.device = int(os.environ.get("LOCAL_RANK", "0"))
