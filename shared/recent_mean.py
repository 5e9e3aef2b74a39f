"""What the latest values come to, weighed against those before. Pure."""

#: Weight of the newest value: after some hundred little is left of what was before.
WEIGHT = 0.02


def recent_mean(mean: float, latest: float) -> float:
    """Return the new mean."""
    return mean + WEIGHT * (latest - mean)
