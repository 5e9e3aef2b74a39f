"""Metrics that handlers print: `[METRICS]Name.Unit:1.5|#ModelName:m|#type:GAUGE|#hostname:h,1700000000,id`.

Pure, and forgiving: whatever else a handler prints in this manner is an ordinary line. Source: what
TorchServe's server reads from its workers' output.
"""

import math
import re
from typing import Literal

from torchrelay.shared.wire.messages import MetricPoint

_START = re.compile(r"(?:INFO > )?\[METRICS\]\s*")
_LINE = re.compile(
    r"(?P<name>[\w\s]+)\.(?P<unit>[\w\s]+):(?P<value>[0-9\-+,.eE]+)\|#(?P<dimensions>[^|]*)"
    r"(?:\|#type:(?P<kind>[^|,]+))?\|#hostname:[^,]+,(?P<seconds>[^,]+)(?:,(?P<ids>.*))?",
    re.ASCII,
)
_KINDS: dict[str, Literal["counter", "gauge", "histogram"]] = {
    "COUNTER": "counter",
    "GAUGE": "gauge",
    "HISTOGRAM": "histogram",
}
DIMENSIONS_LIMIT = 32
#: Seconds of a year far enough away; a larger number is no time.
SECONDS_LIMIT = 1 << 34


def parse(line: str, now_ms: int) -> MetricPoint | None:
    """Read a line; None for one that is no metric. One without a readable time is of now."""
    start = _START.match(line)
    match = _LINE.fullmatch(line, start.end()) if start else None
    if match is None:
        return None
    kind = _KINDS.get(match["kind"].strip().upper()) if match["kind"] else "gauge"
    value = _number(match["value"])
    pairs = [pair.split(":") for pair in match["dimensions"].split(",")]
    if kind is None or value is None or len(pairs) > DIMENSIONS_LIMIT:
        return None
    seconds = _number(match["seconds"])
    return MetricPoint(
        name=match["name"],
        kind=kind,
        unit=match["unit"],
        value=value,
        dimensions=tuple((pair[0], pair[1]) for pair in pairs if len(pair) == 2),
        at_ms=round(seconds * 1000) if seconds and 0 < seconds < SECONDS_LIMIT else now_ms,
        request_ids=tuple(match["ids"].split(",")) if match["ids"] else (),
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
