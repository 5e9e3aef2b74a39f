"""A metric that carries one value; kept for older handlers, `context.metrics` is what replaces it."""

import socket
import time
from collections.abc import Sequence

from ts.metrics.caching_metric import CachingMetric
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes


class Metric:
    """A counter's value under given dimensions, logged when it is updated."""

    def __init__(
        self,
        name: str,
        value: float,
        unit: str,
        dimensions: Sequence[Dimension],
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        names = [dimension.name for dimension in dimensions]
        self._metric = CachingMetric(name, unit, names, MetricTypes.COUNTER)
        self.metric_type = MetricTypes.COUNTER
        self.name = name
        self.unit = self._metric.unit
        self.value = value
        self.dimensions = dimensions
        self.dimension_names = names
        self.dimension_values = [dimension.value for dimension in dimensions]
        self.request_id = request_id
        self.metric_method = metric_method

    def update(self, value: float) -> None:
        """Record a value."""
        self._metric.add_or_update(value, self.dimension_values, self.request_id)

    def reset(self) -> None:
        """Record a zero."""
        self.update(0)

    def __str__(self) -> str:
        dimensions = ",".join(str(dimension) for dimension in self.dimensions)
        ids = f",{self.request_id}" if self.request_id else ""
        host = f"{socket.gethostname()},{int(time.time())}"
        return f"{self.name}.{self.unit}:{self.value}|#{dimensions}|#hostname:{host}{ids}"

    def to_dict(self) -> dict[str, object]:
        """Return the metric as `MetricEncoder` writes it."""
        return {
            "MetricName": self.name,
            "Value": self.value,
            "Unit": self.unit,
            "Dimensions": self.dimensions,
            "Timestamp": int(time.time()),
            "HostName": socket.gethostname(),
            "RequestId": self.request_id,
        }
