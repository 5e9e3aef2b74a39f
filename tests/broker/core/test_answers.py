"""Answers to gateways: gathered in a turn, each job ended once."""

from collections.abc import Sequence

import pytest

from torchrelay.broker.core import answers
from torchrelay.broker.core.answers import ANSWERS_PER_MESSAGE, Answers, Gateway
from torchrelay.broker.core.states import JobState
from torchrelay.broker.core.stats import Stats
from torchrelay.broker.jobs.queues import Job
from torchrelay.shared import errors
from torchrelay.shared.wire import messages as m
from torchrelay.shared.wire.codec import Frame

KEY = ("m", "1.0")


class Turn:
    """A gateway with jobs, and what was sent to it."""

    def __init__(self, jobs: int = 1) -> None:
        self.sent: list[tuple[m.Message, list[Frame]]] = []
        self.stats = Stats()
        self.answers = Answers(self.stats, self._send)
        self.gateway = self.answers.gateways[b"g"] = Gateway(b"g", "gateway", 0.0)
        self.jobs = [self._job(number) for number in range(1, jobs + 1)]

    def _job(self, number: int) -> Job:
        job = Job(b"g", number, KEY, False, False, b"", (), 0, 0.0, 9.0)
        job.move(JobState.RUNNING)
        self.gateway.jobs[number] = job
        return job

    def _send(self, peer: bytes, message: m.Message, frames: Sequence[Frame]) -> None:
        assert peer == b"g"
        self.sent.append((message, list(frames)))


def test_the_answers_of_a_turn_go_in_one_message_with_their_frames() -> None:
    turn = Turn(2)
    for job in turn.jobs:
        turn.answers.pass_on(job, b"meta-%d" % job.number, [b"x"], is_final=True)
    assert turn.sent == []
    turn.answers.flush(turn.gateway)
    items = (m.AnsweredItem(1, b"meta-1", 1, True, 0), m.AnsweredItem(2, b"meta-2", 1, True, 0))
    assert turn.sent == [(m.Answered(items), [b"x", b"x"])]
    turn.answers.flush(turn.gateway)
    assert len(turn.sent) == 1, "nothing is sent twice"


def test_a_turn_with_many_answers_has_several_messages() -> None:
    turn = Turn(ANSWERS_PER_MESSAGE + 1)
    for job in turn.jobs:
        turn.answers.pass_on(job, b"", [], is_final=True)
    turn.answers.flush(turn.gateway)
    assert [len(message.items) for message, _ in turn.sent] == [ANSWERS_PER_MESSAGE, 1]  # type: ignore[attr-defined]


def test_a_job_ends_with_its_last_part_and_is_counted_once() -> None:
    turn = Turn()
    (job,) = turn.jobs
    turn.answers.pass_on(job, b"a", [], is_final=False)
    assert (job.parts, job.state) == (1, JobState.RUNNING)
    turn.answers.pass_on(job, b"b", [], is_final=True, has_failed=True)
    assert job.state is JobState.ENDED
    assert turn.gateway.jobs == {}
    assert turn.stats.versions[KEY].outcomes == {"failed": 1}
    with pytest.raises(AssertionError):
        turn.answers.end(job, "answered")


def test_a_refusal_names_its_error_and_ends_the_job() -> None:
    turn = Turn()
    turn.answers.refuse(turn.jobs[0], errors.WorkerDied("Worker died.", "why"))
    turn.answers.refuse_unadmitted(turn.gateway, 7, errors.ModelNotFound("Model not found: x"))
    turn.answers.flush(turn.gateway)
    assert turn.sent == [
        (
            m.Refused(
                (
                    m.RefusedItem(1, "WorkerDied", "Worker died.", "why"),
                    m.RefusedItem(7, "ModelNotFound", "Model not found: x", ""),
                )
            ),
            [],
        )
    ]
    assert turn.stats.versions[KEY].outcomes == {"WorkerDied": 1}


def test_no_worker_is_told_in_torchserves_words() -> None:
    (job,) = Turn().jobs
    assert answers.no_worker(job, "").message.startswith(
        'Model "m" has no worker to serve inference request.'
    )
    job.names_version = True
    assert answers.no_worker(job, "").message.startswith('Model "m" Version 1.0" has no worker')
    job.is_describe = True
    assert "describe request" in answers.no_worker(job, "").message


def test_a_client_that_waited_too_long_is_told_where_its_request_was() -> None:
    (job,) = Turn().jobs
    assert answers.late(job, 0.5).details == "a worker was still at it"
    job.move(JobState.QUEUED)
    assert answers.late(job, 0.5).details == "it waited for a worker all the time"
    assert "of 500" in answers.late(job, 0.5).message
