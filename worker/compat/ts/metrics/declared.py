"""Reads what a metrics.yaml declares of the metrics of models."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import yaml

from ts.metrics import metric_cache_errors as errors
from ts.metrics.metric_type_enum import MetricTypes

#: The metrics of models that TorchServe's own metrics.yaml lists.
DEFAULT_CONFIG = b"""\
model_metrics:
  gauge:
    - {name: HandlerTime, unit: ms, dimensions: [ModelName, Level]}
    - {name: PredictionTime, unit: ms, dimensions: [ModelName, Level]}
"""


class Declared(NamedTuple):
    """One metric, as `add_metric_to_cache` takes it."""

    name: str
    unit: str
    dimension_names: list[str]
    metric_type: MetricTypes


def read_config(content: bytes) -> Mapping[str, object]:
    """Parse a metrics.yaml; empty content stands for TorchServe's own file."""
    try:
        parsed = yaml.safe_load(content or DEFAULT_CONFIG)
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
    return Declared(metric["name"], metric["unit"], metric["dimensions"], metric_type)
