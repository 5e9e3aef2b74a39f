"""What becomes of models is said in a few words, the most telling ones first."""

import pytest

from tests.cli import bodies
from torchrelay.cli.remote.fleet_summaries import model_summary, quarantine_summary
from torchrelay.shared.api_bodies import FleetWorkerBody, QuarantinedBody

LOADING = FleetWorkerBody(
    id=9000, state="loading", node="node", device="cuda:0", pid=12, start_time="1970-01-01T00:00:01.000Z",
    memory_bytes=5, jobs_running=1, note="fetching 3 of 9 MB",
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "summary"),
    [
        ({}, "0/2 workers ready: fetching 3 of 9 MB"),
        ({"workers": ()}, "0/2 workers ready: wants 2"),
        ({"last_error": "ValueError: bad\nmore"}, "0/2 workers ready: ValueError: bad"),
        ({"workers_wanted": 0}, "0/0 workers ready"),
    ],
)
def test_a_version_says_in_a_few_words_how_far_it_is(changes: dict[str, object], summary: str) -> None:
    facts = {"workers_wanted": 2, "explanation": "wants 2", "workers": (LOADING,)}
    assert model_summary(bodies.model(**(facts | changes))) == summary


def test_a_quarantine_says_which_requests_are_refused_and_why() -> None:
    entry = QuarantinedBody(
        request_id="id-1", reason="killed by signal 11\n", workers_lost=2, refused=5, left_ms=250_000
    )
    assert quarantine_summary(entry) == (
        "requests like id-1 are refused for 250 s, 5 so far: 2 workers ended while they ran it"
        " (killed by signal 11)"
    )
