"""Where older handlers import the type of `context.metrics` from."""

from ts.metrics.metrics_cache import MetricsCache as MetricCacheAbstract

__all__ = ["MetricCacheAbstract"]
