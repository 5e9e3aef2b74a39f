"""The metrics API: Prometheus' text format, as TorchServe's scrapers know it."""

from tests.gateway.fakes import METRICS, Gateway
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


def scrape(path: str, method: str = "GET") -> tuple[int, str, str]:
    gateway = Gateway(lambda ask: messages.MetricsRead(ask.ask, FAMILIES))
    answer = gateway.ask(METRICS, method, path)
    return answer.status_code, answer.headers["content-type"], answer.text


def test_all_metrics_with_their_help_types_and_escapes() -> None:
    assert scrape("/metrics") == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
        '# HELP Requests2XX Answers, "good"\\nones\n'
        "# TYPE Requests2XX counter\n"
        'Requests2XX{Level="Host",} 3.0\n'
        "# HELP wait_seconds Time in a queue\n"
        "# TYPE wait_seconds histogram\n"
        'wait_seconds_bucket{model="a\\"\\\\\\n",le="+Inf",} 2.0\n'
        "wait_seconds_sum 0.25\n"
        "wait_seconds_count +Inf\n"
        "# HELP idle Nothing yet\n"
        "# TYPE idle gauge\n",
    )


def test_any_method_below_any_path() -> None:
    assert scrape("/metrics/more", "POST") == scrape("/metrics")


def test_names_pick_samples_and_an_unknown_one_picks_none() -> None:
    text = scrape("/metrics?name[]=wait_seconds_sum&name%5B%5D=Requests2XX")[2]
    assert [line for line in text.splitlines() if line[0] != "#"] == [
        'Requests2XX{Level="Host",} 3.0',
        "wait_seconds_sum 0.25",
    ]
    assert scrape("/metrics?name[]=nope")[::2] == (200, "")


def test_the_metrics_port_has_nothing_else() -> None:
    assert Gateway().ask(METRICS, "GET", "/ping").status_code == 404
