"""Composing settings: who wins, and what is refused."""

from pathlib import Path

import msgspec
import pytest

from torchrelay.cli.commands import options
from torchrelay.cli.faults import Fault
from torchrelay.cli.start import part_settings
from torchrelay.shared.host import Gpu, Host, look
from torchrelay.shared.settings import (
    DEFAULT_CACHE_LIMIT_BYTES,
    QUEUE_LIMIT_BYTES,
    SOCKET_PATH_LIMIT_BYTES,
    BrokerSettings,
    LoadAtStart,
    SettingsError,
    StaticKey,
)
from torchrelay.shared.torchserve import config_keys, config_properties
from torchrelay.shared.torchserve.config_keys import ConfigValues
from torchrelay.shared.torchserve.config_properties import Configuration
from torchrelay.worker.node import devices
from torchrelay.worker.node.host_metrics import HostMetricsReader

PC = Host(name="pc", cpus=4, gpus=0)
GPU_BOX = Host(name="box", cpus=64, gpus=4)


OPTIONS = part_settings.Options(state_dir="/s", cache_dir="/c", socket_dir="/tmp/x")


def plan(
    said: ConfigValues | None = None,
    file: str = "",
    host: Host = PC,
    environ: dict[str, str] | None = None,
    **more: object,
) -> part_settings.Plan:
    config = config_properties.read(file.encode(), environ or {})
    options = msgspec.structs.replace(OPTIONS, **more)
    return part_settings.compose(said or ConfigValues(), config, options, host)


@pytest.mark.parametrize(
    ("in_file", "flag", "variable", "admitted", "is_enabled"),
    [
        (None, False, None, False, False),
        ("false", True, None, False, True),
        ("true", False, None, False, True),
        ("false", False, None, False, False),
        (None, True, None, False, True),
        ("true", True, None, False, True),
        # An environment that the file does not admit counts for nothing ...
        (None, False, "true", False, False),
        ("true", False, "false", False, True),
        (None, True, "false", False, True),
        # ... and beats everything where it does.
        (None, False, "true", True, True),
        ("false", False, "true", True, True),
        ("true", False, "false", True, False),
        (None, True, "false", True, False),
        ("true", True, "false", True, False),
        ("false", True, None, True, True),
    ],
)
def test_the_model_api_obeys_environment_then_command_line_then_file(
    in_file: str | None, flag: bool, variable: str | None, admitted: bool, is_enabled: bool
) -> None:
    lines = [f"enable_model_api={in_file}"] if in_file else []
    lines += ["enable_envvars_config=true"] if admitted else []
    environ = {"TS_ENABLE_MODEL_API": variable} if variable else {}
    made = plan(ConfigValues(enable_model_api=flag or None), "\n".join(lines), environ=environ)
    assert made.gateway.enable_model_api is is_enabled


def test_every_key_reaches_the_process_that_needs_it() -> None:
    file = """
        inference_address=http://127.0.0.1:9080
        management_address=http://127.0.0.1:9081
        metrics_address=http://127.0.0.1:9082
        model_store=/models
        load_models=a.mar
        default_workers_per_model=3
        default_response_timeout=4
        default_startup_timeout=5
        job_queue_size=6
        max_request_size=7
        max_response_size=8
        allowed_urls=https://only/.*
        enable_metrics_api=false
        decode_input_request=false
        limit_max_image_pixels=false
        service_envelope=json
        default_service_handler=h.py
    """
    made = plan(file=file)
    broker, gateway = made.broker, made.gateway
    assert gateway.inference_address == "http://127.0.0.1:9080"
    assert gateway.management_address == "http://127.0.0.1:9081"
    assert gateway.metrics_address == "http://127.0.0.1:9082"
    assert (gateway.max_request_size, gateway.enable_metrics_api) == (7, False)
    assert (broker.model_store, broker.load_models) == ("/models", (LoadAtStart(url="a.mar"),))
    assert broker.default_workers_per_model == 3
    assert (broker.default_response_timeout_s, broker.default_startup_timeout_s) == (4, 5)
    assert (broker.job_queue_size, broker.max_response_size) == (6, 8)
    assert broker.allowed_urls == ("https://only/.*",)
    assert (broker.decode_input_request, broker.limit_max_image_pixels) == (False, False)
    assert (broker.service_envelope, broker.default_service_handler) == ("json", "h.py")


def test_the_command_line_replaces_the_files_models_and_store() -> None:
    said = ConfigValues(model_store="/mine", load_models=(LoadAtStart(url="b.mar"),))
    made = plan(said, "model_store=/theirs\nload_models=all")
    assert (made.broker.model_store, made.broker.load_models) == ("/mine", (LoadAtStart(url="b.mar"),))


def test_all_three_meet_at_the_private_socket() -> None:
    made = plan(broker_address="tcp://127.0.0.1:7700", insecure=True)
    assert made.broker.addresses == ("ipc:///tmp/x/broker.sock", "tcp://127.0.0.1:7700")
    assert made.gateway.broker_address == made.node.broker_address == "ipc:///tmp/x/broker.sock"


@pytest.mark.parametrize(
    ("here", "file", "devices", "wanted", "workers"),
    [
        (PC, "", ("auto",), ("auto",), 4),
        (GPU_BOX, "", ("auto",), ("auto",), 4),
        (GPU_BOX, "number_of_gpu=2", ("auto",), ("cuda:0", "cuda:1"), 2),
        (GPU_BOX, "number_of_gpu=9", ("auto",), ("auto",), 4),
        (GPU_BOX, "number_of_gpu=0", ("auto",), ("cpu",), 64),
        (PC, "number_of_gpu=2", ("auto",), ("auto",), 4),
        (GPU_BOX, "number_of_gpu=1", ("cuda:3",), ("cuda:3",), 1),
        (GPU_BOX, "", ("cpu",), ("cpu",), 64),
        (GPU_BOX, "", ("auto", "cpu"), ("auto", "cpu"), 4),
        (GPU_BOX, "number_of_gpu=1", ("cpu", "auto"), ("cpu", "cuda:0"), 1),
    ],
)
def test_a_model_starts_with_a_worker_per_gpu_or_else_per_cpu(
    here: Host, file: str, devices: tuple[str, ...], wanted: tuple[str, ...], workers: int
) -> None:
    made = plan(file=file, host=here, devices=devices)
    assert (made.node.devices, made.broker.startup_workers_per_model) == (wanted, workers)


@pytest.mark.parametrize("visible", [None, "6", "6,7", "", "-1", "NoDevFiles", "GPU-3,GPU-5", "9", "MIG-7b"])
@pytest.mark.parametrize("limit", [None, 0, 1, 5])
def test_no_worker_of_the_start_and_no_device_is_counted_that_the_node_has_not(
    visible: str | None, limit: int | None
) -> None:
    parts = (Gpu("MIG-7a", "H100 1g", 10 << 30), Gpu("MIG-7b", "H100 3g", 40 << 30))
    gpus = [Gpu(f"GPU-{number}", "H100", 80 << 30, parts if number == 7 else ()) for number in range(8)]
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    here = msgspec.structs.replace(look(environment, lambda: gpus), cpus=16)
    made = plan(ConfigValues(number_of_gpu=limit), host=here)
    offered = devices.offered(made.node.devices, environment, lambda: gpus)
    on_gpus = [device for device in offered if device.kind == "gpu"]
    assert len(on_gpus) == min(here.gpus, here.gpus if limit is None else limit)
    assert made.broker.startup_workers_per_model == (len(on_gpus) or 16)
    measured = HostMetricsReader(environment, lambda: gpus).read().gpus or ()
    assert {device.name for device in on_gpus} <= {f"cuda:{gpu.number}" for gpu in measured}
    assert len(measured) == here.gpus


def test_the_cache_has_the_limit_that_was_said_or_the_settings_own() -> None:
    assert options.DEFAULT_CACHE_LIMIT_GB * options.GIGABYTE == DEFAULT_CACHE_LIMIT_BYTES
    assert plan().node.cache_limit_bytes == DEFAULT_CACHE_LIMIT_BYTES
    assert plan(cache_limit_bytes=5).node.cache_limit_bytes == 5


def test_slots_suffice_for_a_model_on_every_cpu_of_a_large_machine() -> None:
    assert plan(host=GPU_BOX).node.slots >= 2 * GPU_BOX.cpus
    assert plan(slots=3).node.slots == 3


def test_everything_reachable_from_outside_is_refused_in_one_go_unless_insecure() -> None:
    said = ConfigValues(inference_address="http://0.0.0.0:8080", metrics_address="http://[::]:8082")
    with pytest.raises(SettingsError) as caught:
        plan(said, broker_address="tcp://192.0.2.1:7700")
    assert len(str(caught.value).splitlines()) == 2
    assert plan(said, broker_address="tcp://192.0.2.1:7700", insecure=True).broker.insecure
    # Nobody listens there:
    assert plan(ConfigValues(metrics_address="http://[::]:8082"), "enable_metrics_api=false").gateway


def test_open_http_is_about_the_listeners_alone() -> None:
    said = ConfigValues(inference_address="http://0.0.0.0:8080")
    made = plan(said, broker_address="tcp://192.0.2.1:7700", open_http=True)
    assert made.gateway.insecure
    assert made.broker.asks_for_curve_keys


def test_files_for_invitations_are_named_with_their_roles() -> None:
    node, gateway = part_settings.invitation_files(["node=/a=b", "gateway=c"])
    assert (node.role, node.path) == ("node", "/a=b")
    assert (gateway.role, gateway.path) == ("gateway", str(Path("c").absolute()))
    for wrong in ("worker=/a", "/a", "node=", "=x"):
        with pytest.raises(Fault, match="node=PATH"):
            part_settings.invitation_files([wrong])


@pytest.mark.parametrize(
    ("addresses", "insecure", "is_fine"),
    [
        (("tcp://10.0.0.1:7700",), False, True),
        (("tcp://0.0.0.0:7700",), False, False),
        (("tcp://10.0.0.1:7700",), True, False),
        (("ipc:///x/broker.sock",), False, False),
    ],
)
def test_a_file_for_an_invitation_by_which_nobody_could_join_is_refused(
    addresses: tuple[str, ...], insecure: bool, is_fine: bool
) -> None:
    files = part_settings.invitation_files(["node=/a"])
    broker = BrokerSettings(addresses=addresses, state_dir="s", insecure=insecure, invitation_files=files)
    assert (part_settings.invitation_faults(broker) == []) == is_fine


def test_keys_that_others_can_read_on_their_way_are_warned_of() -> None:
    outside = ConfigValues(inference_address="http://0.0.0.0:8080", disable_token_authorization=False)
    [line] = part_settings.plain_http_warnings(plan(outside).gateway)
    assert "http://0.0.0.0:8080 can be read" in line
    both = msgspec.structs.replace(outside, management_address="http://192.0.2.1:8081")
    [line] = part_settings.plain_http_warnings(plan(both).gateway)
    assert "http://0.0.0.0:8080 and http://192.0.2.1:8081" in line
    for quiet in (
        ConfigValues(disable_token_authorization=False),
        ConfigValues(inference_address="unix:/x.sock", disable_token_authorization=False),
        ConfigValues(metrics_address="http://0.0.0.0:8082", disable_token_authorization=False),
    ):
        assert not part_settings.plain_http_warnings(plan(quiet).gateway)
    insecure = plan(ConfigValues(inference_address="http://0.0.0.0:8080"), insecure=True)
    assert not part_settings.plain_http_warnings(insecure.gateway)


def test_a_broker_on_tcp_asks_for_keys_and_one_that_could_not_is_refused() -> None:
    for address in ("tcp://127.0.0.1:7700", "tcp://[::1]:7700", "tcp://0.0.0.0:7700"):
        assert plan(broker_address=address).broker.asks_for_curve_keys
        assert not plan(broker_address=address, insecure=True).broker.asks_for_curve_keys
    with pytest.raises(SettingsError, match="other users of this host"):
        plan(broker_address="ipc://@abstract")
    assert not plan().broker.asks_for_curve_keys
    assert plan().broker.addresses == ("ipc:///tmp/x/broker.sock",)


def test_the_broker_is_told_too_whether_models_may_be_registered() -> None:
    made = plan(ConfigValues(enable_model_api=True))
    assert made.broker.enable_model_api
    assert made.gateway.enable_model_api
    made = plan()
    assert not made.broker.enable_model_api
    assert not made.gateway.enable_model_api
    assert plan(file="enable_model_api=true").broker.enable_model_api


def test_a_socket_path_that_the_kernel_would_cut_is_refused() -> None:
    with pytest.raises(SettingsError, match="too long"):
        plan(socket_dir="/tmp/" + "x" * 100)


def test_settings_survive_the_way_to_a_child_process() -> None:
    made = plan(ConfigValues(load_models=(LoadAtStart(url="a.mar", name="a"),)))
    assert msgspec.json.decode(made.broker.to_json(), type=type(made.broker)) == made.broker


def test_a_merge_of_silence_is_silence() -> None:
    assert part_settings.merge(ConfigValues(), Configuration(), ConfigValues()) == ConfigValues()


@pytest.mark.parametrize(
    ("is_temporary", "address", "folders", "archives"),
    [(True, None, True, True), (False, None, True, False), (True, "tcp://127.0.0.1:7700", False, False)],
)
def test_models_stay_where_they_are_if_no_other_host_needs_them(
    is_temporary: bool, address: str | None, folders: bool, archives: bool
) -> None:
    broker = plan(is_state_temporary=is_temporary, broker_address=address, insecure=True).broker
    assert (broker.folders_in_place, broker.archives_in_place) == (folders, archives)


def test_the_queues_hold_what_the_gateway_lets_in_and_that_grows_with_the_largest_body() -> None:
    assert plan().broker.queue_limit_bytes == QUEUE_LIMIT_BYTES
    made = plan(file="max_request_size=1000000000")
    assert made.gateway.in_flight_bytes > 1_000_000_000
    assert made.broker.queue_limit_bytes == made.gateway.in_flight_bytes
    assert (
        part_settings.broker_settings(ConfigValues(max_request_size=10**9), state_dir="s").queue_limit_bytes
        > 10**9
    )


def test_the_length_of_a_socket_path_is_that_of_the_bytes_the_kernel_takes() -> None:
    """Also of a path that is no text."""
    assert part_settings.fits_socket("/" + "\udcff" * (SOCKET_PATH_LIMIT_BYTES - 13))
    assert not part_settings.fits_socket("/" + "\udcff" * (SOCKET_PATH_LIMIT_BYTES - 12))
    assert not part_settings.fits_socket("/" + "é" * (SOCKET_PATH_LIMIT_BYTES - 13))


SECRET = """
keystore_pass=$$THE_PASSWORD$$
api_key=a-secret-of-a-plugin
pluginSecret=another
token_expiration_min=5
keystore=/k.p12
load_models=m=https://host/m.mar?X-Amz-Signature=signed,local?.mar
"""


def test_a_snapshot_repeats_the_configuration_without_its_secrets() -> None:
    made = plan(file=SECRET, environ={"THE_PASSWORD": "p", "TS_KEYSTORE_PASS": "q"})
    assert made.gateway.keystore_pass == "p"
    assert dict(made.broker.snapshot_config) == {
        "token_expiration_min": "5",
        "keystore": "/k.p12",
        "load_models": "m=https://host/m.mar,local?.mar",
    }
    admitted = plan(
        file=f"{SECRET}enable_envvars_config=true", environ={"THE_PASSWORD": "p", "TS_KEYSTORE_PASS": "q"}
    )
    assert admitted.gateway.keystore_pass == "q"
    assert "keystore_pass" not in dict(admitted.broker.snapshot_config)


def test_only_what_is_secret_is_taken_for_it() -> None:
    known = (
        set(config_keys.KEYS) | set(config_keys.REASONS) | config_keys.SWITCHES | config_keys.SNAPSHOT_MARKS
    )
    assert {key for key in known if config_keys.is_secret(key)} == {"keystore_pass"}
    assert {
        key for key in ("a.password", "dbPass", "API-TOKEN", "secret_x") if not config_keys.is_secret(key)
    } == set()
    assert not any(map(config_keys.is_secret, ("compass", "monkey", "passes", "tokenizer", "keyboard")))


def test_variables_that_hold_the_servers_passwords_are_kept_from_handlers() -> None:
    made = plan(file=SECRET, environ={"THE_PASSWORD": "p"})
    assert made.node.secret_env_vars == ("THE_PASSWORD", "TS_KEYSTORE_PASS")
    assert made.node.credential_env_vars == ()
    assert plan(credential_env_vars=("*",)).node.credential_env_vars == ("*",)


KEY = StaticKey("inference", "alice", "a-long-enough-key")


@pytest.mark.parametrize("defaults", [part_settings.SERVE_DEFAULTS, part_settings.TORCHSERVE_DEFAULTS])
def test_keys_that_are_given_and_switched_off_elsewhere_are_a_fault(defaults: ConfigValues) -> None:
    off = "disable_token_authorization=true"
    given = ConfigValues(disable_token_authorization=False)
    environ = {"TS_DISABLE_TOKEN_AUTHORIZATION": "true"}
    with pytest.raises(SettingsError, match="take back one of the two"):
        plan(file=off, static_keys=(KEY,), defaults=defaults)
    with pytest.raises(SettingsError, match="take back one of the two"):
        plan(given, "enable_envvars_config=true", environ=environ, static_keys=(KEY,), defaults=defaults)
    assert plan(given, off, static_keys=(KEY,), defaults=defaults).gateway.token_authorization
    typed = ConfigValues(disable_token_authorization=True)
    assert not plan(typed, off, static_keys=(KEY,), defaults=defaults).gateway.token_authorization
    assert plan(file=off, defaults=defaults).broker.static_keys == ()


def test_labels_of_a_node_come_from_any_source_and_a_snapshot_repeats_them() -> None:
    file = "node_labels = zone=a, rack=3,\nenable_envvars_config=true"
    assert plan(file=file).node.labels == (("rack", "3"), ("zone", "a"))
    typed = ConfigValues(node_labels=(("zone", "b"),))
    assert plan(typed, file).node.labels == (("zone", "b"),)
    assert plan(file=file, environ={"TS_NODE_LABELS": "zone=c"}).node.labels == (("zone", "c"),)
    assert plan().node.labels == ()
    assert ("node_labels", "zone=b") in plan(typed).broker.snapshot_config
    for broken in ("zone", "zone=a,zone=b", "zone=a b"):
        with pytest.raises(SettingsError, match="label"):
            plan(file=f"node_labels={broken}")


def test_modules_to_preload_come_from_any_source_and_a_snapshot_repeats_that_there_are_none() -> None:
    file = "preload = torch, torchvision.ops, torch\nenable_envvars_config=true"
    assert plan(file=file).node.preload == ("torch", "torchvision.ops")
    assert plan(ConfigValues(preload=("a",)), file).node.preload == ("a",)
    assert plan(file=file, environ={"TS_PRELOAD": "None"}).node.preload == ()
    assert plan().node.preload == ("torch",)
    for nothing in ("preload=", "preload=none"):
        assert plan(file=nothing).node.preload == ()
    assert ("preload", "") in plan(ConfigValues(preload=())).broker.snapshot_config
    for broken in ("torch vision-ops", "3d", "a..b", "-c"):
        with pytest.raises(SettingsError, match="is no module's name"):
            plan(file=f"preload={broken}")


def test_names_that_callers_may_ask_by_come_from_any_source() -> None:
    file = "allowed_hosts = gateway, *.svc.cluster.local,\nenable_envvars_config=true"
    assert plan(file=file).gateway.allowed_hosts == ("gateway", "*.svc.cluster.local")
    assert plan(ConfigValues(allowed_hosts=("a",)), file).gateway.allowed_hosts == ("a",)
    assert plan(file=file, environ={"TS_ALLOWED_HOSTS": "*"}).gateway.allowed_hosts == ("*",)
    assert plan().gateway.allowed_hosts == ()
    for broken in ("gateway:8080", "http://gateway", "[a]", "a b", "x" * 254):
        with pytest.raises(SettingsError, match="no name of a host"):
            plan(file=f"allowed_hosts={broken}")


def test_any_name_will_do_only_where_torchserve_says_none() -> None:
    assert not plan().gateway.any_host_outside
    assert plan(any_host_outside=True).gateway.any_host_outside
    assert not plan(file="allowed_hosts=gateway", any_host_outside=True).gateway.any_host_outside


@pytest.mark.parametrize(
    ("grace_s", "lead_s", "expected"),
    [(25.0, 3.0, (3.0, 22)), (2.0, 3.0, (1.0, 1)), (0.0, 3.0, (0.0, 1)), (10.0, 0.0, (0.0, 10))],
)
def test_a_gateways_lead_is_a_part_of_its_grace(
    grace_s: float, lead_s: float, expected: tuple[float, int]
) -> None:
    fields = part_settings.gateway_grace(grace_s, lead_s)
    assert (fields["leave_lead_s"], fields["graceful_timeout_s"]) == expected


@pytest.mark.parametrize(("grace_s", "expected"), [(25.0, (22.0, 3.0)), (2.0, (1.0, 1.0)), (0.0, (0.0, 0.1))])
def test_a_nodes_workers_have_their_last_batch_within_its_grace(
    grace_s: float, expected: tuple[float, float]
) -> None:
    fields = part_settings.node_grace(grace_s)
    assert (fields["leave_grace_s"], fields["stop_grace_s"]) == expected


@pytest.mark.parametrize(
    ("defaults", "file", "flag", "is_spoken"),
    [
        (part_settings.SERVE_DEFAULTS, "", None, False),
        (part_settings.SERVE_DEFAULTS, "", True, True),
        (part_settings.SERVE_DEFAULTS, "grpc_inference_port=7072", None, True),
        (part_settings.SERVE_DEFAULTS, "grpc_inference_port=7072", False, False),
        (part_settings.SERVE_DEFAULTS, "enable_grpc=false\ngrpc_inference_port=7072", None, False),
        (part_settings.SERVE_DEFAULTS, "enable_grpc=false", True, True),
        (part_settings.TORCHSERVE_DEFAULTS, "", None, True),
        (part_settings.TORCHSERVE_DEFAULTS, "enable_grpc=false", None, False),
    ],
)
def test_grpc_is_spoken_where_it_is_asked_for(
    defaults: ConfigValues, file: str, flag: bool | None, is_spoken: bool
) -> None:
    made = plan(ConfigValues(enable_grpc=flag), file, defaults=defaults).gateway
    assert made.enable_grpc is is_spoken


def test_grpc_listens_as_http_does_only_where_that_is_safe() -> None:
    open_one = ConfigValues(grpc_inference_address="0.0.0.0")
    with pytest.raises(SettingsError, match=r"0\.0\.0\.0:7070 can be reached from other hosts"):
        plan(open_one)
    plan(open_one, open_http=True)
    keys = plan(msgspec.structs.replace(open_one, disable_token_authorization=False)).gateway
    (line,) = part_settings.plain_http_warnings(keys)
    assert "0.0.0.0:7070 can be read" in line
    with pytest.raises(SettingsError, match="enable_grpc_ssl needs"):
        plan(file="enable_grpc_ssl=true")


def test_the_queues_hold_what_those_processes_let_in_that_speak_grpc() -> None:
    large = 600_000_000
    one, three = (
        plan(ConfigValues(enable_grpc=flag, grpc_processes=2, max_request_size=large))
        for flag in (False, True)
    )
    assert three.broker.queue_limit_bytes == 3 * one.gateway.in_flight_bytes
