"""Rounding modes, scale rules and formats made at run time, each beside the tuned path: ratios of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import dsv3_numerics as d3
from bench_formats import numbers
from dsv3_numerics import reference
from harness import Row, Timed, measure, set_state
from suite import Array, levels

LEGEND = """\
Each row is an operation beside the tuned path for the same data: its rate in 10^9 elements a second, and the
ratio of the two, the median over interleaved pairs of calls. `gate` is the least ratio, for 16 Mi elements.

"stochastic" is bound by its random bits: 32 of Philox4x32-10 for each element, to which its bytes are
pinned. In AVX-512 they take 36 multiplications, 36 moves and 40 exclusive ors for 64 elements, all on two
ports: 56 cycles at the least. Alone, in registers, Philox ran at 70 cycles (2.4 G words/s at 2.7 GHz on an
Emerald Rapids, with one group or eight side by side), where all of nearest even is 32 when it is quiet: half
of its rate is out of reach there. Where memory is the limit of both, the ratio is higher. "stochastic8" takes
a quarter of those bits.
"""
SIZES = {"16Mi": (4096, 4096), "64Ki": (64, 1024)}
STREAMED = "16Mi"  # the size that gates are for
NAMED = "float8_e4m3fn"
OWN = d3.Format(exponent=4, mantissa=3, bias=6, top="nan_only")
WIDE = d3.Format(exponent=4, mantissa=7, bias=7)
MODES = ("nearest_away", "nearest_toward_zero", "toward_zero", "up", "down", "stochastic", "stochastic8")

Call = Callable[[], Any]


class Pair(NamedTuple):
    """An operation, the one beside it, and the least rate in multiples of that one's."""

    name: str
    run: Callable[[Array], Call]
    beside: str
    yardstick: Callable[[Array], Call]
    gate: float


def encoding(fmt: Any, **options: Any) -> Callable[[Array], Call]:
    """Encode into memory that is there."""

    def prepare(x: Array) -> Call:
        out = d3.encode(x, fmt, **options)
        return partial(d3.encode, x, fmt, out=out, **options)

    return prepare


def decoding(fmt: Any) -> Callable[[Array], Call]:
    """Decode into memory that is there."""

    def prepare(x: Array) -> Call:
        codes = d3.encode(x, fmt)
        out = d3.decode(codes, fmt=fmt)
        return partial(d3.decode, codes, fmt=fmt, out=out)

    return prepare


def quantizing(**options: Any) -> Callable[[Array], Call]:
    """Quantize tiles into memory that is there."""

    def prepare(x: Array) -> Call:
        q = d3.quantize_tiles(x, **options)
        return partial(d3.quantize_tiles, x, out=(q.codes, q.scales), **options)

    return prepare


NEAREST = encoding(NAMED)
E4M3 = quantizing(tile=128)
NVFP4 = quantizing(scale="nvfp4", tensor_amax=6.0)
EIGHT_BITS: dict[str, Any] = {"rounding": "stochastic8", "seed": 1}
PAIRS = (
    *(
        Pair(f"f32->e4m3 {mode}", encoding(NAMED, rounding=mode, seed=1), "nearest even", NEAREST, 0.5)
        for mode in MODES
    ),
    Pair("f32->e8m0", encoding("float8_e8m0fnu"), "f32->e4m3", NEAREST, 0.5),
    Pair("f32->own 8 bits", encoding(OWN), "f32->e4m3", NEAREST, 0.9),
    Pair("f32->own 12 bits", encoding(WIDE), "f32->e5m6", encoding("e5m6"), 0.9),
    Pair("own 8 bits->f32", decoding(OWN), "e4m3->f32", decoding(NAMED), 0.9),
    Pair("own 12 bits->f32", decoding(WIDE), "e5m6->f32", decoding("e5m6"), 0.9),
    Pair("quantize own 1x128", quantizing(fmt=OWN, tile=128), "e4m3 1x128", E4M3, 0.9),
    Pair("quantize 1x128 stochastic8", quantizing(tile=128, **EIGHT_BITS), "e4m3 1x128", E4M3, 0.5),
    Pair("quantize nvfp4", NVFP4, "e4m3 1x128", E4M3, 0.6),
    Pair(
        "quantize nvfp4 stochastic8",
        quantizing(scale="nvfp4", tensor_amax=6.0, **EIGHT_BITS),
        "nvfp4",
        NVFP4,
        0.5,
    ),
    Pair("quantize nvfp4, found", quantizing(scale="nvfp4"), "e4m3 1x128", E4M3, 0.6),
    Pair("quantize mxfp8", quantizing(scale="mx"), "e4m3 1x128", E4M3, 0.6),
    Pair("quantize mxfp8:rceil", quantizing(scale="mx", rule="rceil"), "e4m3 1x128", E4M3, 0.6),
    Pair("quantize mxfp4", quantizing(fmt="e2m1", scale="mx"), "e4m3 1x128", E4M3, 0.6),
    Pair("quantize 1x128 torchao", quantizing(tile=128, rule="torchao"), "e4m3 1x128", E4M3, 0.6),
)


def rows(sizes: Any = SIZES, threads: tuple[int, ...] = (1, 2), pairs: int = 9) -> Iterator[Row]:
    """Measure each pair, at the best level, with one thread and with two."""
    level = levels()[-1]
    for label, shape in sizes.items():
        x = numbers(shape, 1.0)
        for pair in PAIRS:
            run, beside = pair.run(x), pair.yardstick(x)
            for count in threads:
                set_state(level, count)
                m = measure(Timed(run), Timed(beside), pairs=pairs)
                gate = pair.gate if label == STREAMED else None
                yield m.row(pair.name, label, level, count, "out", f"x {pair.beside}", x.size, gate)


def quick() -> str:
    """Compare every operation with the textbook on a short array."""
    x = numbers((3, 160), 1.0)
    for mode in MODES:
        got, expected = (m.encode(x, NAMED, rounding=mode, seed=1) for m in (d3, reference))
        assert got.tobytes() == expected.tobytes(), mode
    for fmt in (OWN, WIDE):
        name = d3.format_info(fmt).name
        assert d3.encode(x, fmt).tobytes() == reference.encode(x, name).tobytes(), name
    for options in (
        {"scale": "nvfp4"},
        {"scale": "mx"},
        {"scale": "mx", "rule": "rceil"},
        {"rule": "torchao"},
        EIGHT_BITS,
        {"scale": "nvfp4", **EIGHT_BITS},
    ):
        got, expected = (m.quantize_tiles(x, **options) for m in (d3, reference))
        assert np.asarray(got.codes).tobytes() == expected.codes.tobytes(), options
    return f"{len(PAIRS)} pairs, their outputs equal to the reference"


def empty_call() -> object:
    """Encode one number: what a call costs before any work is done."""
    return d3.encode(_ONE, NAMED, out=_CODE)


_ONE = np.ones(1, np.float32)
_CODE = d3.encode(_ONE, NAMED)
