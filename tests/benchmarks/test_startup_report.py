from benchmarks.results import Machine, ReplicaRun, StartUp, StartupPlan, StartupResults
from benchmarks.startup_report import render

MIB = 1 << 20


def results(*replicas: ReplicaRun) -> StartupResults:
    starts = [
        StartUp(server="torchrelay", is_cold=is_cold, started_s=seconds, predicted_s=seconds + 1,
                cpu_s={"broker": 0.5, "launcher": seconds})
        for is_cold, seconds in ((True, 3.0), (False, 1.0), (False, 2.0), (False, 9.0))
    ]  # fmt: skip
    machine = Machine(cpu="C", cores=2, memory_bytes=1, kernel="k", python="3", versions={})
    return StartupResults(taken_at="T", command="X", revision="abc", machine=machine, plan=StartupPlan(),
                          load_before=0.5, servers={"torchrelay": "torchrelay"}, starts=tuple(starts),
                          replicas=replicas)  # fmt: skip


def test_starts_are_medians_with_what_each_process_took() -> None:
    text = render(results())
    assert "| torchrelay, cold | 3.00 | 4.00 |" in text
    assert "| torchrelay, warm | 2.00 | 3.00 |" in text
    assert "| torchrelay: launcher | 2.00 |" in text
    assert "| torchrelay: **all** | 2.50 |" in text
    assert "Replicas" not in text


def test_replicas_have_the_memory_of_each_process_even_if_some_can_not_be_read() -> None:
    run = ReplicaRun(server="torchrelay", model="second", replicas=3, ready_s=1.25,
                     private_bytes=(10 * MIB, 12 * MIB, 30 * MIB),
                     pss_bytes=(20 * MIB, None, None))  # fmt: skip
    assert "| torchrelay, second model | 3 | 1.25 | 12.0 | 30.0 | 20.0 |" in render(results(run))
    unreadable = ReplicaRun(server="torchrelay", model="first", replicas=1, ready_s=1, private_bytes=(None,),
                            pss_bytes=(None,))  # fmt: skip
    assert "| torchrelay, first model | 1 | 1.00 | - | - | - |" in render(results(unreadable))
