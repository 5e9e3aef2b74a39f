"""What the gateway writes about the fleet is what the commands read, and what they make of it."""

import msgspec
import pytest

from torchrelay.cli.remote import fleet_view
from torchrelay.gateway.api import presenting
from torchrelay.shared.wire import messages as m

DEVICE = m.Device("cuda:0", "gpu", "H100", 80 << 30)
WORKER = m.WorkerFacts(9000, "loading", "node", "cuda:0", 12, 1_000, 5, 1, "fetching 3 of 9 MB")
VERSION = m.VersionFacts(
    model="digits", version="1.0", is_default=True, url="digits.mar", archive="ab", handler="h.py",
    runtime="python", min_workers=2, max_workers=2, batch_size=1, max_batch_delay_ms=100,
    response_timeout_s=120, startup_timeout_s=120, restart_window_s=300, loaded_at_startup=True,
    queue_depth=3, queue_limit=100, oldest_wait_ms=4, workers=(WORKER,), explanation="wants 2", last_error="",
)  # fmt: skip
READ = m.FleetRead(0, 7, 1.5, 2, (m.NodeFacts("node", (DEVICE,), 32, 1, 0),), (VERSION,))


def as_read(read: m.FleetRead) -> fleet_view.Fleet:
    return msgspec.json.decode(msgspec.json.encode(presenting.fleet(read)), type=fleet_view.Fleet)


def test_the_commands_read_what_the_gateway_writes() -> None:
    assert as_read(READ) == fleet_view.Fleet(
        epoch=7,
        uptime_s=1.5,
        gateways=2,
        nodes=(
            fleet_view.Node(
                name="node",
                devices=(
                    fleet_view.Device(name="cuda:0", kind="gpu", description="H100", memory_bytes=80 << 30),
                ),
                slots=32,
                slots_used=1,
            ),
        ),
        models=(
            fleet_view.Version(
                model_name="digits",
                model_version="1.0",
                is_default=True,
                model_url="digits.mar",
                workers_wanted=2,
                workers_ready=0,
                queue_depth=3,
                queue_limit=100,
                oldest_wait_ms=4,
                explanation="wants 2",
                workers=(
                    fleet_view.Worker(
                        id=9000,
                        state="loading",
                        node="node",
                        device="cuda:0",
                        pid=12,
                        jobs_running=1,
                        note="fetching 3 of 9 MB",
                    ),
                ),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("changes", "summary"),
    [
        ({}, "0/2 workers ready: fetching 3 of 9 MB"),
        ({"workers": ()}, "0/2 workers ready: wants 2"),
        ({"last_error": "ValueError: bad\nmore"}, "0/2 workers ready: ValueError: bad"),
        ({"min_workers": 0}, "0/0 workers ready"),
    ],
)
def test_a_version_says_in_a_few_words_how_far_it_is(changes: dict[str, object], summary: str) -> None:
    changed = msgspec.structs.replace(READ, versions=(msgspec.structs.replace(VERSION, **changes),))
    assert as_read(changed).models[0].summary() == summary
