"""metrics.yaml: what TorchServe reads, and what leaves it without metrics."""

import pytest

from torchrelay.broker.core import metrics_config
from torchrelay.broker.core.metrics_config import Declared, MetricsConfigError, parse
from torchrelay.broker.server import BUILT_IN_METRICS


def test_anchors_and_every_kind_are_read_and_models_get_the_host_as_a_label() -> None:
    config = parse(b"""
dimensions:
  - &level "Level"
  - &host "Hostname"
ts_metrics:
  counter:
    - {name: Requests2XX, unit: Count, dimensions: [*level, *host]}
  gauge:
model_metrics:
  counter:
    - {name: Seen, unit: count, dimensions: []}
  histogram:
    - {name: Share, unit: percent, dimensions: [ModelName, *level]}
""")
    assert config.server == (Declared("Requests2XX", "counter", "Count", ("Level", "Hostname")),)
    assert config.model == (
        Declared("Seen", "counter", "count", ("Hostname",)),
        Declared("Share", "histogram", "percent", ("ModelName", "Level", "Hostname")),
    )


def test_only_what_is_listed_exists() -> None:
    assert parse(b"ts_metrics: {}") == metrics_config.MetricsConfig()


def test_the_built_in_file_can_be_read_and_has_what_we_fill() -> None:
    config = parse(BUILT_IN_METRICS.read_bytes())
    assert metrics_config.LABEL_COUNTS.keys() < {declared.name for declared in config.server}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"text",
        b"{",
        b"\xff\xfe\x00",
        b"!!python/object/apply:os.system ['true']",
        b"ts_metrics: []",
        b"ts_metrics: {counter: {name: x}}",
        b"ts_metrics: {counter: [x]}",
        b"ts_metrics: {counter: [{unit: Count}]}",
        b"ts_metrics: {counter: [{name: '', unit: Count}]}",
        b"ts_metrics: {counter: [{name: x, unit: ''}]}",
        b"ts_metrics: {counter: [{name: 'a b', unit: Count}]}",
        b"ts_metrics: {counter: [{name: x, unit: Count, dimensions: [a b]}]}",
        b"ts_metrics: {counter: [{name: x, unit: Count, dimensions: text}]}",
        b"ts_metrics: {counter: [{name: x, unit: Count, dimensions: [a, a]}]}",
        b"ts_metrics: {counter: [{name: Requests2XX, unit: Count, dimensions: [Level]}]}",
        b"ts_metrics: {counter: [{name: x, unit: Count}], gauge: [{name: x, unit: Count}]}",
    ],
)
def test_a_file_that_cannot_be_meant_is_an_error(content: bytes) -> None:
    with pytest.raises(MetricsConfigError):
        parse(content)
