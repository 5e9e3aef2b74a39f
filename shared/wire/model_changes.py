"""What gateways ask of the broker that changes models, and how many workers they have."""

from torchrelay.shared.wire import fields as f
from torchrelay.shared.wire.items import Message


class RegisterModel(Message, frozen=True):
    """Register the archive at `url`; None is "not said". `proof`, as in other changes: see AccessKey."""

    ask: f.Number
    url: f.Said
    model_name: f.Said | None = None
    handler: f.Said | None = None
    runtime: f.Said | None = None
    batch_size: f.Whole32 | None = None
    max_batch_delay_ms: f.Whole32 | None = None
    response_timeout_s: f.Whole32 | None = None
    startup_timeout_s: f.Whole32 | None = None
    initial_workers: f.Whole32 | None = None
    synchronous: bool = True
    s3_sse_kms: bool = False
    proof: f.Name = ""


class UnregisterModel(Message, frozen=True):
    """Drop a version, or with `version` None the default one."""

    ask: f.Number
    model: f.Said
    version: f.Said | None
    proof: f.Name = ""


class ScaleWorkers(Message, frozen=True):
    """Set a version's worker targets. `drain_timeout_s`: -1 waits for running batches, 0 kills at once."""

    ask: f.Number
    model: f.Said
    version: f.Said | None
    min_workers: f.Whole32
    max_workers: f.Whole32
    synchronous: bool
    drain_timeout_s: f.Whole32 = -1
    proof: f.Name = ""


class SetDefault(Message, frozen=True):
    """Make a version the default."""

    ask: f.Number
    model: f.Said
    version: f.Said
    proof: f.Name = ""
