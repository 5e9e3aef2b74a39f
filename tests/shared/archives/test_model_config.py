"""model-config.yaml: what it says to the server, and what a careless or hostile one can't do."""

import textwrap

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared.archives.model_config import (
    SIZE_LIMIT_BYTES,
    ModelConfig,
    PlacementWish,
    Torchrun,
    Unreadable,
    WarmupRequest,
    load,
    parse,
)

EVERY_KEY = b"""
minWorkers: 2
maxWorkers: 3
batchSize: 4
maxBatchDelay: 50
responseTimeout: 7
startupTimeout: 70
deviceType: GPU
deviceIds: [2, 0]
parallelType: PP
parallelLevel: 1
torchrun: {nproc-per-node: 4, nnodes: 2, rdzv-backend: static, rdzv-endpoint: "h:1", rdzv-conf: "a=b",
           monitor-interval: 9, node-rank: 1, OMP_NUMBER_THREADS: 8}
maxRetryTimeoutInSec: 5
clientTimeoutInMills: 900
jobQueueSize: 6
useJobTicket: true
continuousBatching: true
sequenceBatching: true
sequenceMaxIdleMSec: 1000
sequenceTimeoutMSec: 2000
maxSequenceJobQueueSize: 11
maxNumSequence: 12
asyncCommunication: true
useVenv: true
placement: {memory: 9.1GiB, labels: {zone: a, rack: 3}, strategy: Pack}
handler: {batchSize: not for the server}
"""


def test_every_key_is_read_and_those_of_the_handler_are_left_alone() -> None:
    assert parse(EVERY_KEY) == (
        ModelConfig(
            min_workers=2,
            max_workers=3,
            batch_size=4,
            max_batch_delay_ms=50,
            response_timeout_s=7,
            startup_timeout_s=70,
            device_type="gpu",
            device_ids=(2, 0),
            parallel_type="pp",
            parallel_level=4,
            torchrun=Torchrun(
                nproc_per_node=4,
                nnodes=2,
                rdzv_backend="static",
                rdzv_endpoint="h:1",
                rdzv_conf="a=b",
                monitor_interval_s=9,
                node_rank=1,
                omp_threads=8,
            ),
            restart_window_s=5,
            client_timeout_ms=900,
            job_queue_size=6,
            use_job_ticket=True,
            continuous_batching=True,
            sequence_batching=True,
            sequence_max_idle_ms=1000,
            sequence_timeout_ms=2000,
            max_sequence_queue_jobs=11,
            max_sequences=12,
            async_communication=True,
            use_venv=True,
            placement=PlacementWish(
                memory_bytes=9_771_050_598, labels=(("rack", "3"), ("zone", "a")), strategy="pack"
            ),
        ),
        (),
    )


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"handler: {minWorkers: 3}\n1: 2\nnull: 3\n"])
def test_a_file_without_a_word_for_the_server_changes_nothing(content: bytes) -> None:
    assert parse(content) == (ModelConfig(), ())


@pytest.mark.parametrize(
    "line",
    [
        "minWorkers: two",
        "minWorkers: true",
        "minWorkers: 1.0",
        "minWorkers: 4294967296",
        "maxWorkers: -1",
        "maxBatchDelay: -5",
        "responseTimeout: 0",
        "responseTimeout: -3",
        "startupTimeout: 'soon'",
        "deviceType: tpu",
        "deviceType: 3",
        "deviceIds: 0",
        "deviceIds: [0, one]",
        "deviceIds: [0, -1]",
        f"deviceIds: [{'0, ' * 1025}]",
        "parallelType: sideways",
        "parallelLevel: 2",
        "torchrun: true",
        "maxRetryTimeoutInSec: -1",
        "clientTimeoutInMills: [1]",
        "jobQueueSize: 0",
        "useJobTicket: 1",
        "continuousBatching: 'true'",
        "sequenceMaxIdleMSec: {}",
        "warmup: true",
        "warmup: {body: x}",
        "warmup: [x]",
        "warmup: [{}]",
        "warmup: [{body: x, file: y}]",
        "warmup: [{body: 3}]",
        "warmup: [{body: x}, {json: .nan}]",
        "warmup: [{json: 2020-01-01}]",
        "warmup: [{file: /etc/passwd}]",
        "warmup: [{file: a/../../b}]",
        "warmup: [{file: ''}]",
        "warmup: [{body: x, times: 3}]",
        "warmup: [{body: x, repeat: 0}]",
        "warmup: [{body: x, repeat: 1001}]",
        "warmup: [{body: x, content_type: 3}]",
        f"warmup: [{'{body: x}, ' * 101}]",
        "placement: spread",
        "placement: {memory: 9}",
        "placement: {memory: 9.1}",
        "placement: {memory: 0GiB}",
        "placement: {memory: -1GiB}",
        "placement: {memory: 9G}",
        "placement: {memory: 9e3MB}",
        "placement: {memory: '9,1GiB'}",
        "placement: {memory: 999999999999999TiB}",
        "placement: {memory: [9GiB]}",
        "placement: {labels: zone=a}",
        "placement: {labels: [a]}",
        "placement: {labels: {zone: true}}",
        "placement: {labels: {zone: 1.0}}",
        "placement: {labels: {1: a}}",
        "placement: {labels: {zone: ''}}",
        "placement: {labels: {zone: 'a b'}}",
        'placement: {labels: {zone: "\\x1b[31m"}}',
        f"placement: {{labels: {{{', '.join(f'n{number}: a' for number in range(33))}}}}}",
        "placement: {strategy: scatter}",
        "placement: {zone: a}",
        f"placement: {{{', '.join(f'n{number}: a' for number in range(2000))}}}",
    ],
)
def test_a_value_that_cannot_be_meant_is_passed_over_with_a_warning(line: str) -> None:
    config, warnings = parse(line.encode())
    assert config == ModelConfig()
    assert len(warnings) == 1
    assert warnings[0].startswith(line.partition(":")[0])


def test_warmup_requests_are_text_json_or_files_of_the_archive() -> None:
    config, warnings = parse(
        b"warmup:\n- body: hello\n- {json: {a: [1, true]}, repeat: 3}\n"
        b"- {file: samples/cat.jpg, content_type: image/jpeg, name: data}"
    )
    assert not warnings
    assert config.warmup == (
        WarmupRequest(body="hello"),
        WarmupRequest(body='{"a": [1, true]}', content_type="application/json", repeat=3),
        WarmupRequest(file="samples/cat.jpg", content_type="image/jpeg", name="data"),
    )


def test_a_warmup_that_is_passed_over_names_the_request_and_what_is_wrong() -> None:
    _, (warning,) = parse(b"warmup: [{body: x}, {fiel: y}]")
    assert warning == "warmup: request 2: 'fiel' is not one of body, json, file, content_type, name, repeat"


@pytest.mark.parametrize("text", [r"\ud800", r"\x1b[31m", r"\n", "x" * 1025])
def test_what_can_be_neither_stored_nor_shown_is_passed_over(text: str) -> None:
    config, warnings = parse(f'torchrun: {{rdzv-conf: "{text}", nproc-per-node: 2}}'.encode())
    assert config.torchrun == Torchrun(nproc_per_node=2)
    assert warnings[-1].startswith("torchrun.rdzv-conf:")
    assert warnings[-1].isprintable()


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("500 mb", 500_000_000), ("1.5KiB", 1536), ("2TiB", 2 << 40), ("1gib", 1 << 30)],
)
def test_a_size_has_its_unit(text: str, size: int) -> None:
    config, warnings = parse(f"placement: {{memory: {text}}}".encode())
    assert (config.placement, warnings) == (PlacementWish(memory_bytes=size), ())


def test_what_can_be_meant_of_a_placement_counts_and_the_rest_is_named() -> None:
    config, warnings = parse(b"placement: {memory: much, strategy: pack, labels: {zone: a}, node: x}")
    assert config.placement == PlacementWish(strategy="pack", labels=(("zone", "a"),))
    assert warnings == (
        "placement.memory: expected a size with its unit, such as 9.1GiB or 500MB, found 'much'",
        "placement: 'node' is not one of memory, labels, strategy",
    )


def test_a_bad_value_spoils_no_other() -> None:
    config, warnings = parse(
        b"minWorkers: []\nmaxWorkers: 2\ntorchrun: {nnodes: x, nproc-per-node: 2}\nparallelType: tp"
    )
    assert config == ModelConfig(
        max_workers=2, parallel_type="tp", parallel_level=2, torchrun=Torchrun(nproc_per_node=2)
    )
    assert [warning.partition(":")[0] for warning in warnings] == ["minWorkers", "torchrun.nnodes"]


@pytest.mark.parametrize(
    ("content", "gpus", "processes", "has_ranks"),
    [
        (b"", 1, 1, False),
        (b"parallelType: custom\nparallelLevel: 4", 4, 1, False),
        (b"parallelType: custom\ntorchrun: {nproc-per-node: 3}", 3, 1, False),
        (b"parallelType: tp\nparallelLevel: 4", 4, 4, True),
        (b"parallelType: pp\nparallelLevel: 1", 1, 1, True),
        (b"parallelType: tp", 1, 1, False),
        (b"parallelLevel: 4", 1, 1, False),
    ],
)
def test_gpus_and_processes_of_a_worker_are_counted_apart(
    content: bytes, gpus: int, processes: int, has_ranks: bool
) -> None:
    config, _ = parse(content)
    assert (config.gpus, config.processes, config.has_ranks) == (gpus, processes, has_ranks)


def test_counts_below_one_are_raised_to_it() -> None:
    config, warnings = parse(b"minWorkers: 0\nbatchSize: -4\nmaxNumSequence: 0\nmaxSequenceJobQueueSize: -1")
    assert config == ModelConfig(min_workers=1, batch_size=1, max_sequences=1, max_sequence_queue_jobs=1)
    assert not warnings


@pytest.mark.parametrize(
    "content",
    [
        b"minWorkers: 1\n  batchSize: [",
        b"- minWorkers: 1",
        b"just words",
        b"\xff\xfe\x00",
        b"a: \x00",
        b"!!python/object/apply:os.system ['true']",
        b"minWorkers: 1\n---\nminWorkers: 2",
        b"a: &a [*a]",
        b"a: *nobody",
        b"? [list, as, key]\n: 1",
        b"[" * 5000,
        b"a: 2020-99-99",
        b"#" * (SIZE_LIMIT_BYTES + 1),
    ],
    ids=str,
)
def test_a_file_that_is_no_mapping_says_nothing_and_keeps_its_worker_from_loading(content: bytes) -> None:
    config, warnings = parse(content)
    assert config == ModelConfig()
    assert len(warnings) == 1
    assert len(warnings[0]) < 600
    with pytest.raises(Unreadable):
        load(content)


@given(st.binary(max_size=200) | st.text(alphabet="minWorkers:[]{}&*<\n -'\"1!", max_size=80).map(str.encode))
def test_whatever_the_file_holds_reading_it_ends(content: bytes) -> None:
    config, warnings = parse(content)
    assert isinstance(config, ModelConfig)
    assert all("\n" not in warning for warning in warnings)


@pytest.mark.parametrize("level", ["a{0}: &a{0} [{1}]", "a{0}: &a{0} {{<<: [{1}], k{0}: 1}}"])
def test_aliases_of_aliases_are_counted_before_anything_is_built_of_them(level: str) -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [level.format(n, ", ".join([f"*a{n - 1}"] * 10)) for n in range(1, 12)]
    config, warnings = parse("\n".join([*lines, "minWorkers: *a11"]).encode())
    assert config == ModelConfig()
    assert "aliases" in warnings[0]


def test_a_few_aliases_are_as_good_as_written_out() -> None:
    document = textwrap.dedent("""
        shared: &shared {batchSize: 3}
        handler: *shared
        <<: *shared
    """)
    assert load(document.encode()) == yaml.safe_load(document)
    assert parse(document.encode())[0] == ModelConfig(batch_size=3)
