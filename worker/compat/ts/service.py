"""A loaded model outside of a server, and names that older handlers import from here."""

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any  # what clients send and handlers return

from ts.context import Context, RequestProcessor
from ts.metrics.metrics_cache import MetricsCache
from ts.utils.util import PredictionException as PredictionException
from ts.utils.util import get_yaml_config
from ts.version import __version__

logger = logging.getLogger(__name__)


class Service:
    """An entry point and its context."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        entry_point: Any,
        gpu: int | None,
        batch_size: int,
        limit_max_image_pixels: bool = True,
        metrics_cache: MetricsCache | None = None,
    ) -> None:
        config_file = ((manifest or {}).get("model") or {}).get("configFile")
        self._entry_point = entry_point
        self._context = Context(
            model_name,
            model_dir,
            manifest,
            batch_size,
            gpu,
            __version__,
            limit_max_image_pixels,
            metrics_cache,
            get_yaml_config(os.path.join(model_dir, config_file)) if config_file else {},
        )

    @property
    def context(self) -> Context:
        """What the entry point is called with."""
        return self._context

    @staticmethod
    def retrieve_data_for_inference(
        batch: Sequence[dict[str, Any]] | None,
    ) -> tuple[list[RequestProcessor], list[dict[str, Any]], dict[int, str]]:
        """Split requests (`requestId`, `parameters`, `headers`) into headers, rows and ids by index.

        Raises ValueError where there is no batch.
        """
        if batch is None:
            raise ValueError("Received invalid inputs")
        headers, rows, ids = [], [], {}
        for index, request in enumerate(batch):
            parameters = request["parameters"]
            rows.append({item["name"]: item["value"] for item in parameters})
            shown: dict[str, Any] = {
                item["name"]: {"content-type": item["contentType"]} for item in parameters
            }
            for header in request.get("headers") or ():
                shown[header["name"].decode()] = header["value"].decode()
            headers.append(RequestProcessor(shown))
            ids[index] = request["requestId"].decode()
        return headers, rows, ids

    def predict(self, batch: Sequence[dict[str, Any]]) -> Any:
        """Return what the entry point makes of the requests, or raise what it raises."""
        headers, rows, ids = self.retrieve_data_for_inference(batch)
        self._context.request_processor = headers
        self._context.request_ids = ids
        if self._context.metrics is not None:
            self._context.metrics.set_request_ids(ids)
        return self._entry_point(rows, self._context)


def emit_metrics(metrics: Iterable[object]) -> None:
    """Log metrics of a MetricsStore in the form that the server reads from a worker's output."""
    for metric in metrics or ():
        logger.info("[METRICS]%s", metric)
