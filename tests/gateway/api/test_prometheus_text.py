"""Prometheus' text format, as TorchServe's scrapers know it."""

from torchrelay.gateway.api import prometheus_text
from torchrelay.shared.wire import messages

FAMILIES = (
    messages.MetricFamily(
        "Requests2XX", "counter", 'Answers, "good"\nones', (messages.Sample("", (("Level", "Host"),), 3.0),)
    ),
    messages.MetricFamily(
        "wait_seconds",
        "histogram",
        "Time in a queue",
        (
            messages.Sample("_bucket", (("model", 'a"\\\n'), ("le", "+Inf")), 2.0),
            messages.Sample("_sum", (), 0.25),
            messages.Sample("_count", (), float("inf")),
        ),
    ),
    messages.MetricFamily("idle", "gauge", "Nothing yet", ()),
)


def text(*names: str) -> str:
    return prometheus_text.render(FAMILIES, frozenset(names)).decode()


def test_all_metrics_with_their_help_types_and_escapes() -> None:
    assert text() == (
        '# HELP Requests2XX Answers, "good"\\nones\n'
        "# TYPE Requests2XX counter\n"
        'Requests2XX{Level="Host",} 3.0\n'
        "# HELP wait_seconds Time in a queue\n"
        "# TYPE wait_seconds histogram\n"
        'wait_seconds_bucket{model="a\\"\\\\\\n",le="+Inf",} 2.0\n'
        "wait_seconds_sum 0.25\n"
        "wait_seconds_count +Inf\n"
        "# HELP idle Nothing yet\n"
        "# TYPE idle gauge\n"
    )


def test_names_pick_samples_and_an_unknown_one_picks_none() -> None:
    assert [line for line in text("wait_seconds_sum", "Requests2XX").splitlines() if line[0] != "#"] == [
        'Requests2XX{Level="Host",} 3.0',
        "wait_seconds_sum 0.25",
    ]
    assert text("nope") == ""
