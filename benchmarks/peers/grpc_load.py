"""The load generator for gRPC: so many calls in flight on one channel of grpc.aio, as `ghz` has them.

    python -m benchmarks.peers.grpc_load < PLAN

A program of its own, so that it takes no time of the one that starts it; JSON in, JSON out.
"""

import asyncio
import subprocess
import sys
from collections.abc import Sequence

import grpc
import msgspec
import uvloop

from benchmarks.results import Load
from torchrelay.shared import clock

#: An answer that takes longer counts as broken, as wrk has it.
ANSWER_LIMIT_S = 10.0
#: Beyond its duration it needs this long at most.
SLACK_S = 60.0


class GrpcLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be asked: `requests` in turns, and how each answer has to end, if that is looked at."""

    target: str
    method: str
    in_flight: int
    seconds: float
    requests: tuple[bytes, ...]
    endings: tuple[bytes, ...] = ()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    load: Load
    wrong: int
    example: str


class GrpcLoadFailed(RuntimeError):
    """The load generator did not do its work."""


def measure(plan: GrpcLoad) -> Outcome:
    """Run the program. Raises GrpcLoadFailed."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.peers.grpc_load"],
            input=msgspec.json.encode(plan),
            capture_output=True,
            timeout=plan.seconds + SLACK_S,
            check=True,
        )
        return msgspec.json.decode(done.stdout, type=Outcome)
    except (subprocess.SubprocessError, msgspec.DecodeError) as error:
        words = getattr(error, "stderr", b"") or b""
        raise GrpcLoadFailed(f"the load by gRPC failed: {error} {words.decode()[-500:]}") from error


async def run(plan: GrpcLoad) -> Outcome:
    """Ask, and count."""
    took_us: list[float] = []
    faults: list[str] = []
    wrong: list[str] = []
    async with grpc.aio.insecure_channel(plan.target, [("grpc.max_receive_message_length", -1)]) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(plan.method)
        await call(plan.requests[0], timeout=ANSWER_LIMIT_S, wait_for_ready=True)
        began = clock.monotonic()
        ends = began + plan.seconds

        async def ask_again_and_again(number: int) -> None:
            while (asked := clock.monotonic()) < ends:
                number = (number + 1) % len(plan.requests)
                try:
                    answer = await call(plan.requests[number], timeout=ANSWER_LIMIT_S)
                except grpc.aio.AioRpcError as error:
                    faults.append(f"{error.code().name}: {error.details()}")
                    continue
                took_us.append((clock.monotonic() - asked) * 1e6)
                if plan.endings and not answer.endswith(plan.endings[number]):
                    wrong.append(f"{len(answer)} bytes, not those that were sent")

        await asyncio.gather(
            *(
                ask_again_and_again(one * len(plan.requests) // plan.in_flight)
                for one in range(plan.in_flight)
            )
        )
        duration_s = clock.monotonic() - began
    took_us.sort()
    load = Load(
        requests=len(took_us),
        duration_us=max(1, round(duration_s * 1e6)),
        p50_us=_quantile(took_us, 0.5),
        p99_us=_quantile(took_us, 0.99),
        refused=len(faults),
        broken=0,
    )
    return Outcome(load=load, wrong=len(wrong) + len(faults), example=next(iter([*wrong, *faults]), ""))


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


if __name__ == "__main__":
    told = msgspec.json.decode(sys.stdin.buffer.read(), type=GrpcLoad)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(told))))
