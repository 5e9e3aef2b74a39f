"""Runs one attack: a server of its own, honest clients, attackers, and what is measured of all of it."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.attacks import plan, verdicts
from tests.attacks.attacker import INFERENCE
from tests.attacks.catalog import ATTACKS, MIXED, MIXED_SECONDS
from tests.attacks.honest import Clients
from tests.attacks.servers import Server
from tests.attacks.table import Row
from tests.attacks.watching import Watch
from tests.installation import ROOT
from torchrelay.shared import clock

#: For those who wait.
TELL_EVERY_S = 5.0
#: Of what one of our processes writes on a line.
REPORT_LIMIT_BYTES = 1 << 24
#: Of what is said when a server doesn't start.
WORDS_LIMIT = 300

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Times:
    """How long what is around an attack takes."""

    #: Not measured: what a server that has just started does once.
    warm_up_s: float = 1.0
    #: How long honest requests are measured alone, before the attack and when all should be over.
    alone_s: float = 4.0
    recovery_s: float = verdicts.RECOVERY_S


def run(name: str, seconds: float | None, folder: Path, tell: Tell, times: Times = Times()) -> Row:
    """Run an attack, or several side by side as `mixed`, and judge what came of it."""
    attacks = [one for one in ATTACKS.values() if one.is_mixed] if name == MIXED else [ATTACKS[name]]
    seconds = seconds or (MIXED_SECONDS if name == MIXED else attacks[0].seconds)
    kind = attacks[0]  # those that run side by side are all content with the same
    tell(f"{name}: starting a server")
    server = Server(folder)
    measured, seen, trouble = verdicts.NOTHING, "", ""
    try:
        target = server.start(kind.config, kind.broker_options)
        share = len(attacks)
        attack_runs = [
            plan.AttackRun(one.name, target, seconds, plan.BYTES_PER_S / share, plan.MESSAGES_PER_S / share)
            for one in attacks
        ]
        measured, seen = asyncio.run(_attack(name, attack_runs, Watch(server.parts, folder), tell, times))
    except AssertionError as error:
        trouble = f"the server did not start: {error}"[:WORDS_LIMIT]
    finally:
        tell(f"{name}: stopping the server")
        trouble = server.stop() or trouble
    faults = (*verdicts.faults(measured), trouble)
    return Row(name, measured, tuple(filter(None, faults)), seen)


async def _attack(
    name: str, attack_runs: Sequence[plan.AttackRun], watch: Watch, tell: Tell, times: Times
) -> tuple[verdicts.Measurements, str]:
    target = attack_runs[0].target
    clients = Clients(target.address, INFERENCE)
    load = asyncio.create_task(clients.run())
    probe = await _python("tests.attacks.member_probe", msgspec.json.encode(target) + b"\n")
    await _pass(times.warm_up_s)
    alone_at = clock.monotonic()
    tell(f"{name}: honest requests alone")
    await _pass(times.alone_s)
    await asyncio.to_thread(watch.begin)
    begun_at = clock.monotonic()
    telling = asyncio.create_task(_tell(name, clients, watch, tell))
    all_seen = await asyncio.gather(*map(_run, attack_runs))
    ended_at = clock.monotonic()
    telling.cancel()
    tell(f"{name}: is all back to normal?")
    await _pass(times.recovery_s)
    after_at = clock.monotonic()
    await _pass(times.alone_s)
    memory, ended, log_bytes = await asyncio.to_thread(watch.end)
    over_at = clock.monotonic()
    clients.stop()
    await load
    members = await _probed(probe, begun_at)
    measured = verdicts.Measurements(
        before=verdicts.honest(clients.outcomes, alone_at, begun_at),
        during=verdicts.honest(clients.outcomes, begun_at, ended_at),
        after=verdicts.honest(clients.outcomes, after_at, over_at),
        memory=memory,
        ended=ended,
        log_bytes=log_bytes,
        breaches=tuple(breach for seen in all_seen for breach in seen.breaches),
        questions=verdicts.honest(members.answers, begun_at, ended_at),
        joins=verdicts.honest(members.joins, begun_at, ended_at),
    )
    if len(all_seen) == 1:
        return measured, all_seen[0].text
    return measured, f"{len(attack_runs)} attacks side by side for {ended_at - begun_at:.0f} s"


async def _pass(seconds: float) -> None:
    """Let time pass, while honest clients and attackers go on."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()


async def _tell(name: str, clients: Clients, watch: Watch, tell: Tell) -> None:
    while True:
        await _pass(TELL_EVERY_S)
        failed = sum(1 for one in clients.outcomes if one.fault)
        tell(f"{name}: {len(clients.outcomes)} honest requests, {failed} failed; {watch.largest()}")


async def _python(module: str, to_say: bytes, *prefix: str) -> asyncio.subprocess.Process:
    """Start a module of ours and tell it what to do."""
    process = await asyncio.create_subprocess_exec(
        *prefix, sys.executable, "-m", module, cwd=ROOT, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=REPORT_LIMIT_BYTES,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(to_say)
    return process


async def _probed(probe: asyncio.subprocess.Process, since: float) -> verdicts.MemberOutcomes:
    """End the members that mean no harm, and return what became of what they did."""
    try:
        async with asyncio.timeout(plan.OVERTIME_S):
            out, err = await probe.communicate(b"")
    except TimeoutError:
        out, err = b"", b"it had to be stopped"
    finally:
        with suppress(ProcessLookupError):
            probe.kill()
        await probe.wait()
    if probe.returncode:
        failed = verdicts.Outcome(since, 0.0, err.decode(errors="replace")[-WORDS_LIMIT:])
        return verdicts.MemberOutcomes([failed], [failed])
    return msgspec.json.decode(out, type=verdicts.MemberOutcomes)


async def _run(attack_run: plan.AttackRun) -> plan.AttackReport:
    """Run an attacker, and stop one that doesn't end."""
    # Nice, so that on a machine of few processors it is the server that gets them: an attacker has its own.
    process = await _python("tests.attacks.attacker", msgspec.json.encode(attack_run), "nice")
    try:
        async with asyncio.timeout(attack_run.seconds + plan.OVERTIME_S):
            out, err = await process.communicate(b"")
    except TimeoutError:
        return plan.AttackReport(f"{attack_run.attack} had to be stopped")
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode:
        words = err.decode(errors="replace").strip().splitlines()[-1:]
        return plan.AttackReport(
            "", (f"the attacker itself failed ({attack_run.attack}): {' '.join(words)[:200]}",)
        )
    return msgspec.json.decode(out, type=plan.AttackReport)
