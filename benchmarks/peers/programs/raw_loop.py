"""Calls a model in a loop, without a server: `python raw_loop.py MODEL WHAT QUESTION`.

MODEL is `encoder`, WHAT its folder, or `layers` and how many; each row of a batch is the question, which is
in hexadecimal digits.

Each line of the standard input, `ROWS SECONDS`, is answered by a line of JSON with what was done meanwhile.
"""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import quantiles
from time import perf_counter
from typing import Any

import served_models


def run(call: Callable[[], object], rows: int, seconds: float) -> dict[str, int]:
    """Call it for so long, at least twice, and return the figures that wrk gives of a server."""
    took: list[float] = []
    started = perf_counter()
    while (now := perf_counter()) - started < seconds or len(took) < 2:
        call()
        took.append(perf_counter() - now)
    percentiles = [round(1e6 * value) for value in quantiles(took, n=100, method="inclusive")]
    duration_us = round(1e6 * (perf_counter() - started))
    return {"requests": rows * len(took), "duration_us": duration_us, "p50_us": percentiles[49],
            "p99_us": percentiles[98], "refused": 0, "broken": 0}  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    name, what, hexadecimal = arguments
    question: Any = bytes.fromhex(hexadecimal)
    answers: Callable[[Sequence[Any]], list[bytes]] = (
        served_models.SentenceEncoder(what).answers
        if name == "encoder"
        else served_models.Layers(int(what)).answers
    )
    if name == "encoder":
        question = question.decode()
    answers([question])
    print("ready", flush=True)
    for line in sys.stdin:
        rows, seconds = line.split()
        batch = [question] * int(rows)
        print(json.dumps(run(partial(answers, batch), int(rows), float(seconds))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
