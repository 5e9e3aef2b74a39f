"""The base of handlers whose model PiPPy spreads over processes as a pipeline."""

import os
from typing import Any

import torch

from ts.context import Context
from ts.handler_utils.distributed.pt_pippy import initialize_rpc_workers
from ts.torch_handler.base_handler import BaseHandler


class BasePippyHandler(BaseHandler):
    """Joins the processes; a subclass loads the model, and `get_pipeline_driver` splits it."""

    device: Any  # the number of the process's GPU, which is what PiPPy takes

    def initialize(self, context: Context) -> None:
        """Take the GPU of the process's rank, and join the others. Raises KeyError outside of torchrun."""
        self.context = context
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.world_size = int(os.environ["WORLD_SIZE"])
        self.device = self.local_rank % torch.cuda.device_count()
        initialize_rpc_workers(self.local_rank, self.world_size, context)
