"""Block-scaled units at 1024^3 beside `blackwell_fp8`, in one run and on one thread."""

from __future__ import annotations

from collections.abc import Iterator

from bench_gemm import SCALED_UNITS, SQUARE, Unit, beside_unit, levels_of, prepare, row
from bench_gemm import quick as quick_gemm
from harness import Row

LEGEND = """\
The column Gelem/s holds G MAC/s: 10^9 products and additions in a second. `x blackwell_fp8` is the time of
that unit on E4M3 codes with 1x128 and 128x128 scales, promoted every 128, over ours with as many products: a
ratio of one run. Packing is part of both. Verdict `c`: a compute-bound gate, missed, which only a quiet
machine decides."""


def quick() -> str:
    """Check the outputs of every unit on ragged shapes."""
    return quick_gemm()


def rows() -> Iterator[Row]:
    """Measure each unit at each level with vectors."""
    plain = Unit("blackwell_fp8")
    for level in (level for level in levels_of(plain) if level != "scalar"):
        yield row(plain, "1024^3", level, 1, prepare(plain, SQUARE), None, "G MAC/s")
        for unit in SCALED_UNITS:
            yield beside_unit(unit, "1024^3", level, prepare(unit, SQUARE), SQUARE)
