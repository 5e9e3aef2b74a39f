"""Workflows for tests of the gateway: what the broker tells of them, and a worker that can be held up."""

from collections.abc import Callable, Sequence

from tests.gateway.fakes import FakeLink
from torchrelay.shared import errors
from torchrelay.shared.wire import codec, messages

#: crop -> detect and classify -> merge
FORK = (("crop", ("detect", "classify")), ("detect", ("merge",)), ("classify", ("merge",)), ("merge", ()))


def steps(
    *dag: tuple[str, tuple[str, ...]], retries: int = 0, timeout_ms: int = 10_000
) -> tuple[messages.StepFacts, ...]:
    return tuple(
        messages.StepFacts(name, f"w__{name}", retries, timeout_ms, successors, bool(successors))
        for name, successors in dag
    )


def described(*found: messages.StepFacts) -> Callable[[messages.DescribeWorkflow], messages.Reply]:
    """Make replies of a broker that has a workflow `w` of these steps, and no other."""

    def reply(ask: messages.DescribeWorkflow) -> messages.Reply:
        if ask.workflow != "w":
            error = errors.WorkflowNotFound(f"Workflow not found: {ask.workflow}")
            return messages.AskRefused(ask.ask, error.name, error.message, "")
        return messages.WorkflowDescribed(ask.ask, "w", "w.war", 1, 2, 4, 50, found)

    return reply


class HeldLink(FakeLink):
    """Answers jobs when the test says so: those that wait are in `held`, by their models."""

    def _answer(self, item: messages.SubmitItem, frames: Sequence[codec.PayloadOrPiece]) -> None:
        if not hasattr(self, "held"):
            self.held: dict[str, tuple[messages.SubmitItem, Sequence[codec.PayloadOrPiece]]] = {}
        self.held[item.model] = item, frames

    def let_go(self, model: str) -> None:
        """Have a job answered."""
        super()._answer(*self.held.pop(model))
