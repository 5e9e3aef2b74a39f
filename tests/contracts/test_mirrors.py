"""Tests mirror the packages: broker/jobs/batching.py has tests/broker/jobs/test_batching.py.

What archives import (`worker/compat`) is tested from their side, in tests/worker/compat.
Both lists below may only shrink: a line that isn't needed any more makes the test fail that would have
needed it.
"""

from pathlib import Path

from tests.contracts.source import PACKAGES, ROOT, own_modules, plant

FOLDERS = (*PACKAGES, "benchmarks")
#: What has no test module of its name -> the test module that tests it, below tests/.
TESTED_ELSEWHERE = {
    "benchmarks/bare.py": "benchmarks/test_servers.py",
    "benchmarks/batch_timed_handler.py": "benchmarks/test_arrivals.py",
    "benchmarks/echo_handler.py": "benchmarks/test_servers.py",
    "benchmarks/replica_handler.py": "benchmarks/test_startup.py",
    "benchmarks/run.py": "benchmarks/test_servers.py",
    "broker/core/effects.py": "broker/core/test_machine.py",
    "broker/core/events.py": "broker/core/test_machine.py",
    "broker/jobs/waiting_jobs.py": "broker/core/test_bounds.py",
    "broker/models/records.py": "broker/storage/test_registry.py",
    "gateway/body_reading.py": "gateway/api/test_gateway_request.py",
    "client/async_client.py": "client/test_both_clients.py",
    "client/base_client.py": "client/test_both_clients.py",
    "client/http_pools.py": "client/test_both_clients.py",
    "client/sync_client.py": "client/test_both_clients.py",
    "cli/commands/member_options.py": "cli/commands/test_nodes_command.py",
    "cli/commands/parts.py": "integration/test_nodes.py",
    "cli/commands/ping.py": "integration/test_broker_port.py",
    "cli/remote/member_tables.py": "cli/commands/test_nodes_command.py",
    "cli/start/foreground.py": "integration/test_serve.py",
    "cli/start/part_forks.py": "cli/start/test_supervisor.py",
    "cli/start/started_parts.py": "cli/start/test_supervisor.py",
    "cli/torchserve/command.py": "integration/test_torchserve.py",
    "cli/torchserve/torchserve_server.py": "integration/test_torchserve.py",
    "gateway/http/certificates.py": "gateway/http/test_tls.py",
    "gateway/model_readiness.py": "gateway/api/test_management_routes.py",
    "shared/wire/membership.py": "shared/wire/test_messages.py",
    "shared/wire/model_changes.py": "shared/wire/test_messages.py",
    "shared/wire/model_questions.py": "shared/wire/test_messages.py",
    "shared/wire/workflow_messages.py": "shared/wire/test_messages.py",
    "shared/archives/reader_process.py": "shared/archives/test_reader.py",
    "shared/archives/reader_protocol.py": "shared/archives/test_reader.py",
    "worker/launcher/own_interpreter.py": "worker/node/test_node_models.py",
    "worker/model/process.py": "worker/node/test_node_models.py",
    "worker/model/ranks.py": "integration/test_parallel.py",
    "worker/node/worker_processes.py": "worker/node/test_node.py",
}
#: Test modules of a folder that mirror no module -> what they are about.
OF_SEVERAL_MODULES = {
    "tests/broker/core/test_bounds.py": "what one peer may have, and what a message may cost",
    "tests/broker/core/test_contained_faults.py": "events that raise in the core",
    "tests/broker/core/test_protocols.py": "peers of the version before",
    "tests/broker/core/test_rare_orders.py": "orders of events that are rare",
    "tests/broker/core/test_standing_still.py": "a broker that was stopped for a while",
    "tests/broker/core/test_stateful_machine.py": "the core under any order of events",
    "tests/broker/fleet/test_requirements.py": "archives that require packages",
    "tests/cli/test_docs.py": "the documentation",
    "tests/client/test_both_clients.py": "how calls are sent and answers read, by either client",
    "tests/gateway/api/test_management_routes.py": "routes and methods of the management port",
    "tests/gateway/http/test_listener.py": "a TLS listener that can't take connections",
    "tests/gateway/http/test_slow_clients.py": "clients that are slow or many, on real sockets",
    "tests/gateway/http/test_tls.py": "certificates and listeners that speak TLS",
    "tests/gateway/test_tokens.py": "keys on every route",
    "tests/worker/model/test_cancellation.py": "what a running handler is told of its clients",
    "tests/worker/node/test_node_models.py": "what models may ask of a real node",
    "tests/worker/test_no_torch.py": "what the node's code imports, in a process of its own",
    "tests/worker/node/test_node_output.py": "handlers that print more than a node can write",
}


def mirror_of(name: str) -> str:
    """Return where the tests of a module belong."""
    folder, _, file = name.rpartition("/")
    return f"tests/{folder}/test_{file}"


def without_tests(root: Path) -> list[str]:
    """Return the modules without a test module of their name."""
    modules = own_modules(root, *FOLDERS)
    # Those of protocol buffers are made by a module that is tested.
    names = [m.name for m in modules if not m.path.stem.startswith("__") and not m.path.stem.endswith("_pb2")]
    return [name for name in names if not (root / mirror_of(name)).exists()]


def without_module(root: Path) -> list[str]:
    """Return the test modules in the packages' mirrors without a module of their name."""
    mirrors = {mirror_of(module.name) for module in own_modules(root, *FOLDERS)}
    return [
        name
        for folder in FOLDERS
        for path in sorted((root / "tests" / folder).rglob("test_*.py"))
        if (name := path.relative_to(root).as_posix()) not in mirrors and "compat" not in path.parts
    ]


def test_every_module_has_its_test_module_or_says_where_it_is_tested() -> None:
    missing = set(without_tests(ROOT))
    assert sorted(missing - set(TESTED_ELSEWHERE)) == [], (
        "write a test module of this name, in the mirrored folder"
    )
    assert sorted(set(TESTED_ELSEWHERE) - missing) == [], "take these lines out of TESTED_ELSEWHERE"


def test_what_tests_a_module_elsewhere_is_there() -> None:
    places = sorted(set(TESTED_ELSEWHERE.values()))
    assert [place for place in places if not (ROOT / "tests" / place).is_file()] == []


def test_every_test_module_mirrors_a_module_or_says_what_it_is_about() -> None:
    alone = set(without_module(ROOT))
    assert sorted(alone - set(OF_SEVERAL_MODULES)) == [], "give these the name and folder of what they test"
    assert sorted(set(OF_SEVERAL_MODULES) - alone) == [], "take these lines out of OF_SEVERAL_MODULES"


def test_what_has_no_mirror_is_found(tmp_path: Path) -> None:
    names = ("broker/jobs/queues.py", "broker/jobs/batching.py", "broker/jobs/__init__.py", "cli/main.py",
             "tests/broker/jobs/test_queues.py", "tests/broker/test_batching.py", "tests/cli/test_main.py",
             "tests/broker/rig.py", "worker/compat/ts/context.py", "tests/worker/compat/test_compat.py",
             "tests/integration/test_deaths.py")  # fmt: skip
    root = plant(tmp_path, dict.fromkeys(names, ""))
    assert without_tests(root) == ["broker/jobs/batching.py"]
    assert without_module(root) == ["tests/broker/test_batching.py"]
