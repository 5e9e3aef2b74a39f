"""What a broker tells of models, workers and keys, for tests."""

import hashlib
from typing import Any

from torchrelay.shared.wire import messages
from torchrelay.shared.wire.fields import KeyedApi

WORKER = messages.WorkerFacts(9000, "ready", "node-a", "cpu", 17, 1_769_860_800_007, 1024, 0, "")
GPU_WORKER = messages.WorkerFacts(9001, "loading", "node-b", "cuda:0", -1, 0, 0, 0, "fetching 3 of 9 MB")


# Error bodies, as TorchServe writes them.

NOT_FOUND = {
    "code": 404,
    "type": "ResourceNotFoundException",
    "message": "Requested resource is not found, please refer to API document.",
}
NOT_ALLOWED = (
    b'{\n  "code": 405,\n  "type": "MethodNotAllowedException",\n'
    b'  "message": "Requested method is not allowed, please refer to API document."\n}\n'
)


def facts(*workers: messages.WorkerFacts, model: str = "echo", version: str = "1.0") -> messages.VersionFacts:
    return messages.VersionFacts(
        model=model,
        version=version,
        is_default=True,
        url="echo.mar",
        runtime="python",
        min_workers=1,
        max_workers=2,
        batch_size=4,
        max_batch_delay_ms=50,
        response_timeout_s=33,
        startup_timeout_s=44,
        restart_window_s=55,
        loaded_at_startup=False,
        queue_depth=3,
        queue_limit=100,
        oldest_wait_ms=12,
        workers=workers,
        explanation="wants 1, has 0",
        last_error="ImportError",
        quarantined=(messages.QuarantinedItem("id-1", "killed by signal 11", 2, 5, 300_000),),
    )


# What a broker replies to an ask, whichever it is.


def scaled(*, done: bool = True) -> Any:
    return lambda ask: messages.WorkersScaled(ask.ask, done)


def healthy(ask: messages.ReadHealth) -> messages.HealthRead:
    return messages.HealthRead(ask.ask, True)


def readiness(*, is_starting: bool = False, **why_not: str) -> Any:
    """Say of models, by their names, why they can't answer; empty where they can."""
    versions = tuple(
        messages.VersionReadiness(model, "1.0", True, not why, True, why) for model, why in why_not.items()
    )
    return lambda ask: messages.ReadinessRead(ask.ask, versions, is_starting)


def described(*versions: messages.VersionFacts) -> Any:
    return lambda ask: messages.ModelDescribed(ask.ask, versions)


def key(api: KeyedApi, secret: str, expires_in_ms: int | None = None) -> messages.AccessKey:
    return messages.AccessKey(api, told(secret), expires_in_ms)


def told(secret: str) -> str:
    """Return what a broker tells of a key."""
    proof = hashlib.sha256(secret.encode()).hexdigest()
    return hashlib.sha256(proof.encode()).hexdigest()


def members_read(ask: messages.ReadMembers) -> messages.MembersRead:
    member = messages.MemberFacts("x", ask.role, "0" * 12, "here", 0, workers=2, jobs_running=3)
    invitation = messages.InvitationFacts("x", ask.role, "", "", 0, None, None, False, False)
    return messages.MembersRead(ask.ask, (member,), (invitation,))
