"""Block-scaled units at 1024^3, and units without vectors at 256^3, beside `blackwell_fp8`, on one thread."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import dsv3_numerics as d3
from bench_gemm import SCALED_UNITS, SMALL, SQUARE, Unit, beside_unit, levels_of, prepare, row
from bench_gemm import quick as quick_gemm
from harness import Row, Timed, measure, set_state

LEGEND = """\
The column Gelem/s holds G MAC/s: 10^9 products and additions in a second. `x blackwell_fp8` is the time of
that unit on E4M3 codes with 1x128 and 128x128 scales, promoted every 128, over ours with as many products: a
ratio of one run. Packing is part of both. Verdict `c`: a compute-bound gate, missed, which only a quiet
machine decides. Rows of one token compare products with the weights as they are, and prepared (`prepare`),
with the same product under `float32`."""
FEW = (1, 2048, 7168)

# Units that run by their definition at every level.
DEFINED = tuple(
    Unit(name, codes, vectors=False, beside=("blackwell_fp8", None))
    for name, codes in (("cdna3_fp8", "float8_e4m3fnuz"), ("cdna3_bf16", "bfloat16"))
)


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
    for unit in DEFINED:
        yield beside_unit(unit, "256^3", levels_of(plain)[-1], prepare(unit, SMALL), SMALL)
    yield from few_rows(levels_of(plain)[-1])


def few_rows(level: str) -> Iterator[Row]:
    """One token under emulated units, with weights as they are and prepared, beside `float32`."""
    rows, n, k = FEW
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((count, k), np.float32) for count in (rows, n))
    a, b = d3.quantize_tiles(x), d3.quantize_blocks(w)
    out = np.zeros((rows, n), np.float32)
    for unit in ("hopper_fp8", "blackwell_fp8"):
        for weights, gate in ((b, None), (d3.prepare(b, accumulator=unit), 0.5)):

            def run(weights: object = weights, unit: str = unit) -> object:
                return d3.matmul_nt(a, weights, accumulator=unit, out=out)  # type: ignore[arg-type]

            def beside() -> object:
                return d3.matmul_nt(a, b, accumulator="float32", out=out)

            m = measure(Timed(run, lambda: set_state(level, 1)), Timed(beside, lambda: set_state(level, 1)))
            rate, name = rows * n * k / m.seconds / 1e9, unit if gate is None else f"{unit}, prepared"
            size = f"{rows}x{n}x{k}"
            yield Row(
                name,
                size,
                level,
                1,
                "out",
                "x float32",
                rate,
                m.ratio,
                gate,
                pairs=m.pairs,
                dropped=m.dropped,
            )
