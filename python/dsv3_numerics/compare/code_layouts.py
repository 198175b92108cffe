"""Orders in which codes may stand, and formats that they may be of: the readings of codes.

Lives here: the table of orders, and `readings`, which keeps those that look like the input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from ..number_formats import FormatInfo, formats

_Read = Callable[[Array, int], Array | None]


def _shifted(by: int, axis: int) -> _Read:
    def read(codes: Array, tile: int) -> Array | None:
        step = by * (tile if axis == 1 else 1)
        return np.roll(codes, -step, axis) if codes.shape[axis] > abs(step) else None

    return read


def _elements(by: int) -> _Read:
    return lambda codes, tile: np.roll(codes, -by, 1) if codes.shape[1] > 1 else None


def _pairs_swapped(codes: Array, tile: int) -> Array | None:
    even = codes.shape[1] % 2 == 0
    return codes.reshape(len(codes), -1, 2)[:, :, ::-1].reshape(codes.shape) if even else None


def _ordered(order: tuple[int, ...]) -> _Read:
    """Read groups of codes whose place i holds that of place order[i]."""

    def read(codes: Array, tile: int) -> Array | None:
        if codes.shape[1] % len(order):
            return None
        back = np.argsort(order)
        return codes.reshape(len(codes), -1, len(order))[:, :, back].reshape(codes.shape)

    return read


def _halves(codes: Array, tile: int) -> Array | None:
    even = codes.shape[1] % 2 == 0
    return codes.reshape(len(codes), -1, 2).transpose(0, 2, 1).reshape(codes.shape) if even else None


def _evens_first(codes: Array, tile: int) -> Array | None:
    even = codes.shape[1] % 2 == 0
    return codes.reshape(len(codes), 2, -1).transpose(0, 2, 1).reshape(codes.shape) if even else None


def _blocks_transposed(codes: Array, tile: int) -> Array | None:
    (m, k), size = codes.shape, tile
    if m % size or k % size or size < 2 or m == k == size:
        return None
    return codes.reshape(m // size, size, k // size, size).transpose(0, 3, 2, 1).reshape(m, k)


def _bytes_swapped(codes: Array, tile: int) -> Array | None:
    return codes.byteswap() if codes.dtype.itemsize > 1 else None


CODE_LAYOUTS: dict[str, tuple[int, _Read]] = {
    "as given": (0, lambda c, t: c),
    "transposed": (1, lambda c, t: np.ascontiguousarray(c.T) if c.shape[0] == c.shape[1] else None),
    "transposed memory": (1, lambda c, t: np.ascontiguousarray(c.reshape(c.shape[::-1]).T)),
    "each square tile transposed": (1, _blocks_transposed),
    "shifted by one tile (one late)": (1, _shifted(1, 1)),
    "shifted by one tile (one early)": (1, _shifted(-1, 1)),
    "shifted by one row (one late)": (1, _shifted(1, 0)),
    "shifted by one row (one early)": (1, _shifted(-1, 0)),
    "shifted by one element (one late)": (1, _elements(1)),
    "shifted by one element (one early)": (1, _elements(-1)),
    "columns in reverse": (1, lambda c, t: c[:, ::-1]),
    "rows in reverse": (1, lambda c, t: c[::-1]),
    "neighbours swapped in pairs (nibbles swapped)": (1, _pairs_swapped),
    "low nibbles for the first half of a row, high ones for the second": (1, _halves),
    "even columns first, then odd ones": (1, _evens_first),
    "groups of 8 in the order 0 2 4 6 1 3 5 7": (1, _ordered((0, 2, 4, 6, 1, 3, 5, 7))),
    "bytes of a code swapped": (1, _bytes_swapped),
}

# Bits changed in every code: names by what their results are read as.
CODE_BITS: dict[str, Callable[[Array, FormatInfo], Array]] = {
    "": lambda c, i: c,
    "sign bits inverted (unsigned codes with a zero-point in the middle)": lambda c, i: (
        c ^ c.dtype.type(1 << (i.bits - 1))
    ),
}


class CodeReading(NamedTuple):
    """Codes in one order, and what it assumes."""

    name: str
    assumptions: int
    codes: Array
    zero: NDArray[np.float32] | None = None
    """Zero-point that was added to each code, before it was clipped."""


def code_readings(codes: Array, x: NDArray[np.float32], tile: int, info: FormatInfo) -> Iterator[CodeReading]:
    """Read codes in every order that can be; readings that are alike are named once, by the first."""
    shape = x.shape
    seen: set[bytes] = set()

    def new(found: Array) -> bool:
        key = hashlib.blake2b(np.ascontiguousarray(found).view(np.uint8).reshape(-1).data).digest()
        fresh = key not in seen
        seen.add(key)
        return fresh

    if codes.shape != shape:
        if codes.shape != shape[::-1]:
            return
        codes = np.ascontiguousarray(codes.T)
        yield CodeReading("transposed", 1, codes)
        return
    for bits, change in CODE_BITS.items():
        for name, (assumptions, read) in CODE_LAYOUTS.items():
            if bits and assumptions:
                continue
            found = read(codes, tile)
            if found is None:
                continue
            found = change(np.ascontiguousarray(found), info)
            if new(found):
                yield CodeReading(bits or name, assumptions + bool(bits), found)
    if info.is_integer:
        yield from _zero_points(codes, x, tile, info)


def _zero_points(codes: Array, x: NDArray[np.float32], tile: int, info: FormatInfo) -> Iterator[CodeReading]:
    """Find what was added to integers: where a line through codes over inputs meets zero, group by group."""
    m, k = x.shape
    if k % tile or tile < 4 or not np.isfinite(x).all():
        return
    shift = 8 - info.bits
    signed = ((codes.astype(np.uint8) << shift).view(np.int8) >> shift).astype(np.float64)
    a, b = x.astype(np.float64).reshape(m, -1, tile), signed.reshape(m, -1, tile)
    inside = np.abs(b) < info.max
    count = np.maximum(inside.sum(axis=2), 1)
    mean_a, mean_b = (np.where(inside, v, 0).sum(axis=2) / count for v in (a, b))
    away = np.where(inside, a - mean_a[..., None], 0)
    spread = np.square(away).sum(axis=2)
    slope = (away * b).sum(axis=2) / np.where(spread > 0, spread, 1)
    zero = np.where(spread > 0, np.rint(mean_b - slope * mean_a), 0)
    values, counts = np.unique(zero, return_counts=True)
    usual = float(values[counts.argmax()])
    if usual and counts.max() * 2 > zero.size:
        yield CodeReading(f"zero-point {usual:g} added", 1, codes, np.full(x.shape, usual, np.float32))
    elif np.abs(zero).max() > 0 and counts.max() < zero.size:
        whole = np.repeat(zero, tile, axis=1).astype(np.float32)
        yield CodeReading("zero-points of groups added", 1, codes, whole.reshape(x.shape))


def likeness(x: NDArray[np.float32], numbers: NDArray[np.float64], tile: int) -> float:
    """Return how far codes are from following the input, whatever the scales: 0 is as near as can be.

    The median, over elements, of the distance of log2 \\|code / x\\| from the median of its group of columns,
    plus the share of unlike signs. Rounding alone gives a few hundredths, unrelated numbers one or more.
    """
    good = (x != 0) & (numbers != 0) & np.isfinite(x) & np.isfinite(numbers)
    if good.sum() < good.size // 8 or not good.any():
        return np.inf
    ratio = np.full(x.shape, np.nan)
    ratio[good] = np.log2(np.abs(numbers[good]) / np.abs(x[good]))
    width = -(-x.shape[1] // tile) * tile
    filled = np.full((len(x), width), np.nan)
    filled[:, : x.shape[1]] = ratio
    tiles = filled.reshape(-1, tile)
    tiles = tiles[np.isfinite(tiles).any(axis=1)]
    away = np.abs(tiles - np.nanmedian(tiles, axis=1, keepdims=True))
    unlike = float((np.signbit(numbers[good]) != np.signbit(x[good])).mean())
    return float(np.nanmedian(away)) + min(unlike, 1 - unlike)


def other_formats(info: FormatInfo) -> list[FormatInfo]:
    """Return the other formats whose codes are as wide."""
    return [other for other in formats() if other.bits == info.bits and other.name != info.name]
