"""What every metric has."""

import abc
from collections.abc import Sequence

from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.unit import Units


class MetricAbstract(abc.ABC):
    """A metric by name, unit (spelled out), names of dimensions and type."""

    def __init__(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        self.metric_name = metric_name
        self.unit = Units.units.get(unit, unit)
        self.dimension_names = list(dimension_names or ())
        self.metric_type = metric_type

    @abc.abstractmethod
    def add_or_update(self, value: float, dimension_values: Sequence[str], request_id: str = "") -> None:
        """Record a value."""
