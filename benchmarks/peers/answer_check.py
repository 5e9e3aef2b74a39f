"""Checks a server before it is timed: many questions at once, all different, and every answer is looked at.

Each connection knows what it asked, so that an answer that went to somebody else is found.
"""

import http.client
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from benchmarks.peers.dialects import Answer, Malformed, Question, is_right
from torchrelay.shared import clock

ANSWER_LIMIT_S = 30.0
#: A server that answers nothing but errors isn't asked for the whole time.
FAULTS_LIMIT = 5
OK = 200

#: Headers and body of an answer -> whether it is right; raises Malformed.
Judge = Callable[[Mapping[str, str], bytes], bool]


@dataclass
class CountedAnswers:
    """How many answers came, how many of them were wrong or failed, and one of these."""

    answers: int = 0
    wrong: int = 0
    example: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: str) -> None:
        """Count an answer; a fault says what is wrong with it, none that it is right."""
        with self._lock:
            self.answers += 1
            if fault:
                self.wrong += 1
                self.example = self.example or fault


def check(
    port: int, asked: Sequence[tuple[Question, Judge]], connections: int, seconds: float
) -> CountedAnswers:
    """Ask over so many kept-alive connections at once, each at another question of those, again and again."""
    counted = CountedAnswers()
    deadline = clock.monotonic() + seconds
    threads = [
        threading.Thread(
            target=_ask_on, args=(port, asked, number * len(asked) // connections, deadline, counted)
        )
        for number in range(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counted


def ask_once(port: int, question: Question, judge: Judge) -> str:
    """Ask a question and return what is wrong with the answer, nothing if it is right."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_LIMIT_S)) as connection:
        return _ask(connection, question, judge)


def _ask_on(
    port: int, asked: Sequence[tuple[Question, Judge]], first: int, deadline: float, counted: CountedAnswers
) -> None:
    faults = 0
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_LIMIT_S)) as connection:
        number = first
        while faults < FAULTS_LIMIT:
            fault = _ask(connection, *asked[number % len(asked)])
            counted.add(fault)
            faults += bool(fault)
            number += 1
            if clock.monotonic() >= deadline:
                return


def _ask(connection: http.client.HTTPConnection, question: Question, judge: Judge) -> str:
    try:
        connection.request("POST", question.path, question.body, question.headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != OK:
            return f"status {response.status}: {body[:300].decode(errors='replace')}"
        return (
            ""
            if judge(dict(response.headers), body)
            else f"another answer than the right one: {body[:100]!r}"
        )
    except Malformed as error:
        return str(error)
    except (http.client.HTTPException, OSError) as error:
        connection.close()
        return repr(error)


def judge_of(read: Callable[[Mapping[str, str], bytes], Answer], expected: Answer) -> Judge:
    """Make a judge of what takes answers apart and of the right answer."""
    return lambda headers, body: is_right(read(headers, body), expected)
