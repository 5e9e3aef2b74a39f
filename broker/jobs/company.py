"""How long a batch that isn't full is held back for more jobs, by how often they came before. Pure.

While little is known it is held as in TorchServe, until its oldest job has waited for `max_batch_delay`.
Later two things are known, and a batch that waits for nobody goes at once:

- how often another job came while a batch of so many was held, or would have come had it been: a lone
  client's next request comes after its answer, the ninth of eight clients' never;
- how long a batch takes. Holding one for longer than a part of that gains nothing: what comes while it runs
  is the next batch. And the shorter the hold is beside it, the less often somebody need come in it.
"""

#: Batches that must have left before the second of these counts: until then they are as full as TorchServe's.
LEARNING_BATCHES = 16
#: Weight of what was seen last. Four times in a row that nobody came are enough.
WEIGHT = 1 / 6
#: How often another job must come where a batch is held for hardly a part of its time, and for all of it.
HOLD_CHANCE_MIN, HOLD_CHANCE_MAX = 0.1, 0.5
#: So that a few jobs that do come are enough, however long none did.
CHANCE_MIN = 0.05
#: Part of a batch's time for which one is held at most. In simulations, with Poisson arrivals and with 1 to
#: 40 clients, a half costs 20 % more latency at half of the capacity, the whole of it 140 %, and no more is
#: answered.
HOLD_SHARE = 0.25
#: It may be so long in any case: a message less is worth it.
SHORT_HOLD_S = 0.001
#: Less is lost when it is added to a time, which would so be due again and again.
SHORTEST_HOLD_S = 1e-6


class Company:
    """What is known of the jobs that come to a version while a batch could go."""

    __slots__ = ("_batches", "_chances", "_held_jobs", "_held_since", "_last")

    def __init__(self) -> None:
        #: Up to LEARNING_BATCHES.
        self._batches = 0
        #: Jobs in a batch -> how often one more came in time; 1 where nothing is known.
        self._chances: dict[int, float] = {}
        #: When the batch that is held could have gone, and how many it had then; None if none is held.
        self._held_since: float | None = None
        self._held_jobs = 0
        #: Of the latest batch, if it was not full and isn't judged yet: how many it had, when it left, and
        #: until when it could have been held, or was answered.
        self._last: tuple[int, float, float] | None = None

    def hold_s(
        self, *, depth: int, max_delay_s: float, head_at: float, service_s: float, now: float
    ) -> float:
        """Return how many seconds a batch that could go should be held back; 0: it goes.

        It has `depth` jobs and has room for more; the oldest came at `head_at`. Batches take `service_s` on
        average, 0 if that isn't known.
        """
        if self._last is not None:
            self._judge_last(head_at)
        share = self._longest_s(max_delay_s, service_s) / service_s if service_s else HOLD_CHANCE_MAX
        if self._chances.get(depth, 1.0) < max(HOLD_CHANCE_MIN, min(share, HOLD_CHANCE_MAX)):
            return 0.0
        since = now if self._held_since is None else self._held_since
        left_s = self._until(since, head_at, max_delay_s, service_s) - now
        if left_s <= SHORTEST_HOLD_S:
            return 0.0
        if self._held_since is None:
            self._held_since, self._held_jobs = now, depth
        return left_s

    def leaves(
        self, *, count: int, batch_size: int, max_delay_s: float, head_at: float, service_s: float, now: float
    ) -> None:
        """Take note that a batch of `count` jobs goes now."""
        if self._last is not None:
            self._judge_last(head_at)
        since, self._held_since = self._held_since, None
        if since is None:
            since = now
        else:
            for depth in range(self._held_jobs, count):
                self._learn(depth, came=True)
        if count < batch_size:
            self._last = count, now, self._until(since, head_at, max_delay_s, service_s)
        if self._batches < LEARNING_BATCHES:
            self._batches += 1

    def answered(self, left_at: float, now: float) -> None:
        """Take note that the batch that left then is answered: who asks now may have waited for that."""
        if self._last is not None and self._last[1] == left_at and now < self._last[2]:
            self._last = self._last[0], left_at, now

    def _judge_last(self, next_at: float) -> None:
        """See whether the job that came after the latest batch could have gone with it."""
        assert self._last is not None
        depth, left_at, until = self._last
        self._last = None
        if next_at > left_at:  # else it was there, as one that is tried again
            self._learn(depth, came=next_at < until)

    def _learn(self, depth: int, *, came: bool) -> None:
        chance = self._chances.get(depth, 1.0)
        self._chances[depth] = max(CHANCE_MIN, chance + WEIGHT * (came - chance))

    def _until(self, since: float, head_at: float, max_delay_s: float, service_s: float) -> float:
        """Return until when a batch may be held that could have gone at `since`."""
        if self._batches < LEARNING_BATCHES:
            return head_at + max_delay_s
        # Not from when the first came: clients that have just been answered ask again, and would always be
        # too late for those that came while theirs ran.
        return since + self._longest_s(max_delay_s, service_s)

    def _longest_s(self, max_delay_s: float, service_s: float) -> float:
        """Return for how long a batch may be held."""
        if self._batches < LEARNING_BATCHES or not service_s:
            return max_delay_s
        return min(max_delay_s, max(SHORT_HOLD_S, HOLD_SHARE * service_s))
