"""A metrics cache that a handler, or a test of one, makes itself: its values are logged as they come."""

from ts.metrics import metric_cache_errors as errors
from ts.metrics.caching_metric import log_point
from ts.metrics.metrics_cache import MetricsCache, read_config


class MetricsCacheYamlImpl(MetricsCache):
    """The metrics cache of a metrics.yaml. Raises an error of metric_cache_errors if it can't be read."""

    def __init__(self, config_file_path: str) -> None:
        super().__init__(outlet=log_point)
        self.request_ids = None
        if not config_file_path:
            raise errors.MetricsCacheTypeError("Config file not initialized")
        self.config_file_path = config_file_path
        try:
            with open(config_file_path, "rb") as file:
                self._config = read_config(file.read())
        except OSError as error:
            raise errors.MetricsCacheIOError(f"Error reading file {config_file_path}: {error}") from error

    def initialize_cache(self) -> None:
        """Add the metrics that the file's `model_metrics` lists."""
        self._add_declared(self._config)
