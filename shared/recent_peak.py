"""The highest of the latest values, as far as one may count on it. Pure."""

#: Weight of the newest value where it is lower: after some hundred little is left of the peak before.
WEIGHT = 0.02


def recent_peak(peak: float, latest: float) -> float:
    """Return the new peak: a higher value is it at once, and after that it sinks towards the lower ones."""
    return max(latest, peak + WEIGHT * (latest - peak))
