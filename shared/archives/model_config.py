"""What an archive's model-config.yaml asks of the server; the handler's own keys are left alone.

Pure. The file is not trusted: it is bounded before it is built, and a value that can't be meant
is left out with a warning, as in TorchServe. Keys, defaults and clamps are TorchServe's, but for `placement`.
"""

import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

import msgspec

from torchrelay.shared.labels import checked
from torchrelay.shared.quoting import quoted
from torchrelay.shared.wire.fields import Labels

#: Real ones have some hundred bytes; YAML is slow to read.
SIZE_LIMIT_BYTES = 256 << 10
#: Nodes of the document with its aliases written out, which a few lines of them can make endless.
NODE_LIMIT = 100_000
#: TorchServe's numbers are 32-bit; it takes a larger one for no integer.
NUMBER_LIMIT = 2**31 - 1
#: What is said in words, to torchrun: addresses, and a list of options.
TEXT_LIMIT_CHARS = 1024
#: No host has more.
DEVICES_LIMIT = 1024
#: Entries of `warmup`, and how often each may be repeated.
WARMUP_LIMIT = 100
WARMUP_REPEAT_LIMIT = 1000
MEMORY_LIMIT_BYTES = 1 << 60


class Torchrun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How torchrun starts one worker's processes; names are its options'."""

    nproc_per_node: int = 1
    nnodes: int = 1
    rdzv_backend: str = "c10d"
    rdzv_endpoint: str = ""
    rdzv_conf: str = ""
    monitor_interval_s: int = 5
    node_rank: int = 0
    omp_threads: int = 1


class WarmupRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request that the handler answers before its worker counts as ready.

    Its one input is `body`, or the content of a `file` of the archive.
    """

    body: str = ""
    file: str = ""
    content_type: str = ""
    #: Of the input; a request whose body is no form has this name, too.
    name: str = "body"
    repeat: int = 1


class PlacementWish(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the workers of a model may be, and which places come first; TorchServe has no such key."""

    #: On each device of a worker: what is kept free for it; 0 where nothing is said.
    memory_bytes: int = 0
    #: What its node must have, all of it.
    labels: Labels = ()
    #: Whether nodes and devices with little on them come first, or those with much.
    strategy: Literal["spread", "pack"] = "spread"


#: How a model is split over several GPUs, by TorchServe's names; "": it is not.
ParallelType = Literal["", "pp", "tp", "pptp", "custom"]


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the file says; None, 0, "" and () where it says nothing."""

    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout_s: int | None = None
    startup_timeout_s: int | None = None
    device_type: Literal["", "cpu", "gpu"] = ""
    device_ids: tuple[int, ...] = ()
    parallel_type: ParallelType = ""
    #: GPUs of one worker; 0 where there is no parallel_type.
    parallel_level: int = 0
    torchrun: Torchrun | None = None
    #: How long a crashing worker is started again and again.
    restart_window_s: int | None = None
    #: Age at which a request is given up; 0 is never.
    client_timeout_ms: int = 0
    job_queue_size: int | None = None
    use_job_ticket: bool = False
    continuous_batching: bool = False
    sequence_batching: bool = False
    sequence_max_idle_ms: int = 0
    sequence_timeout_ms: int = 0
    #: Requests waiting per sequence.
    max_sequence_queue_jobs: int = 1
    #: Sequences open at the same time.
    max_sequences: int = 1
    async_communication: bool = False
    use_venv: bool = False
    warmup: tuple[WarmupRequest, ...] = ()
    placement: PlacementWish | None = None

    @property
    def gpus(self) -> int:
        """How many GPUs a worker gets, where there are any."""
        return self.parallel_level or 1

    @property
    def has_ranks(self) -> bool:
        """Whether a worker's processes find themselves as torchrun's; `custom` is one ordinary process."""
        return self.parallel_level > 0 and self.parallel_type != "custom"

    @property
    def processes(self) -> int:
        """How many processes a worker has, which share a model between them."""
        return self.parallel_level if self.has_ranks else 1


class Unreadable(ValueError):
    """A file that is no YAML mapping, or not one to be built: its worker can't load."""


def parse(content: bytes) -> tuple[ModelConfig, tuple[str, ...]]:
    """Read a model-config.yaml; return what it says to the server, and a warning for each fault.

    One that can't be read says nothing; see `load` for what a worker does with it.
    """
    try:
        document = load(content)
    except Unreadable as error:
        return ModelConfig(), (str(error),)
    values, warnings = _read(_READERS, document)
    options = values.get("torchrun")
    if isinstance(options, dict):
        said, faults = _read(_TORCHRUN_READERS, options)
        warnings += [f"torchrun.{fault}" for fault in faults]
        torchrun = msgspec.convert(said, Torchrun)
        values |= {"torchrun": torchrun, "parallel_level": torchrun.nproc_per_node}
    wish = values.get("placement")
    if isinstance(wish, dict):
        said, faults = _read(_PLACEMENT_READERS, wish)
        warnings += [f"placement.{fault}" for fault in faults]
        if unknown := [key for key in wish if key not in _PLACEMENT_READERS]:
            known = ", ".join(_PLACEMENT_READERS)
            warnings.append(f"placement: {_shown(unknown[0])} is not one of {known}")
        values["placement"] = msgspec.convert(said, PlacementWish) if said else None
    if values.get("parallel_level") and not values.get("parallel_type"):
        warnings.append("parallelLevel: has no effect without a parallelType")
        del values["parallel_level"]
    return msgspec.convert(values, ModelConfig), tuple(sorted(warnings))


def load(content: bytes, *, has_unique_keys: bool = False) -> dict[str, Any]:  # Any: keys of others, too
    """Read the whole YAML document, as handlers get it. Raises Unreadable.

    Of a key that stands twice in a mapping the last counts, or with `has_unique_keys` the file is refused.
    """
    # Here alone: gateways import the struct, and read no YAML.
    import yaml

    if len(content) > SIZE_LIMIT_BYTES:
        raise Unreadable(f"a model config above the limit of {SIZE_LIMIT_BYTES} bytes")
    try:
        # The parser in Python: the one in C has no bound to how deep it goes.
        loader = yaml.SafeLoader(content)
        node = loader.get_single_node()
        if node is None:
            return {}
        if _expanded_size(node, {}) > NODE_LIMIT:
            raise Unreadable(f"its aliases stand for more than {NODE_LIMIT} nodes")
        if has_unique_keys:
            _require_unique_keys(node, set())
        document = loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"not readable as YAML: {quoted(' '.join(str(error).split()))}") from error
    if not isinstance(document, dict):
        raise Unreadable(f"expected a mapping, found {type(document).__name__}")
    return document


def _expanded_size(node: Any, known: dict[int, int]) -> int:  # Any: pyyaml's nodes, imported by load alone
    """Count nodes as if every alias were written out. Raises Unreadable for one that holds itself."""
    size = known.get(id(node))
    if size is None:
        known[id(node)] = -1
        size = 1
        if isinstance(node.value, list):
            # A mapping's children are pairs of nodes.
            children = [
                part for item in node.value for part in (item if isinstance(item, tuple) else (item,))
            ]
            size += sum(_expanded_size(child, known) for child in children)
        known[id(node)] = size
    if size < 0:
        raise Unreadable("an alias stands for what it is part of")
    return size


def _require_unique_keys(node: Any, seen: set[int]) -> None:  # Any: as above
    """Raise Unreadable for a mapping that has a key twice."""
    if id(node) in seen or not isinstance(node.value, list):
        return
    seen.add(id(node))
    keys: set[str] = set()
    for item in node.value:
        pair = item if isinstance(item, tuple) else (item,)
        if len(pair) == 2 and isinstance(pair[0].value, str):
            if pair[0].value in keys:
                line = pair[0].start_mark.line + 1
                raise Unreadable(f"{_shown(pair[0].value)} stands twice, the second time in line {line}")
            keys.add(pair[0].value)
        for child in pair:
            _require_unique_keys(child, seen)


Readers = dict[str, tuple[str, Callable[[object], object]]]


def _read(readers: Readers, document: dict[str, Any]) -> tuple[dict[str, object], list[str]]:
    """Return fields with their values, and a line for each value that is passed over."""
    values: dict[str, object] = {}
    warnings: list[str] = []
    for key in document.keys() & readers.keys():
        field, read = readers[key]
        try:
            values[field] = read(document[key])
        except ValueError as error:
            warnings.append(f"{key}: {error}")
    return values, warnings


def _integer(minimum: int, at_least: int | None = None) -> Callable[[object], int]:
    """Read whole numbers from `minimum` on; those below `at_least` are raised to it."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > NUMBER_LIMIT:
            raise ValueError(f"expected a whole number, found {_shown(value)}")
        if value < minimum:
            raise ValueError(f"{value} is below {minimum}")
        return value if at_least is None else max(at_least, value)

    return read


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {_shown(value)}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, found {_shown(value)}")
    if len(value) > TEXT_LIMIT_CHARS or not value.isprintable():
        raise ValueError(f"{_shown(value)} is too long, or has characters that can't be printed")
    return value


def _word(*words: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        text = _text(value).lower()
        if text not in words:
            raise ValueError(f"{_shown(value)} is not one of {', '.join(words)}")
        return text

    return read


def _device_ids(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list of whole numbers, found {_shown(value)}")
    if len(value) > DEVICES_LIMIT:
        raise ValueError(f"{len(value)} devices are more than the limit of {DEVICES_LIMIT}")
    return tuple(_integer(0)(item) for item in value)


def _mapping(value: object) -> dict[object, object]:
    if not isinstance(value, dict):
        raise ValueError(f"expected keys with values, found {_shown(value)}")
    return value


def _memory(value: object) -> int:
    """Read a size, which must have its unit: a bare 9 might be bytes, and might be gigabytes."""
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"expected a size with its unit, such as 9.1GiB or 500MB, found {_shown(value)}")
    size = int(Decimal(found[1]) * _UNITS[found[2].lower()])
    if not 0 < size <= MEMORY_LIMIT_BYTES:
        raise ValueError(f"{_shown(value)} is no memory that a host may have")
    return size


def _labels(value: object) -> Labels:
    """Read labels by name; a number is as good as its text, since `rack: 3` is one in YAML."""
    texts: dict[str, str] = {}
    for name, text in _mapping(value).items():
        if isinstance(text, int) and not isinstance(text, bool) and abs(text) <= NUMBER_LIMIT:
            text = str(text)
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(f"expected names with texts, found {_shown(name)}: {_shown(text)}; use quotes")
        texts[name] = text
    return checked(texts)


def _options(value: object) -> dict[object, object]:
    if not isinstance(value, dict):
        raise ValueError(f"expected torchrun's options, found {_shown(value)}")
    return value


def _warmup(value: object) -> tuple[WarmupRequest, ...]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list of requests, found {_shown(value)}")
    if len(value) > WARMUP_LIMIT:
        raise ValueError(f"{len(value)} requests are more than the limit of {WARMUP_LIMIT}")
    requests = []
    for number, entry in enumerate(value, start=1):
        try:
            requests.append(_warmup_request(entry))
        except ValueError as error:
            raise ValueError(f"request {number}: {error}") from error
    return tuple(requests)


def _warmup_request(entry: object) -> WarmupRequest:
    if not isinstance(entry, dict):
        raise ValueError(f"expected a mapping, found {_shown(entry)}")
    unknown = [_shown(key) for key in entry if key not in _WARMUP_KEYS]
    if unknown:
        raise ValueError(f"{unknown[0]} is not one of {', '.join(_WARMUP_KEYS)}")
    if len([key for key in _WARMUP_CONTENT if key in entry]) != 1:
        raise ValueError(f"expected one of {', '.join(_WARMUP_CONTENT)}")
    repeat = _integer(1)(entry.get("repeat", 1))
    if repeat > WARMUP_REPEAT_LIMIT:
        raise ValueError(f"repeat: {repeat} is above the limit of {WARMUP_REPEAT_LIMIT}")
    default_type = "application/json" if "json" in entry else ""
    return WarmupRequest(
        body=_warmup_body(entry),
        file=_file_inside(entry["file"]) if "file" in entry else "",
        content_type=_text(entry.get("content_type", default_type)),
        name=_text(entry.get("name", "body")),
        repeat=repeat,
    )


def _warmup_body(entry: dict[object, object]) -> str:
    if "json" in entry:
        try:
            return json.dumps(entry["json"], allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"json: {quoted(error)}") from error
    body = entry.get("body", "")
    if not isinstance(body, str):
        raise ValueError(f"body: expected text, found {_shown(body)}; write other values as `json`")
    return body


def _file_inside(value: object) -> str:
    """Read the path of a file of the archive."""
    path = PurePosixPath(_text(value))
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError(f"file: {_shown(value)} is not the path of a file in the archive")
    return str(path)


def _shown(value: object) -> str:
    """Show a value in a line; a nested one only by its kind, since aliases may make it endless."""
    if isinstance(value, str | int | float | bool | None):
        return repr(value)[:60]
    return type(value).__name__


_UNLIMITED = -NUMBER_LIMIT
#: What a warm-up request has one of, and all that it may have.
_WARMUP_CONTENT = ("body", "json", "file")
_WARMUP_KEYS = (*_WARMUP_CONTENT, "content_type", "name", "repeat")
#: A size, and what its units stand for.
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([kmgt]i?b)", re.IGNORECASE)
_UNITS = {
    f"{letter}{middle}b": base**power
    for middle, base in (("", 1000), ("i", 1024))
    for power, letter in enumerate("kmgt", start=1)
}
_PLACEMENT_READERS: Readers = {
    "memory": ("memory_bytes", _memory),
    "labels": ("labels", _labels),
    "strategy": ("strategy", _word("spread", "pack")),
}
_TORCHRUN_READERS: Readers = {
    "nproc-per-node": ("nproc_per_node", _integer(1)),
    "nnodes": ("nnodes", _integer(1)),
    "rdzv-backend": ("rdzv_backend", _text),
    "rdzv-endpoint": ("rdzv_endpoint", _text),
    "rdzv-conf": ("rdzv_conf", _text),
    "monitor-interval": ("monitor_interval_s", _integer(1)),
    "node-rank": ("node_rank", _integer(0)),
    "OMP_NUMBER_THREADS": ("omp_threads", _integer(1)),
}
#: Key of the file -> field, and how its value is read.
_READERS: Readers = {
    "minWorkers": ("min_workers", _integer(_UNLIMITED, at_least=1)),
    "maxWorkers": ("max_workers", _integer(0)),
    "batchSize": ("batch_size", _integer(_UNLIMITED, at_least=1)),
    "maxBatchDelay": ("max_batch_delay_ms", _integer(0)),
    "responseTimeout": ("response_timeout_s", _integer(1)),
    "startupTimeout": ("startup_timeout_s", _integer(1)),
    "deviceType": ("device_type", _word("cpu", "gpu")),
    "deviceIds": ("device_ids", _device_ids),
    "parallelType": ("parallel_type", _word(*filter(None, get_args(ParallelType)))),
    "parallelLevel": ("parallel_level", _integer(0)),
    "torchrun": ("torchrun", _options),
    "maxRetryTimeoutInSec": ("restart_window_s", _integer(0)),
    "clientTimeoutInMills": ("client_timeout_ms", _integer(0)),
    "jobQueueSize": ("job_queue_size", _integer(1)),
    "useJobTicket": ("use_job_ticket", _boolean),
    "continuousBatching": ("continuous_batching", _boolean),
    "sequenceBatching": ("sequence_batching", _boolean),
    "sequenceMaxIdleMSec": ("sequence_max_idle_ms", _integer(0)),
    "sequenceTimeoutMSec": ("sequence_timeout_ms", _integer(0)),
    "maxSequenceJobQueueSize": ("max_sequence_queue_jobs", _integer(_UNLIMITED, at_least=1)),
    "maxNumSequence": ("max_sequences", _integer(_UNLIMITED, at_least=1)),
    "asyncCommunication": ("async_communication", _boolean),
    "useVenv": ("use_venv", _boolean),
    "warmup": ("warmup", _warmup),
    "placement": ("placement", _mapping),
}
