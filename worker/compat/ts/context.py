"""What a handler is told about its model and its requests, and where it sets its responses.

One Context lives as long as its worker, so handlers may keep attributes of their own on it; the server
replaces `request_ids` and `request_processor` for each batch. `Any` stands for values that come from an
archive or a client.
"""

import os
from collections.abc import Callable
from typing import Any

from ts.metrics.metrics_cache import MetricsCache


class RequestProcessor:
    """One request's headers, and the status and headers of its response."""

    #: What the server knows of a request in the open inference protocol, None for any other.
    tensor_request: Any = None

    def __init__(self, request_header: dict[str, Any]) -> None:
        self._request_header = request_header
        self._response_header: dict[str, str] = {}
        self._status_code = 200
        self._reason_phrase: str | None = None

    def get_request_property(self, key: str) -> Any:
        """Return a request header by its exact name, or None."""
        return self._request_header.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        """Return every request header."""
        return self._request_header

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Set the response's status."""
        self._status_code = code
        self._reason_phrase = reason_phrase

    def get_response_status_code(self) -> int:
        """Return the response's status code."""
        return self._status_code

    def get_response_status_phrase(self) -> str | None:
        """Return the response's reason phrase, or None where nobody gave one."""
        return self._reason_phrase

    def add_response_property(self, key: str, value: str) -> None:
        """Set a response header; the last value of one exact name wins."""
        self._response_header[key] = value

    def get_response_headers(self) -> dict[str, str]:
        """Return every response header."""
        return self._response_header

    def get_response_header(self, key: str) -> str | None:
        """Return a response header by its exact name, or None."""
        return self._response_header.get(key)


class Context:
    """A worker's model, device and current batch, as handlers see them."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: MetricsCache | None = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self.model_yaml_config = model_yaml_config
        self.system_properties: dict[str, Any] = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.metrics = metrics
        self.request_ids: dict[int, str] | None = None
        self.request_processor: list[RequestProcessor] = [RequestProcessor({})]
        self.stopping_criteria: list[Callable[[Any], bool | None]] | None = None
        self.cl_socket: Any = None
        self.header_key_sequence_id = os.environ.get("TS_REQUEST_SEQUENCE_ID", "ts_request_sequence_id")
        self.header_key_sequence_start = os.environ.get(
            "TS_REQUEST_SEQUENCE_START", "ts_request_sequence_start"
        )
        self.header_key_sequence_end = os.environ.get("TS_REQUEST_SEQUENCE_END", "ts_request_sequence_end")

    def get_request_id(self, idx: int = 0) -> str | None:
        """Return a request's id, or None while the model loads."""
        return None if self.request_ids is None else self.request_ids.get(idx)

    def is_cancelled(self, idx: int | None = None) -> bool:
        """Tell whether nobody waits for a request any more: its client has left, or its time is over.

        Without an index: for none of the requests of this call, so that all of it can be given up. What is
        returned for a request that is cancelled is dropped. False while the model loads, and where a worker
        has several processes, which must all do the same. Ours alone: TorchServe has no such method.
        """
        return self.cl_socket is not None and bool(self.cl_socket.is_cancelled(idx))

    def remaining_ms(self, idx: int | None = None) -> int | None:
        """Return how many milliseconds a request's client still waits; None where nobody has said.

        Without an index: the most patient client of this call. Ours alone: TorchServe has no such method.
        """
        if self.cl_socket is None:
            return None
        left_ms: int | None = self.cl_socket.remaining_ms(idx)
        return left_ms

    def get_request_header(self, idx: int, key: str) -> Any:
        """Return a request's header by its exact name, or None."""
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """Return a request's headers, and for each input its content type."""
        return self.request_processor[idx].get_request_properties()

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the response's content type; without it none is sent."""
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        """Return the response's content type."""
        return self.request_processor[idx].get_response_header("content-type")

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a response header."""
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """Return the response's headers."""
        return self.request_processor[idx].get_response_headers()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set one response's status; any number is passed on."""
        self.request_processor[idx].report_status(code, reason_phrase=phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Set the status of every response of the batch."""
        for processor in self.request_processor:
            processor.report_status(code, reason_phrase=phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """Return the response's status code and reason phrase."""
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def get_sequence_id(self, idx: int) -> str | None:
        """Return the id of the sequence that a request belongs to, or None."""
        sequence_id: str | None = self.get_request_header(idx, self.header_key_sequence_id)
        return sequence_id
