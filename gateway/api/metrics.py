"""The metrics API: one route, for Prometheus."""

from falcon.asgi import Response

from torchrelay.gateway.api import prometheus_text
from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.gateway.api.parameters import query_pairs
from torchrelay.gateway.link import Link
from torchrelay.shared.wire import messages as m


class MetricsResource:
    """`/metrics`: metrics of the whole fleet, which the broker keeps. As in TorchServe, no key is needed."""

    opened_by = None

    def __init__(self, link: Link) -> None:
        self._link = link

    async def on_request(self, req: GatewayRequest, resp: Response, rest: str = "") -> None:
        """Answer any method, below any path; `name[]` picks samples by their full name."""
        names = frozenset(value for name, value in query_pairs(req.query_string) if name == "name[]")
        read = await self._link.ask(m.ReadMetrics(0), m.MetricsRead)
        resp.content_type = "text/plain; version=0.0.4; charset=utf-8"
        resp.data = prometheus_text.render(read.families, names)

    on_options = on_request
