"""The metrics port: one route, which any method reads, below any path."""

from tests.gateway.fakes import METRICS, Gateway
from torchrelay.gateway.api import metrics
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
    return metrics.render(FAMILIES, frozenset(names)).decode()


def scrape(path: str, method: str = "GET") -> tuple[int, str, str]:
    gateway = Gateway(lambda ask: messages.MetricsRead(ask.ask, FAMILIES))
    answer = gateway.ask(METRICS, method, path)
    return answer.status_code, answer.headers["content-type"], answer.text


def test_all_metrics_are_text_for_prometheus() -> None:
    assert scrape("/metrics") == (200, "text/plain; version=0.0.4; charset=utf-8", text())


def test_any_method_below_any_path() -> None:
    assert scrape("/metrics/more", "POST") == scrape("/metrics")


def test_the_query_picks_samples_by_their_names() -> None:
    picked = scrape("/metrics?name[]=wait_seconds_sum&name%5B%5D=Requests2XX")[2]
    assert picked == text("wait_seconds_sum", "Requests2XX")
    assert scrape("/metrics?name[]=nope")[::2] == (200, "")


def test_the_metrics_port_has_nothing_else() -> None:
    assert Gateway().ask(METRICS, "GET", "/ping").status_code == 404


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
