"""Frame of the programs here: the options that all have, and the record of long runs.

One row a program in RESULT.md, with the command that repeats it.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

RESULT = Path(__file__).with_name("RESULT.md")
HEAD = """# Programs that run as long as they are told

Last long run of each, written by the program itself (`--write`). Each also runs for seconds in the suite,
but asan and miri. A program without a row has not been run to its end yet.

| command | what it did | found | with |
|---|---|---|---|
"""


def parser(doc: str | None, *, works: bool = False) -> argparse.ArgumentParser:
    """Options of a program; if it `works`, also those that it starts its own workers with."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seconds", type=float, default=600)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--write", action="store_true", help=f"record the outcome in {RESULT.name}")
    if works:
        made.add_argument("--work", type=int, help=argparse.SUPPRESS)
        made.add_argument("--until", type=float, help=argparse.SUPPRESS)
        made.add_argument("--note", type=Path, help=argparse.SUPPRESS)
    return made


def versions() -> str:
    """Versions that a result is of."""
    from dsv3_numerics import _core

    names = ("dsv3_numerics", "numpy")
    told = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return f"{told}, CPython {platform.python_version()}, levels {' '.join(_core.simd_levels())}"


def write(command: str, did: str, found: str) -> None:
    """Put a row into the record, in place of the last one of the same command."""
    rows = []
    if RESULT.exists():
        rows = [line for line in RESULT.read_text().splitlines() if line.startswith("| `")]
    rows = [row for row in rows if not row.startswith(f"| `{command}` ")]
    rows.append(f"| `{command}` | {did} | {found} | {versions()} |")
    RESULT.write_text(HEAD + "\n".join(sorted(rows)) + "\n")


def outcome(
    command: str, did: str, counts: Mapping[str, int], bad: int, since: float, *, into_record: bool
) -> int:
    """Print what a program did, what came of it and how long it took; into the record too, if asked.

    The exit code: 1 if anything was bad.
    """
    found = ", ".join([*(f"{count:,} {end}" for end, count in counts.items()), f"{bad} bad"])
    print(f"{did}, in {time.monotonic() - since:.0f} s: {found}")
    if into_record:
        write(command, did, found)
    return int(bad > 0)
