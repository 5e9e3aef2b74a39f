"""Asks the real TorchServe and ours the same, and names every difference that the documentation doesn't.

    python -m tests.compatibility.compare --torchserve PATH/bin/torchserve [--group REGEX]

The requests are those of `tests/golden`, of `more_cases`, and by gRPC those of `open_inference_cases`;
TorchServe is asked anew, not remembered.
One server at a time, on a loopback address of its own; in the end both, which `torchrelay migrate diff`
then compares.
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Set
from pathlib import Path

from tests.compatibility import (
    expected,
    grpc_cases,
    grpc_player,
    migrating,
    more_cases,
    open_inference_cases,
    replaying,
    workflow_cases,
)
from tests.integration.fleet import own_address

import record  # isort: skip  # tests/golden's; more_cases has made it importable


def main() -> int:
    """Compare the two; return 0 if they differ only where they are meant to."""
    options = _parse()
    address = own_address()
    wanted = expected.differences(expected.DOCUMENT.read_text(encoding="utf-8"))
    unexpected = 0
    with tempfile.TemporaryDirectory(prefix="compare") as scratch:
        store, recorded = Path(scratch, "store"), Path(scratch, "recorded")
        recorded.mkdir()
        replaying.build_store(store)
        more_cases.build(store)
        workflow_cases.add_archives(store)
        for group, server, listed in more_cases.FILES:
            if not re.search(options.group, group):
                continue
            record.record_file(
                group, server, listed, more_cases.recorder(options.torchserve, store, recorded, address)
            )
            transcript = recorded / f"{group}.jsonl"
            found = replaying.replay(transcript, store, address, Path(scratch))
            unexpected += _tell(group, found, wanted)
        grpc_cases.add_archives(store)
        for group, by_grpc, cases in open_inference_cases.FILES:
            if not re.search(options.group, group):
                continue
            told = list(grpc_player.record(options.torchserve, by_grpc, cases, store, Path(scratch)))
            found = grpc_player.replay_all(by_grpc, told, store, Path(scratch))
            unexpected += _tell(group, found, wanted)
        if re.search(options.group, migrating.NAME):
            own = [own_address() for _ in range(3)]
            unexpected += migrating.unexpected(options.torchserve, store, own, Path(scratch))
    print(f"{unexpected} differences that docs/compatibility.md doesn't list")
    return 1 if unexpected else 0


def _tell(group: str, found: Mapping[str, str], wanted: Mapping[str, Set[str]]) -> int:
    """Print how answers differ, by case; return how many aren't meant to."""
    unexpected = 0
    for case, how in sorted(found.items()):
        is_meant = case in wanted.get(group, frozenset()) or (group, case) in expected.RACES
        unexpected += not is_meant
        print(f"{'as documented' if is_meant else 'DIFFERENT'} {group}/{case}: {how}", flush=True)
    return unexpected


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--torchserve", required=True, help="the real one, of a virtual environment of its own"
    )
    parser.add_argument("--group", default="", metavar="REGEX", help="only groups of such a name")
    options = parser.parse_args()
    found = shutil.which(options.torchserve)
    if found is None:
        parser.error(f"{options.torchserve} isn't there; `make compare-torchserve` installs it")
    options.torchserve = str(Path(found).absolute())  # it is started in a folder of its own
    return options


if __name__ == "__main__":
    sys.exit(main())
