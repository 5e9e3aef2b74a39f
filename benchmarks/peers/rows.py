"""The rows of the comparison: which model, how it is batched, how it is asked, and who takes part. Pure."""

import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import msgspec

from benchmarks.peers.programs import served_models
from benchmarks.peers.programs.served_models import FEATURES
from benchmarks.results import RunPlan

#: Who is compared, in the order of columns; what the first one does is divided by what the others do.
OURS = "torchrelay"
SERVERS = (OURS, "torchserve", "triton", "mosec", "litserve")
#: Not a server: the model called in a loop, which no server can be faster than.
LOOP = "loop"
WORDS = ("the", "a", "small", "large", "river", "mountain", "station", "morning", "engineer", "picture",
         "finds", "under", "between", "quiet", "paper", "window", "garden", "train", "letter", "many", "few",
         "seven", "old", "new", "bright", "over", "answers", "question")  # fmt: skip
#: With the marks at either end and the full stop, a sentence is of 16 tokens.
SENTENCE_WORDS = 13


class ComparisonRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row; `key` names it on the command line."""

    key: str
    label: str
    #: `echo`, `perceptron`, `stream`, `encoder` or `layers`.
    model: str
    #: How long a full batch of `layers` takes on one thread.
    batch_ms: float = 0.0
    batch_size: int
    max_batch_delay_ms: int = 1
    workers: int = 1
    #: Of a body that is echoed; the other models' bodies are as large as they are.
    body_bytes: int = 64
    connections: tuple[int, ...] = (1, 16, 64)
    takes_part: tuple[str, ...] = SERVERS
    #: Whether it is asked by gRPC: `connections` are calls in flight then, on one channel.
    is_grpc: bool = False
    #: By which server torchrelay speaks it.
    grpc_server: str = "grpcio"
    #: A slow model's timed runs are longer by this.
    longer: int = 1


ROWS = (
    ComparisonRow(key="echo-1", label="64 bytes, batch 1", model="echo", batch_size=1,
                  connections=(1, 16, 64, 256)),
    ComparisonRow(key="echo-16", label="64 bytes, batch 16", model="echo", batch_size=16,
                  connections=(1, 16, 64, 256)),
    ComparisonRow(key="grpc-1", label="64 bytes by gRPC, batch 1", model="echo", batch_size=1,
                  connections=(16, 64), takes_part=(OURS, "torchserve", "triton"), is_grpc=True),
    ComparisonRow(key="grpc-16", label="64 bytes by gRPC, batch 16", model="echo", batch_size=16,
                  connections=(16, 64), takes_part=(OURS, "torchserve", "triton"), is_grpc=True),
    ComparisonRow(key="grpc-1-native", label="64 bytes by gRPC, pygrpc-native, batch 1", model="echo",
                  batch_size=1, connections=(16, 64), takes_part=(OURS, "torchserve", "triton"), is_grpc=True,
                  grpc_server="pygrpc-native"),
    ComparisonRow(key="grpc-16-native", label="64 bytes by gRPC, pygrpc-native, batch 16", model="echo",
                  batch_size=16, connections=(16, 64), takes_part=(OURS, "torchserve", "triton"),
                  is_grpc=True, grpc_server="pygrpc-native"),
    ComparisonRow(key="150k", label="150 kB, batch 16", model="echo", batch_size=16, body_bytes=150_000),
    ComparisonRow(key="5m", label="5 MB, batch 16", model="echo", batch_size=16, body_bytes=5_000_000,
                  connections=(1, 16), longer=2),
    ComparisonRow(key="mlp", label="perceptron with JSON, batch 16", model="perceptron", batch_size=16,
                  connections=(1, 16, 64, 256)),
    ComparisonRow(key="stream", label="a stream of 32 parts", model="stream", batch_size=1),
    ComparisonRow(key="echo-1-4w", label="64 bytes, batch 1, 4 workers", model="echo", batch_size=1,
                  workers=4, connections=(16, 64)),
    ComparisonRow(key="echo-16-4w", label="64 bytes, batch 16, 4 workers", model="echo", batch_size=16,
                  workers=4, connections=(16, 64)),
    ComparisonRow(key="encoder", label="sentence encoder, batch 16", model="encoder", batch_size=16,
                  takes_part=(OURS, "torchserve", LOOP), longer=2),
    ComparisonRow(key="torch-5ms", label="torch, 5 ms a batch of 8", model="layers", batch_size=8,
                  batch_ms=5.0, connections=(16, 64), takes_part=(OURS, "torchserve", LOOP)),
    ComparisonRow(key="torch-1ms", label="torch, 1 ms a batch of 8", model="layers", batch_size=8,
                  batch_ms=1.0, connections=(16, 64), takes_part=(OURS, "torchserve", LOOP)),
)  # fmt: skip
PLAN = RunPlan(seconds=2.0, warmup_seconds=3.0, rounds=3, connections=(1, 16, 64, 256))
#: What shows within minutes whether something has changed.
QUICK_ROWS = ("echo-1", "echo-16", "150k", "mlp")
QUICK_PLAN = RunPlan(seconds=1.0, warmup_seconds=1.0, rounds=3, connections=(1, 64))


class CheckedItem(msgspec.Struct, frozen=True):
    """One thing to ask and its right answer: bytes, a text, or numbers."""

    question: bytes
    answer: bytes | str | tuple[float, ...]


def items(row: ComparisonRow, count: int, encoder_folder: Path | None = None) -> list[CheckedItem]:
    """Make so many different questions with their answers, the encoder's with its files in a folder."""
    chance = Random(11)
    if row.model == "echo":
        bodies = [_body(row.body_bytes, number) for number in range(count)]
        return [CheckedItem(body, body) for body in bodies]
    if row.model == "perceptron":
        asked = [[round(chance.uniform(-1, 1), 3) for _ in range(FEATURES)] for _ in range(count)]
        pairs = zip(asked, served_models.Perceptron().answers(asked), strict=True)
        return [CheckedItem(json.dumps(numbers).encode(), (*answer,)) for numbers, answer in pairs]
    if row.model == "layers":
        model = served_models.Layers(layers_of(row))
        asked_bytes = [
            array("f", [round(chance.uniform(-1, 1), 3) for _ in range(served_models.NUMBERS)]).tobytes()
            for _ in range(count)
        ]
        answers = [model.answers([question])[0] for question in asked_bytes]
        return [
            CheckedItem(question, (*array("f", answer),))
            for question, answer in zip(asked_bytes, answers, strict=True)
        ]
    texts = [" ".join(chance.choices(WORDS, k=SENTENCE_WORDS)) + "." for _ in range(count)]
    if row.model == "stream":
        return [CheckedItem(text.encode(), "".join(served_models.parts(text))) for text in texts]
    if encoder_folder is None:
        return [CheckedItem(text.encode(), b"") for text in texts]
    encoder = served_models.SentenceEncoder(encoder_folder)
    answers = [encoder.answers([text])[0] for text in texts]
    return [
        CheckedItem(text.encode(), (*array("f", answer),))
        for text, answer in zip(texts, answers, strict=True)
    ]


def layers_of(row: ComparisonRow) -> int:
    """Return how many layers the model of a row has, on this machine."""
    return served_models.layers_for(row.batch_ms, row.batch_size)


def _body(size: int, number: int) -> bytes:
    """Return bytes that differ in each body, at its beginning and its end."""
    mark = b"%032d" % number
    return mark + (b"torchrelay" * (size // 10))[: size - 2 * len(mark)] + mark


def chosen(keys: Sequence[str]) -> list[ComparisonRow]:
    """Return the rows of these keys, in their own order."""
    return [row for row in ROWS if row.key in keys]


def connections_of(row: ComparisonRow, plan: RunPlan) -> list[int]:
    """Return the numbers of connections at which a row is measured."""
    return [count for count in plan.connections if count in row.connections]


def seconds_expected(
    rows: Sequence[ComparisonRow], peers: Sequence[str], plan: RunPlan, extra: Mapping[str, float]
) -> float:
    """Return about how long a run takes; `extra` has the seconds of a start and of a check."""
    total = 0.0
    for row in rows:
        takers = sum(one in peers for one in row.takes_part)
        runs = len(connections_of(row, plan)) * plan.rounds * plan.seconds * row.longer
        checks = len(connections_of(row, plan)) * extra["check"]
        total += takers * (extra["start"] + plan.warmup_seconds + runs + checks)
    return total
