"""Metrics in Prometheus' text format 0.0.4. Pure."""

from collections.abc import Iterable

from torchrelay.shared.wire import messages as m


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
