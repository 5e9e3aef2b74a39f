"""What becomes of models, in a line each; the same words in every view."""

from torchrelay.shared.api_bodies import FleetModelBody, QuarantinedBody


def model_summary(model: FleetModelBody) -> str:
    """Say how many workers a version has, and why they are not all there."""
    counts = f"{model.workers_ready}/{model.workers_wanted} workers ready"
    if model.is_ready:
        return counts
    if model.last_error:
        return f"{counts}: {model.last_error.strip().splitlines()[0]}"
    notes = sorted({worker.note or worker.state for worker in model.workers if worker.state != "ready"})
    return f"{counts}: {', '.join(notes) or model.explanation}" if notes or model.explanation else counts


def quarantine_summary(entry: QuarantinedBody) -> str:
    """Say which requests are refused, why and for how long."""
    return (
        f"requests like {entry.request_id} are refused for {entry.left_ms / 1000:.0f} s, {entry.refused} so "
        f"far: {entry.workers_lost} workers ended while they ran it ({entry.reason.strip()})"
    )
