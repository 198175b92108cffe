"""Hypotheses about codes: quotients, roundings, layouts, and what was done to the input before.

Lives here: the tables, each row a name, its assumptions and a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from ..number_formats import FormatInfo, decode, encode
from .scale_rows import Floats, cut_to_bfloat16, f32, to_bfloat16, to_float16

INPUTS: dict[str, tuple[int, Callable[[Floats], Floats]]] = {
    "as given": (0, lambda x: x),
    "rounded to bfloat16 before": (1, to_bfloat16),
    "cut to bfloat16 before": (1, cut_to_bfloat16),
    "rounded to float16 before": (1, to_float16),
}

QUOTIENTS: dict[str, Callable[[Floats, Floats, Floats, np.float32], Floats]] = {
    "x / s": lambda x, s, a, m: x / s,
    "x * (1 / s)": lambda x, s, a, m: x * (f32(1) / s),
    "x * (max / amax)": lambda x, s, a, m: x * (m / a),
}
"""Quotients of x by the scale s, with the group's largest magnitude a and the format's largest number m."""


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
    low, high = (_numbers(rounded(q, info, way), info) for way in ("down", "up"))
    return low, high


def _numbers(codes: Array, info: FormatInfo) -> NDArray[np.float64]:
    found: NDArray[np.float64] = decode(codes, fmt=info.name, dtype=np.float64)
    return found


def _ties_to_zero(q: Floats, info: FormatInfo) -> Array:
    return np.where(ties(q, info), rounded(q, info, "toward_zero"), rounded(q, info))


def _ties_to_odd(q: Floats, info: FormatInfo) -> Array:
    even, away, zero = rounded(q, info), rounded(q, info, "nearest_away"), rounded(q, info, "toward_zero")
    return np.where(ties(q, info), np.where(even == away, zero, away), even)


OVERFLOW = "ties to even, overflow to NaN or infinity"

ROUNDINGS: dict[str, tuple[int, Callable[[Floats, FormatInfo], Array]]] = {
    "nearest, ties to even": (0, lambda q, i: rounded(q, i)),
    "nearest, ties away from zero": (1, lambda q, i: rounded(q, i, "nearest_away")),
    "nearest, ties toward zero": (1, _ties_to_zero),
    "nearest, ties to odd": (1, _ties_to_odd),
    "toward zero": (1, lambda q, i: rounded(q, i, "toward_zero")),
    "up": (1, lambda q, i: rounded(q, i, "up")),
    "down": (1, lambda q, i: rounded(q, i, "down")),
    "double rounding, by bfloat16": (1, lambda q, i: rounded(to_bfloat16(q), i)),
    "double rounding, by float16": (1, lambda q, i: rounded(to_float16(q), i)),
    "cut to bfloat16, then to nearest even": (1, lambda q, i: rounded(cut_to_bfloat16(q), i)),
    OVERFLOW: (1, lambda q, i: rounded(q, i, overflow="nonfinite")),
}


def _shifted(by: int, axis: int) -> Callable[[Array, int], Array | None]:
    def read(codes: Array, tile: int) -> Array | None:
        step = by * (tile if axis == 1 else 1)
        return np.roll(codes, -step, axis) if codes.shape[axis] > abs(step) else None

    return read


def _pairs_swapped(codes: Array, tile: int) -> Array | None:
    even = codes.shape[1] % 2 == 0
    return codes.reshape(len(codes), -1, 2)[:, :, ::-1].reshape(codes.shape) if even else None


CODE_LAYOUTS: dict[str, tuple[int, Callable[[Array, int], Array | None]]] = {
    "as given": (0, lambda c, t: c),
    "transposed": (1, lambda c, t: np.ascontiguousarray(c.T) if c.shape[0] == c.shape[1] else None),
    "transposed memory": (1, lambda c, t: np.ascontiguousarray(c.reshape(c.shape[::-1]).T)),
    "shifted by one tile (one late)": (1, _shifted(1, 1)),
    "shifted by one tile (one early)": (1, _shifted(-1, 1)),
    "shifted by one row (one late)": (1, _shifted(1, 0)),
    "shifted by one row (one early)": (1, _shifted(-1, 0)),
    "neighbours swapped in pairs (nibbles)": (1, _pairs_swapped),
}


def code_readings(codes: Array, shape: tuple[int, int], tile: int) -> Iterator[tuple[str, int, Array]]:
    """Read codes in every layout that can be; readings that are alike are named once, by the first."""
    if codes.shape != shape:
        if codes.shape == shape[::-1]:
            yield "transposed", 1, np.ascontiguousarray(codes.T)
        return
    seen: set[bytes] = set()
    for name, (assumptions, read) in CODE_LAYOUTS.items():
        found = read(codes, tile)
        if found is not None and found.tobytes() not in seen:
            seen.add(found.tobytes())
            yield name, assumptions, found
