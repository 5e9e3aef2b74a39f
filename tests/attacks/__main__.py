"""`python -m tests.attacks [NAME ...]`: run attacks on a server of their own, and print what came of them."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.attacks import honest, table
from tests.attacks.catalog import ATTACKS, MIXED
from tests.attacks.run import run


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="attacks; all of them if none is named")
    parser.add_argument("--seconds", type=float, help="how long each goes on, instead of its own time")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all that was measured to a file as well"
    )
    parser.add_argument("--list", action="store_true", help="say which attacks there are, and end")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the servers' folders there")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in (*ATTACKS, MIXED)]
    if unknown:
        parser.error(f"there is no attack called {', '.join(unknown)}; --list says which there are")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return 1 where an attack was not held."""
    options = parse(arguments)
    if options.list:
        for attack in ATTACKS.values():
            say(f"{attack.name:<20}{attack.what}")
        say(f"{MIXED:<20}all that need no server of their own kind, side by side")
        return 0
    rows = []
    say(table.heading(honest.PER_S))
    with tempfile.TemporaryDirectory(prefix="attacks-") as temporary:
        for number, name in enumerate(options.names or (*ATTACKS, MIXED)):
            row = run(name, options.seconds, Path(options.keep or temporary, f"{number:02}-{name}"), tell)
            rows.append(row)
            say(table.row(row))
            if options.json:
                options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))
    say("-" * table.WIDTH)
    say(table.summary(rows))
    return int(not all(row.has_held for row in rows))


def say(line: str) -> None:
    """Write a line of the report."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def tell(line: str) -> None:
    """Say on stderr how far it is, over what was said before."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line[: table.WIDTH - 1]}")
    else:
        sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
