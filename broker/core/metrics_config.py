"""Which of TorchServe's metrics exist: reads a metrics.yaml."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import yaml

Kind = Literal["counter", "gauge", "histogram"]

#: What Prometheus takes as a name; anything else would spoil the whole answer.
NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
#: The label that the metrics of models get, whoever declared them.
HOSTNAME = "Hostname"
#: How many labels the metrics have that we fill ourselves; theirs may be renamed, not more or fewer.
LABEL_COUNTS = {
    "Requests2XX": 2,
    "Requests4XX": 2,
    "Requests5XX": 2,
    "ts_inference_requests_total": 3,
    "ts_inference_latency_microseconds": 3,
    "ts_queue_latency_microseconds": 3,
    "QueueTime": 2,
    "WorkerThreadTime": 2,
    "WorkerLoadTime": 3,
}


class MetricsConfigError(ValueError):
    """A metrics.yaml that can't be used; then there are none of TorchServe's metrics."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric that exists; `labels` in the order in which they are written."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """The metrics of the server and its hosts, and those of models."""

    server: tuple[Declared, ...] = ()
    model: tuple[Declared, ...] = ()


def parse(content: bytes) -> MetricsConfig:
    """Read a metrics.yaml. Raises MetricsConfigError, as TorchServe then has no metrics at all."""
    try:
        root = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise MetricsConfigError(f"it is no YAML: {error}") from error
    if not isinstance(root, Mapping):
        raise MetricsConfigError("it is no mapping")
    config = MetricsConfig(
        tuple(_section(root, "ts_metrics", ())), tuple(_section(root, "model_metrics", (HOSTNAME,)))
    )
    names = [declared.name for declared in (*config.server, *config.model)]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise MetricsConfigError(f"{min(twice)} is listed twice")
    return config


def _section(root: Mapping[object, object], section: str, more: tuple[str, ...]) -> Iterator[Declared]:
    kinds = root.get(section)
    if kinds is None:
        return
    if not isinstance(kinds, Mapping):
        raise MetricsConfigError(f"{section} is no mapping")
    for kind in get_args(Kind):
        entries = kinds.get(kind)
        if entries is not None and not isinstance(entries, list):
            raise MetricsConfigError(f"{section}.{kind} is no list")
        for entry in entries or ():
            yield _declared(entry, kind, f"{section}.{kind}", more)


def _declared(entry: object, kind: Kind, where: str, more: tuple[str, ...]) -> Declared:
    if not isinstance(entry, Mapping):
        raise MetricsConfigError(f"{where} has an entry that is no mapping")
    name, unit = entry.get("name"), entry.get("unit")
    labels = entry.get("dimensions") or ()
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise MetricsConfigError(f"{where} has an entry without a name that Prometheus takes: {name!r}")
    if not isinstance(unit, str) or not unit:
        raise MetricsConfigError(f"{where}.{name} has no unit")
    if not isinstance(labels, list | tuple) or not all(
        isinstance(label, str) and LABEL.fullmatch(label) for label in labels
    ):
        raise MetricsConfigError(f"{where}.{name} has dimensions that are no labels")
    labels = (*labels, *(label for label in more if label not in labels))
    if LABEL_COUNTS.get(name, len(labels)) != len(labels) or len(set(labels)) != len(labels):
        raise MetricsConfigError(f"{where}.{name} needs {LABEL_COUNTS.get(name, 'different')} dimensions")
    return Declared(name, kind, unit, labels)
