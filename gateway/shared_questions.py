"""Questions that many ask at once are put to the broker one at a time. Pure.

Who asks while one is under way gets the answer to the next, so that nobody is shown how things were before
they asked. However many clients ask, they take no more of the gateway and of the broker than one does.
"""

from collections.abc import Callable
from typing import Protocol

from torchrelay.gateway.session import Outcome, Pending
from torchrelay.shared.errors import RelayError
from torchrelay.shared.wire import messages as m

#: Different questions that are kept though nobody asks them.
QUESTIONS_LIMIT = 64


class Asker(Protocol):
    """A request that waits for an answer."""

    def tell(self, outcome: Outcome) -> None:
        """Hand the answer over, or the error that there is instead."""


class SharedQuestion(Pending):
    """One question, asked again as long as somebody waits for its answer; `put` has it sent."""

    __slots__ = ("_first", "_is_under_way", "_later", "_put")

    def __init__(self, put: Callable[["SharedQuestion"], None]) -> None:
        self._put = put
        self._is_under_way = False
        #: Who gets the answer that is under way, and who the next.
        self._first: dict[Asker, None] = {}
        self._later: dict[Asker, None] = {}

    @property
    def is_asked(self) -> bool:
        """Whether anybody waits for an answer, or one is under way."""
        return bool(self._is_under_way or self._first or self._later)

    def join(self, asker: Asker) -> None:
        """Add an asker, which is told the answer. Raises what `put` does."""
        if self._is_under_way:
            self._later[asker] = None
            return
        self._first[asker] = None
        try:
            self._ask()
        except RelayError:
            del self._first[asker]
            raise

    def leave(self, asker: Asker) -> None:
        """Remove an asker: its client has gone."""
        self._first.pop(asker, None)
        self._later.pop(asker, None)

    def tell(self, outcome: Outcome) -> None:
        """Hand the answer on, and ask again for those who came meanwhile; an error goes to all of them."""
        told, self._first, self._later = self._first, self._later, {}
        self._is_under_way = False
        if isinstance(outcome, RelayError):
            told |= self._first
            self._first = {}
        for asker in told:
            asker.tell(outcome)
        if self._is_under_way or not self._first:
            return
        try:
            self._ask()
        except RelayError as error:
            refused, self._first = self._first, {}
            for asker in refused:
                asker.tell(error)

    def _ask(self) -> None:
        self._is_under_way = True  # first: the answer may be there before this returns
        try:
            self._put(self)
        except RelayError:
            self._is_under_way = False
            raise


class SharedQuestions:
    """One of these for each question that differs; `put` has it sent."""

    def __init__(self, put: Callable[[SharedQuestion, m.Ask], None]) -> None:
        self._put = put
        self._questions: dict[m.Ask, SharedQuestion] = {}

    def join(self, ask: m.Ask, asker: Asker) -> None:
        """Add somebody who asks this. Raises what `put` does."""
        if ask not in self._questions:
            if len(self._questions) >= QUESTIONS_LIMIT:
                self._questions = {key: one for key, one in self._questions.items() if one.is_asked}
            self._questions[ask] = SharedQuestion(lambda question: self._put(question, ask))
        self._questions[ask].join(asker)

    def leave(self, asker: Asker) -> None:
        """Remove an asker: its client has gone."""
        for question in self._questions.values():
            question.leave(asker)
