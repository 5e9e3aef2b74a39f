"""How long a batch is held back: by the class alone, against TorchServe's rule, and in the core."""

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.broker.rig import Rig
from torchrelay.broker.jobs import company
from torchrelay.broker.jobs.company import Company
from torchrelay.shared.wire import messages as m

DELAY_S = 0.1
BATCH_SIZE = 16
SERVICE_S = 0.01


def hold_s(known: Company, depth: int, now: float, *, head_at: float | None = None) -> float:
    return known.hold_s(
        depth=depth, max_delay_s=DELAY_S, head_at=now if head_at is None else head_at,
        service_s=SERVICE_S, now=now,
    )  # fmt: skip


def leave(known: Company, count: int, head_at: float, now: float) -> None:
    known.leaves(
        count=count, batch_size=BATCH_SIZE, max_delay_s=DELAY_S, head_at=head_at, service_s=SERVICE_S, now=now
    )


def test_at_first_a_batch_is_held_until_its_oldest_job_has_waited_for_the_delay() -> None:
    known = Company()
    assert hold_s(known, 1, 10.0) == pytest.approx(DELAY_S)
    assert hold_s(known, 2, 10.04, head_at=10.0) == pytest.approx(0.06)
    assert hold_s(known, 2, 10.1, head_at=10.0) == 0
    assert hold_s(Company(), 1, 10.1 - company.SHORTEST_HOLD_S / 2, head_at=10.0) == 0, "too short to be due"


def test_a_lone_client_waits_four_times_and_then_no_more() -> None:
    known = Company()
    held = []
    for number in range(30):
        held.append(hold_s(known, 1, float(number)))
        leave(known, 1, float(number), number + held[-1])
    assert held == [pytest.approx(DELAY_S)] * 4 + [0.0] * 26


def test_clients_who_all_have_asked_wait_for_nobody() -> None:
    known = Company()
    for number in range(4):
        assert hold_s(known, 1, float(number)) > 0, "the first of them waits for the others"
        assert hold_s(known, 3, number + 0.001, head_at=float(number)) > 0
        leave(known, 3, float(number), number + DELAY_S)
    assert hold_s(known, 1, 5.0) > 0
    assert hold_s(known, 3, 5.001, head_at=5.0) == 0


def test_company_that_would_have_come_brings_the_holding_back() -> None:
    known = Company()
    now = 0.0
    for _ in range(100):
        now += 1
        leave(known, 1, now, now + hold_s(known, 1, now))
    assert hold_s(known, 1, now) == 0
    for _ in range(2):
        leave(known, 1, now, now)
        now += 0.002
    assert hold_s(known, 1, now) > 0


def test_a_request_that_follows_an_answer_is_no_company_however_soon_it_comes() -> None:
    known = Company()
    held = []
    for number in range(30):
        now = number * 0.0005
        held.append(hold_s(known, 1, now))
        leave(known, 1, now, now)
        known.answered(now, now + 0.0003)
    assert held[4:] == [0.0] * 26


def test_once_batches_are_known_none_is_held_for_longer_than_a_part_of_what_it_takes() -> None:
    known = Company()
    for number in range(company.LEARNING_BATCHES):
        leave(known, BATCH_SIZE, float(number), float(number))
    held_s = max(company.SHORT_HOLD_S, company.HOLD_SHARE * SERVICE_S)
    assert hold_s(known, 1, 20.0) == pytest.approx(held_s)
    assert hold_s(known, 2, 20.001, head_at=20.0) == pytest.approx(held_s - 0.001), (
        "counted from the first hold"
    )
    leave(known, 2, 20.0, 20.0 + held_s)
    assert hold_s(known, 3, 20.05, head_at=20.03) == pytest.approx(held_s), "and not from when jobs came"
    assert hold_s(Company(), 1, 20.0) == pytest.approx(DELAY_S)


@given(
    gaps_s=st.lists(st.floats(0, 0.5), min_size=1, max_size=60),
    service_s=st.floats(0, 1),
    delay_s=st.floats(0, 0.3),
)
def test_no_job_is_ever_held_beyond_the_delay_and_every_batch_goes(
    gaps_s: list[float], service_s: float, delay_s: float
) -> None:
    """Whatever comes when; a worker is always free here."""
    known = Company()
    now, due = 0.0, inf
    waiting: list[float] = []

    def held_s() -> float:
        if len(waiting) >= 4:
            return 0.0
        return known.hold_s(
            depth=len(waiting), max_delay_s=delay_s, head_at=waiting[0], service_s=service_s, now=now
        )

    for gap_s in [*gaps_s, 1.0]:
        comes_at = now + gap_s
        if waiting and due <= comes_at:
            now = due
            assert held_s() == 0, "when it is due it goes"
            known.leaves(
                count=len(waiting), batch_size=4, max_delay_s=delay_s, head_at=waiting[0],
                service_s=service_s, now=now,
            )  # fmt: skip
            waiting = []
        now = max(now, comes_at)
        waiting.append(now)
        due = now + held_s()
        assert due <= waiting[0] + delay_s + 1e-9


@dataclass
class Queue:
    """One worker and its queue, by the rule of this server or by TorchServe's; times are virtual."""

    #: Jobs of a batch -> how long it takes.
    service: Callable[[int], float]
    delay_s: float
    is_torchserves: bool = False
    known: Company = field(default_factory=Company)
    waiting: list[float] = field(default_factory=list)
    left_at: float = 0.0
    free_at: float = 0.0
    service_s: float = 0.0

    def goes_at(self, now: float) -> float:
        """Return when the batch goes that a free worker could have now."""
        if len(self.waiting) >= BATCH_SIZE:
            return now
        head_at = self.waiting[0]
        if self.is_torchserves:  # it takes the first one, and waits for others from then on
            return max(head_at, self.free_at) + self.delay_s
        return now + self.known.hold_s(
            depth=len(self.waiting), max_delay_s=self.delay_s, head_at=head_at,
            service_s=self.service_s, now=now,
        )  # fmt: skip

    def take(self, now: float) -> list[float]:
        jobs, self.waiting = self.waiting[:BATCH_SIZE], self.waiting[BATCH_SIZE:]
        self.known.leaves(
            count=len(jobs), batch_size=BATCH_SIZE, max_delay_s=self.delay_s, head_at=jobs[0],
            service_s=self.service_s, now=now,
        )  # fmt: skip
        took_s = self.service(len(jobs))
        self.service_s += (took_s - self.service_s) * (0.2 if self.service_s else 1)
        self.left_at, self.free_at = now, now + took_s
        return jobs


def latencies(
    queue: Queue, seconds: float, *, rate: float = 0.0, clients: int = 0, spread_s: float = 0.0
) -> list[float]:
    """Have jobs come by a Poisson process, or from clients that ask again soon after they are answered.

    Return how long each took, sorted, but for those of the first fifth of the time.
    """
    chance = Random(7)
    events: list[tuple[float, int, str]] = []
    number = 0

    def happens(at: float, what: str) -> None:
        nonlocal number
        number += 1
        heappush(events, (at, number, what))

    for _ in range(clients or 1):
        happens(chance.expovariate(rate) if rate else chance.random() * SERVICE_S, "comes")
    running: list[float] = []
    took_s = []
    while events[0][0] < seconds:
        now, _, what = heappop(events)
        if what == "comes":
            queue.waiting.append(now)
            if rate:
                happens(now + chance.expovariate(rate), "comes")
        elif what == "ends":
            took_s += [now - at for at in running if at > seconds / 5]
            queue.known.answered(queue.left_at, now)
            for _ in running if clients else ():
                happens(now + spread_s * (0.5 + chance.random()), "comes")
            running = []
        if queue.waiting and not running:
            goes_at = queue.goes_at(now)
            if goes_at > now + 1e-9:
                happens(goes_at, "due")
            else:
                running = queue.take(now)
                happens(queue.free_at, "ends")
    return sorted(took_s)


def of_both(
    service: Callable[[int], float],
    delay_s: float,
    seconds: float,
    *,
    rate: float = 0.0,
    clients: int = 0,
    spread_s: float = 0.0,
) -> list[tuple[int, float, float]]:
    """Return how many were answered, the median and the 99th percentile of ours and of TorchServe's rule."""
    found = []
    for is_torchserves in (False, True):
        queue = Queue(service, delay_s, is_torchserves)
        took_s = latencies(queue, seconds, rate=rate, clients=clients, spread_s=spread_s)
        found.append((len(took_s), took_s[len(took_s) // 2], took_s[len(took_s) * 99 // 100]))
    return found


#: Sixteen take 20 ms, one takes 5; 28 ms and 20.5; 1.1 ms and 0.2.
SERVICES = {
    "4+1": lambda jobs: 0.004 + 0.001 * jobs,
    "20+0.5": lambda jobs: 0.02 + 0.0005 * jobs,
    "0.1+0.06": lambda jobs: 0.0001 + 0.00006 * jobs,
}


@pytest.mark.parametrize("delay_s", [0.001, 0.05, 0.1])
@pytest.mark.parametrize("load", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_with_jobs_that_come_by_themselves_latency_is_no_worse_than_by_torchserves_rule(
    service: Callable[[int], float], load: float, delay_s: float
) -> None:
    rate = load * BATCH_SIZE / service(BATCH_SIZE)
    ours, torchserves = of_both(
        service, delay_s, (2000 if load < 0.1 else 500) * service(16) + 10 * delay_s, rate=rate
    )
    assert ours[0] >= 0.98 * torchserves[0]
    assert ours[1] <= 1.02 * torchserves[1]
    assert ours[2] <= 1.1 * torchserves[2]


@pytest.mark.parametrize("delay_s", [0.001, 0.1])
@pytest.mark.parametrize("clients", [1, 3, 8, 15, 16, 24])
@pytest.mark.parametrize("spread_s", [0.0005, 0.0015])
@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_with_clients_that_wait_for_their_answers_as_many_are_answered_as_by_torchserves_rule(
    service: Callable[[int], float], spread_s: float, clients: int, delay_s: float
) -> None:
    seconds = 300 * service(16) + 30 * delay_s
    ours, torchserves = of_both(service, delay_s, seconds, clients=clients, spread_s=spread_s)
    assert ours[0] >= 0.95 * torchserves[0]
    assert clients >= BATCH_SIZE or delay_s < 0.05 or ours[0] >= 2 * torchserves[0], "it waits for nobody"


def test_no_job_waits_where_the_rate_says_that_none_comes() -> None:
    rig = Rig()
    (worker,) = rig.ready_rig(batch_size=BATCH_SIZE, max_batch_delay_ms=100)
    chance = Random(7)
    comes_at, waited_s = rig.now, []
    for job in range(150):
        comes_at += chance.expovariate(1 / 2)  # each hundredth shares a delay with the one before
        rig.pass_time(max(0.0, comes_at - rig.now))
        rig.submit(job)
        asked_at = rig.now
        while not (batches := rig.take(worker, m.Assign)):
            rig.pass_time(0.01)
        waited_s.append(rig.now - asked_at)
        rig.pass_time(0.005)
        rig.complete(worker, batches[0])
    assert max(waited_s[8:]) == 0
