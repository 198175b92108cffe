"""Hypotheses about scales: what may have been computed from the largest magnitude of each group.

Lives here: tables of magnitudes, floors, operations and powers of two, in float32 arithmetic spelled out.
Rules of the package are rows too. Layouts in which scales may be stored are in `scale_layouts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .._arrays import Array

Floats = NDArray[np.float32]
f32 = np.float32


class ScaleRow(NamedTuple):
    """A hypothesis about scales.

    `stored` are the scales that would be in the file; `amax` are the magnitudes after the floor, and
    `uses` the divisors that codes may have been made with: (how, assumptions, divisor).
    """

    name: str
    assumptions: int
    stored: Floats
    amax: Floats
    uses: list[tuple[str, int, Floats]]


AS_STORED = "stored scale"
TOLD_HALF = {f32(2): "twice (an exponent bias off by one)", f32(0.5): "half (an exponent bias off by one)"}


def to_bfloat16(x: Array) -> Floats:
    """Round to bfloat16, to nearest even."""
    return x.astype(ml_dtypes.bfloat16).astype(f32)


def cut_to_bfloat16(x: Array) -> Floats:
    """Cut float32 off to bfloat16."""
    return (np.ascontiguousarray(x, f32).view(np.uint32) & np.uint32(0xFFFF0000)).view(f32)


def to_float16(x: Array) -> Floats:
    """Round to float16, to nearest even."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(f32)


def same_scales(a: Floats, b: Floats) -> NDArray[np.bool_]:
    """Tell where scales are equal, or both NaN."""
    found: NDArray[np.bool_] = (a == b) | (np.isnan(a) & np.isnan(b))
    return found


def _e4m3(x: Array) -> Floats:
    return np.minimum(x, f32(448)).astype(ml_dtypes.float8_e4m3fn).astype(f32)


def _least(floor: float) -> Callable[[Floats], Floats]:
    return lambda a: np.maximum(a, f32(floor))


def _plus(floor: float) -> Callable[[Floats], Floats]:
    return lambda a: a + f32(floor)


FLOORS: dict[str, Callable[[Floats], Floats]] = {
    "floor 1e-4": _least(1e-4),
    "floor 1e-10": _least(1e-10),
    "floor 1e-12": _least(1e-12),
    "floor none": lambda a: a,
}

ODD_FLOORS: dict[str, Callable[[Floats], Floats]] = {
    **{f"floor {name}": _least(float(name)) for name in ("1e-3", "1e-5", "1e-6", "1e-7", "1e-8", "1e-9")},
    "floor FLT_MIN": _least(float(np.finfo(f32).tiny)),
    **{f"{name} added": _plus(float(name)) for name in ("1e-4", "1e-5", "1e-6", "1e-8", "1e-10", "1e-12")},
}
"""Floors that no rule of ours has; tried where nothing plainer fits."""

SCALE_OPS: dict[str, Callable[[Floats, np.float32], Floats]] = {
    "amax / max": lambda a, m: a / m,
    "amax * (1 / max)": lambda a, m: a * (f32(1) / m),
    "1 / (max / amax)": lambda a, m: f32(1) / (m / a),
}


def _power(s: Floats, choose: Callable[[Floats, Any], Any]) -> Floats:
    """Return the power of two whose exponent `choose` gets from mantissas in [0.5, 1) and exponents."""
    good = np.isfinite(s) & (s > 0)
    mantissa, exponent = np.frexp(np.where(good, s, f32(1)))
    chosen = np.clip(choose(mantissa, exponent), -127, 127).astype(np.intc)
    return np.where(good, np.ldexp(f32(1), chosen), s).astype(f32)


def _log2(s: Floats) -> Floats:
    good = np.isfinite(s) & (s > 0)
    exponent = np.ceil(np.log2(np.where(good, s, 1).astype(np.float64)).astype(f32))
    return np.where(good, np.ldexp(f32(1), np.clip(exponent, -127, 127).astype(np.intc)), s).astype(f32)


POWERS: dict[str, Callable[[Floats], Floats]] = {
    "power of two at or above": lambda s: _power(s, lambda m, e: e - (m == 0.5)),
    "2**ceil(float32(log2))": _log2,
    "power of two at or below": lambda s: _power(s, lambda m, e: e - 1),
    "nearest power of two": lambda s: _power(s, lambda m, e: e - (m < 0.75)),
    "power of two nearest in log2": lambda s: _power(s, lambda m, e: e - (m < np.sqrt(0.5))),
}

_NARROW: dict[str, Callable[[Floats], Floats]] = {
    "rounded to bfloat16": to_bfloat16,
    "cut to bfloat16": cut_to_bfloat16,
    "rounded to float16": to_float16,
    "rounded to E4M3": _e4m3,
}

# --- Magnitudes ---------------------------------------------------------------------------------------------


def _over(axis: int | None) -> Callable[[Floats, Floats, Floats], Floats]:
    """Take the largest over whole rows, columns of groups, or everything."""
    return lambda a, high, low: np.broadcast_to(a.max(axis=axis, keepdims=True), a.shape).copy()


def _block_of_rows(a: Floats, high: Floats, low: Floats) -> Floats:
    most = np.maximum.reduceat(a, np.arange(0, len(a), 128), axis=0)
    return np.repeat(most, 128, axis=0)[: len(a)]


PLAIN_AMAX = "of the group"

AMAXES: dict[str, tuple[int, Callable[[Floats, Floats, Floats], Floats]]] = {
    PLAIN_AMAX: (0, lambda a, high, low: a),
    "rounded to bfloat16": (1, lambda a, high, low: to_bfloat16(a)),
    "cut to bfloat16": (1, lambda a, high, low: cut_to_bfloat16(a)),
    "rounded to float16": (1, lambda a, high, low: to_float16(a)),
    "largest number, not magnitude (abs forgotten)": (1, lambda a, high, low: high),
    "half of largest minus least (asymmetric)": (1, lambda a, high, low: (high - low) / f32(2)),
    "of the group before": (1, lambda a, high, low: np.roll(a, 1, 1)),
    "of the group after": (1, lambda a, high, low: np.roll(a, -1, 1)),
    "of the row before": (1, lambda a, high, low: np.roll(a, 1, 0)),
    "of the row after": (1, lambda a, high, low: np.roll(a, -1, 0)),
    "of the whole row": (1, _over(1)),
    "of all rows": (1, _over(0)),
    "of the whole tensor": (1, _over(None)),
    "of the block of 128 rows": (1, _block_of_rows),
    "of the row's first group": (1, lambda a, high, low: np.repeat(a[:, :1], a.shape[1], axis=1)),
}
"""Largest magnitudes as they may have been found, from magnitudes, largest and least numbers of groups."""

WHOLE_AMAXES = ("of all rows", "of the whole tensor", "of the block of 128 rows", "of the row before",
                "of the row after")  # fmt: skip
"""Magnitudes that a sample of rows does not show; they are found on everything."""

MAXES = (448.0, 240.0, 224.0, 256.0, 512.0, 57344.0, 128.0, 127.0, 127.5, 6.0, 4.0, 8.0, 7.0, 7.5, 28.0, 15.5,
         30.0, 1.0)  # fmt: skip
"""Numbers to which amax may have been brought: largest ones of formats, and those beside them."""


def scale_rows(amax: Floats, most: float, *, odd: bool = False) -> Iterator[ScaleRow]:
    """Make every row of the tables for largest magnitudes of groups, and the format's largest number.

    `odd` makes those of floors that no rule has instead.
    """
    limit = f32(most)
    for floor_name, floor in (ODD_FLOORS if odd else FLOORS).items():
        a = floor(amax)
        for op_name, operation in SCALE_OPS.items():
            yield from rows_of(f"{op_name}, {floor_name}", 1, operation(a, limit), limit, a)
    if odd:
        for told, s in _odd_scales(amax / limit):
            yield from rows_of(told, 1, s, limit, np.maximum(amax, s * limit))
        return
    exponent = np.frexp(amax)[1] - np.frexp(limit)[1]
    for by, told in ((0, "floor"), (1, "ceil")):
        up = exponent + by * (np.frexp(amax)[0] > 0.5)
        s = np.ldexp(f32(1), np.where(amax > 0, np.clip(up, -127, 127), -127).astype(np.intc))
        name = f"2**({told}(log2(amax)) - floor(log2(max)))"
        yield ScaleRow(name, 1, s, amax, _by_itself(s))
        for factor, twice in TOLD_HALF.items():
            stored = s * factor
            yield ScaleRow(f"{name}, stored {twice}", 2, stored, amax, [("scale as it should be", 0, s)])


def _odd_scales(s: Floats) -> Iterator[tuple[str, Floats]]:
    """Make scales whose floor is their own, not that of amax."""
    for least in (1e-4, 1e-5, 1e-6, 1e-8, 1e-10, 1e-12):
        yield f"amax / max, at least {least:g}", np.maximum(s, f32(least))
        yield f"amax / max, {least:g} added to it", s + f32(least)
    yield "amax / max, 1 where it is 0", np.where(s == 0, f32(1), s).astype(f32)


def _by_itself(s: Floats) -> list[tuple[str, int, Floats]]:
    """Name the divisors that need no other scale than the one stored."""
    return [
        (AS_STORED, 0, s),
        ("half the scale (off by a power of two)", 1, s * f32(0.5)),
        ("twice the scale (off by a power of two)", 1, s * f32(2)),
        ("the inverse of the scale", 1, f32(1) / s),
        ("1 (not divided by a scale)", 1, np.ones_like(s)),
    ]


def rows_of(name: str, cost: int, s: Floats, limit: np.float32, a: Floats) -> Iterator[ScaleRow]:
    """Make the rows of one float32 scale: stored as it is, and in every other way."""
    powers = {how: power(s) for how, power in POWERS.items()}
    uses = _by_itself(s)
    uses += [(f"scale as {how}, but stored unrounded", 1, p) for how, p in powers.items()]
    uses += [(f"scale {how}, but stored unrounded", 1, narrow(s)) for how, narrow in _NARROW.items()]
    yield ScaleRow(name, cost, s, a, uses)
    before = "scale before it was rounded (quantized, then the scale rounded)"
    for how, p in powers.items():
        yield ScaleRow(f"{name}, {how}", cost, p, a, [*_by_itself(p), (before, 1, s)])
        for factor, told in TOLD_HALF.items():
            yield ScaleRow(
                f"{name}, {how}, stored {told}", cost + 1, p * factor, a, [("scale as it should be", 0, p)]
            )
    for how, narrow in _NARROW.items():
        n = narrow(s)
        yield ScaleRow(f"{name}, {how}", cost + 1, n, a, [*_by_itself(n), (before, 1, s)])
    for factor, told in TOLD_HALF.items():
        yield ScaleRow(f"{name}, stored {told}", cost + 1, s * factor, a, [("scale as it should be", 0, s)])
    for told, other in (
        ("inverse 1 / s", f32(1) / s),
        ("inverse max / amax", limit / a),
        ("square root", np.sqrt(s)),
        ("square", s * s),
        ("amax", a),
    ):
        yield ScaleRow(
            f"{name}, stored as its {told}" if told != "amax" else f"{name}, stored as amax itself",
            cost + 1, other, a, [("scale as it should be", 0, s)],
        )  # fmt: skip
