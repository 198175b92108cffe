"""Inputs of golden vectors: kinds of numbers, each with what it is there to catch.

Lives here: the table of kinds. Numbers come from Philox and exact arithmetic, so that they are the same
everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..number_formats import FormatInfo, decode
from ..reference.philox import random_words

Floats = NDArray[np.float32]
f32 = np.float32


class Case(NamedTuple):
    """Kind of input: what it catches, and its maker ``(rows, columns, group, format, seed)``."""

    catches: str
    make: Callable[[int, int, int, FormatInfo, int], Floats]
    finite: bool = True


def normal(count: int, seed: int) -> Floats:
    """Return sums of twelve uniform numbers less six: mean 0, variance 1, exact in float32."""
    words = random_words(6 * count, seed).reshape(count, 6)
    halves = (words & np.uint64(0xFFFF)) + (words >> np.uint64(16))
    found: Floats = ((halves.sum(axis=1).astype(np.float64) - 6 * 65535) / 65536).astype(f32)
    return found


def _normal(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    spread = np.ldexp(f32(1), (random_words(rows * columns, seed + 1) % np.uint64(7)).astype(np.intc) - 3)
    return (normal(rows * columns, seed) * spread).reshape(rows, columns)


def _steps(info: FormatInfo) -> NDArray[np.float64]:
    """Positive finite numbers of a format, in order."""
    codes = np.arange(info.n_codes, dtype=f"u{info.dtype.itemsize}")
    numbers = decode(codes, fmt=info.name, dtype=np.float64)
    good = numbers[np.isfinite(numbers) & (numbers >= 0) & (numbers <= 3e38)]
    return np.unique(np.abs(good))


def _drawn(values: NDArray[np.float64], rows: int, columns: int, seed: int) -> Floats:
    words = random_words(rows * columns, seed)
    sign = np.where(words & np.uint64(1), -1.0, 1.0)
    picked: NDArray[np.float64] = values[((words >> np.uint64(1)) % np.uint64(len(values))).astype(np.intp)]
    return (sign * picked).astype(f32).reshape(rows, columns)


def _with_amax(x: Floats, group: int, amax: float) -> Floats:
    x[:, ::group] = f32(amax)
    return x


def _ties(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    steps = _steps(info)
    return _with_amax(_drawn((steps[1:] + steps[:-1]) / 2, rows, columns, seed), group, info.max)


def _near_ties(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = _ties(rows, columns, group, info, seed)
    toward = np.where(
        random_words(x.size, seed + 1).reshape(x.shape) & np.uint64(1), f32(np.inf), f32(-np.inf)
    )
    return _with_amax(np.nextafter(x, toward), group, info.max)


def _powers(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = normal(rows * columns, seed).reshape(rows, columns)
    tiles = -(-columns // group)
    for index in range(rows * tiles):
        row, tile = divmod(index, tiles)
        amax = np.ldexp(f32(info.max), index % 9 - 4)
        part = x[row, tile * group : (tile + 1) * group]
        part *= amax / f32(8)
        part[0] = (amax, np.nextafter(amax, f32(np.inf)), np.nextafter(amax, f32(0)))[index % 3]
    return x


def _cancelling(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = normal(rows * columns, seed).reshape(rows, columns) * f32(64)
    half = columns // 2
    x[:, half : 2 * half] = -x[:, :half]
    x[:, -1:] = f32(0.015625)
    return x


def _subnormals(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    reach = np.arange(1, 33) * info.smallest_subnormal / 4
    return _with_amax(_drawn(reach, rows, columns, seed), group, info.max)


def _outlier(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = normal(rows * columns, seed).reshape(rows, columns)
    x[:, group // 2 :: group] = f32(10000)
    return x


def _zeros(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = normal(rows * columns, seed).reshape(rows, columns)
    for start in range(0, columns, 2 * group):
        x[:, start : start + group] = 0
    x[1::2] *= f32(-1)  # zeros of both signs
    return x


def _tiny(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = normal(rows * columns, seed).reshape(rows, columns)
    return np.ldexp(x, -12 * (np.arange(rows, dtype=np.intc) % 11)[:, None]).astype(f32)


def _specials(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = normal(rows * columns, seed).reshape(rows, columns)
    for row, value in enumerate((np.nan, np.inf, -np.inf, -np.nan)):
        x[row::8, row::group] = f32(value)
    return x


CASES: dict[str, Case] = {
    "normal": Case("nothing in particular: numbers of several magnitudes", _normal),
    "ties": Case("tie rules: quotients in the middle between two codes, under a scale of 1", _ties),
    "near_ties": Case("double rounding, quotients by reciprocals: one ulp beside the middle", _near_ties),
    "powers": Case("powers of two as scales: amax at max * 2**j and its two neighbours", _powers),
    "cancellation": Case("order and width of sums: halves that cancel, and a small rest", _cancelling),
    "subnormals": Case("flushing to zero: quotients among the subnormals", _subnormals),
    "outlier": Case("amax found in the wrong group: one large number in each", _outlier),
    "zeros": Case("zero groups of both signs: division by zero, floors, signs", _zeros),
    "tiny": Case("floors of amax: rows down to 2**-120", _tiny),
    "specials": Case("NaN and infinities: who passes them on", _specials, finite=False),
}
"""Kinds by name."""
