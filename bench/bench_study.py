"""Error statistics beside the quantization whose errors they are: ratios of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import dsv3_numerics as d3
from bench_formats import numbers
from dsv3_numerics.schemes import CodedSlab
from dsv3_numerics.study.metrics import sums_of
from harness import Row, Timed, measure, set_state
from suite import Array, levels

LEGEND = """\
Sums of errors over a slab, with clipped elements counted in the same pass, beside quantizing and dequantizing
that slab by the same scheme: the rate in 10^9 elements a second, and the ratio of the two, the median over
interleaved pairs of calls. `gate` is the least ratio: three times what one element at a time reached.
"""
SIZES = {"4Mi": (1024, 4096), "64Ki": (64, 1024)}
STREAMED = "4Mi"  # a study's slab, the size that gates are for
GATE = 0.7

Call = Callable[[], Any]


class Pair(NamedTuple):
    """A scheme whose errors are summed up; with a gate or without."""

    scheme: str
    gate: float | None


PAIRS = (Pair("e4m3:1x128:f32", GATE), Pair("mxfp4", None), Pair("int8:row", None), Pair("bf16", None))


def prepared(scheme: str, x: Array) -> tuple[Call, Call]:
    """The sums, and the scheme itself."""
    parsed = d3.Scheme.parse(scheme)
    approximation = parsed.approximate(x)
    assert isinstance(approximation.saturated, CodedSlab)
    return partial(sums_of, x, approximation.values, approximation.saturated), partial(parsed.approximate, x)


def rows(sizes: Any = SIZES, threads: tuple[int, ...] = (1, 2), pairs: int = 9) -> Iterator[Row]:
    """Measure each pair, at every level with one thread, at the best with two."""
    for label, shape in sizes.items():
        x = numbers(shape, 1.0)
        for pair in PAIRS:
            run, beside = prepared(pair.scheme, x)
            for level in levels():
                for count in threads if level == levels()[-1] else (1,):
                    set_state(level, count)
                    m = measure(Timed(run), Timed(beside), pairs=pairs)
                    gate = pair.gate if label == STREAMED and level == levels()[-1] else None
                    name = f"errors of {pair.scheme}"
                    yield m.row(name, label, level, count, "in", "x scheme", x.size, gate)


def quick() -> str:
    """Compare sums at every level and with one and two threads: the same bits."""
    x = numbers((300, 321), 1.0)
    for pair in PAIRS:
        if pair.scheme == "mxfp4":
            x = np.ascontiguousarray(x[:, :320])
        run, _ = prepared(pair.scheme, x)
        found = set()
        for level in levels():
            for count in (1, 2):
                set_state(level, count)
                row, histogram = run()
                found.add(row.tobytes() + histogram.tobytes())
        assert len(found) == 1, pair.scheme
    return f"{len(PAIRS)} schemes, sums equal at every level"
