"""Record of long runs: one row a program in RESULT.md, with the command that repeats it."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

RESULT = Path(__file__).with_name("RESULT.md")
HEAD = """# Programs that run as long as they are told

Last long run of each, written by the program itself (`--write`). Each also runs for seconds in the suite.

| command | what it did | found | with |
|---|---|---|---|
"""


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
