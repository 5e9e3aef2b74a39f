"""The metrics API: one route, for Prometheus, in its text format 0.0.4."""

from collections.abc import Iterable

from falcon.asgi import Response

from torchrelay.gateway.api.base_app import Resource
from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.gateway.calls.parameters import query_pairs
from torchrelay.shared.wire import messages as m


class MetricsResource(Resource):
    """`/metrics`: metrics of the whole fleet, which the broker keeps. As in TorchServe, no key is needed."""

    opened_by = None

    async def on_request(self, req: GatewayRequest, resp: Response, rest: str = "") -> None:
        """Answer any method, below any path; `name[]` picks samples by their full name."""
        names = frozenset(value for name, value in query_pairs(req.query_string) if name == "name[]")
        read = await self._link.ask(m.ReadMetrics(0), m.MetricsRead)
        resp.content_type = "text/plain; version=0.0.4; charset=utf-8"
        resp.data = render(read.families, names)

    on_options = on_request


def render(families: Iterable[m.MetricFamily], names: frozenset[str]) -> bytes:
    """Write metrics: all of them, or the samples whose full names are given.

    TorchServe's counters are called `Requests2XX`, without the `_total` that the Prometheus client
    library would add.
    """
    lines = []
    for family in families:
        samples = [s for s in family.samples if not names or family.name + s.suffix in names]
        if names and not samples:
            continue
        lines.append(f"# HELP {family.name} {_escaped(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for sample in samples:
            labels = "".join(f'{key}="{_escaped(value, quote=True)}",' for key, value in sample.labels)
            braced = f"{{{labels}}}" if labels else ""
            lines.append(f"{family.name}{sample.suffix}{braced} {_number(sample.value)}")
    return "".join(line + "\n" for line in lines).encode()


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    text = repr(float(value))
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(text, text)
