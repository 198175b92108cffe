"""Hypotheses about scales: what may have been computed from the largest magnitude of each group.

Lives here: tables of floors, operations and powers of two, in float32 arithmetic spelled out, and the layouts
in which scales may be stored or misread. Rules of the package are tried by its own quantizers besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from ..layouts import from_128x4, from_mn_major, from_packed_ue8m0

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


FLOORS = {"1e-4": 1e-4, "1e-10": 1e-10, "1e-12": 1e-12, "none": 0.0}

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
}

_NARROW: dict[str, Callable[[Floats], Floats]] = {
    "rounded to bfloat16": to_bfloat16,
    "cut to bfloat16": cut_to_bfloat16,
    "rounded to float16": to_float16,
}


def scale_rows(amax: Floats, most: float) -> Iterator[ScaleRow]:
    """Make every row of the tables for largest magnitudes of groups, and the format's largest number."""
    limit = f32(most)
    with np.errstate(all="ignore"):
        for floor_name, floor in FLOORS.items():
            a = np.maximum(amax, f32(floor))
            for op_name, operation in SCALE_OPS.items():
                s = operation(a, limit)
                name = f"{op_name}, floor {floor_name}"
                yield from _rows_of(name, s, limit, a)
        exponent = np.frexp(amax)[1] - np.frexp(limit)[1]
        s = np.ldexp(f32(1), np.where(amax > 0, np.clip(exponent, -127, 127), -127).astype(np.intc))
        yield ScaleRow("2**(floor(log2(amax)) - floor(log2(max)))", 1, s, amax, [("stored scale", 0, s)])


def _rows_of(name: str, s: Floats, limit: np.float32, a: Floats) -> Iterator[ScaleRow]:
    """One float32 scale, stored as it is and in every other way."""
    powers = {how: power(s) for how, power in POWERS.items()}
    uses = [("stored scale", 0, s)]
    uses += [(f"scale as {how}, but stored unrounded", 1, p) for how, p in powers.items()]
    uses += [(f"scale {how}, but stored unrounded", 1, narrow(s)) for how, narrow in _NARROW.items()]
    yield ScaleRow(name, 1, s, a, uses)
    before = "scale before it was rounded (quantized, then the scale rounded)"
    for how, p in powers.items():
        yield ScaleRow(f"{name}, {how}", 1, p, a, [("stored scale", 0, p), (before, 1, s)])
        for factor, told in ((f32(2), "twice"), (f32(0.5), "half")):
            yield ScaleRow(
                f"{name}, {how}, stored {told}", 2, p * factor, a, [("scale as it should be", 0, p)]
            )
    for how, narrow in _NARROW.items():
        n = narrow(s)
        yield ScaleRow(f"{name}, {how}", 2, n, a, [("stored scale", 0, n), (before, 1, s)])
    for factor, told in ((f32(2), "twice"), (f32(0.5), "half")):
        yield ScaleRow(f"{name}, stored {told}", 2, s * factor, a, [("scale as it should be", 0, s)])
    yield ScaleRow(
        f"{name}, stored as its inverse 1 / s", 2, f32(1) / s, a, [("scale as it should be", 0, s)]
    )
    yield ScaleRow(
        f"{name}, stored as its inverse max / amax", 2, limit / a, a, [("scale as it should be", 0, s)]
    )


def scale_values(stored: Array) -> Floats | None:
    """Return scales as float32 numbers; None for dtypes that only a layout reads."""
    if stored.dtype == np.uint8:
        return np.asarray(stored.view(ml_dtypes.float8_e8m0fnu).astype(f32), f32)
    if stored.dtype.kind in "iu":
        return None
    return np.asarray(stored.astype(f32), f32)


def _plain(s: Array, rows: int, groups: int) -> Array | None:
    return s.reshape(rows, groups) if s.size == rows * groups and s.shape != (groups, rows) else None


def _transposed(s: Array, rows: int, groups: int) -> Array | None:
    return s.T if s.shape == (groups, rows) and rows != 1 and groups != 1 else None


def _column_major(s: Array, rows: int, groups: int) -> Array | None:
    return s.reshape(groups, rows).T if s.shape == (rows, groups) else None


def _square_transposed(s: Array, rows: int, groups: int) -> Array | None:
    return s.T if s.shape == (rows, groups) == (groups, rows) else None


def _square_plain(s: Array, rows: int, groups: int) -> Array | None:
    return s if s.shape == (rows, groups) == (groups, rows) else None


def _mn_major(s: Array, rows: int, groups: int) -> Array | None:
    fits = s.dtype == f32 and s.shape == (groups, -(-rows // 4) * 4)
    return from_mn_major(s, rows) if fits else None


def _packed(s: Array, rows: int, groups: int) -> Array | None:
    fits = s.dtype in (np.int32, np.uint32) and s.shape == (-(-groups // 4), -(-rows // 4) * 4)
    return from_packed_ue8m0(s.view(np.int32), rows, groups) if fits else None


def _packed_backwards(s: Array, rows: int, groups: int) -> Array | None:
    return _packed(s.byteswap(), rows, groups) if s.dtype in (np.int32, np.uint32) else None


def _swizzled(s: Array, rows: int, groups: int) -> Array | None:
    high, wide = -(-rows // 128) * 128, -(-groups // 4) * 4
    return (
        from_128x4(s.reshape(high, wide), rows, groups) if s.itemsize == 1 and s.size == high * wide else None
    )


def _swizzled_twice(s: Array, rows: int, groups: int) -> Array | None:
    once = _swizzled(s, rows, groups)
    return None if once is None or once.size != s.size else _swizzled(once, rows, groups)


def _rolled(by: int, axis: int) -> Callable[[Array, int, int], Array | None]:
    def read(s: Array, rows: int, groups: int) -> Array | None:
        if s.shape != (rows, groups) or s.shape[axis] < 2:
            return None
        return np.roll(s, -by, axis)

    return read


LAYOUTS: dict[str, tuple[int, Callable[[Array, int, int], Array | None]]] = {
    "row-major": (0, lambda s, r, g: _plain(s, r, g) if r != g else _square_plain(s, r, g)),
    "transposed": (1, lambda s, r, g: _transposed(s, r, g) if r != g else _square_transposed(s, r, g)),
    "MN-major, TMA-aligned": (0, _mn_major),
    "MN-major, packed UE8M0": (0, _packed),
    "128x4 swizzled": (1, _swizzled),
    "transposed memory under an untransposed shape": (1, _column_major),
    "MN-major, packed UE8M0, bytes of words reversed": (1, _packed_backwards),
    "128x4 swizzled twice": (1, _swizzled_twice),
    "off by one group (one late)": (1, _rolled(1, 1)),
    "off by one group (one early)": (1, _rolled(-1, 1)),
    "off by one row (one late)": (1, _rolled(1, 0)),
    "off by one row (one early)": (1, _rolled(-1, 0)),
}
"""Ways to read stored scales as (rows, groups): assumptions, and a reader, which may return None."""


def readings(stored: Array, rows: int, groups: int) -> Iterator[tuple[str, int, Floats]]:
    """Read stored scales in every layout that fits; readings that are alike are named by the first."""
    seen: set[bytes] = set()
    for name, (assumptions, read) in LAYOUTS.items():
        found = read(stored, rows, groups)
        values = None if found is None else scale_values(found)
        if values is None or values.shape != (rows, groups):
            continue
        values = np.ascontiguousarray(values)
        key = values.tobytes()
        if key not in seen:
            seen.add(key)
            yield name, assumptions, values
