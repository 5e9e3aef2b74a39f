"""The store of metrics before `context.metrics`; kept for older handlers."""

from collections.abc import Sequence

from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric
from ts.metrics.metrics_cache import request_id_of
from ts.metrics.unit import SIZE_UNITS, TIME_UNITS


class MetricsStore:
    """Metrics of a batch, in `store` for `ts.service.emit_metrics`."""

    def __init__(self, request_ids: dict[int, str] | str | None, model_name: str) -> None:
        self.request_ids = request_ids
        self.model_name = model_name
        self.store: list[Metric] = []
        self.cache: dict[str, Metric] = {}

    def add_counter(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Dimension] | None = None
    ) -> None:
        """Count up."""
        self._add(name, value, request_id_of(self.request_ids, idx), "count", dimensions)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        """Record a duration in `ms` or `s`; raises ValueError for another unit."""
        if unit not in TIME_UNITS:
            raise ValueError("the unit for a timed metric should be one of ['ms', 's']")
        self._add(name, value, request_id_of(self.request_ids, idx), unit, dimensions)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        """Record a size in `MB`, `kB`, `GB` or `B`; raises ValueError for another unit."""
        if unit not in SIZE_UNITS:
            raise ValueError("The unit for size based metric is one of ['MB','kB', 'GB', 'B']")
        self._add(name, value, request_id_of(self.request_ids, idx), unit, dimensions)

    def add_percent(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Dimension] | None = None
    ) -> None:
        """Record a percentage."""
        self._add(name, value, request_id_of(self.request_ids, idx), "percent", dimensions)

    def add_error(self, name: str, value: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """Record an error, under the dimension `Level=Error`."""
        self._add(name, value, None, "", dimensions)

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        """Record a value in a unit of the handler's choice."""
        self._add(name, value, request_id_of(self.request_ids, idx), unit, dimensions)

    def _add(
        self,
        name: str,
        value: float,
        request_id: str | None,
        unit: str,
        dimensions: Sequence[Dimension] | None,
    ) -> None:
        """Store a metric; a second value of the same one is logged at once instead, as in TorchServe."""
        if request_id is None:
            defaults = [Dimension("Level", "Error")]
        else:
            defaults = [Dimension("ModelName", self.model_name), Dimension("Level", "Model")]
        dims = [*(dimensions or ()), *defaults]
        key = "-".join([name, unit, str(request_id), *map(str, dims)])
        if key in self.cache:
            self.cache[key].update(value)
            return
        self.cache[key] = Metric(name, value, unit, dims, request_id)
        self.store.append(self.cache[key])
