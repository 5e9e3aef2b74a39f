"""Streams what a Hugging Face model generates for a whole batch; needs the package transformers."""

from collections.abc import Iterator
from typing import Any  # transformers' and torch's

from transformers.generation.streamers import BaseStreamer, TextIteratorStreamer


class TextIteratorStreamerBatch(BaseStreamer):
    """Give it to `generate` as `streamer`, and iterate over it: one text for each row at a time."""

    def __init__(
        self,
        tokenizer: Any,
        batch_size: int,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        self.batch_size = batch_size
        self.streamers = [
            TextIteratorStreamer(tokenizer, skip_prompt, timeout, **decode_kwargs) for _ in range(batch_size)
        ]

    def put(self, value: Any) -> None:
        """Take the next tokens, [batch, length] or [batch]. Raises ValueError for another batch size."""
        if value.shape[0] != self.batch_size:
            raise ValueError(f"the batch size is {self.batch_size}, but the tokens have shape {value.shape}")
        for streamer, row in zip(self.streamers, value.split(1), strict=True):
            streamer.put(row)  # type: ignore[no-untyped-call]  # transformers'

    def end(self) -> None:
        """Take note that nothing comes any more."""
        for streamer in self.streamers:
            streamer.end()  # type: ignore[no-untyped-call]  # transformers'

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        return self

    def __next__(self) -> list[dict[str, str]]:
        """Return `{"text": ...}` for each row; the first row that ends ends all, as they end together."""
        return [{"text": next(streamer)} for streamer in self.streamers]
