"""Time of an import: ours beside NumPy's and ml_dtypes', each in a process of its own, alternating.

A child imports NumPy and ml_dtypes, then runs a statement of ours, and says how long both took; bytecode is
compiled before the first is measured. The command line's start is measured from outside, beside click's own.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial

from harness import Row

LEGEND = """\
`ms`: milliseconds of processor time that the statement adds after `import numpy, ml_dtypes`, the median over
child processes; `x numpy + ml_dtypes`: their time over ours. `x click`: the time of an `import click` alone
over that of `dsv3-numerics --help`, as processes from start to end, the median over alternating pairs."""

CHILDREN = 15
MOST_MS = 30.0
"""Bar for what an import may add."""

STATEMENTS: dict[str, tuple[str, float | None]] = {
    "import dsv3_numerics": ("import dsv3_numerics", MOST_MS),
    "the arithmetic, on first use": (
        "import dsv3_numerics as d3; d3.quantize, d3.quantize_tiles, d3.matmul_nt, d3.logfmt_encode",
        MOST_MS,
    ),
    "every public name and room": (
        "import dsv3_numerics as d3; [getattr(d3, name) for name in d3.__all__]",
        None,
    ),
}

_CHILD = """
from time import thread_time as now
a = now(); import numpy, ml_dtypes
b = now(); {statement}
c = now()
print(b - a, c - b)
"""


def child(statement: str, environment: Mapping[str, str]) -> tuple[float, float]:
    """Measure in a process of its own: seconds of NumPy and ml_dtypes, and of the statement."""
    command = [sys.executable, "-c", _CHILD.format(statement=statement)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    theirs, ours = map(float, done.stdout.split())
    return theirs, ours


def whole(command: list[str], environment: Mapping[str, str]) -> float:
    """Seconds of a process from start to end."""
    start = time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    return time.perf_counter() - start


def rows(number: int = CHILDREN) -> Iterator[Row]:
    """Measure everything."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for name, (statement, bar) in STATEMENTS.items():
            found = [child(statement, environment) for _ in range(number + 1)][1:]  # the first compiles
            theirs, ours = (statistics.median(column) for column in zip(*found, strict=True))
            row = partial(Row, name, "1", "any", 1, "out", gelem_s=None, pairs=len(found))
            yield row(yardstick="ms", ratio=1e3 * ours, gate=bar, at_most=True)
            yield row(yardstick="x numpy + ml_dtypes", ratio=theirs / ours)
        click = [sys.executable, "-c", "import click"]
        verb = [sys.executable, "-m", "dsv3_numerics.cli", "--help"]
        pairs = [(whole(click, environment), whole(verb, environment)) for _ in range(number + 1)][1:]
        ratio = statistics.median(a / b for a, b in pairs)
        note = f"{1e3 * statistics.median(b for _, b in pairs):.0f} ms"
        yield Row("--help", "1", "any", 1, "out", "x click", None, ratio, pairs=len(pairs), note=note)


def quick() -> str:
    """Run every child once."""
    return f"{len(list(rows(1)))} rows"
