"""TorchServe's metrics of the fleet, as its scrapers and the readers of its logs know them."""

from typing import Any

import pytest

from tests.broker.rig import GATEWAY, NODE, Rig, settings
from torchrelay.broker.core import metrics_config, torchserve_metrics
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.core.torchserve_metrics import Metrics
from torchrelay.broker.server import BUILT_IN_METRICS
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.reply_parts import joined

REQUESTS = "ts_inference_requests_total"
LATENCY = "ts_inference_latency_microseconds"
QUEUED = "ts_queue_latency_microseconds"


def scraped(bench: Rig) -> dict[str, m.MetricFamily]:
    """Ask for metrics, which come in parts where they are many."""
    bench.say(GATEWAY, m.ReadMetrics(99))
    parts = bench.take(GATEWAY, m.MetricsRead)
    while not (parts and parts[-1].is_last):
        bench.feed()
        parts += bench.take(GATEWAY, m.MetricsRead)
    assert all(len(codec.encode(part, 1)) < codec.HEAD_LIMIT_BYTES / 8 for part in parts)
    read = joined(parts)
    assert isinstance(read, m.MetricsRead)
    return {family.name: family for family in read.families}


def series(families: dict[str, m.MetricFamily], name: str) -> dict[tuple[str, ...], float]:
    """A family's samples without suffix, by the values of their labels."""
    return {tuple(v for _, v in s.labels): s.value for s in families[name].samples if not s.suffix}


def point(
    name: str = "PredictionTime", value: float = 1.5, **changes: Any
) -> m.MetricPoint:  # Any: its fields
    return m.MetricPoint(**{
        "name": name, "kind": "gauge", "unit": "ms", "value": value,
        "dimensions": (("ModelName", "m"), ("Level", "Model")), "at_ms": 5000, **changes,
    })  # fmt: skip


def measured(bench: Rig, worker: bytes, *points: m.MetricPoint, hostname: str = "far") -> None:
    bench.say(worker, m.Measured(hostname, points))


# Requests


def test_every_metric_of_torchserve_has_its_help_from_the_start_even_without_a_value() -> None:
    bench = Rig()
    bench.join_gateway()
    families = scraped(bench)
    expected = metrics_config.parse(BUILT_IN_METRICS.read_bytes())
    assert [one.name for one in (*expected.server, *expected.model)] == list(families)[:21]
    assert families[REQUESTS].help == "Torchserve prometheus counter metric with unit: Count"
    assert families["HandlerTime"].help == "Torchserve prometheus gauge metric with unit: ms"
    assert all(not families[one.name].samples for one in (*expected.server, *expected.model))


def test_requests_count_by_model_and_by_the_version_that_the_url_named() -> None:
    bench = Rig()
    (worker,) = bench.ready_rig(batch_size=3)
    bench.submit(1, 2)
    bench.submit(3, version="1.0")
    bench.submit(4, model="nobody")
    bench.submit(5, is_describe=True)
    bench.pass_time(0.5)
    for lease in bench.take(worker, m.Assign):
        bench.complete(worker, lease)
    families = scraped(bench)
    assert series(families, REQUESTS) == {("m", "default", "here"): 2.0, ("m", "1.0", "here"): 1.0}
    assert (
        series(families, LATENCY).keys()
        == series(families, QUEUED).keys()
        == series(families, REQUESTS).keys()
    )
    assert [key for key, _ in families[REQUESTS].samples[0].labels] == [
        "model_name",
        "model_version",
        "hostname",
    ]


def test_latency_has_the_queue_in_it_and_the_queue_has_not_the_handler() -> None:
    bench = Rig()
    (worker,) = bench.ready_rig()
    bench.submit(1)
    lease = bench.only(worker, m.Assign)
    bench.now += 0.25
    bench.submit(2)
    bench.now += 0.25
    bench.complete(worker, lease)
    bench.now += 0.125
    bench.complete(worker, bench.only(worker, m.Assign))
    families = scraped(bench)
    assert series(families, LATENCY) == {("m", "default", "here"): 875_000.0}
    assert series(families, QUEUED) == {("m", "default", "here"): 250_000.0}
    assert series(families, "QueueTime") == {("Host", "here"): 250.0}
    assert series(families, "WorkerThreadTime") == {("Host", "here"): 124.0}


def test_a_request_that_failed_counts_but_has_no_latency() -> None:
    bench = Rig()
    (worker,) = bench.ready_rig()
    bench.submit(1)
    bench.complete(worker, bench.only(worker, m.Assign), status=503)
    families = scraped(bench)
    assert series(families, REQUESTS) == {("m", "default", "here"): 1.0}
    assert series(families, LATENCY) == series(families, QUEUED) == {}
    assert series(families, "torchrelay_requests_total") == {("m", "1.0", "failed"): 1.0}


def test_a_request_that_was_refused_counts_as_one() -> None:
    bench = Rig(settings(job_queue_size=1))
    bench.join_gateway()
    bench.register()
    bench.submit(1, 2)
    assert series(scraped(bench), REQUESTS) == {("m", "default", "here"): 2.0}


def test_answers_of_gateways_add_up_and_what_is_neither_2xx_nor_4xx_is_5xx() -> None:
    bench = Rig()
    bench.join_gateway()
    bench.join_gateway(b"g-2")
    bench.say(GATEWAY, m.GatewayBeat({"2xx": 3, "3xx": 1, "5xx": 1, "nonsense": 7}))
    bench.say(b"g-2", m.GatewayBeat({"2xx": 4}))
    families = scraped(bench)
    assert series(families, "Requests2XX") == {("Host", "here"): 7.0}
    assert series(families, "Requests5XX") == {("Host", "here"): 2.0}
    assert series(families, "Requests4XX") == {}


def test_wrong_keys_of_all_gateways_add_up() -> None:
    bench = Rig()
    bench.join_gateway()
    bench.join_gateway(b"g-2")
    bench.say(GATEWAY, m.GatewayBeat({}, wrong_keys=3))
    bench.say(b"g-2", m.GatewayBeat({}, wrong_keys=4))
    assert series(scraped(bench), "torchrelay_wrong_keys_total") == {(): 7.0}


def test_a_workers_load_time_is_there_as_long_as_the_worker() -> None:
    bench = Rig()
    bench.join_gateway()
    bench.join_node()
    bench.register()
    order = bench.only(NODE, m.StartWorker)
    bench.say(NODE, m.WorkerProgressed(order.worker_id, "loading", pid=7))
    bench.now += 1.5
    bench.worker_ready(order)
    assert series(scraped(bench), "WorkerLoadTime") == {
        (f"W-{order.worker_id}-m_1.0", "Host", "here"): 1500.0
    }
    bench.exit_worker(order.worker_id)
    assert series(scraped(bench), "WorkerLoadTime") == {}


def test_counts_of_a_model_stay_when_it_is_unregistered() -> None:
    bench = Rig()
    bench.ready_rig()
    bench.submit(1)
    bench.say(GATEWAY, m.UnregisterModel(3, "m", None))
    assert series(scraped(bench), REQUESTS) == {("m", "default", "here"): 1.0}


# Handlers and hosts


def test_counters_of_handlers_add_up_gauges_keep_the_last_and_the_host_is_a_label() -> None:
    bench = Rig(settings(model_metrics_auto_detect=True))
    workers = bench.ready_rig(workers=2)
    for worker, value in zip(workers, (1.0, 2.0), strict=True):
        measured(bench, worker, point(value=value), point("Seen", value, kind="counter"))
    families = scraped(bench)
    assert series(families, "PredictionTime") == {("m", "Model", "far"): 2.0}
    assert series(families, "Seen") == {("m", "Model", "far"): 3.0}
    assert families["Seen"].samples[0].labels[-1] == ("Hostname", "far")
    assert families["Seen"].help == "Torchserve prometheus counter metric with unit: ms"


def test_a_histogram_has_the_buckets_of_torchserves_library() -> None:
    bench = Rig(settings(model_metrics_auto_detect=True))
    (worker,) = bench.ready_rig()
    measured(bench, worker, *(point("Share", value, kind="histogram") for value in (0.004, 0.3, 70.0)))
    samples = scraped(bench)["Share"].samples
    buckets = {dict(s.labels)["le"]: s.value for s in samples if s.suffix == "_bucket"}
    assert list(buckets) == [
        "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "0.5", "0.75", "1.0", "2.5", "5.0", "7.5",
        "10.0", "+Inf",
    ]  # fmt: skip
    assert (buckets["0.005"], buckets["0.25"], buckets["0.5"], buckets["+Inf"]) == (1.0, 1.0, 2.0, 3.0)
    assert {s.suffix: s.value for s in samples if s.suffix != "_bucket"} == {"_count": 3.0, "_sum": 70.304}


def test_what_nobody_listed_is_dropped_and_counted_unless_it_shall_be_detected() -> None:
    bench = Rig()
    (worker,) = bench.ready_rig()
    measured(bench, worker, point("Mine"), point("Mine"))
    families = scraped(bench)
    assert "Mine" not in families
    assert series(families, "torchrelay_metric_points_dropped_total") == {("not listed",): 2.0}


def test_a_node_tells_of_its_host_and_of_what_handlers_printed() -> None:
    bench = Rig()
    bench.join_gateway()
    bench.join_node()
    cpu = point("CPUUtilization", 12.5, unit="Percent", dimensions=(("Level", "Host"),))
    gpu = point("GPUMemoryUsed", 3.0, unit="Megabytes", dimensions=(("Level", "Host"), ("DeviceId", "0")))
    memory = point("MemoryUsed", 2.0, unit="Megabytes", dimensions=(("Level", "Host"),))
    bench.say(NODE, m.NodeMeasured("far", (cpu, gpu, memory, point(value=3.5))))
    families = scraped(bench)
    assert series(families, "CPUUtilization") == {("Host", "far"): 12.5}
    assert series(families, "GPUMemoryUsed") == {("Host", "0", "far"): 3.0}
    assert series(families, "PredictionTime") == {("m", "Model", "far"): 3.5}
    assert series(families, "torchrelay_device_memory_bytes")["n-1", "cpu", "taken"] == 2 << 20


def test_a_handler_cannot_touch_the_servers_own_metrics() -> None:
    bench = Rig(settings(model_metrics_auto_detect=True))
    (worker,) = bench.ready_rig()
    for name in ("Requests2XX", "CPUUtilization", "torchrelay_queue_depth"):
        measured(bench, worker, point(name, 1e9, kind="counter", dimensions=(("Level", "Host"),)))
    bench.say(NODE, m.NodeMeasured("far", (point("Requests2XX", 1e9, dimensions=(("Level", "Host"),)),)))
    families = scraped(bench)
    assert series(families, "Requests2XX") == series(families, "CPUUtilization") == {}
    assert 1e9 not in series(families, "torchrelay_queue_depth").values()


HOSTILE = [
    point("not a name"),
    point("brace{"),
    point("line\nbreak"),
    point(""),
    point("x" * 300),
    point("Label", dimensions=(("not a label", "x"),)),
    point("Label", dimensions=(("a", "x"), ("a", "y"))),
    point("Label", dimensions=(("Hostname", "x"),)),
    point("Label", dimensions=tuple((f"d{n}", "x") for n in range(40))),
    point("Value", dimensions=(("a", "x" * 300),)),
    point("Count", float("nan"), kind="counter"),
    point("Count", float("inf"), kind="counter"),
    point("Count", -1.0, kind="counter"),
    point("Bucket", float("nan"), kind="histogram"),
    point("PredictionTime", dimensions=(("ModelName", "m"),)),
]


@pytest.mark.parametrize("bad", HOSTILE, ids=lambda bad: f"{bad.name[:10]!r}-{bad.value}")
def test_points_that_would_spoil_the_answer_are_dropped(bad: m.MetricPoint) -> None:
    bench = Rig(settings(model_metrics_auto_detect=True))
    (worker,) = bench.ready_rig()
    measured(bench, worker, bad)
    families = scraped(bench)
    assert sum(series(families, "torchrelay_metric_points_dropped_total").values()) == 1.0
    assert not families.get(bad.name) or not families[bad.name].samples


def gpus_of_workers(bench: Rig) -> dict[str, m.GpuUse | None]:
    bench.say(GATEWAY, m.DescribeModel(98, "m", None))
    (version,) = bench.only(GATEWAY, m.ModelDescribed).versions
    return {worker.device: worker.gpu for worker in version.workers}


def test_each_worker_is_described_with_what_its_own_gpu_last_had_to_do() -> None:
    bench = Rig()
    bench.join_gateway()
    bench.join_node(devices=tuple(m.Device(f"cuda:{number}", "gpu") for number in range(2)))
    bench.register(initial_workers=2)
    assert gpus_of_workers(bench) == {"cuda:0": None, "cuda:1": None}
    uses = tuple(m.GpuUse(number, number << 20, 10 + number, number) for number in range(9))
    bench.say(NODE, m.NodeMeasured("far", (), uses))
    bench.say(NODE, m.NodeMeasured("far", (point(value=3.5),)))  # what a handler printed
    assert gpus_of_workers(bench) == {"cuda:0": uses[0], "cuda:1": uses[1]}
    taken = series(scraped(bench), "torchrelay_device_memory_bytes")
    assert {key: value for key, value in taken.items() if key[2] == "taken"} == {
        ("n-1", "cuda:0", "taken"): 0.0,
        ("n-1", "cuda:1", "taken"): float(1 << 20),
    }
    bench.say(NODE, m.NodeMeasured("far", (), ()))  # the driver is gone
    assert gpus_of_workers(bench) == {"cuda:0": None, "cuda:1": None}


def test_absurd_memory_does_not_reach_the_gauges() -> None:
    bench = Rig()
    bench.join_gateway()
    bench.join_node()
    for value in (float("nan"), float("inf"), 1e308, -1.0):
        bench.say(NODE, m.NodeMeasured("far", (point("MemoryUsed", value, dimensions=(("Level", "Host"),)),)))
    assert ("n-1", "cpu", "taken") not in series(scraped(bench), "torchrelay_device_memory_bytes")


def test_labels_without_end_push_out_the_oldest() -> None:
    bench = Rig(settings(model_metrics_auto_detect=True))
    (worker,) = bench.ready_rig()
    for number in range(torchserve_metrics.DETECTED_LIMIT + 5):
        measured(bench, worker, point(f"Name{number}", kind="histogram", dimensions=(("a", "x"),)))
    for start in range(0, 3000, 1000):
        many = (point("PredictionTime", dimensions=(("a", f"{n}"), ("b", "x" * 200)))
                for n in range(start, start + 1000))  # fmt: skip
        measured(bench, worker, *many)
    families = scraped(bench)
    assert len(families["PredictionTime"].samples) == torchserve_metrics.SERIES_LIMIT
    assert ("2999", "x" * 200, "far") in series(families, "PredictionTime")
    assert sum(name.startswith("Name") for name in families) == torchserve_metrics.DETECTED_LIMIT


def test_samples_of_all_reported_metrics_together_are_bounded() -> None:
    bench = Rig(settings(model_metrics_auto_detect=True))
    (worker,) = bench.ready_rig()
    for name in range(30):
        many = (point(f"Name{name}", kind="histogram", dimensions=(("a", f"{n}"),)) for n in range(100))
        measured(bench, worker, *many)
    read = scraped(bench)
    reported = sum(len(family.samples) for name, family in read.items() if name.startswith("Name"))
    assert torchserve_metrics.SAMPLES_LIMIT - 20 < reported <= torchserve_metrics.SAMPLES_LIMIT
    assert read["torchrelay_metric_points_dropped_total"].samples


def test_models_without_end_do_not_make_series_without_end() -> None:
    stats = Stats()
    for number in range(3 * torchserve_metrics.SERIES_LIMIT):
        version = stats.versions[f"m{number}", "1.0"]
        version.unnamed.requests += 1
        stats.touch((f"m{number}", "1.0"), version)
    families = Metrics(metrics_config.parse(BUILT_IN_METRICS.read_bytes())).families(stats, 0)
    samples = [sample for one in families if one and one.name == REQUESTS for sample in one.samples]
    assert len(samples) == torchserve_metrics.SERIES_LIMIT
    assert all(sample.value == 1.0 for sample in samples)


# Modes


def test_in_log_mode_everything_becomes_lines_and_the_api_has_ours_alone() -> None:
    bench = Rig(settings(metrics_mode="log"))
    (worker,) = bench.ready_rig()
    bench.submit(1, 2)
    assert [(line.name, line.value) for line in bench.lines] == [(REQUESTS, 2.0)]
    bench.complete(worker, bench.only(worker, m.Assign))
    measured(bench, worker, point(request_ids=("r-1",)), point("Mine"))
    lines = {line.name: line for line in bench.lines[1:]}
    assert list(lines) == [LATENCY, QUEUED, "QueueTime", "WorkerThreadTime", "PredictionTime"]
    assert lines[LATENCY].labels == (("model_name", "m"), ("model_version", "default"))
    assert (lines["PredictionTime"].is_model, lines["PredictionTime"].request_ids) == (True, ("r-1",))
    assert all(name.startswith("torchrelay_") for name in scraped(bench))


def test_a_line_has_its_time_also_if_somebody_asks_for_metrics_in_the_same_moment() -> None:
    bench = Rig(settings(metrics_mode="log"))
    bench.ready_rig()
    bench.now += 5
    submit = m.Submit((m.SubmitItem(1, "m", None, False, b""),))
    bench.feed(bench.event(GATEWAY, submit), bench.event(GATEWAY, m.ReadMetrics(9)))
    assert [line.at_ms for line in bench.lines] == [5000]


def test_in_legacy_mode_the_three_counters_stay_with_the_api_and_the_rest_becomes_lines() -> None:
    bench = Rig(settings(metrics_mode="legacy", own_metrics=False))
    (worker,) = bench.ready_rig()
    bench.submit(1)
    bench.complete(worker, bench.only(worker, m.Assign))
    bench.say(GATEWAY, m.GatewayBeat({"2xx": 1}))
    assert {line.name for line in bench.lines} == {"QueueTime", "WorkerThreadTime", "Requests2XX"}
    families = scraped(bench)
    assert set(families) == {REQUESTS, LATENCY, QUEUED}
    assert series(families, REQUESTS) == {("m", "default", "here"): 1.0}


def test_in_prometheus_mode_there_are_no_lines() -> None:
    bench = Rig()
    (worker,) = bench.ready_rig()
    bench.submit(1)
    bench.complete(worker, bench.only(worker, m.Assign))
    assert bench.lines == []


def test_without_own_metrics_log_mode_leaves_the_api_empty() -> None:
    bench = Rig(settings(metrics_mode="log", own_metrics=False))
    bench.ready_rig()
    assert scraped(bench) == {}


def test_a_worker_gets_the_operators_file() -> None:
    bench = Rig()
    bench.core.metrics.file_content = b"model_metrics: {}"
    bench.join_gateway()
    bench.join_node()
    bench.register()
    order = bench.only(NODE, m.StartWorker)
    assert order.metrics_config == b"model_metrics: {}"
