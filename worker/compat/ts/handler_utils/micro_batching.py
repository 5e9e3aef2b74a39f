"""Splits batches into micro batches, so that one is prepared while another one is inferred.

`Any` stands for what handlers take and return.
"""

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from ts.context import Context
from ts.handler_utils.timer import record_handler_time

HANDLER_METHODS = ("preprocess", "inference", "postprocess")


class MicroBatching:
    """Stands in for a handler's `handle`; each step of a micro batch runs in the threads of that step."""

    def __init__(
        self, parent_handler: Any, micro_batch_size: int = 1, parallelism: Mapping[str, int] | None = None
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self._parallelism = dict.fromkeys(HANDLER_METHODS, 1)
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._local = threading.local()
        self.parallelism = parallelism or {}

    @property
    def parallelism(self) -> dict[str, int]:
        """Threads of each step."""
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, parallelism: Mapping[str, int]) -> None:
        """Set the threads of some steps; raises ValueError for what is no step or no number of threads."""
        for step, threads in parallelism.items():
            if step not in HANDLER_METHODS or threads < 1:
                raise ValueError(
                    f"{threads} threads for {step!r}: the steps are {HANDLER_METHODS}, from 1 up"
                )
        for step, threads in {**self._parallelism, **parallelism}.items():
            if step in self._pools and threads == self._parallelism[step]:
                continue
            if step in self._pools:
                self._pools[step].shutdown()
            self._pools[step] = ThreadPoolExecutor(threads, thread_name_prefix=f"micro-batch-{step}")
            self._parallelism[step] = threads

    def shutdown(self) -> None:
        """End all threads."""
        for pool in self._pools.values():
            pool.shutdown()

    def get_micro_batch_idx(self) -> int | None:
        """Return which micro batch the calling thread works on; None outside of a step."""
        idx: int | None = getattr(self._local, "idx", None)
        return idx

    def handle(self, data: list[Any]) -> list[Any]:
        """Answer a batch by its micro batches. Raises what a step raises, once none is running any more."""
        size = self.micro_batch_size
        chunks = [data[at : at + size] for at in range(0, len(data), size)]
        answers = [self._submit(idx, chunk) for idx, chunk in enumerate(chunks)]
        wait(answers)
        return [row for answer in answers for row in answer.result()]

    def _submit(self, idx: int, chunk: list[Any]) -> "Future[Any]":
        """Start a micro batch; a step waits for the one before in a thread of its own pool."""
        prepared = self._pools["preprocess"].submit(self._run, "preprocess", idx, chunk)
        inferred = self._pools["inference"].submit(self._run_after, "inference", idx, prepared)
        return self._pools["postprocess"].submit(self._run_after, "postprocess", idx, inferred)

    def _run_after(self, step: str, idx: int, before: "Future[Any]") -> Any:
        return self._run(step, idx, before.result())

    def _run(self, step: str, idx: int, data: Any) -> Any:
        self._local.idx = idx
        try:
            return getattr(self.handler, step)(data)
        finally:
            self._local.idx = None

    def __call__(self, data: list[Any], context: Context) -> Any:
        """Answer a batch, as the handler's own `handle` does."""
        start = time.perf_counter()
        handler = self.handler
        handler.context = context
        if handler._is_describe():
            output: Any = [handler.describe_handle()]
        elif os.environ.get("ENABLE_TORCH_PROFILER"):
            output, _ = handler._infer_with_profiler(data)
        elif handler._is_explain():
            output = handler.explain_handle(handler.preprocess(data), data)
        else:
            output = self.handle(data)
        record_handler_time(context, start)
        return output
