"""Error statistics beside the quantization whose errors they are: ratios of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

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
interleaved pairs of calls. The scheme itself became twice as fast with them, so the ratio is no bar: that is
three times the rate of one element at a time, which took 5.3 to 6.0 ns an element on the machine of this
table (4.7 for the sums, the rest for clipped elements); now 1.65 to 1.8.
"""
SIZES = {"4Mi": (1024, 4096), "64Ki": (64, 1024)}

Call = Callable[[], Any]


SCHEMES = ("e4m3:1x128:f32", "mxfp4", "int8:row", "bf16")


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
        for scheme in SCHEMES:
            run, beside = prepared(scheme, x)
            for level in levels():
                for count in threads if level == levels()[-1] else (1,):
                    set_state(level, count)
                    m = measure(Timed(run), Timed(beside), pairs=pairs)
                    name = f"errors of {scheme}"
                    yield m.row(name, label, level, count, "in", "x scheme", x.size)


def quick() -> str:
    """Compare sums at every level and with one and two threads: the same bits."""
    x = numbers((300, 321), 1.0)
    for scheme in SCHEMES:
        if scheme == "mxfp4":
            x = np.ascontiguousarray(x[:, :320])
        run, _ = prepared(scheme, x)
        found = set()
        for level in levels():
            for count in (1, 2):
                set_state(level, count)
                row, histogram = run()
                found.add(row.tobytes() + histogram.tobytes())
        assert len(found) == 1, scheme
    return f"{len(SCHEMES)} schemes, sums equal at every level"
