"""Tells how long functions take."""

import functools
import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)


def timeit(func: Callable[P, R]) -> Callable[P, R]:
    """Log the wall and CPU seconds of each call."""

    @functools.wraps(func)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        start, start_cpu = time.perf_counter(), time.process_time()
        result = func(*args, **kwargs)
        logger.info(
            "func: %r took a total of %2.4f sec to run and %2.4f sec of CPU time",
            func.__name__,
            time.perf_counter() - start,
            time.process_time() - start_cpu,
        )
        return result

    return wrapper
