"""Times handlers, and their methods where the model config asks for it."""

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ts.context import Context

R = TypeVar("R")


def timed(func: Callable[..., R]) -> Callable[..., R]:
    """Record the metric `ts_handler_<method>` in ms at each call, if YAML has `handler: {profile: true}`."""

    @functools.wraps(func)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> R:  # any handler's method
        config = getattr(self.context, "model_yaml_config", None) or {}
        if not (config.get("handler") or {}).get("profile"):
            return func(self, *args, **kwargs)
        result, elapsed_ms = _measure(functools.partial(func, self, *args, **kwargs))
        self.context.metrics.add_time(f"ts_handler_{func.__name__}", elapsed_ms)
        return result

    return wrapper


def record_handler_time(context: Context, start: float) -> None:
    """Record the metric `HandlerTime` in ms, from `start` (by time.perf_counter) until now."""
    if context.metrics is not None:
        context.metrics.add_time("HandlerTime", round((time.perf_counter() - start) * 1000, 2), None, "ms")


def _measure(call: Callable[[], R]) -> tuple[R, float]:
    """Run a call; on a GPU its own events tell the time, since kernels go on after the call returns."""
    if not torch.cuda.is_available():
        start = time.perf_counter()
        return call(), (time.perf_counter() - start) * 1000
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch's
    begin.record()
    result = call()
    end.record()
    torch.cuda.synchronize()
    return result, begin.elapsed_time(end)
