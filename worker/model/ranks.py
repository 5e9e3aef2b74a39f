"""Workers of several processes: each runs what the first, rank 0, runs, which speaks for all.

What torchrun does for TorchServe's parallel models is done by forks: the processes find torchrun's
environment, so that `torch.distributed.init_process_group` needs no arguments, and live and die as one.
Answers, parts and metrics are those of rank 0.
"""

import contextlib
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from ts.utils.util import visible_to

from torchrelay.shared import clock, settings
from torchrelay.shared.archives.model_config import ModelConfig, Torchrun
from torchrelay.shared.processes.parent_death import die_with_parent
from torchrelay.shared.wire import codec
from torchrelay.shared.wire import messages as m
from torchrelay.worker.model.engines import FollowerEngine
from torchrelay.worker.model.held_leases import Batch, batches_of
from torchrelay.worker.model.runner import Runner

logger = logging.getLogger(__name__)

_LEASE = struct.Struct("!Q")


def threads(config: ModelConfig) -> int:
    """Return how many threads of torch each process has."""
    return (config.torchrun or Torchrun()).omp_threads


class Leader:
    """Rank 0: passes on what it runs, as plain bytes, which nobody unpickles: head, leases, each frame."""

    rank = 0

    def __init__(self, followers: Sequence[Connection]) -> None:
        self._followers = followers
        if followers:
            threading.Thread(target=self._watch, name="followers", daemon=True).start()

    def share(self, batch: Batch, leases: Sequence[int]) -> None:
        """Have the others run the same; see `engines.Share`. One that is gone is noticed by the watch."""
        items = tuple(
            m.AssignItem(job.meta, len(job.frames), job.sequence, job.starts_sequence) for job in batch.jobs
        )
        head = codec.encode(m.Assign(batch.lease, batch.is_describe, items), 0)
        packed = b"".join(map(_LEASE.pack, leases))
        parts = [head, packed, *(codec.payload(frame) for job in batch.jobs for frame in job.frames)]
        for follower in self._followers:
            for part in parts:
                follower.send_bytes(part)

    def _watch(self) -> None:
        """End with the first of the others: rank 0 may be waiting for it where no signal is heard."""
        select.select(self._followers, [], [])  # they never say anything
        logger.error("One of this worker's processes has ended; so does the worker.")
        os._exit(1)


@dataclass
class Follower:
    """Any other rank: runs what rank 0 passes on, until that is gone."""

    rank: int
    _leader: Connection

    def follow(self, runner: Runner) -> None:
        """Run what rank 0 runs, until it ends."""
        echo = FollowerEngine(runner)
        for batch, leases in self._shared():
            echo.run(batch, leases)
            if runner.measuring.due(clock.monotonic(), is_idle=True):
                runner.measuring.sent(clock.monotonic())

    def _shared(self) -> Iterator[tuple[Batch, list[int]]]:
        with contextlib.suppress(EOFError):  # rank 0 has ended
            while True:
                assign, _ = codec.decode(self._leader.recv_bytes())
                assert isinstance(assign, m.Assign)
                packed = self._leader.recv_bytes()
                frames = [self._leader.recv_bytes() for item in assign.items for _ in range(item.frames)]
                yield batches_of(assign, frames, 0.0)[0], [lease for (lease,) in _LEASE.iter_unpack(packed)]


def see_only(gpu_ids: Sequence[int]) -> None:
    """Hide all other GPUs from this process and its children; these are then numbered from 0 on.

    To be called before CUDA is touched.
    """
    inherited = settings.environment().get("CUDA_VISIBLE_DEVICES")
    settings.add_to_environment({"CUDA_VISIBLE_DEVICES": visible_to(gpu_ids, inherited)})


def gather(config: ModelConfig) -> Leader | Follower:
    """Fork the other processes; return this one's part among them, which differs in each.

    To be called before there are threads, and before CUDA is touched.
    """
    size = config.processes
    variables = _variables(size, threads(config))
    leader_pid = os.getpid()
    followers: list[Connection] = []
    for rank in range(1, size):
        ours, theirs = Pipe()
        if os.fork() == 0:
            die_with_parent(leader_pid)
            for other in (ours, *followers):
                other.close()
            settings.add_to_environment(variables | _of_rank(rank))
            return Follower(rank, theirs)
        theirs.close()
        followers.append(ours)
    settings.add_to_environment(variables | _of_rank(0))
    return Leader(followers)


def _variables(size: int, omp_threads: int) -> dict[str, str]:
    """Return what torchrun tells all processes of a host that is alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "ROLE_WORLD_SIZE": str(size),
        "ROLE_NAME": "default",
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "OMP_NUM_THREADS": str(omp_threads),
    }


def _of_rank(rank: int) -> dict[str, str]:
    return {name: str(rank) for name in ("RANK", "LOCAL_RANK", "ROLE_RANK")}
