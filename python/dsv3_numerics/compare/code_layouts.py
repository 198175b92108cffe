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

Rows = NDArray[np.intp]
_Read = Callable[[Array, int, Rows], Array | None]


def _in_rows(change: Callable[[Array, int], Array | None]) -> _Read:
    """Change every row by itself."""
    return lambda codes, tile, rows: change(codes[rows], tile)


def _shifted_tiles(by: int) -> _Read:
    return _in_rows(
        lambda codes, tile: np.roll(codes, -by * tile, 1) if codes.shape[1] > abs(by * tile) else None
    )


def _shifted_rows(by: int) -> _Read:
    return lambda codes, tile, rows: codes[(rows + by) % len(codes)] if len(codes) > abs(by) else None


def _elements(by: int) -> _Read:
    return _in_rows(lambda codes, tile: np.roll(codes, -by, 1) if codes.shape[1] > 1 else None)


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

    return _in_rows(read)


def _halves(codes: Array, tile: int) -> Array | None:
    even = codes.shape[1] % 2 == 0
    return codes.reshape(len(codes), -1, 2).transpose(0, 2, 1).reshape(codes.shape) if even else None


def _evens_first(codes: Array, tile: int) -> Array | None:
    even = codes.shape[1] % 2 == 0
    return codes.reshape(len(codes), 2, -1).transpose(0, 2, 1).reshape(codes.shape) if even else None


def _blocks_transposed(codes: Array, tile: int, rows: Rows) -> Array | None:
    (m, k), size = codes.shape, tile
    if m % size or k % size or size < 2 or m == k == size:
        return None
    columns = np.arange(k)
    above, across = rows[:, None] // size * size, columns[None] // size * size
    found: Array = codes[above + columns[None] % size, across + rows[:, None] % size]
    return found


def _dealt(count: int) -> _Read:
    """Read rows that were dealt out: every `count`-th one first, then those behind them."""

    def read(codes: Array, tile: int, rows: Rows) -> Array | None:
        m = len(codes)
        return codes[rows % count * (m // count) + rows // count] if m % count == 0 and m > count else None

    return read


CODE_LAYOUTS: dict[str, tuple[int, _Read]] = {
    "as given": (0, lambda c, t, r: c[r]),
    "transposed": (1, lambda c, t, r: c.T[r] if c.shape[0] == c.shape[1] else None),
    "transposed memory": (1, lambda c, t, r: c.reshape(c.shape[::-1]).T[r]),
    "each square tile transposed": (1, _blocks_transposed),
    "shifted by one tile (one late)": (1, _shifted_tiles(1)),
    "shifted by one tile (one early)": (1, _shifted_tiles(-1)),
    "shifted by one row (one late)": (1, _shifted_rows(1)),
    "shifted by one row (one early)": (1, _shifted_rows(-1)),
    "shifted by one element (one late)": (1, _elements(1)),
    "shifted by one element (one early)": (1, _elements(-1)),
    "columns in reverse": (1, _in_rows(lambda c, t: c[:, ::-1])),
    "rows in reverse": (1, lambda c, t, r: c[len(c) - 1 - r]),
    "neighbours swapped in pairs (nibbles swapped)": (1, _in_rows(_pairs_swapped)),
    "low nibbles for the first half of a row, high ones for the second": (1, _in_rows(_halves)),
    "even columns first, then odd ones": (1, _in_rows(_evens_first)),
    "groups of 8 in the order 0 2 4 6 1 3 5 7": (1, _ordered((0, 2, 4, 6, 1, 3, 5, 7))),
    "bytes of a code swapped": (1, _in_rows(lambda c, t: c.byteswap() if c.dtype.itemsize > 1 else None)),
    "even rows first, then odd ones": (1, _dealt(2)),
    "halves of rows by turns (first, second)": (1, lambda c, t, r: _dealt_back(c, r)),
}
"""Readers of some rows of codes: assumptions, and a function of codes, tile and rows."""


def _dealt_back(codes: Array, rows: Rows) -> Array | None:
    half = len(codes) // 2
    return codes[rows % half * 2 + rows // half] if len(codes) % 2 == 0 and half > 1 else None


# Bits changed in every code: names by what their results are read as.
CODE_BITS: dict[str, Callable[[Array, FormatInfo], Array]] = {
    "": lambda c, i: c,
    "sign bits inverted (negated numbers, or unsigned integers around a middle)": lambda c, i: (
        c ^ c.dtype.type(1 << (i.bits - 1))
    ),
}


class CodeReading(NamedTuple):
    """Some rows of codes in one order, and what it assumes."""

    name: str
    assumptions: int
    codes: Array
    zero: NDArray[np.float32] | None = None
    """Zero-point that was added to each code, before it was clipped."""
    layout: str = "as given"
    bits: str = ""
    usual: float | None = None
    "zero-point of all codes"


def code_readings(
    codes: Array, x: NDArray[np.float32], tile: int, info: FormatInfo, shape: tuple[int, int], rows: Rows
) -> Iterator[CodeReading]:
    """Read rows of codes in every order that can be; readings that are alike are named once, by the first.

    Parameters
    ----------
    codes : ndarray
        All codes, of `shape` or its transpose.
    x : ndarray of float32
        The input's `rows`.
    """
    seen: set[bytes] = set()

    def new(found: Array) -> bool:
        key = hashlib.blake2b(np.ascontiguousarray(found).view(np.uint8).reshape(-1).data).digest()
        fresh = key not in seen
        seen.add(key)
        return fresh

    if codes.shape != shape:
        if codes.shape == shape[::-1]:
            yield CodeReading("transposed", 1, np.ascontiguousarray(codes.T[rows]))
        return
    for bits in CODE_BITS:
        for layout, (assumptions, _) in CODE_LAYOUTS.items():
            if bits and assumptions:
                continue
            found = _read(codes, tile, info, layout, bits, rows)
            if found is not None and new(found):
                yield CodeReading(bits or layout, assumptions + bool(bits), found, None, layout, bits)
    if info.is_integer:
        yield from _zero_points(codes[rows], x, tile, info)


def read_again(
    reading: CodeReading, codes: Array, x: NDArray[np.float32], tile: int, info: FormatInfo, rows: Rows
) -> CodeReading:
    """Read other rows as a reading does."""
    if codes.shape[0] != codes.shape[1] and reading.name == "transposed":
        return reading._replace(codes=np.ascontiguousarray(codes.T[rows]))
    found = _read(codes, tile, info, reading.layout, reading.bits, rows)
    assert found is not None
    zero = reading.zero
    if zero is not None:
        zero = _zeros_of_groups(found, x, tile, info)
        if reading.usual is not None or zero is None:
            zero = np.full(x.shape, reading.usual or 0, np.float32)
    return reading._replace(codes=found, zero=zero)


def _read(codes: Array, tile: int, info: FormatInfo, layout: str, bits: str, rows: Rows) -> Array | None:
    found = CODE_LAYOUTS[layout][1](codes, tile, rows)
    return None if found is None else CODE_BITS[bits](np.ascontiguousarray(found), info)


def _zeros_of_groups(
    codes: Array, x: NDArray[np.float32], tile: int, info: FormatInfo
) -> NDArray[np.float32] | None:
    """Find what was added to integers: where a line through codes over inputs meets zero, group by group."""
    m, k = x.shape
    if k % tile or tile < 4 or not np.isfinite(x).all():
        return None
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
    return np.repeat(zero, tile, axis=1).astype(np.float32)


def _zero_points(codes: Array, x: NDArray[np.float32], tile: int, info: FormatInfo) -> Iterator[CodeReading]:
    zero = _zeros_of_groups(codes, x, tile, info)
    if zero is None:
        return
    values, counts = np.unique(zero[:, ::tile], return_counts=True)
    usual, groups = float(values[counts.argmax()]), counts.sum()
    if usual and counts.max() * 2 > groups:
        whole = np.full(x.shape, usual, np.float32)
        yield CodeReading(f"zero-point {usual:g} added", 1, codes, whole, usual=usual)
    elif np.abs(zero).max() > 0 and counts.max() < groups:
        yield CodeReading("zero-points of groups added", 1, codes, zero)


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
