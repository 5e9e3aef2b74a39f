"""What is measured, on its way to the broker: gathered for a moment under load, else sent at once.

In a worker what its handler records; in a node what handlers print.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence

from torchrelay.shared import clock
from torchrelay.shared.wire import messages as m
from torchrelay.worker.common import metric_lines

#: While the worker is busy, points wait this long for others.
GATHER_S = 0.5
#: What is printed waits so long for more of it.
PRINTED_GATHER_S = 0.05
#: Points kept for a broker that is away; of more, the oldest go.
POINTS_LIMIT = 10_000
#: Points in one message: with all that they may carry they are far below the limit of a head.
POINTS_PER_MESSAGE = 1000
#: Points a second, beside the first so many: the broker takes in those of a whole fleet.
POINTS_PER_S = 5_000


class Allowance:
    """How many points may be told, of any number that a handler measures or prints."""

    def __init__(self, now: float) -> None:
        self._left = float(POINTS_LIMIT)
        self._at = now

    def left(self, now: float) -> int:
        """Return how many points may be sent now."""
        self._left = min(POINTS_LIMIT, self._left + max(0.0, now - self._at) * POINTS_PER_S)
        self._at = now
        return int(self._left)

    def use(self, count: int) -> None:
        """Count points that are sent."""
        self._left -= count


class Measuring:
    """The points of one worker that have not been sent yet."""

    def __init__(self, model_name: str, take_points: Callable[[], list[m.MetricPoint]]) -> None:
        """Have `take_points` return what the handler has recorded since its last call."""
        self._take_points = take_points
        self._dimensions = (("ModelName", model_name), ("Level", "Model"))
        self._hostname = socket.gethostname()
        self._points: list[m.MetricPoint] = []
        self._allowance = Allowance(clock.monotonic())
        #: How many points `due` has returned.
        self._due_count = 0
        #: The latest call's time and requests. PERF: of many calls in a moment one stands for all, for a
        #: point of each would cost a twentieth of what the call itself does.
        self._prediction: tuple[int, Sequence[str]] | None = None
        #: When points were last sent, or could not be.
        self._tried_at = -GATHER_S

    def predicted(self, handler_us: int, request_ids: Sequence[str]) -> None:
        """Take note of a call that went well, and of its requests."""
        self._prediction = (handler_us, request_ids)

    def forget_latest(self) -> None:
        """Drop the latest call, and what was recorded since `is_due` was last asked."""
        self._take_points()
        self._prediction = None

    def is_due(self, now: float) -> bool:
        """Tell whether there is something that should be sent before the answer that it belongs to."""
        if taken := self._take_points():
            self._points = (self._points + taken)[-POINTS_LIMIT:]
        return bool(self._points) or (self._prediction is not None and now - self._tried_at >= GATHER_S)

    def due(self, now: float, *, is_idle: bool) -> m.Measured | None:
        """Return what is to be sent now; it stays until `sent`."""
        if not (is_idle or now - self._tried_at >= GATHER_S) or not self.is_due(now):
            return None
        self._due_count = min(len(self._points), self._allowance.left(now))
        points = tuple(self._points[: self._due_count]) + self._prediction_point()
        if not points:
            self._tried_at = now
            return None
        return m.Measured(self._hostname, points)

    def sent(self, now: float) -> None:
        """Forget what `due` returned."""
        self._allowance.use(self._due_count)
        del self._points[: self._due_count]
        self._prediction = None
        self._tried_at = now

    def put_off(self, now: float) -> None:
        """Keep what `due` returned: the broker is away."""
        self._tried_at = now

    def next_wake(self) -> float:
        """Return when `due` may have something without a call in between."""
        return self._tried_at + GATHER_S if self._prediction or self._points else float("inf")

    def _prediction_point(self) -> tuple[m.MetricPoint, ...]:
        if self._prediction is None:
            return ()
        handler_us, request_ids = self._prediction
        value, at_ms, ids = round(handler_us / 1000, 2), clock.wall_ms(), tuple(request_ids)
        return (
            m.MetricPoint("PredictionTime", "gauge", "Milliseconds", value, self._dimensions, at_ms, ids),
        )


class PrintedMetrics:
    """Metrics that workers of a node print, told to the broker a moment later on the node's event loop."""

    def __init__(self, tell: Callable[[m.Message], None]) -> None:
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._hostname = socket.gethostname()
        #: A thread takes and the loop flushes.
        self._lock = threading.Lock()
        self._points: list[m.MetricPoint] = []
        self._allowance = Allowance(clock.monotonic())

    def take(self, line: str) -> bool:
        """Take a line of output if it is a metric, unless there are too many of them; any thread may."""
        point = metric_lines.parse(line, clock.wall_ms())
        if point is None:
            return False
        with self._lock:
            if len(self._points) >= POINTS_LIMIT or not self._allowance.left(clock.monotonic()):
                return False
            self._allowance.use(1)
            self._points.append(point)
            is_first = len(self._points) == 1
        if is_first:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._loop.call_later, PRINTED_GATHER_S, self.flush)
        return True

    def flush(self) -> None:
        """Send the points that are gathered."""
        with self._lock:
            points, self._points = self._points, []
        for start in range(0, len(points), POINTS_PER_MESSAGE):
            self._tell(m.NodeMeasured(self._hostname, tuple(points[start : start + POINTS_PER_MESSAGE])))
