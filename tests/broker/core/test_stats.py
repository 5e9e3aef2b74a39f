"""Counters and histograms of the fleet."""

import pytest

from torchrelay.broker.core.stats import Histogram, Stats, samples_of
from torchrelay.broker.core.torchserve_metrics import Metrics


@pytest.mark.parametrize("together", [True, False])
def test_a_histogram_counts_up_to_each_bound_as_prometheus_does(together: bool) -> None:
    histogram = Histogram((1.0, 2.0))
    values = [0.5, 1.0, 1.5, 2.0, 9.0]
    if together:
        histogram.observe_all(values)
    else:
        for value in values:
            histogram.observe(value)
    samples = samples_of((("model", "m"),), histogram)
    assert [(dict(one.labels).get("le"), one.value) for one in samples if one.suffix == "_bucket"] == [
        ("1.0", 2.0),
        ("2.0", 4.0),
        ("+Inf", 5.0),
    ]
    assert {one.suffix: one.value for one in samples if one.suffix != "_bucket"} == {
        "_count": 5.0,
        "_sum": 14.0,
    }
    assert all(("model", "m") in one.labels for one in samples)


def test_a_version_has_statistics_from_its_first_use() -> None:
    stats = Stats()
    first = stats.versions["m", "1.0"]
    first.submitted = 3
    assert stats.versions["m", "1.0"] is first


def test_a_version_whose_sums_have_changed_is_read_once() -> None:
    stats = Stats()
    version = stats.versions["m", "1.0"]
    stats.touch(("m", "1.0"), version)
    assert version.is_touched
    assert stats.touched == [(("m", "1.0"), version)]
    version.named.requests = 5
    list(Metrics().families(stats, 0))
    assert (version.is_touched, version.named.requests, stats.touched) == (False, 0, [])
