"""The environment of worker processes: what they inherit, and what TorchServe's workers find in it; pure."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from torchrelay.shared import messages as m
from torchrelay.shared.settings import SettingsError
from torchrelay.worker.orders import SequenceHeaders

#: Variables of our own commands begin with it; some hold keys.
OURS = "TORCHRELAY_"
#: Where torch looks for its number of threads on the cpu; the first that is set counts.
THREADS = ("MKL_NUM_THREADS", "OMP_NUM_THREADS")


def inherited(environment: Mapping[str, str], blacklist: str) -> dict[str, str]:
    """Return the variables that aren't ours and whose whole name doesn't match the blacklist, a regex.

    Raises SettingsError for what is no regex.
    """
    try:
        unwanted = re.compile(blacklist)
    except re.error as error:
        raise SettingsError(f"blacklist_env_vars {blacklist!r} is no regular expression: {error}") from error
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(OURS) and not unwanted.fullmatch(name)
    }


def for_worker(
    environment: Mapping[str, str], start: m.StartWorker, headers: SequenceHeaders, *folders: Path
) -> dict[str, str]:
    """Return what a worker finds beside what it inherits; `folders` come last in its PYTHONPATH."""
    path = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    return {
        "TS_DECODE_INPUT_REQUEST": str(start.decode_input_request).lower(),
        "TS_IPEX_ENABLE": environment.get("TS_IPEX_ENABLE", "false"),
        "TS_IPEX_GPU_ENABLE": environment.get("TS_IPEX_GPU_ENABLE", "false"),
        "TS_REQUEST_SEQUENCE_ID": headers.id,
        "TS_REQUEST_SEQUENCE_START": headers.start,
        "TS_REQUEST_SEQUENCE_END": headers.end,
        "PYTHONPATH": os.pathsep.join([*path, *(str(folder) for folder in folders)]),
    }


def threads_asked_for(environment: Mapping[str, str]) -> int | None:
    """Return how many threads torch is told to take, or None; of a list for nested loops the first."""
    for name in THREADS:
        number = environment.get(name, "").partition(",")[0].strip()
        if number.isdecimal() and int(number):
            return int(number)
    return None
