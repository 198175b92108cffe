"""LogFMT-nBit: codes whose logarithms are evenly spaced between a tile's least and largest magnitude.

Source: "Insights into DeepSeek-V3", ISCA '25 (arXiv 2505.09343), section 3.2; mode "deepep" follows the one
public kernel, low-latency combine of DeepEP. The definition is this table of values, in float64: code K of a
tile stands for ``v[K] = amin * 2**((K - 1) * s)`` with ``s = log2(amax / amin) / (2**(bits - 1) - 2)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .formats import Array, Float64s
from .philox import random_words

Float32s = NDArray[np.float32]
f32 = np.float32
DEEPEP_TILE = 128
SQRT_HALF = 0.7071067811865476
TWO_OVER_LN2 = 2.8853900817779268
LN2 = 0.6931471805599453


def _polynomial(x: Float64s, coefficients: list[float]) -> Float64s:
    """Horner's rule, highest power first, a product and a sum rounded at each step."""
    p = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        p = p * x + c
    return p


def log2(x: Float64s) -> Float64s:
    """Return the base-2 logarithm of normal positive float64, by + - * / in this order (libms differ).

    Exact for powers of two. ``log2(m) = 2 atanh(u) / ln 2``, where ``u = (m - 1) / (m + 1)``.
    """
    m, e = np.frexp(x)
    low = m < SQRT_HALF
    m, e = np.where(low, m * 2, m), e - low
    u = (m - 1) / (m + 1)
    series = _polynomial(u * u, [1 / (2 * k + 1) for k in range(10, -1, -1)])
    return np.asarray(e + (u * series) * TWO_OVER_LN2)


def exp2(y: Float64s) -> Float64s:
    """2**y for abs(y) < 1000, likewise; exact for whole y."""
    i = np.rint(y)
    z = (y - i) * LN2
    series = _polynomial(z, [1 / math.factorial(k) for k in range(13, -1, -1)])
    return np.asarray(np.ldexp(series, i.astype(int)))


def _step(lo: Float64s, hi: Float64s, bits: int) -> Float64s:
    """From one code to the next, in octaves."""
    octaves: Float64s = log2(np.divide(hi, lo, out=np.ones_like(hi), where=lo > 0))
    return np.asarray(octaves / (2 ** (bits - 1) - 2))


def values(amin: Float32s, amax: Float32s, bits: int) -> Float64s:
    """Return the values of each tile's codes: v[0] to v[2**(bits - 1) - 1], on a new last axis.

    v[1] is amin and the last is amax, exactly. v[0] is one step below v[1]: code 0 means zero, but its
    threshold is the one that the next code down would have (DeepEP's rule).
    """
    lo, hi = amin[..., None].astype(np.float64), amax[..., None].astype(np.float64)
    v: Float64s = lo * exp2((np.arange(2.0 ** (bits - 1)) - 1) * _step(lo, hi, bits))
    v[..., 1:2], v[..., -1:] = lo, hi
    return v


def _nearest(magnitude: Float64s, v: Float64s, rounding: str) -> Array:
    """Return the number of thresholds that are not above a magnitude: ties go up."""
    a, b = v[:-1], v[1:]
    threshold = (a + b) / 2 if rounding == "linear" else np.sqrt(a * b)
    return np.asarray(np.searchsorted(threshold, magnitude, side="right"))


def _stochastic(magnitude: Float64s, v: Float64s, words: NDArray[np.uint64]) -> Array:
    """Up with the probability that makes the mean exact, to 32 bits of it; code 0 is zero here."""
    grid = np.concatenate([[0.0], v[1:], [np.inf]])
    k = np.searchsorted(grid[1:-1], magnitude, side="right")
    p = (magnitude - grid[k]) / (grid[k + 1] - grid[k])
    return np.asarray(k + (words < np.floor(p * 2.0**32)))


def _cut(x: Array, tile: int) -> Array:
    """Return the last axis as (tiles, tile), the last tile filled up with zeros."""
    tiles = -(-x.shape[-1] // tile)
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, tiles * tile - x.shape[-1])])
    return padded.reshape(*x.shape[:-1], tiles, tile)


def _join(x: Array, length: int) -> Array:
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])[..., :length]


def _range(magnitude: Float32s, zeros_count: bool) -> tuple[Float32s, Float32s]:
    """amin and amax of each tile; NaN counts as absent.

    amin is the least magnitude but zero (with `zeros_count`: zero too), and at least ``2**-32 * amax``.
    """
    counted = ~np.isnan(magnitude) if zeros_count else magnitude > 0
    amax = magnitude.max(axis=-1, initial=0, where=magnitude > 0)
    amin = np.minimum(magnitude.min(axis=-1, initial=np.inf, where=counted), amax)
    return np.maximum(amin, amax * f32(2.0**-32)), amax


@dataclass(frozen=True)
class LogFmt:
    """Codes, each tile's least and largest magnitude, and the tiles that were kept in bfloat16."""

    codes: Array
    amin: Float32s
    amax: Float32s
    bits: int
    tile: int
    axis: int
    mode: str
    rounding: str
    escaped: NDArray[np.bool_] | None
    escaped_values: Array | None


def logfmt_encode(
    x: ArrayLike,
    *,
    bits: int = 8,
    tile: int | None = 128,
    axis: int = -1,
    mode: str = "paper",
    rounding: str = "linear",
    nonfinite: str = "raise",
    seed: int = 0,
) -> LogFmt:
    """Each tile's magnitudes as nearest codes of its table of values.

    Arguments as in `dsv3_numerics.logfmt_encode`.

    Examples
    --------
    >>> q = logfmt_encode(np.float32([1, 2, -4, 8]), bits=4)
    >>> q.codes.tolist(), q.amin.tolist(), q.amax.tolist()
    ([1, 3, 13, 7], [1.0], [8.0])
    """
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.asarray(x).astype(np.float32)
        array = array.astype(ml_dtypes.bfloat16).astype(np.float32) if mode == "deepep" else array
    axis = axis % array.ndim
    length = array.shape[axis]
    whole = max(length, 1)
    width = min(tile or whole, whole)
    words = random_words(array.size, seed) if rounding == "stochastic" else np.zeros(array.size, np.uint64)
    cut = _cut(np.moveaxis(array, axis, -1), width)
    words = _cut(np.moveaxis(words.reshape(array.shape), axis, -1), width)
    refused = np.isinf(cut) if nonfinite == "ignore" else ~np.isfinite(cut)
    if nonfinite == "raise" and refused.any():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"x: found {array[first]} at {first}, expected finite numbers")
    amin, amax = _range(np.abs(np.where(refused, 0, cut)), mode == "deepep")
    escaped = np.asarray(refused.any(axis=-1))
    if mode == "deepep":
        escaped = _unfit_chunks(escaped | (amin == 0) | (amin == amax) | (amax >= 1), length)
    amin, amax = np.where(escaped, f32(0), amin), np.where(escaped, f32(0), amax)
    codes = np.zeros(cut.shape, np.uint8 if bits <= 8 else np.uint16)
    for i in map(tuple, np.argwhere(~escaped)):
        codes[i] = _tile_codes(cut[i], amin[i], amax[i], bits, rounding, words[i])
    mask: NDArray[np.bool_] = np.moveaxis(escaped, -1, axis)
    kept = np.moveaxis(cut, -2, axis)[mask].astype(ml_dtypes.bfloat16)
    return LogFmt(
        np.moveaxis(_join(codes, length), -1, axis),
        np.moveaxis(amin, -1, axis),
        np.moveaxis(amax, -1, axis),
        bits,
        width if tile is None else tile,
        axis,
        mode,
        rounding,
        mask if mask.any() else None,
        kept if mask.any() else None,
    )


def _unfit_chunks(unfit: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Tiles in a chunk with an unfit tile: 1024 channels, or 512 where rows are no multiple of 1024."""
    tiles = (512 if length % 1024 else 1024) // DEEPEP_TILE
    chunks = unfit.reshape(*unfit.shape[:-1], unfit.shape[-1] // tiles, tiles)
    return np.repeat(chunks.any(axis=-1), tiles, axis=-1)


def _tile_codes(
    x: Float32s, lo: np.float32, hi: np.float32, bits: int, rounding: str, words: NDArray[np.uint64]
) -> Array:
    """Sign bit and K of one tile's elements; NaN, where it was let in, is zero."""
    magnitude = np.where(np.isnan(x), 0, np.abs(x)).astype(np.float64)
    v = values(np.asarray(lo), np.asarray(hi), bits)
    if lo == hi:
        k = (magnitude > 0).astype(int)
    elif rounding == "stochastic":
        k = _stochastic(magnitude, v, words)
    else:
        k = _nearest(magnitude, v, rounding)
    return np.asarray(k | (np.signbit(x).astype(int) << (bits - 1)))


def logfmt_decode(q: LogFmt, *, dtype: Any = np.float32, precision: str = "exact") -> Array:
    """Codes back to numbers: look them up in their tile's values, round to float32, put the sign on.

    float64 is the value itself, whatever the precision; float16 and bfloat16 round float32 once more.

    Examples
    --------
    >>> logfmt_decode(logfmt_encode(np.float32([1, 2, -4, 8]), bits=4)).tolist()
    [1.0, 2.0, -4.0, 8.0]
    """
    codes = np.moveaxis(q.codes, q.axis, -1)
    length = codes.shape[-1]
    cut = _cut(codes, min(q.tile, max(length, 1))).astype(int)
    lo, hi = np.moveaxis(q.amin, q.axis, -1), np.moveaxis(q.amax, q.axis, -1)
    k = cut & ((1 << (q.bits - 1)) - 1)
    exact = precision == "exact" or np.dtype(dtype) == np.float64
    table = values(lo, hi, q.bits) if exact else _quick_values(lo, hi, q.bits)
    magnitude = np.where(k == 0, 0, np.take_along_axis(table, k, axis=-1))
    numbers = np.copysign(magnitude, np.where(cut >> (q.bits - 1) & 1, -1.0, 1.0))
    numbers = numbers if np.dtype(dtype) == np.float64 else numbers.astype(np.float32)
    if q.escaped is not None and q.escaped_values is not None:
        order = np.zeros(q.escaped.shape, int)
        order[q.escaped] = np.arange(len(q.escaped_values))
        mask = np.moveaxis(q.escaped, q.axis, -1)
        numbers[mask] = q.escaped_values[np.moveaxis(order, q.axis, -1)[mask]].astype(numbers.dtype)
    with np.errstate(over="ignore"):
        return np.moveaxis(_join(numbers, length), -1, q.axis).astype(dtype)


def _quick_values(amin: Float32s, amax: Float32s, bits: int) -> Float64s:
    """Return the table as products of two float32: the last value of a code's group, and the way down.

    Groups have ``2**(bits // 2)`` codes. The last value of the last group is amax and its way down is 1, so
    that amax is exact and nothing overflows. At most 2 ulp from the exact table's float32.
    """
    size = 2 ** (bits // 2)
    step = _step(amin[..., None].astype(np.float64), amax[..., None].astype(np.float64), bits)
    last = values(amin, amax, bits)[..., size - 1 :: size].astype(np.float32)
    down = exp2((np.arange(size) - (size - 1.0)) * step).astype(np.float32)
    product = last[..., :, None] * down[..., None, :]
    return np.asarray(product.reshape(*amin.shape, 2 ** (bits - 1)), np.float64)


def logfmt_pack(codes: ArrayLike, *, bits: int, layout: str = "plain") -> NDArray[np.uint8]:
    """Codes without unused bits, each row of the last axis from a byte of its own.

    "plain": code after code, low bit first. "deepep": for each 16 elements (the last group filled up with
    zero codes) the K, ``bits - 1`` wide, then 16 sign bits.

    Examples
    --------
    >>> logfmt_pack(np.uint8([1, 3, 13, 7]), bits=4).tolist()
    [49, 125]
    """
    raw = np.asarray(codes).astype(int)
    if layout == "deepep":
        groups = _cut(raw, 16)
        parts = [_bits(groups, 0, bits - 1), _bits(groups, bits - 1, bits)]
        stream = _join(np.concatenate(parts, axis=-1), groups.shape[-2] * 16 * bits)
    else:
        stream = _bits(raw, 0, bits)
    return np.packbits(stream.astype(np.uint8), axis=-1, bitorder="little")


def _bits(raw: Array, first: int, end: int) -> Array:
    """Bits `first` to ``end - 1`` of each number, one after the other along the last axis."""
    return (raw[..., None] >> np.arange(first, end) & 1).reshape(
        *raw.shape[:-1], raw.shape[-1] * (end - first)
    )


def _numbers(stream: Array, width: int) -> Array:
    """`width` bits each, low first, as numbers along the last axis."""
    whole = stream.reshape(*stream.shape[:-1], stream.shape[-1] // width, width).astype(int)
    return np.asarray((whole << np.arange(width)).sum(axis=-1))


def logfmt_unpack(packed: ArrayLike, *, bits: int, size: int, layout: str = "plain") -> Array:
    """Return the first `size` codes of each row that `logfmt_pack` wrote.

    Examples
    --------
    >>> logfmt_unpack(np.uint8([49, 125]), bits=4, size=4).tolist()
    [1, 3, 13, 7]
    """
    stream = np.unpackbits(np.asarray(packed), axis=-1, bitorder="little")
    if layout == "deepep":
        groups = stream.reshape(*stream.shape[:-1], stream.shape[-1] // (16 * bits), 16 * bits)
        k, sign = groups[..., : 16 * (bits - 1)], groups[..., 16 * (bits - 1) :].astype(int)
        raw = _join(_numbers(k, bits - 1) | sign << (bits - 1), size)
    else:
        raw = _numbers(stream[..., : size * bits], bits)
    return raw.astype(np.uint8 if bits <= 8 else np.uint16)
