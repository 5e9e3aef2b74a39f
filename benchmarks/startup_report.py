"""Makes the section on starts and replicas of the report. Pure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.results import ReplicaRun, StartUp, StartupResults
from benchmarks.tables import table

RESULTS = Path(__file__).parent / "results" / "startup.json"
NONE = "-"


def render(results: StartupResults) -> str:
    """Write the section."""
    machine, plan = results.machine, results.plan
    parts = [
        f"""\
## Start-up

`{results.command}`, commit {results.revision}, {results.taken_at},
{machine.in_words}; the load average was {results.load_before}
at the beginning.""",
        starts(results.starts, results.servers, plan.start_rounds),
        _cpu(results),
        _replicas(results),
    ]
    return "\n\n".join(part for part in parts if part)


def starts(found: Sequence[StartUp], servers: Mapping[str, str], rounds: int) -> str:
    """Write how long starts took."""
    rows = []
    for key, label in servers.items():
        for is_cold in (True, False):
            those = [start for start in found if (start.server, start.is_cold) == (key, is_cold)]
            if those:
                rows.append([
                    f"{label}, {'cold' if is_cold else 'warm'}",
                    f"{median(start.started_s for start in those):.2f}",
                    f"{median(start.predicted_s for start in those):.2f}",
                ])  # fmt: skip
    return f"""\
Seconds from the command to the line "Model server started.", and to the first prediction with status 200;
medians of {rounds}. Cold: no state, nothing unpacked; warm: the same folder again. The
files of either program were in the kernel's page cache by the time of most starts.

{table(("start", "started s", "first prediction s"), rows)}"""


def _cpu(results: StartupResults) -> str:
    rows = []
    for key, label in results.servers.items():
        warm = [start.cpu_s for start in results.starts if start.server == key and not start.is_cold]
        roles = list(dict.fromkeys(role for spent in warm for role in spent))
        seconds = {role: median(spent.get(role, 0.0) for spent in warm) for role in roles}
        rows += [[f"{label}: {role}", f"{spent:.2f}"] for role, spent in seconds.items() if spent >= 0.005]
        if warm:
            rows.append([f"{label}: **all**", f"{median(sum(spent.values()) for spent in warm):.2f}"])
    return f"""\
What each process had taken of the CPU at the first prediction of a warm start, in seconds:

{table(("process", "CPU s"), rows)}"""


def _replicas(results: StartupResults) -> str:
    if not results.replicas:
        return ""
    rows = [
        [
            f"{results.servers[run.server]}, {run.model} model",
            str(run.replicas),
            f"{run.ready_s:.2f}",
            *_memory(run),
        ]
        for run in results.replicas
    ]
    return f"""\
Replicas of a small torch model (2 MB of weights) that are registered at once, until all are ready. Memory of
each worker in MiB, idle after one prediction: private is what it has alone, of PSS shared pages count by
share. The second model has other weights, and is registered beside the first. torchrelay's workers are forked
from a process that has imported torch; TorchServe's import it one by one, whatever they hold. torchrelay has
as many `--slots` as that takes.

{table(("replicas", "number", "all ready s", "private, median", "private, most", "PSS, median"), rows)}"""


def _memory(run: ReplicaRun) -> list[str]:
    private = [size for size in run.private_bytes if size is not None]
    shares = [size for size in run.pss_bytes if size is not None]
    if not private or not shares:
        return [NONE, NONE, NONE]
    return [f"{size / 2**20:.1f}" for size in (median(private), max(private), median(shares))]
