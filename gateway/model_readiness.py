"""What the broker's answer about all versions means for one, and for the whole server. Pure."""

from torchrelay.shared import errors
from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire import messages as m

#: Models that a reason names.
SHOWN_LIMIT = 5


def why_not(read: m.ReadinessRead, model: str, version: str | None) -> str:
    """Say why a version, the default one if none is named, can't answer requests now; "" where it can.

    Raises ModelNotFound or ModelVersionNotFound, but not while models of the start are being registered.
    """
    of_model = [one for one in read.versions if one.model == model]
    for one in of_model:
        # One that could not be loaded has no version yet.
        if one.version == version or (version is None and one.is_default) or not one.version:
            return one.why_not
    if read.is_starting:
        return "models named at start are being registered"
    if of_model:
        raise errors.ModelVersionNotFound(
            f"Model version: {quoted(version)} does not exist for model: {model}"
        )
    raise errors.ModelNotFound(f"Model not found: {quoted(model)}")


def why_not_all(read: m.ReadinessRead) -> str:
    """Say which default versions can't answer requests though they should; "" where all can."""
    missing = [one for one in read.versions if one.is_default and one.is_wanted and not one.is_ready]
    return "; ".join(f"{one.model}: {one.why_not}" for one in missing[:SHOWN_LIMIT])
