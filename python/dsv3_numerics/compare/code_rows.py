"""Hypotheses about codes: quotients, roundings, and what was done to the input before.

Lives here: the tables, each row a name, its assumptions and a function. Orders of codes are in
`code_layouts`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from ..number_formats import FormatInfo, decode, encode
from ..quant import quantize_blocks, quantize_tiles
from .scale_rows import Floats, cut_to_bfloat16, f32, to_bfloat16, to_float16


def _flushed(x: Floats) -> Floats:
    return np.where(np.abs(x) < np.finfo(f32).tiny, x * f32(0), x)


def _tf32(x: Floats) -> Floats:
    return (np.ascontiguousarray(x, f32).view(np.uint32) & np.uint32(0xFFFFE000)).view(f32)


def _quantized_before(scale: str, *block: int) -> Callable[[Floats], Floats]:
    """Quantize to E4M3 and back, in tiles, or in blocks."""

    def change(x: Floats) -> Floats:
        if not np.isfinite(x).all():
            return x
        if len(block) == 1:
            return quantize_tiles(x, tile=block[0], scale=scale).dequantize()  # type: ignore[arg-type]
        return quantize_blocks(x, block=(block[0], block[1]), scale=scale).dequantize()  # type: ignore[arg-type]

    return change


PLAIN_INPUT = "as given"

INPUTS: dict[str, tuple[int, Callable[[Floats], Floats]]] = {
    PLAIN_INPUT: (0, lambda x: x),
    "rounded to bfloat16 before": (1, to_bfloat16),
    "cut to bfloat16 before": (1, cut_to_bfloat16),
    "rounded to float16 before": (1, to_float16),
    "cut to tf32 before": (1, _tf32),
    "float32 subnormals flushed to zero before": (1, _flushed),
    "quantized to E4M3 in tiles of 128 before (float32 scales)": (2, _quantized_before("float32", 128)),
    "quantized to E4M3 in tiles of 128 before (UE8M0 scales)": (2, _quantized_before("ue8m0", 128)),
    "quantized to E4M3 in 128x128 blocks before": (2, _quantized_before("float32", 128, 128)),
    "negated before": (1, lambda x: -x),
}

QUOTIENTS: dict[str, Callable[[Floats, Floats, Floats, np.float32], Floats]] = {
    "x / s": lambda x, s, a, m: x / s,
    "x / s, 0 where s is 0": lambda x, s, a, m: np.where(s == 0, f32(0), x / s),
    "x * (1 / s)": lambda x, s, a, m: x * (f32(1) / s),
    "x * (max / amax)": lambda x, s, a, m: x * (m / a),
    "x * bfloat16(1 / s)": lambda x, s, a, m: x * to_bfloat16(f32(1) / s),
    "x * s (scale multiplied instead of divided)": lambda x, s, a, m: x * s,
}
"""Quotients of x by the scale s, with the group's largest magnitude a and the format's largest number m."""

ODD_QUOTIENTS = {"x * bfloat16(1 / s)": 1, "x * s (scale multiplied instead of divided)": 1}
"""Assumptions of those that no project makes."""


def as_bits(codes: Array) -> Array:
    """View codes as unsigned integers."""
    return np.ascontiguousarray(codes).view(f"u{codes.dtype.itemsize}").reshape(codes.shape)


def rounded(q: Floats, info: FormatInfo, rounding: str = "nearest_even", overflow: str = "saturate") -> Array:
    """Encode quotients; NaN is zero in formats without NaN."""
    policy = "code" if info.has_nan else "zero"
    return as_bits(encode(q, info.name, rounding=rounding, overflow=overflow, nan=policy))  # type: ignore[arg-type]


def ties(q: Floats, info: FormatInfo) -> NDArray[np.bool_]:
    """Return True where a quotient lies in the very middle between two codes."""
    low, high = neighbours(q, info)
    with np.errstate(invalid="ignore"):
        wide = q.astype(np.float64)
        found: NDArray[np.bool_] = (wide - low == high - wide) & (low != high)
    return found


def neighbours(q: Floats, info: FormatInfo) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the numbers of the format at or below, and at or above."""
    low, high = (numbers_of(rounded(q, info, way), info) for way in ("down", "up"))
    return low, high


def numbers_of(codes: Array, info: FormatInfo) -> NDArray[np.float64]:
    """Return what codes mean, as float64."""
    found: NDArray[np.float64] = decode(codes.view(info.dtype), fmt=info.name, dtype=np.float64)
    return found


def _ties_to_zero(q: Floats, info: FormatInfo) -> Array:
    return np.where(ties(q, info), rounded(q, info, "toward_zero"), rounded(q, info))


def _ties_to_odd(q: Floats, info: FormatInfo) -> Array:
    even, away, zero = rounded(q, info), rounded(q, info, "nearest_away"), rounded(q, info, "toward_zero")
    return np.where(ties(q, info), np.where(even == away, zero, away), even)


def _ties_by_sign(low: str) -> Callable[[Floats, FormatInfo], Array]:
    """Ties all up, or all down, as floor(q + 1/2) has it."""

    def make(q: Floats, info: FormatInfo) -> Array:
        return np.where(ties(q, info), rounded(q, info, low), rounded(q, info))

    return make


def _away_from_zero(q: Floats, info: FormatInfo) -> Array:
    return np.where(np.signbit(q), rounded(q, info, "down"), rounded(q, info, "up"))


def _no_subnormals(q: Floats, info: FormatInfo) -> Array:
    """Flush the format's subnormals to zero, after rounding."""
    codes = rounded(q, info)
    small = np.abs(numbers_of(codes, info)) < info.tiny
    return np.where(small, rounded(np.copysign(f32(0), q), info), codes)


def _no_negative_zero(q: Floats, info: FormatInfo) -> Array:
    codes = rounded(q, info)
    return np.where(numbers_of(codes, info) == 0, 0, codes).astype(codes.dtype)


def _through(name: str) -> Callable[[Floats, FormatInfo], Array]:
    def make(q: Floats, info: FormatInfo) -> Array:
        return rounded(np.asarray(decode(encode(q, name), dtype=np.float32), f32), info)

    return make


def _wrapped(q: Floats, info: FormatInfo) -> Array:
    """Let integers run over, as a cast of C does."""
    with np.errstate(invalid="ignore"):
        whole = np.rint(np.nan_to_num(q.astype(np.float64))).clip(-(2.0**31), 2.0**31).astype(np.int64)
    mask = (1 << info.bits) - 1
    saturated = rounded(q, info)
    half = 1 << (info.bits - 1)
    codes = ((whole & mask) ^ half) - half
    return np.where(np.abs(whole) > half - 1, codes.astype(np.int8).view(np.uint8), saturated).astype(
        np.uint8
    )


def _nan_without_sign(q: Floats, info: FormatInfo) -> Array:
    codes = rounded(q, info)
    top = codes.dtype.type(1 << (info.bits - 1))
    return np.where(np.isnan(q), codes & ~top, codes)


OVERFLOW = "ties to even, overflow to NaN or infinity (not saturated)"
WRAPPED = "ties to even, integers wrapped around (clipping missing)"
PLAIN_ROUNDING = "nearest, ties to even"
NAN = "nearest, ties to even, NaN without sign"

ROUNDINGS: dict[str, tuple[int, Callable[[Floats, FormatInfo], Array]]] = {
    PLAIN_ROUNDING: (0, lambda q, i: rounded(q, i)),
    "nearest, ties away from zero": (1, lambda q, i: rounded(q, i, "nearest_away")),
    "nearest, ties toward zero": (1, _ties_to_zero),
    "nearest, ties to odd": (1, _ties_to_odd),
    "nearest, ties up": (1, _ties_by_sign("up")),
    "nearest, ties down": (1, _ties_by_sign("down")),
    "toward zero": (1, lambda q, i: rounded(q, i, "toward_zero")),
    "away from zero": (1, _away_from_zero),
    "up": (1, lambda q, i: rounded(q, i, "up")),
    "down": (1, lambda q, i: rounded(q, i, "down")),
    "double rounding, by bfloat16": (1, lambda q, i: rounded(to_bfloat16(q), i)),
    "double rounding, by float16": (1, lambda q, i: rounded(to_float16(q), i)),
    "cut to bfloat16, then to nearest even": (1, lambda q, i: rounded(cut_to_bfloat16(q), i)),
    "double rounding, by float8_e4m3fn": (1, _through("float8_e4m3fn")),
    "double rounding, by float8_e5m2": (1, _through("float8_e5m2")),
    "nearest, ties to even, subnormals flushed to zero": (1, _no_subnormals),
    "nearest, ties to even, -0 as +0": (1, _no_negative_zero),
    NAN: (1, _nan_without_sign),
    OVERFLOW: (1, lambda q, i: rounded(q, i, overflow="nonfinite")),
    WRAPPED: (1, _wrapped),
}


def fits_format(rounding: str, info: FormatInfo) -> bool:
    """Tell whether a rounding can differ from others in a format."""
    if rounding == OVERFLOW:
        return info.has_nan or info.has_inf
    if rounding == NAN:
        return info.has_nan and not info.is_integer and info.name != "float8_e8m0fnu"
    if rounding == WRAPPED:
        return info.is_integer
    return not rounding.endswith(info.name)
