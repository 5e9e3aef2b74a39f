import copy
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from ts.metrics import metric_cache_errors as errors
from ts.metrics.caching_metric import CachingMetric
from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.metrics.metric_encoder import MetricEncoder
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.metrics_cache import POINT_LIMIT, MetricsCache
from ts.metrics.metrics_store import MetricsStore
from ts.metrics.unit import Units

from torchrelay.shared import clock
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.messages import MetricPoint

MODEL = (("ModelName", "m"), ("Level", "Model"))


def facts(point: MetricPoint) -> tuple[object, ...]:
    return point.name, point.kind, point.unit, point.value, point.dimensions, point.request_ids


def batch_of_two() -> MetricsCache:
    metrics = MetricsCache("m")
    metrics.set_request_ids({0: "a", 1: "b"})
    return metrics


def test_each_call_records_its_kind_unit_and_the_models_dimensions() -> None:
    metrics = batch_of_two()
    metrics.add_counter("C", 2)
    metrics.add_time("T", 1.5, 1, "s")
    metrics.add_size("S", 3, metric_type=MetricTypes.HISTOGRAM)
    metrics.add_percent("P", 42)
    metrics.add_metric("M", 7, "apples", 0, [Dimension("Kind", "red")])
    assert [facts(point) for point in metrics.take_points()] == [
        ("C", "counter", "Count", 2.0, MODEL, ("a", "b")),
        ("T", "gauge", "Seconds", 1.5, MODEL, ("b",)),
        ("S", "histogram", "Megabytes", 3.0, MODEL, ("a", "b")),
        ("P", "gauge", "Percent", 42.0, MODEL, ("a", "b")),
        ("M", "counter", "apples", 7.0, (("Kind", "red"), *MODEL), ("a",)),
    ]


def test_dimensions_that_a_handler_brings_are_not_added_again() -> None:
    metrics = batch_of_two()
    own = [Dimension("Level", "Own")]
    metrics.add_counter("C", 1, None, own)
    assert metrics.take_points()[0].dimensions == (("Level", "Own"), ("ModelName", "m"))
    assert [dimension.name for dimension in own] == ["Level"]


def test_whatever_a_handler_names_its_metrics_by_they_can_be_sent() -> None:
    class Name(str):
        __slots__ = ()

    metrics = MetricsCache("m")
    metrics.set_request_ids({0: "\udcff", 1: "b"})
    metrics.add_metric(Name("C"), 1, Name("apples"), None, [Dimension(Name("Kind"), "\ud800")])
    [point] = points = metrics.take_points()
    assert (type(point.name), point.dimensions[0]) == (str, ("Kind", "\\ud800"))
    assert codec.decode(codec.encode(m.Measured("h", tuple(points)), 0))[0] == m.Measured("h", tuple(points))


def test_an_error_belongs_to_no_request() -> None:
    metrics = batch_of_two()
    metrics.add_error("E", 1)
    assert facts(metrics.take_points()[0]) == ("E", "counter", "unit", 1.0, (("Level", "Error"),), ())


def test_points_carry_the_wall_clock_and_are_taken_once() -> None:
    metrics = MetricsCache("m")
    before = clock.wall_ms()
    metrics.add_counter("C", 1)
    (point,) = metrics.take_points()
    assert before <= point.at_ms <= clock.wall_ms()
    assert metrics.take_points() == []


def test_while_the_model_loads_one_random_id_stands_for_the_request() -> None:
    metrics = MetricsCache("m")
    metrics.add_metric("Loaded", 1, "count")
    metrics.add_metric("Loaded", 1, "count", 3)
    first, second = metrics.take_points()
    assert re.fullmatch(r"[0-9a-f-]{36}", first.request_ids[0])
    assert first.request_ids == second.request_ids
    assert first.dimensions == MODEL


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("ms", "Milliseconds"), ("s", "Seconds"), ("percent", "Percent"), ("count", "Count"),
        ("MB", "Megabytes"), ("GB", "Gigabytes"), ("kB", "Kilobytes"), ("B", "Bytes"), ("", "unit"),
        ("furlongs", "furlongs"),
    ],
)  # fmt: skip
def test_units_are_spelled_out(short: str, long: str) -> None:
    metrics = MetricsCache("m")
    metrics.add_metric("M", 1, short)
    assert metrics.take_points()[0].unit == long
    assert Units().units[None] == "unit"


def test_units_that_a_kind_of_metric_cannot_have_are_refused() -> None:
    metrics = MetricsCache("m")
    with pytest.raises(ValueError, match="timed metric should be one of"):
        metrics.add_time("T", 1, unit="min")
    with pytest.raises(ValueError, match="size based metric is one of"):
        metrics.add_size("S", 1, unit="TB")
    assert metrics.take_points() == []


@pytest.mark.parametrize(
    ("value", "dimensions", "reason"),
    [
        (-1, ["a"], "Counter metric update value cannot be negative"),
        (1, ["a", "b"], "should correspond to Dimension names"),
        ("much", ["a"], "'<' not supported"),
        (None, ["a"], "'<' not supported"),
        (10**400, ["a"], "too large"),
    ],
)
def test_what_cannot_be_recorded_is_logged_and_the_handler_goes_on(
    caplog: pytest.LogCaptureFixture, value: float, dimensions: list[str], reason: str
) -> None:
    metrics = MetricsCache("m")
    metric = metrics.add_metric_to_cache("C", "count", ["One"])
    metric.add_or_update(value, dimensions)
    assert metrics.take_points() == []
    assert reason in caplog.text
    metric.add_or_update(1, ["a"])
    assert [point.dimensions for point in metrics.take_points()] == [(("One", "a"),)]


def test_a_metric_keeps_the_dimensions_it_was_first_made_with(caplog: pytest.LogCaptureFixture) -> None:
    metrics = batch_of_two()
    metrics.add_metric_to_cache("C", "count", ["ModelName", "Level"])
    metrics.add_counter("C", 1, dimensions=[Dimension("Extra", "x")])
    assert metrics.take_points() == []
    assert "Failed to update metric with name:C" in caplog.text


def test_an_added_metric_has_no_dimensions_of_its_own() -> None:
    metrics = MetricsCache("m")
    metrics.add_metric_to_cache("C", "count").add_or_update(1)
    assert facts(metrics.take_points()[0]) == ("C", "counter", "Count", 1.0, (), ())


def test_updating_with_dimensions_replaces_those_of_the_metric() -> None:
    metrics = MetricsCache("m")
    metric = metrics.add_metric_to_cache("C", "count", ["One"])
    metric.update(1, "r1,r2", [Dimension("A", "1"), Dimension("B", "2")])
    (point,) = metrics.take_points()
    assert (point.dimensions, point.request_ids) == ((("A", "1"), ("B", "2")), ("r1", "r2"))


def test_a_metric_is_found_by_name_and_type() -> None:
    metrics = MetricsCache("m")
    added = metrics.add_metric_to_cache("C", "count")
    assert metrics.get_metric("C") is added
    with pytest.raises(errors.MetricsCacheKeyError, match="name 'C' doesn't exist"):
        metrics.get_metric("C", MetricTypes.GAUGE)


@pytest.mark.parametrize(
    "call",
    [
        lambda metrics: metrics.add_metric_to_cache(1, "count"),
        lambda metrics: metrics.add_metric_to_cache("C", None),
        lambda metrics: metrics.add_metric_to_cache("C", "count", "ab"),
        lambda metrics: metrics.add_metric_to_cache("C", "count", [], "counter"),
        lambda metrics: metrics.get_metric("C", "counter"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused(call: Callable[[MetricsCache], object]) -> None:
    with pytest.raises(TypeError):
        call(MetricsCache("m"))


def test_points_that_nobody_takes_are_bounded() -> None:
    metrics = MetricsCache("m")
    for value in range(POINT_LIMIT + 50):
        metrics.add_counter("C", value)
    points = metrics.take_points()
    assert len(points) == POINT_LIMIT
    assert points[-1].value == POINT_LIMIT + 49


def test_a_copied_context_records_into_the_same_points_for_its_own_requests() -> None:
    metrics = batch_of_two()
    view = copy.deepcopy({"metrics": metrics})["metrics"]
    view.set_request_ids({0: "c"})
    view.add_counter("C", 1)
    metrics.add_counter("C", 1)
    assert [point.request_ids for point in metrics.take_points()] == [("c",), ("a", "b")]


METRICS_YAML = b"""
dimensions: [&name "ModelName"]
model_metrics:
  counter:
    - {name: Seen, unit: count, dimensions: [*name, "Camera"]}
  histogram:
    - {name: Size, unit: kB, dimensions: []}
"""


def test_metrics_of_a_metrics_yaml_are_there_from_the_start(tmp_path: Path) -> None:
    metrics = MetricsCache("m")
    metrics.declare(METRICS_YAML)
    metrics.get_metric("Seen").add_or_update(1, ["m", "front"])
    assert metrics.take_points()[0].dimensions == (("ModelName", "m"), ("Camera", "front"))
    file = tmp_path / "metrics.yaml"
    file.write_bytes(METRICS_YAML)
    from_file = MetricsCacheYamlImpl(str(file))
    assert from_file.cache_keys() == []
    from_file.initialize_cache()
    assert from_file.cache_keys() == metrics.cache_keys() == ["counter:Seen", "histogram:Size"]


def test_a_cache_that_a_handler_makes_itself_logs_its_values_for_the_server_to_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "metrics.yaml"
    file.write_bytes(METRICS_YAML)
    metrics = MetricsCacheYamlImpl(str(file))
    metrics.initialize_cache()
    metrics.get_metric("Seen").add_or_update(2.5, ["m", "front"])
    metrics.add_counter("Other", 3)
    assert [message.partition("|#type")[0] for message in caplog.messages] == [
        "[METRICS]Seen.Count:2.5|#ModelName:m,Camera:front",
        "[METRICS]Other.Count:3|#Level:Error",
    ]
    assert metrics.take_points() == []


def test_without_a_metrics_yaml_torchserves_own_are_declared() -> None:
    metrics = MetricsCache("m")
    metrics.declare(b"")
    assert metrics.cache_keys() == ["gauge:HandlerTime", "gauge:PredictionTime"]
    assert metrics.get_metric("HandlerTime", MetricTypes.GAUGE).dimension_names == ["ModelName", "Level"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"model_metrics: [", errors.MetricsCachePyYamlError),
        (b"\xff\xfe\x00", errors.MetricsCachePyYamlError),
        (b"just words", errors.MetricsCacheValueError),
        (b"ts_metrics: {}", errors.MetricsCacheKeyError),
        (b"model_metrics:", errors.MetricsCacheValueError),
        (b"model_metrics: [a]", errors.MetricsCacheValueError),
        (b"model_metrics: {meter: []}", errors.MetricsCacheKeyError),
        (b"model_metrics: {gauge: [a]}", errors.MetricsCacheValueError),
        (b"model_metrics: {gauge: 3}", errors.MetricsCacheValueError),
        (b"model_metrics: {gauge: [{name: a, unit: ms}]}", errors.MetricsCacheKeyError),
        (b"model_metrics: {gauge: [{name: 1, unit: ms, dimensions: []}]}", errors.MetricsCacheTypeError),
        (b"model_metrics: {gauge: [{name: a, unit: ms, dimensions: b}]}", errors.MetricsCacheTypeError),
    ],
)
def test_a_metrics_yaml_that_cannot_be_meant_is_refused(content: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        MetricsCache("m").declare(content)


def test_a_metrics_yaml_that_is_not_there_is_an_io_error(tmp_path: Path) -> None:
    with pytest.raises(errors.MetricsCacheIOError):
        MetricsCacheYamlImpl(str(tmp_path / "none.yaml"))
    with pytest.raises(errors.MetricsCacheTypeError):
        MetricsCacheYamlImpl("")


#: Name, unit, value, dimensions, then type, host, time and requests.
LINE = r"\[METRICS\]C\.Count:1\|#A:x,B:y\|#type:COUNTER\|#hostname:[^,]+,\d{10},r1,r2"


def test_a_metric_outside_the_cache_logs_its_values(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    CachingMetric("C", "count", ["A", "B"]).add_or_update(1, ["x", "y"], "r1,r2")
    assert re.fullmatch(LINE, caplog.messages[-1])


def test_an_older_metric_logs_its_updates(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    metric = Metric("C", 5, "count", [Dimension("A", "x"), Dimension("B", "y")], "r1,r2")
    metric.update(1)
    assert re.fullmatch(LINE, caplog.messages[-1])
    metric.reset()
    assert "C.Count:0|" in caplog.messages[-1]
    assert re.fullmatch(r"C\.Count:5\|#A:x,B:y\|#hostname:[^,]+,\d{10},r1,r2", str(metric))
    encoded = MetricEncoder().encode(metric)
    assert '"MetricName": "C"' in encoded
    assert '{"Name": "A", "Value": "x"}' in encoded


def test_the_older_store_keeps_what_is_to_be_emitted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = MetricsStore({0: "a", 1: "b"}, "m")
    store.add_counter("C", 1)
    store.add_time("T", 2, 1, "s", [Dimension("D", "d")])
    store.add_size("S", 3)
    store.add_percent("P", 4)
    store.add_metric("M", 5, "apples")
    store.add_error("E", 6)
    assert [str(metric).partition("|#hostname")[0] for metric in store.store] == [
        "C.Count:1|#ModelName:m,Level:Model",
        "T.Seconds:2|#D:d,ModelName:m,Level:Model",
        "S.Megabytes:3|#ModelName:m,Level:Model",
        "P.Percent:4|#ModelName:m,Level:Model",
        "M.apples:5|#ModelName:m,Level:Model",
        "E.unit:6|#Level:Error",
    ]
    store.add_counter("C", 7)
    assert len(store.store) == 6
    assert "C.Count:7|" in caplog.messages[-1]
    with pytest.raises(ValueError, match="timed metric"):
        store.add_time("T", 1, unit="min")
    with pytest.raises(ValueError, match="size based metric is one of"):
        store.add_size("S", 1, unit="TB")
