"""Drives the benches: `python bench/run.py [--quick] [--gate] [names]`.

Without `--quick`, every kernel is measured beside a memory copy and beside its peers, the rows are printed
as they come, and `results/KIND/NAME.json` and `.md` are written. With it, every kernel runs once on small
shapes, at every SIMD level and with one and two threads, and its output must equal the reference byte for
byte; nothing is written. A bench without a table of kernels brings its own `quick` and `rows`.
"""

from __future__ import annotations

import os

# Before NumPy is imported: the arithmetic probe and the peers are measured with one thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# And before torch is: threads that spin after their work take the cores that the other of a pair needs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import peers
import report
import shapes
import suite
from harness import Row, Timed, measure, set_state

NAMES = (
    "import",
    "calls",
    "formats",
    "sizes",
    "quant",
    "rules",
    "logfmt",
    "gemm",
    "units",
    "checkpoint",
    "study",
    "compare",
    "model",
    "recipe",
    "generate",
)
WHEN_NAMED = ("fullsize", "cluster")


def overhead(bench: ModuleType) -> Row:
    """Measure one call before any work is done; part of every in-cache figure."""
    set_state(suite.levels()[-1], 1)
    call = Timed(bench.empty_call)
    seconds = measure(call, call).seconds
    note = f"{seconds * 1e6:.1f} us per call, included in every row"
    return Row("empty call", "1", suite.levels()[-1], 1, "out", "M", None, None, note=note)


def quick(name: str) -> None:
    """Check the outputs, then take one short row through the whole reporting path."""
    bench = importlib.import_module(f"bench_{name}")
    if not hasattr(bench, "KERNELS"):
        print(f"bench_{name}: {bench.quick()}", flush=True)
        return
    checks = sum(suite.check(kernel) for kernel in bench.KERNELS)
    kernel = bench.KERNELS[0]
    small = suite.Size("quick", kernel.quick[-1], streaming=False)
    rows = [overhead(bench), *suite.rows(suite.replace_sizes(kernel, small))]
    assert report.markdown(name, rows).count("\n|") == len(rows) + 2
    print(f"bench_{name}: {len(bench.KERNELS)} kernels, {checks} outputs equal to the reference", flush=True)


def full(name: str) -> list[Row]:
    """Measure one bench, showing each kernel's rows as soon as they are there; Ctrl-C keeps those."""
    bench = importlib.import_module(f"bench_{name}")
    rows: list[Row] = []
    legend = getattr(bench, "LEGEND", report.LEGEND)
    try:
        for found in kernels(bench) if hasattr(bench, "KERNELS") else ([row] for row in bench.rows()):
            rows += found
            print(report.plain(found), flush=True)
    except KeyboardInterrupt:
        report.save(name, rows, f"{legend}\n\nStopped after these {len(rows)} rows; more were to come.")
        raise
    report.save(name, rows, legend)
    return rows


def kernels(bench: ModuleType) -> Iterator[list[Row]]:
    """Measure a table of kernels, one after another."""
    yield [overhead(bench)]
    for kernel in bench.KERNELS:
        suite.check(kernel)
        yield list(suite.rows(kernel))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names",
        nargs="*",
        help=f"benches to run, of {', '.join(NAMES)} (all by default), or {' or '.join(WHEN_NAMED)}",
    )
    parser.add_argument("--quick", action="store_true", help="check outputs on small shapes; measure nothing")
    parser.add_argument("--gate", action="store_true", help="exit with 1 if a gate failed")
    options = parser.parse_args()
    every = (*NAMES, *WHEN_NAMED)
    if unknown := set(options.names) - set(every):
        parser.error(f"unknown bench {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    shapes.check()
    for absent in peers.ABSENT:
        print(f"skipped: {absent} is not installed, so its rows are missing")
    if not options.quick:
        print(report.LEGEND, "\n")
    rows: list[Row] = []
    for name in options.names or (every if options.quick else NAMES):
        if options.quick:
            quick(name)
        else:
            rows += full(name)
    if not options.quick:
        print(report.summary(rows))
    return int(options.gate and any(row.verdict == "FAIL" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
