"""The metrics port: one route, which any method reads, below any path."""

from tests.gateway.api.test_prometheus_text import FAMILIES, text
from tests.gateway.fakes import METRICS, Gateway
from torchrelay.shared.wire import messages


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
