"""What `context.metrics` is: records what handlers measure, for the worker to take and send."""

import copy
import logging
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import yaml

from torchrelay.shared.wire.messages import MetricPoint
from ts.metrics import metric_cache_errors as errors
from ts.metrics.caching_metric import CachingMetric, Outlet
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.unit import SIZE_UNITS, TIME_UNITS

logger = logging.getLogger(__name__)

#: Points kept until they are taken; of more, the oldest go, so that no handler can fill the memory.
POINT_LIMIT = 10_000
#: The metrics of models that TorchServe's own metrics.yaml lists.
DEFAULT_CONFIG: Mapping[str, object] = {
    "model_metrics": {
        "gauge": [
            {"name": name, "unit": "ms", "dimensions": ["ModelName", "Level"]}
            for name in ("HandlerTime", "PredictionTime")
        ]
    }
}

#: The arguments of `add_metric_to_cache` for one metric.
Declared = tuple[str, str, list[str], MetricTypes]


class MetricsCache:
    """Metrics by type and name, and the points recorded since they were last taken."""

    def __init__(self, model_name: str | None = None, outlet: Outlet | None = None) -> None:
        self.model_name = model_name
        #: Index in the batch -> request id; one random id while the model loads.
        self.request_ids: dict[int, str] | str | None = str(uuid.uuid4())
        self.cache: dict[MetricTypes, dict[str, CachingMetric]] = {}
        #: Handlers may fill it from several threads.
        self._points: deque[MetricPoint] = deque(maxlen=POINT_LIMIT)
        #: Where points go; to a buffer that the worker empties, unless there is no worker.
        self._outlet = outlet or self._points.append

    def __deepcopy__(self, memo: dict[int, object]) -> "MetricsCache":
        """Return a view for other requests: it records into the same points."""
        view = copy.copy(self)
        memo[id(self)] = view
        return view

    def declare(self, config: bytes) -> None:
        """Add the metrics of `model_metrics` in a metrics.yaml; an empty one stands for TorchServe's own.

        Raises an error of metric_cache_errors for a file that TorchServe's worker would not start with.
        """
        self._add_declared(read_config(config))

    def take_points(self) -> list[MetricPoint]:
        """Return what was recorded since the last call, in order."""
        return [self._points.popleft() for _ in range(len(self._points))] if self._points else []

    def set_request_ids(self, request_ids: dict[int, str]) -> None:
        """Say which requests values are recorded for from now on."""
        self.request_ids = request_ids

    def add_counter(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Dimension] = ()
    ) -> None:
        """Count up."""
        self.add_metric(name, value, "count", idx, dimensions, MetricTypes.COUNTER)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Record a duration in `ms` or `s`; raises ValueError for another unit."""
        if unit not in TIME_UNITS:
            raise errors.MetricsCacheValueError("the unit for a timed metric should be one of ['ms', 's']")
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Record a size in `MB`, `kB`, `GB` or `B`; raises ValueError for another unit."""
        if unit not in SIZE_UNITS:
            raise ValueError("The unit for size based metric is one of ['MB','kB', 'GB', 'B']")
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Record a percentage."""
        self.add_metric(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: float, dimensions: Sequence[Dimension] = ()) -> None:
        """Count errors, for no request in particular, under the dimension `Level=Error`."""
        dims = _with_defaults(dimensions, Dimension("Level", "Error"))
        self._record(name, value, "", dims, MetricTypes.COUNTER, "")

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Record a value for one request of the batch, or for all, under `ModelName` and `Level` as well."""
        request_id = request_id_of(self.request_ids, idx)
        if request_id is None:  # only in a test of a handler does no request and no load go on
            dims = _with_defaults(dimensions, Dimension("Level", "Error"))
        else:
            model = Dimension("ModelName", str(self.model_name))
            dims = _with_defaults(dimensions, model, Dimension("Level", "Model"))
        self._record(name, value, unit, dims, metric_type, request_id)

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Make a metric, which replaces one of the same name and type."""
        _check_names(metric_name, unit, metric_type)
        if dimension_names and not isinstance(dimension_names, list):
            raise errors.MetricsCacheTypeError("`dimension_names` should be a list of dimension name strings")
        metrics = self.cache.setdefault(metric_type, {})
        if metric_name in metrics:
            logger.warning("Overriding existing key %s:%s", metric_type, metric_name)
        metrics[metric_name] = CachingMetric(metric_name, unit, dimension_names, metric_type, self._outlet)
        return metrics[metric_name]

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> CachingMetric:
        """Return a metric; raises MetricsCacheKeyError for one that was never added."""
        _check_names(metric_name, "", metric_type)
        try:
            return self.cache[metric_type][metric_name]
        except KeyError as error:
            raise errors.MetricsCacheKeyError(
                f"Metric of type '{metric_type}' and name '{metric_name}' doesn't exist"
            ) from error

    def cache_keys(self) -> list[str]:
        """Return `type:name` of each metric."""
        return [f"{kind.value}:{name}" for kind, metrics in self.cache.items() for name in metrics]

    def _record(
        self,
        name: str,
        value: float,
        unit: str,
        dimensions: list[Dimension],
        metric_type: MetricTypes,
        request_id: str | None,
    ) -> None:
        """Record a value of a metric, made now if it is new; what it was first made with stays."""
        try:
            metric = self.get_metric(name, metric_type)
        except errors.MetricsCacheKeyError:
            names = [dimension.name for dimension in dimensions]
            metric = self.add_metric_to_cache(name, unit, names, metric_type)
        metric.add_or_update(value, [dimension.value for dimension in dimensions], request_id)

    def _add_declared(self, config: Mapping[str, object]) -> None:
        for declared in declared_metrics(config):
            self.add_metric_to_cache(*declared)


def request_id_of(request_ids: dict[int, str] | str | None, idx: int | None) -> str | None:
    """Return the id that a value is recorded for: of one request of the batch, or of all."""
    if not isinstance(request_ids, dict):
        return request_ids
    if idx in request_ids:
        return request_ids[idx]
    return ",".join(request_ids.values())


def _with_defaults(dimensions: Sequence[Dimension], *defaults: Dimension) -> list[Dimension]:
    given = {dimension.name for dimension in dimensions}
    return [*dimensions, *(default for default in defaults if default.name not in given)]


def _check_names(metric_name: object, unit: object, metric_type: object) -> None:
    for name, value in (("metric_name", metric_name), ("unit", unit)):
        if not isinstance(value, str):
            raise errors.MetricsCacheTypeError(f"`{name}` must be a str")
    if not isinstance(metric_type, MetricTypes):
        raise errors.MetricsCacheTypeError("`metric_type` must be a MetricTypes enum")


def read_config(content: bytes) -> Mapping[str, object]:
    """Parse a metrics.yaml; empty content stands for TorchServe's own file."""
    if not content:
        return DEFAULT_CONFIG  # PERF: read as YAML it took each worker 4 ms and 0.6 MB
    try:
        parsed = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise errors.MetricsCachePyYamlError(f"Error parsing file: {error}") from error
    if not isinstance(parsed, Mapping):
        raise errors.MetricsCacheValueError("the metrics configuration is no mapping")
    return parsed


def declared_metrics(config: Mapping[str, object]) -> Iterator[Declared]:
    """Yield what `model_metrics` lists, by type; raises at what TorchServe's worker would not start with."""
    if "model_metrics" not in config:
        raise errors.MetricsCacheKeyError("'model_metrics' key not found in yaml file")
    section = config["model_metrics"]
    if not section or not isinstance(section, Mapping):
        raise errors.MetricsCacheValueError("Missing `model_metrics` specification")
    for kind, metrics in section.items():
        if kind not in [member.value for member in MetricTypes]:
            raise errors.MetricsCacheKeyError(f"Invalid metric type: {kind!r}")
        if not isinstance(metrics or [], list):
            raise errors.MetricsCacheValueError(f"the metrics of type {kind} are no list")
        yield from (_declared(metric, MetricTypes(kind)) for metric in metrics or ())


def _declared(metric: object, metric_type: MetricTypes) -> Declared:
    if not isinstance(metric, Mapping):
        raise errors.MetricsCacheValueError(f"a metric is described by a mapping, not {metric!r}")
    missing = [key for key in ("name", "unit", "dimensions") if key not in metric]
    if missing:
        raise errors.MetricsCacheKeyError(f"Key not found in cache spec: {missing[0]!r}")
    return metric["name"], metric["unit"], metric["dimensions"], metric_type
