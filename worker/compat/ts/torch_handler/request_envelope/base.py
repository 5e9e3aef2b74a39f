"""What every request envelope does: unwrap the rows, call the handler, wrap its answers.

`Any` stands for what clients send and handlers return.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from ts.context import Context


class BaseEnvelope(ABC):
    """Stands between the server and a handler's entry point."""

    def __init__(self, handle_fn: Callable[[Any, Context], Any]) -> None:
        self._handle_fn = handle_fn
        self.context: Context | None = None

    def handle(self, data: Any, context: Context) -> Any:
        """Answer a batch; without rows, or without answers, there is nothing to unwrap or wrap."""
        self.context = context
        rows = self.parse_input(data) if data else data
        answers = self._handle_fn(rows, context)
        return self.format_output(answers) if answers else answers

    @abstractmethod
    def parse_input(self, data: Any) -> Any:
        """Return the handler's rows."""

    @abstractmethod
    def format_output(self, data: Any) -> Any:
        """Return the answers to the requests, one for each."""
