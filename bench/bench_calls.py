"""Calls on small arrays: microseconds, beside ml_dtypes' `astype` of the same numbers, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import dsv3_numerics as d3
from dsv3_numerics import reference
from harness import Row, Timed, measure, set_state
from suite import levels

LEGEND = """\
`us`: microseconds of a call that allocates its result, the median over interleaved pairs; `x astype`: the
time of ml_dtypes' `x.astype(float8_e4m3fn)` of the same 128 numbers over that of the call. One thread.
"""
NUMBERS = 128
X = np.random.default_rng(0).standard_normal(NUMBERS).astype(np.float32)
ROW = X[None]
W = np.random.default_rng(1).standard_normal((NUMBERS, NUMBERS)).astype(np.float32)
FORMAT = "float8_e4m3fn"


class SmallCall(NamedTuple):
    """A call, what it gives by the textbook, and its bar in microseconds."""

    name: str
    run: Callable[[], Any]
    expected: Callable[[], Any]
    most_us: float
    before_us: float | None = None


def _products() -> tuple[d3.Quantized, d3.Quantized]:
    return d3.quantize_tiles(ROW), d3.quantize_blocks(W)


def _twins() -> tuple[reference.Quantized, reference.Quantized]:
    return reference.quantize_tiles(ROW), reference.quantize_blocks(W)


A, B = _products()
CALLS = (
    SmallCall("encode", partial(d3.encode, X, FORMAT), lambda: reference.encode(X, FORMAT), 2, 8),
    SmallCall(
        "quantize_tiles", partial(d3.quantize_tiles, X), lambda: reference.quantize_tiles(X).codes, 5, 25
    ),
    SmallCall(
        "quantize_tiles, ue8m0, deepgemm",
        partial(d3.quantize_tiles, X, scale="ue8m0", rule="deepgemm"),
        lambda: reference.quantize_tiles(X, scale="ue8m0", rule="deepgemm").codes,
        5,
    ),
    SmallCall(
        "quantize_blocks", partial(d3.quantize_blocks, ROW), lambda: reference.quantize_blocks(ROW).codes, 5
    ),
    SmallCall(
        "matmul_nt 1x128x128", partial(d3.matmul_nt, A, B), lambda: reference.matmul_nt(*_twins()), 6, 39
    ),
    SmallCall(
        "quantize_tiles, matmul_nt",
        lambda: d3.matmul_nt(d3.quantize_tiles(ROW), B),
        lambda: reference.matmul_nt(*_twins()),
        11,
    ),
)


def rows() -> Iterator[Row]:
    """Measure every call."""
    level = levels()[-1]
    set_state(level, 1)
    yardstick = Timed(partial(X.astype, ml_dtypes.float8_e4m3fn))
    for call in CALLS:
        found = measure(Timed(call.run), yardstick)
        row = partial(Row, call.name, str(NUMBERS), level, 1, "fresh", gelem_s=None)
        counts = {"pairs": found.pairs, "dropped": found.dropped}
        note = f"{call.before_us} us before plans were kept" if call.before_us else ""
        yield row(
            yardstick="us", ratio=1e6 * found.seconds, gate=call.most_us, at_most=True, note=note, **counts
        )
        yield row(yardstick="x astype", ratio=found.ratio, **counts)


def quick() -> str:
    """Check that the first call and those after it give the textbook's bytes."""
    for call in CALLS:
        want = np.asarray(call.expected())
        for _ in range(3):
            got = call.run()
            found = got.codes if isinstance(got, d3.Quantized) else got
            if found.tobytes() != want.tobytes():
                raise AssertionError(f"{call.name} differs")
    return f"{len(CALLS)} calls equal to the reference"
