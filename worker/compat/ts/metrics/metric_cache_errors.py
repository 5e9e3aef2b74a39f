"""Errors of the metrics cache."""


class MetricsCacheKeyError(KeyError):
    """No metric of this name and type was recorded."""
