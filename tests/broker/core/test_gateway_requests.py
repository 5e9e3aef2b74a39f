"""What gateways send, and what of it or of the answers a connection loses: nothing is run again."""

import pytest

from tests.broker.rig import GATEWAY, Rig
from torchrelay.broker.core.answers import KEPT_LIMIT
from torchrelay.shared.wire import messages as m


def submit(rig: Rig, serial: int, *jobs: int, heard: int = 0, answered: int = 0, again: bool = False) -> None:
    items = tuple(m.SubmitItem(job, "m", None, False, b"meta") for job in jobs)
    rig.say(GATEWAY, m.Submit(items, heard, serial, again, answered))


def run(rig: Rig, worker: bytes) -> None:
    batch = rig.only(worker, m.Assign)
    rig.complete(worker, batch)


def test_a_submit_that_comes_again_is_not_run_again_whether_its_job_runs_or_has_ended() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    submit(rig, 1, 1)
    submit(rig, 1, 1)
    run(rig, worker)
    submit(rig, 1, 1)
    submit(rig, 2, 2)
    run(rig, worker)
    submit(rig, 1, 1, heard=m.HELD)
    assert not rig.take(worker, m.Assign)
    assert [item.job for answer in rig.take(GATEWAY, m.Answered) for item in answer.items] == [1, 2]


def test_answers_that_a_gateway_missed_are_sent_again_in_their_order() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    for number in (1, 2, 3):
        submit(rig, number, number)
        run(rig, worker)
    first, second, third = rig.take(GATEWAY, m.Answered)
    rig.say(GATEWAY, m.Missed(first.serial))
    assert rig.take(GATEWAY, m.Answered) == [second, third]
    submit(rig, 4, 4, answered=third.serial)
    run(rig, worker)
    rig.take(GATEWAY, m.Answered)
    rig.say(GATEWAY, m.Missed(third.serial))
    assert len(rig.take(GATEWAY, m.Answered)) == 1, "what it said to have is kept no longer"


def test_a_refusal_is_sent_again_like_an_answer() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.submit(1, model="nosuch")
    refused = rig.only(GATEWAY, m.Refused)
    rig.say(GATEWAY, m.Missed(refused.serial - 1))
    assert rig.only(GATEWAY, m.Refused) == refused


def test_a_job_whose_answer_is_on_its_way_is_not_called_forgotten() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    submit(rig, 1, 1)
    run(rig, worker)
    answer = rig.only(GATEWAY, m.Answered)
    rig.say(GATEWAY, m.GatewayBeat({}, (1, 2)))
    assert rig.only(GATEWAY, m.Forgotten).jobs == (2,), "it would run again"
    rig.say(GATEWAY, m.GatewayBeat({}, (1,), answered=answer.serial))
    assert rig.only(GATEWAY, m.Forgotten).jobs == (1,), "its gateway had an answer and wants another"


def test_a_beat_tells_a_gateway_the_serial_of_its_latest_answer() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    submit(rig, 1, 1)
    run(rig, worker)
    answer = rig.only(GATEWAY, m.Answered)
    sent: list[m.Beat] = []
    rig._note_sent = lambda peer, message: (  # type: ignore[method-assign]  # the rig drops beats
        sent.append(message) if peer == GATEWAY and isinstance(message, m.Beat) else None
    )
    rig.pass_time(1.5)
    assert sent
    assert all(beat.serial == answer.serial for beat in sent)


def test_a_gateway_that_joins_anew_has_a_row_of_its_own_above_all_before() -> None:
    rig = Rig()
    rig.ready_rig()
    rig.submit(1, model="nosuch")
    before = rig.only(GATEWAY, m.Refused).serial
    rig.say(GATEWAY, m.Bye())
    rig.join_gateway()
    rig.submit(1, model="nosuch")
    assert rig.only(GATEWAY, m.Refused).serial > before + KEPT_LIMIT


def test_what_a_worker_missed_to_get_across_is_asked_for_and_not_run_again() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(workers=1)
    submit(rig, 1, 1)
    batch = rig.only(worker, m.Assign)
    done = m.Completed(batch.lease, 1, (m.CompletedItem(200, b"x"),), 0, 1)
    rig.say(worker, m.WorkerBeat((), 10**6, serial=1))  # after its answer, which was lost
    assert rig.only(worker, m.Missed).after == 0
    assert not rig.take(worker, m.Assign)
    rig.say(worker, done)
    assert [item.meta for item in rig.only(GATEWAY, m.Answered).items] == [b"x"]
    rig.say(worker, done)
    assert not rig.take(GATEWAY, m.Answered)


def test_what_comes_behind_a_gap_waits_for_what_is_missing() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    submit(rig, 1, 1)
    batch = rig.only(worker, m.Assign)
    parts = [m.Streamed(batch.lease, (m.StreamedItem(0, b"%d" % n),), n, n + 1) for n in range(3)]
    rig.say(worker, parts[0])
    rig.say(worker, parts[2])
    assert rig.only(worker, m.Missed).after == 1
    for part in parts[1:]:
        rig.say(worker, part)
    metas = [item.meta for answer in rig.take(GATEWAY, m.Answered) for item in answer.items]
    assert metas == [b"0", b"1", b"2"]


@pytest.mark.parametrize("protocol", range(m.OLDEST_PROTOCOL_VERSION, m.NUMBERED_SINCE_PROTOCOL))
def test_a_gateway_of_a_protocol_before_is_sent_no_serial_and_forgotten_as_ever(protocol: int) -> None:
    rig = Rig()
    (worker,) = rig.ready_rig()
    old = b"old"
    rig.say(old, m.HelloGateway(protocol, "old", 1))
    rig.submit(1, gateway=old)
    run(rig, worker)
    assert rig.only(old, m.Answered).serial == 0
    rig.say(old, m.GatewayBeat({}, (1,)))
    assert rig.only(old, m.Forgotten).jobs == (1,)
    rig.say(old, m.Missed(0))
    assert not rig.take(old, m.Answered)
