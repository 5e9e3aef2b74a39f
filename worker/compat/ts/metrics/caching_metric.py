"""A metric that handlers record values of."""

import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.unit import Units

logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """One recorded value; `dimensions` are (name, value), `request_id` may be several with commas."""

    name: str
    unit: str
    metric_type: MetricTypes
    value: float
    dimensions: tuple[tuple[str, str], ...]
    request_id: str


class Sink(Protocol):
    """Where samples go."""

    def append(self, sample: Sample, /) -> None:
        """Take one sample."""


class CachingMetric:
    """One metric by name, unit, type and names of dimensions."""

    def __init__(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str],
        metric_type: MetricTypes,
        sink: Sink,
    ) -> None:
        self.metric_name = metric_name
        self.unit = Units.units.get(unit, unit)
        self.dimension_names = list(dimension_names)
        self.metric_type = metric_type
        self._sink = sink

    def add_or_update(self, value: float, dimension_values: Sequence[str] = (), request_id: str = "") -> None:
        """Record a value; one that can't be recorded is logged, and the handler goes on."""
        if len(dimension_values) != len(self.dimension_names):
            logger.error(
                "metric %s has dimensions %s, not the %d values given",
                self.metric_name,
                self.dimension_names,
                len(dimension_values),
            )
            return
        if self.metric_type is MetricTypes.COUNTER and value < 0:
            logger.error("counter %s can't go down by %s", self.metric_name, value)
            return
        dimensions = tuple(
            (name, str(given)) for name, given in zip(self.dimension_names, dimension_values, strict=True)
        )
        self._sink.append(
            Sample(self.metric_name, self.unit, self.metric_type, float(value), dimensions, request_id)
        )

    def update(self, value: float, request_id: str = "", dimensions: Sequence[Dimension] = ()) -> None:
        """Record a value for Dimension objects."""
        self.add_or_update(value, [dimension.value for dimension in dimensions], request_id)
