"""The handler that serves a language model with vLLM by OpenAI's API; needs the package vllm.

The model's config asks for it under `handler`: `model_path` or `vllm_engine_config: {model: ...}`, further
`vllm_engine_config` as vLLM's arguments, `adapters` (name: path of a LoRA), `chat_template`. Requests go to
`/predictions/MODEL/VERSION/v1/...`, one at a time for each call, so the model needs
`asyncCommunication: true` for several at once.
"""

import json
import time
from typing import Any  # what clients send and vLLM answers

import httpx2

from ts.context import Context
from ts.handler_utils.timer import record_handler_time
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.handler_utils.vllm_server import VllmServer, engine_arguments, gpus
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException

_GENERATING = ("v1/completions", "v1/chat/completions")
_MODELS = "v1/models"
_LAST_EVENT = "data: [DONE]\n\n"


class VLLMHandler(BaseHandler):
    """Forwards requests to vLLM's own server, and the parts of its answers as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.vllm_engine: VllmServer | None = None
        self.adapters: dict[str, str] = {}
        self._client: httpx2.AsyncClient | None = None

    def initialize(self, context: Context) -> None:
        """Start vLLM and wait until its model is loaded."""
        self.context = context
        config = (context.model_yaml_config or {}).get("handler") or {}
        self.adapters = config.get("adapters") or {}
        properties = context.system_properties
        gpu_id = properties.get("gpu_id") if gpus(config) == 1 else None
        self.vllm_engine = VllmServer(engine_arguments(config, properties["model_dir"]), gpu_id)
        self.vllm_engine.wait_until_ready()
        self.initialized = True

    async def handle(self, data: Any, context: Context) -> Any:
        """Answer one request."""
        start = time.perf_counter()
        prepared = await self.preprocess(data, context)
        output = await self.postprocess(await self.inference(prepared, context))
        record_handler_time(context, start)
        return output

    async def preprocess(self, requests: Any, context: Context) -> Any:
        """Return the request's body; raises ValueError for a batch of several."""
        if len(requests) != 1:
            raise ValueError(f"a batch of {len(requests)} requests; VLLMHandler takes one at a time")
        body = requests[0].get("data") or requests[0].get("body")
        if isinstance(body, bytes | bytearray):  # sent without a content type
            body = json.loads(body) if body else {}
        return [body]

    async def inference(self, input_batch: Any, context: Context) -> Any:
        """Forward the request by the path that it came in with; raises PredictionException for no such."""
        path = context.get_request_header(0, "url_path")
        if path == _MODELS:
            return [await self._whole(self._request("GET", path), context)]
        if path not in _GENERATING:
            raise PredictionException(f"Unknown API endpoint: {path}", 404)
        request = self._request("POST", path, input_batch[0])
        is_stream = isinstance(input_batch[0], dict) and input_batch[0].get("stream")
        return [await (self._parts(request, context) if is_stream else self._whole(request, context))]

    async def postprocess(self, inference_outputs: Any) -> Any:
        """Return the answers."""
        return inference_outputs

    def _request(self, method: str, path: str, body: Any = None) -> httpx2.Request:
        assert self.vllm_engine is not None
        if self.vllm_engine.exit_code is not None:
            # The worker ends with its engine, and a new one is started with a new engine.
            raise SystemExit(f"vllm ended with code {self.vllm_engine.exit_code}")
        if self._client is None:  # made here, for it belongs to the event loop of its first request
            transport = httpx2.AsyncHTTPTransport(uds=self.vllm_engine.socket_path)
            self._client = httpx2.AsyncClient(transport=transport, base_url="http://vllm", timeout=None)
        return self._client.build_request(method, f"/{path}", json=body)

    async def _whole(self, request: httpx2.Request, context: Context) -> Any:
        assert self._client is not None
        return _answer(await self._client.send(request), context)

    async def _parts(self, request: httpx2.Request, context: Context) -> Any:
        """Send each event as it comes; return the last one. Leaving in the middle ends vLLM's work, too."""
        assert self._client is not None
        response = await self._client.send(request, stream=True)
        try:
            if not response.is_success:
                await response.aread()
                return _answer(response, context)
            context.set_response_content_type(0, "text/event-stream")
            async for event in _events(response):
                if event == _LAST_EVENT:
                    return event
                send_intermediate_predict_response([event], context.request_ids or {}, "Result", 200, context)
            return ""
        finally:
            await response.aclose()


def _answer(response: httpx2.Response, context: Context) -> Any:
    """Take over vLLM's status and JSON; what is no JSON is taken as text."""
    context.set_response_status(response.status_code, response.reason_phrase, 0)
    try:
        body = response.json()
    except ValueError:
        return response.text
    context.set_response_content_type(0, "application/json")
    return body


async def _events(response: httpx2.Response) -> Any:
    """Yield server-sent events, each with the blank line that ends it."""
    lines: list[str] = []
    async for line in response.aiter_lines():
        if line:
            lines.append(line)
        elif lines:
            yield "\n".join(lines) + "\n\n"
            lines = []
