from pathlib import Path

from benchmarks import echo_handler, run, servers
from benchmarks.results import RunPlan
from torchrelay.shared.torchserve import config_properties


def test_torchrelay_understands_the_settings_that_both_servers_get() -> None:
    said = config_properties.read(
        servers.config_properties([1001, 1002, 1003, 1004, 1005, 1006], RunPlan()).encode(), {}
    ).file
    assert said.inference_address == "http://127.0.0.1:1001"
    assert said.management_address == "http://127.0.0.1:1002"
    assert said.metrics_address == "http://127.0.0.1:1003"
    assert said.job_queue_size == RunPlan().job_queue_size
    assert said.default_workers_per_model == 1
    assert said.enable_model_api is True


def test_the_queue_holds_every_client_so_that_nothing_is_refused() -> None:
    assert RunPlan().job_queue_size > max(RunPlan().connections)


def test_free_ports_are_all_different() -> None:
    assert len(set(servers.free_ports(6))) == 6


def test_torchserve_with_logs_off_differs_by_its_log_configuration_alone() -> None:
    loud, quiet = servers.torchserve(Path("/v")), servers.torchserve(Path("/v"), is_quiet=True)
    assert quiet.command == (*loud.command, "--log-config", servers.QUIET_CONFIG)
    assert quiet.key != loud.key


def test_the_handler_returns_each_rows_body_and_takes_the_call_at_load() -> None:
    assert echo_handler.handle([{"body": b"a"}, {"body": b"b"}], None) == [b"a", b"b"]
    assert echo_handler.handle(None, None) == []


def test_options_left_out_make_the_plan_that_is_published() -> None:
    options = run.parse([])
    plan = RunPlan()
    assert (options.seconds, options.rounds, tuple(options.connections)) == (
        plan.seconds,
        plan.rounds,
        plan.connections,
    )
