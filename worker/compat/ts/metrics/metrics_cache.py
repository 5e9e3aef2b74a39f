"""What `context.metrics` is: records what handlers measure, for the server to collect."""

import uuid
from collections import deque
from collections.abc import Sequence

from ts.metrics.caching_metric import CachingMetric, Sample
from ts.metrics.dimension import Dimension
from ts.metrics.metric_cache_errors import MetricsCacheKeyError
from ts.metrics.metric_type_enum import MetricTypes

#: Samples kept until they are collected; of more, the oldest go, so that no handler can fill the memory.
SAMPLE_LIMIT = 10_000
_TIME_UNITS = ("ms", "s")
_SIZE_UNITS = ("MB", "kB", "GB", "B")


class MetricsCache:
    """Metrics by name and type, and the samples recorded since the last collection."""

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name
        #: Index in the batch -> request id; None while the model loads.
        self.request_ids: dict[int, str] | None = None
        self.samples: deque[Sample] = deque(maxlen=SAMPLE_LIMIT)
        self._metrics: dict[tuple[str, MetricTypes], CachingMetric] = {}
        self._load_id = str(uuid.uuid4())

    def add_counter(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Dimension] | None = None
    ) -> None:
        """Count up."""
        self.add_metric(name, value, "Count", idx, dimensions, MetricTypes.COUNTER)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Record a duration in `ms` or `s`; raises ValueError for another unit."""
        _check_unit(unit, _TIME_UNITS)
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Record a size in `MB`, `kB`, `GB` or `B`; raises ValueError for another unit."""
        _check_unit(unit, _SIZE_UNITS)
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Record a percentage."""
        self.add_metric(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Count errors, under the dimension `Level=Error` alone."""
        dims = [*(dimensions or ()), Dimension("Level", "Error")]
        metric = self.add_metric_to_cache(name, "", [dim.name for dim in dims], MetricTypes.COUNTER)
        metric.update(value, self._request_id(None), dims)

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Record a value under the given dimensions, `ModelName` and `Level`."""
        dims = list(dimensions or ())
        given = {dim.name for dim in dims}
        dims += [
            dim
            for dim in (Dimension("ModelName", self.model_name), Dimension("Level", "Model"))
            if dim.name not in given
        ]
        metric = self.add_metric_to_cache(name, unit, [dim.name for dim in dims], metric_type)
        metric.update(value, self._request_id(idx), dims)

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Return the metric of this name and type, made now unless it is known."""
        if not metric_name or not isinstance(metric_name, str):
            raise ValueError("a metric needs a name")
        if not isinstance(metric_type, MetricTypes):
            raise ValueError(f"{metric_type!r} is no MetricTypes")
        key = (metric_name, metric_type)
        if key not in self._metrics:
            self._metrics[key] = CachingMetric(
                metric_name, unit, dimension_names or (), metric_type, self.samples
            )
        return self._metrics[key]

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> CachingMetric:
        """Return a metric; raises MetricsCacheKeyError for one that was never added."""
        try:
            return self._metrics[metric_name, metric_type]
        except KeyError as error:
            raise MetricsCacheKeyError(f"no {metric_type} called {metric_name}") from error

    def _request_id(self, idx: int | None) -> str:
        if self.request_ids is None:
            return self._load_id
        return ",".join(self.request_ids.values()) if idx is None else self.request_ids.get(idx, "")


def _check_unit(unit: str, allowed: tuple[str, ...]) -> None:
    if unit not in allowed:
        raise ValueError(f"the unit {unit!r} is not one of {', '.join(allowed)}")
