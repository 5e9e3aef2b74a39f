"""A metric that handlers record values of."""

import logging
import socket
from collections.abc import Callable, Sequence

from torchrelay.shared import clock
from torchrelay.shared.wire.messages import MetricPoint
from ts.metrics.dimension import Dimension
from ts.metrics.metric_abstract import MetricAbstract
from ts.metrics.metric_type_enum import MetricTypes

logger = logging.getLogger(__name__)

#: Where points go.
Outlet = Callable[[MetricPoint], None]


def log_point(point: MetricPoint) -> None:
    """Log a point in TorchServe's form; the node that reads a worker's output takes it from there."""
    logger.info(metric_line(point))


def metric_line(point: MetricPoint) -> str:
    """Write a point as TorchServe's workers print it."""
    dimensions = ",".join(f"{name}:{value}" for name, value in point.dimensions)
    ids = "".join(f",{request_id}" for request_id in point.request_ids)
    value = int(point.value) if point.value.is_integer() else point.value
    return (
        f"[METRICS]{point.name}.{point.unit}:{value}|#{dimensions}|#type:{point.kind.upper()}"
        f"|#hostname:{socket.gethostname()},{point.at_ms // 1000}{ids}"
    )


class CachingMetric(MetricAbstract):
    """One metric; its values go to an outlet, which logs them unless a metrics cache brings its own."""

    def __init__(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
        outlet: Outlet = log_point,
    ) -> None:
        super().__init__(metric_name, unit, dimension_names, metric_type)
        self._outlet = outlet

    def add_or_update(
        self, value: float, dimension_values: Sequence[str] = (), request_id: str | None = ""
    ) -> None:
        """Record a value; one that can't be recorded is logged, and the handler goes on.

        `request_id` may be several, with commas between them.
        """
        try:
            point = self._point(value, dimension_values, request_id or "")
        except (TypeError, ValueError, OverflowError) as error:
            logger.error(
                "[METRICS]Failed to update metric with name:%s and dimensions: %s with value: %s: %s",
                self.metric_name,
                dimension_values,
                value,
                error,
            )
            return
        self._outlet(point)

    def update(self, value: float, request_id: str = "", dimensions: Sequence[Dimension] = ()) -> None:
        """Record a value under these dimensions, which become the metric's; kept for older handlers."""
        logger.warning("Overriding existing dimensions")
        self.dimension_names = [dimension.name for dimension in dimensions]
        self.add_or_update(value, [dimension.value for dimension in dimensions], request_id)

    def _point(self, value: float, dimension_values: Sequence[str], request_id: str) -> MetricPoint:
        if len(dimension_values) != len(self.dimension_names):
            raise ValueError(
                f"Dimension values: {dimension_values} should correspond to "
                f"Dimension names: {self.dimension_names}"
            )
        if self.metric_type is MetricTypes.COUNTER and value < 0:
            raise ValueError("Counter metric update value cannot be negative")
        return MetricPoint(
            name=_plain(self.metric_name),
            kind=self.metric_type.value,
            unit=_plain(self.unit),
            value=float(value),
            dimensions=tuple(
                (_plain(name), _plain(given))
                for name, given in zip(self.dimension_names, dimension_values, strict=True)
            ),
            at_ms=clock.wall_ms(),
            request_ids=tuple(_plain(request_id).split(",")) if request_id else (),
        )


def _plain(value: object) -> str:
    """Return a text that can be sent: no string of a class of its own, no half of a surrogate pair."""
    text = str.__str__(str(value))
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
