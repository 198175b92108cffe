"""Matrix products: every accumulator at 1024^3, DeepSeek-V3's layers, and few rows beside the read bandwidth.

Operands are FP8 with 1x128 tiles and 128x128 blocks, promoted every 128, as the recipe has them; units of 16
bits get plain codes. Packing is part of every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import dsv3_numerics as d3
from dsv3_numerics import reference
from harness import Call, Gate, Row, Timed, measure, set_state
from shapes import SHAPES, shape
from suite import THREADS, bits, levels, product_levels

try:
    import torch
except ImportError:
    torch = None

Array = NDArray[Any]

LEGEND = """\
The column Gelem/s holds G MAC/s: 10^9 products and additions in a second. Bars of emulated units are rates,
because nothing else on a CPU computes the same; `vdpbf16ps` computes what torch's bfloat16 does, through the
same instruction or in its order. `x numpy` is the time of NumPy's float32 `@` (one thread, the
operands already float32) over ours, `x torch` that of torch's bfloat16; `x read` the time in which as many
threads read the FP8 weights over ours; `x 1T` our time with one thread over that with two. Each is the median
over alternating pairs; `(-n)`: n pairs were dropped as disturbed. Verdict `c`: a compute-bound gate, missed,
which only a quiet machine decides."""

FP8, FP4, HALF, BRAIN = "float8_e4m3fn", "float4_e2m1fn", "float16", "bfloat16"
TILES = {"mx": 32, "nvfp4": 16}
SQUARE, SMALL = (1024, 1024, 1024), (256, 256, 256)
TOKENS, FEW_ROWS = 128, (1, 4, 8, 16, 64)
TWO_THREADS = 1.8


@dataclass(frozen=True)
class Unit:
    """One accumulator, its input, and what it has to reach at 1024^3."""

    accumulator: str
    codes: str = FP8
    rate: Gate | None = None
    "G MAC/s, one thread"
    numpy: Gate | None = None
    "multiples of NumPy's float32, one thread"
    vectors: bool = True
    "there is more than the definition, output by output"
    scale: str = "float32"
    "kind of scales; those of `mx` and `nvfp4` go into the unit"
    beside: tuple[str, float | None] | None = None
    "another unit that it is timed beside, and what part of its rate it has to reach at avx512"
    torch: Mapping[str, float] = field(default_factory=dict)
    "level -> what part of the rate of torch's bfloat16 it has to reach"
    every: int | None = 128
    "products between two promotions"
    levels: tuple[str, ...] = ()
    "levels above avx512 with code of its own"


THIRD = Gate(4, 5 / 3, 0.08 / 3)
UNITS = (
    Unit("hopper_fp8", rate=Gate(12, 5, 0.08)),
    Unit("hopper_fp8_f16"),
    Unit("ada_fp8"),
    Unit("blackwell_fp8", rate=THIRD),
    Unit("hopper_f16", HALF, THIRD),
    Unit("hopper_bf16", BRAIN, THIRD),
    Unit("ada_f16", HALF, THIRD),
    Unit("float32", numpy=Gate(0.7, 0.35, 0.05), torch={"amx": 0.9}, levels=("amx",)),
    Unit("vdpbf16ps", BRAIN, torch={"avx512_bf16": 0.9}, every=None, levels=("avx512_bf16",)),
    Unit("hopper_mma_fp8", vectors=False),
    Unit("exact", vectors=False),
)
# Timed by `bench_units`, beside another unit.
SCALED_UNITS = (
    Unit("blackwell_mxf8", scale="mx", beside=("blackwell_fp8", 0.5)),
    Unit("blackwell_mxf4", FP4, scale="mx", beside=("blackwell_fp8", None)),
    Unit("blackwell_nvfp4", FP4, scale="nvfp4", beside=("blackwell_fp8", 0.4)),
)
# Bar of float32 through AMX: a busy neighbour on the core halves it.
AMX = 2.5
READ = Gate(0.7, 0.4)
# Bar of few rows, as part of torch's rate.
FEW_TORCH = 1.0


@dataclass(frozen=True)
class Product:
    """One product, ready to run."""

    macs: int
    run: Call
    result: Callable[[], Array]
    expected: Callable[[], Array]
    numpy: Call
    torch: Callable[[int], Call] | None
    weights: Array
    "codes of the right operand"


def prepare(unit: Unit, sizes: tuple[int, int, int]) -> Product:
    """Random operands and touched output."""
    m, n, k = sizes
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((rows, k), np.float32) for rows in (m, n))
    out = np.zeros((m, n), np.float32)
    options: dict[str, Any] = {"accumulator": unit.accumulator, "promote_every": unit.every}
    if unit.scale in TILES:
        tile: dict[str, Any] = {"fmt": unit.codes, "scale": unit.scale, "tile": TILES[unit.scale]}
        a, b = d3.quantize_tiles(x, **tile), d3.quantize_tiles(w, **tile)
        ours = [reference.Quantized(**vars(q)) for q in (a, b)]
        weights, wide = b.codes, (a.dequantize(), b.dequantize())
    elif unit.codes == FP8:
        a, b = d3.quantize_tiles(x), d3.quantize_blocks(w)
        ours = [reference.Quantized(**vars(q)) for q in (a, b)]
        weights, wide = b.codes, (a.dequantize(), b.dequantize())
    else:
        a, b = (d3.encode(v, unit.codes) for v in (x, w))
        ours, weights, wide = [a, b], b, (x, w)
    left, right, product = wide[0], wide[1].T, np.zeros_like(out)
    return Product(
        m * n * k,
        lambda: d3.matmul_nt(a, b, out=out, **options),
        lambda: out,
        lambda: reference.matmul_nt(*ours, **options),
        lambda: np.matmul(left, right, out=product),
        None if torch is None else torch_product(*wide),
        weights,
    )


def torch_product(x: Array, w: Array) -> Callable[[int], Call]:
    """The same in torch's bfloat16, over as many threads as the kernel has."""
    left, right = (torch.from_numpy(v).to(torch.bfloat16) for v in (x, w))

    def on(threads: int) -> Call:
        def run() -> Any:
            torch.set_num_threads(threads)
            return torch.nn.functional.linear(left, right)

        return run

    return on


class Read:
    """Reads an array from memory, over as many threads as the kernel has."""

    def __init__(self, array: Array) -> None:
        self._words = array.reshape(-1).view(np.uint64)
        self._pool = ThreadPoolExecutor(2)

    def __call__(self, threads: int) -> Call:
        parts = np.array_split(self._words, threads)
        if threads == 1:
            return lambda: np.bitwise_or.reduce(self._words)
        return lambda: list(self._pool.map(np.bitwise_or.reduce, parts))


def levels_of(unit: Unit) -> list[str]:
    """The levels at which a unit has code of its own."""
    own = [level for level in product_levels() if level in levels() or level in unit.levels]
    return own if unit.vectors else own[:1]


def bar(unit: Unit, level: str) -> tuple[float | None, str]:
    """Bars of a unit at 1024^3 with one thread, and in what."""
    if unit.rate is not None:
        return unit.rate.at(level), "G MAC/s"
    return (AMX if level == "amx" else unit.numpy.at(level) if unit.numpy else None), "numpy"


def quick() -> str:
    """Every unit at every level, with one and two threads, on ragged shapes: the bytes are the textbook's."""
    done = 0
    for unit in (*UNITS, *SCALED_UNITS):
        for sizes in [(0, 3, 64), (1, 1, 1), (3, 17, 130), (1, 70, 256), (18, 40, 200)]:
            work = prepare(unit, sizes)
            want = work.expected()
            for level in levels_of(unit):
                for threads in THREADS:
                    set_state(level, threads)
                    work.run()
                    if not np.array_equal(bits(work.result()), bits(want)):
                        raise AssertionError(
                            f"{unit.accumulator} {sizes} differs at {level}, {threads} threads"
                        )
                    done += 1
            work.numpy()
    Read(np.zeros(4096, ml_dtypes.float8_e4m3fn))(2)()
    return f"{len(UNITS) + len(SCALED_UNITS)} accumulators, {done} outputs equal to the reference"


def rows() -> Iterator[Row]:
    """All tables."""
    if torch is None:
        print("skipped: torch is not installed, so its rows are missing")
    plain = [unit for unit in UNITS if unit.torch]
    for unit in plain:
        yield from square(unit)
        yield from layers(unit)
        yield from skinny_rows(unit)
    for unit in (unit for unit in UNITS if unit not in plain):
        yield from square(unit)
        if unit.accumulator == "hopper_fp8":
            yield from layers(unit)


def square(unit: Unit) -> Iterator[Row]:
    """1024^3 at each level; where there are no vectors, 256^3."""
    for level in levels_of(unit):
        sizes = SMALL if level == "scalar" else SQUARE
        work = prepare(unit, sizes)
        gate, yardstick = bar(unit, level)
        yield row(unit, f"{sizes[0]}^3", level, 1, work, gate, yardstick)
        if level != "scalar":
            yield two_threads(unit, f"{sizes[0]}^3", level, work)
        if unit.torch:
            yield from beside(unit, f"{sizes[0]}^3", level, work, unit.torch.get(level))


def row(
    unit: Unit, size: str, level: str, threads: int, work: Product, gate: float | None, yardstick: str
) -> Row:
    """One figure beside NumPy's."""
    m = measure(Timed(work.run, lambda: set_state(level, threads)), Timed(work.numpy), compute_bound=True)
    what = (unit.accumulator, size, level, threads, "out")
    if yardstick == "G MAC/s":
        by_rate, note = replace(m, ratio=work.macs / m.seconds / 1e9), f"{m.ratio:.3g} x numpy"
        return by_rate.row(*what, yardstick, work.macs, gate, compute_bound=True, note=note)
    return m.row(*what, f"x {yardstick}", work.macs, gate, compute_bound=True)


def two_threads(unit: Unit, size: str, level: str, work: Product) -> Row:
    """Two threads over one."""
    two = Timed(work.run, lambda: set_state(level, 2))
    m = measure(two, Timed(work.run, lambda: set_state(level, 1)))
    gate = TWO_THREADS if unit.accumulator in ("hopper_fp8", "vdpbf16ps") else None
    return m.row(unit.accumulator, size, level, 2, "out", "x 1T", work.macs, gate, compute_bound=True)


def beside_unit(unit: Unit, size: str, level: str, work: Product, sizes: tuple[int, int, int]) -> Row:
    """One thread of a unit beside one of another."""
    other, part = unit.beside or ("", None)
    peer = prepare(next(u for u in UNITS if u.accumulator == other), sizes)
    one = Timed(work.run, lambda: set_state(level, 1))
    m = measure(one, Timed(peer.run, lambda: set_state(level, 1)), compute_bound=True)
    gate = part if level == "avx512" else None
    return m.row(unit.accumulator, size, level, 1, "out", f"x {other}", work.macs, gate, compute_bound=True)


def beside(unit: Unit, size: str, level: str, work: Product, gate: float | None) -> Iterator[Row]:
    """One thread of ours beside one of torch's bfloat16, and two beside two."""
    for threads in THREADS if work.torch is not None else ():
        ours = Timed(work.run, lambda threads=threads: set_state(level, threads))  # type: ignore[misc]
        m = measure(ours, Timed(work.torch(threads)), compute_bound=True)
        what = (unit.accumulator, size, level, threads, "out", "x torch")
        yield m.row(*what, work.macs, gate, compute_bound=True)


def layers(unit: Unit) -> Iterator[Row]:
    """128 tokens through each FP8 weight of the model, at the highest level."""
    level, seen = levels_of(unit)[-1], set()
    for weight in (s for s in SHAPES if s.fp8):
        if (weight.rows, weight.cols) not in seen:
            seen.add((weight.rows, weight.cols))
            sizes = (TOKENS, weight.rows, weight.cols)
            work = prepare(unit, sizes)
            for threads in THREADS:
                yield row(
                    unit,
                    f"{weight.name} {TOKENS}x{weight.rows}x{weight.cols}",
                    level,
                    threads,
                    work,
                    None,
                    "numpy",
                )
            if level in unit.torch:
                size = f"{weight.name} {TOKENS}x{weight.rows}x{weight.cols}"
                yield from beside(unit, size, level, work, unit.torch[level])


def skinny_rows(unit: Unit) -> Iterator[Row]:
    """One to 64 tokens: what counts is how fast weights come from memory."""
    weight = shape("dense.gate_proj")
    for tokens in FEW_ROWS:
        work = prepare(unit, (tokens, weight.rows, weight.cols))
        read = Read(work.weights)
        for level in (level for level in levels_of(unit) if level != "scalar"):
            for threads in THREADS:
                kernel = Timed(work.run, lambda level=level, threads=threads: set_state(level, threads))  # type: ignore[misc]
                m = measure(kernel, Timed(read(threads)))
                size = f"{weight.name} {tokens}x{weight.rows}x{weight.cols}"
                gate = READ.at(level) if tokens == 1 else None
                note = f"{work.weights.nbytes / m.seconds / 1e9:.1f} GB/s of weights"
                what = (unit.accumulator, size, level, threads, "out", "x read")
                yield m.row(*what, work.macs, gate, note=note)
            if level in unit.torch:
                yield from beside(unit, size, level, work, None if tokens == 1 else FEW_TORCH)
