"""The handler that serves a language model with TensorRT-LLM; needs tensorrt_llm and transformers.

The model's config has, under `handler`: `engine_dir` (or a model that TensorRT-LLM loads by its name),
`tokenizer_dir`, `kv_cache_config`, `trt_llm_engine_config` with further arguments of its `LLM`, and
`trust_remote_code: true` for a tokenizer that brings code of its own. A request is JSON: `prompt`,
`streaming`, and whatever else are parameters of the sampling.
"""

import json
import time
from typing import Any  # tensorrt_llm's and clients'

from ts.context import Context
from ts.handler_utils.timer import record_handler_time
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import require

_USER = "TRTLLMHandler"


class TRTLLMHandler(BaseHandler):
    """Answers a prompt with its text, or with `{"text": ...}` for each token as it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.trt_llm_engine: Any = None
        self.tokenizer: Any = None
        self._sampling_params: Any = None

    def initialize(self, context: Context) -> None:
        """Load the tokenizer and the engine."""
        self.context = context
        engine = require("tensorrt_llm", _USER)
        api = require("tensorrt_llm.llmapi", _USER)
        config = (context.model_yaml_config or {})["handler"]
        self.tokenizer = require("transformers", _USER).AutoTokenizer.from_pretrained(
            config["tokenizer_dir"],
            padding_side="left",
            truncation_side="left",
            use_fast=True,
            trust_remote_code=bool(config.get("trust_remote_code", False)),
        )
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token_id = self.tokenizer.eos_token_id
        cache = api.KvCacheConfig(**(config.get("kv_cache_config") or {}))
        self._sampling_params = engine.SamplingParams
        self.trt_llm_engine = engine.LLM(
            model=config["engine_dir"],
            tokenizer=self.tokenizer,
            kv_cache_config=cache,
            **(config.get("trt_llm_engine_config") or {}),
        )
        self.initialized = True

    async def handle(self, data: Any, context: Context) -> Any:
        """Answer one request."""
        start = time.perf_counter()
        prepared = await self.preprocess(data)
        output = await self.postprocess(await self.inference(prepared, context))
        record_handler_time(context, start)
        return output

    async def preprocess(self, requests: Any) -> Any:
        """Return the request's body; raises ValueError for a batch of several."""
        if len(requests) != 1:
            raise ValueError(f"a batch of {len(requests)} requests; TRTLLMHandler takes one at a time")
        body = requests[0].get("data") or requests[0].get("body")
        return json.loads(body) if isinstance(body, bytes | bytearray) else body

    async def inference(self, data: Any, context: Context) -> Any:
        """Generate; the text in one, or a part for each token."""
        sampling = {key: value for key, value in data.items() if key not in ("prompt", "streaming")}
        ends = {"end_id": self.tokenizer.eos_token_id, "pad_id": self.tokenizer.pad_token_id}
        is_stream = bool(data.get("streaming", False))
        outputs = self.trt_llm_engine.generate_async(
            data.get("prompt"), streaming=is_stream, sampling_params=self._sampling_params(**ends, **sampling)
        )
        async for output in outputs:
            generated = output.outputs[0]
            if not is_stream:
                return [generated.text]
            text = self.tokenizer.decode([generated.token_ids[-1]])
            part = json.dumps({"text": text})
            send_intermediate_predict_response([part], context.request_ids or {}, "Result", 200, context)
        return [""]

    async def postprocess(self, outputs: Any) -> Any:
        """Return the answers."""
        return outputs
