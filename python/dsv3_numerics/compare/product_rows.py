"""Hypotheses about products: units, promotions, how partial sums are added, and how results are rounded.

Lives here: the tables, and the operands that they work on. The search is in `product`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .. import accumulator
from .._arrays import Array
from ..gemm import matmul_nt
from ..quantized import Quantized
from .scale_rows import Floats, cut_to_bfloat16, f32, to_bfloat16, to_float16

PROMOTIONS: tuple[int | None, ...] = (128, None, 32, 64, 256, 512)
_BF16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Operands:
    """Rows of both sides, scales in tiles along k, and what is added to."""

    a: Any
    b: Any
    c: Floats | None = None

    @classmethod
    def of(cls, a: Any, b: Any, c: Floats | None) -> Operands:
        """Bring blocks into tiles, which can be sampled."""
        return cls(_tiled(a), _tiled(b), c)

    def take(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Operands:
        """Choose rows of both sides."""
        c = None if self.c is None else self.c[np.ix_(rows, columns)]
        return Operands(_taken(self.a, rows), _taken(self.b, columns), c)

    @property
    def group(self) -> int | None:
        """Codes along k that share scales on both sides; None where scales do not change."""
        k = codes_of(self.a).shape[1]
        lengths = [x.block[0] for x in (self.a, self.b) if isinstance(x, Quantized) and x.block[0] < k]
        return min(lengths) if lengths else None

    def factors(self) -> Iterator[tuple[slice, Floats, Floats]]:
        """Yield each part of k in which no scale changes, with the scales of both sides."""
        k = codes_of(self.a).shape[1]
        step = self.group or 128
        for start in range(0, k, step):
            yield slice(start, min(start + step, k)), _scales_at(self.a, start), _scales_at(self.b, start)


def codes_of(x: Any) -> Array:
    """Return the codes of an operand."""
    return x.codes if isinstance(x, Quantized) else np.asarray(x)


def _tiled(x: Any) -> Any:
    if not isinstance(x, Quantized) or x.axis is not None:
        return x
    rows, wide = x.block
    scales = np.repeat(x.scales, rows, axis=0)[: x.shape[0]]
    return Quantized(x.codes, scales, x.format, (wide,), 1, x.scale_kind, None, x.global_scale)


def _taken(x: Any, rows: NDArray[np.intp]) -> Any:
    if not isinstance(x, Quantized):
        return np.ascontiguousarray(np.asarray(x)[rows])
    return replace(x, codes=np.ascontiguousarray(x.codes[rows]), scales=np.ascontiguousarray(x.scales[rows]))


def _scales_at(x: Any, start: int) -> Floats:
    if not isinstance(x, Quantized):
        return np.ones(len(np.asarray(x)), f32)
    found: Floats = x.weight_scale_inv()[:, start // x.block[0]]
    return found


def dequantized(x: Any) -> Floats:
    """Return an operand as float32."""
    return x.dequantize() if isinstance(x, Quantized) else np.asarray(x).astype(f32)


# --- Scales of operands -------------------------------------------------------------------------------------


def _moved(side: str, how: Callable[[Array], Array | None]) -> Callable[[Operands], Operands | None]:
    def change(given: Operands) -> Operands | None:
        x = given.a if side == "a" else given.b
        if not isinstance(x, Quantized):
            return None
        scales = how(x.scales)
        if scales is None or np.array_equal(
            scales.view(f"u{scales.itemsize}"), x.scales.view(f"u{scales.itemsize}")
        ):
            return None
        moved = replace(x, scales=np.ascontiguousarray(scales))
        return replace(given, a=moved) if side == "a" else replace(given, b=moved)

    return change


_SCALE_MOVES: dict[str, Callable[[Array], Array | None]] = {
    "off by one group (one late)": lambda s: np.roll(s, 1, 1),
    "off by one group (one early)": lambda s: np.roll(s, -1, 1),
    "off by one row (one late)": lambda s: np.roll(s, 1, 0),
    "off by one row (one early)": lambda s: np.roll(s, -1, 0),
    "transposed memory under an untransposed shape": lambda s: s.reshape(s.shape[::-1]).T,
    "all those of the first group": lambda s: np.repeat(s[:, :1], s.shape[1], axis=1),
    "left out (1)": lambda s: np.ones_like(s) if s.dtype == f32 else None,
}

OPERANDS: dict[str, tuple[int, Callable[[Operands], Operands | None]]] = {
    "as given": (0, lambda given: given),
    "c left out": (1, lambda given: replace(given, c=None) if given.c is not None else None),
    **{
        f"scales of {side} {name}": (1, _moved(side, how))
        for side in "ab"
        for name, how in _SCALE_MOVES.items()
    },
}

# --- Outputs ------------------------------------------------------------------------------------------------

OUTPUTS: dict[str, dict[str, tuple[int, Callable[[Floats], Array]]]] = {
    "float32": {
        "float32": (0, lambda x: x),
        "rounded to bfloat16, held as float32": (1, to_bfloat16),
        "cut to bfloat16, held as float32": (1, cut_to_bfloat16),
        "rounded to float16, held as float32": (1, to_float16),
    },
    "bfloat16": {
        "rounded to bfloat16, to nearest even": (0, lambda x: x.astype(_BF16)),
        "cut to bfloat16": (1, lambda x: cut_to_bfloat16(x).astype(_BF16)),
        "rounded to float16, then to bfloat16 (double rounding)": (1, lambda x: to_float16(x).astype(_BF16)),
    },
    "float16": {
        "rounded to float16, to nearest even": (0, lambda x: _half(x)),
        "rounded to bfloat16, then to float16 (double rounding)": (1, lambda x: _half(to_bfloat16(x))),
    },
}


def _half(x: Floats) -> Array:
    with np.errstate(over="ignore"):
        return x.astype(np.float16)


LAYOUTS: dict[str, tuple[int, Callable[[Array], Array | None]]] = {
    "as given": (0, lambda p: p),
    "transposed": (1, lambda p: p.T),
    "off by one row (one late)": (1, lambda p: np.roll(p, -1, 0)),
    "off by one row (one early)": (1, lambda p: np.roll(p, 1, 0)),
    "off by one column (one late)": (1, lambda p: np.roll(p, -1, 1)),
    "off by one column (one early)": (1, lambda p: np.roll(p, 1, 1)),
}

# --- Sums ---------------------------------------------------------------------------------------------------

Sum = Callable[[Operands], Floats]
Sums = dict[tuple[str, str], tuple[int, Sum]]


def _unit(name: str, every: int | None) -> Sum:
    def product(given: Operands) -> Floats:
        found: Floats = matmul_nt(given.a, given.b, c=given.c, accumulator=name, promote_every=every)
        return found

    return product


def _partial(name: str, given: Operands, part: slice) -> Floats:
    a, b = (np.ascontiguousarray(codes_of(x)[:, part]) for x in (given.a, given.b))
    found: Floats = matmul_nt(a, b, accumulator=name, promote_every=None)
    return found


def _added(name: str, add: Callable[[Floats, Floats, Floats, Floats], Floats]) -> Sum:
    """Add partial sums of a unit by an own step ``add(sum, partial, scale of a, scale of b)``."""

    def product(given: Operands) -> Floats:
        if given.c is not None:
            total = given.c
        else:
            total = np.zeros((len(codes_of(given.a)), len(codes_of(given.b))), f32)
        for part, left, right in given.factors():
            total = add(total, _partial(name, given, part), left[:, None], right[None])
        return total

    return product


_ADDITIONS: dict[str, Callable[[Floats, Floats, Floats, Floats], Floats]] = {
    "scaled partial sums rounded, then added": lambda t, p, a, b: t + p * (a * b),
    "partial sums times each scale, rounded twice, then added": lambda t, p, a, b: t + (p * a) * b,
    "partial sums times b's scale first, then a's, then added": lambda t, p, a, b: t + (p * b) * a,
    "sums held in bfloat16": lambda t, p, a, b: to_bfloat16(t + p * (a * b)),
    "sums held in float16": lambda t, p, a, b: to_float16(t + p * (a * b)),
    "partial sums rounded to bfloat16": lambda t, p, a, b: t + to_bfloat16(p) * (a * b),
    "sums of scaled sums (scales applied to all before)": lambda t, p, a, b: (t + p) * (a * b),
}


def _promotion_forgotten(name: str) -> Sum:
    """One chain over all of k, scaled once at its end by the last scales."""

    def product(given: Operands) -> Floats:
        *_, (_, left, right) = given.factors()
        whole = _partial(name, given, slice(None))
        return whole * (left[:, None] * right[None])

    return product


def _part_missing(name: str, which: int) -> Sum:
    def product(given: Operands) -> Floats:
        parts = list(given.factors())
        del parts[which]
        total = np.zeros((len(codes_of(given.a)), len(codes_of(given.b))), f32)
        for part, left, right in parts:
            total = total + _partial(name, given, part) * (left[:, None] * right[None])
        return total

    return product


def _bfloat16_unit(name: str) -> Sum:
    def product(given: Operands) -> Floats:
        a, b = (dequantized(x).astype(_BF16) for x in (given.a, given.b))
        found: Floats = matmul_nt(a, b, c=given.c, accumulator=name, promote_every=None)
        return found

    return product


def exact_product(given: Operands) -> NDArray[np.float64]:
    """Return the product of what the codes mean, in float64."""
    total: NDArray[np.float64] = dequantized(given.a).astype(np.float64) @ dequantized(given.b).T.astype(
        np.float64
    )
    return total if given.c is None else total + given.c


def magnitude(given: Operands) -> NDArray[np.float64]:
    """Return the sum of magnitudes of all products, by which errors of sums are bounded."""
    a, b = (np.abs(dequantized(x)).astype(np.float64) for x in (given.a, given.b))
    total: NDArray[np.float64] = a @ b.T
    return total if given.c is None else total + np.abs(given.c)


def _in_order(given: Operands) -> Floats:
    a, b = dequantized(given.a), dequantized(given.b)
    total = np.zeros((len(a), len(b)), f32) if given.c is None else given.c.copy()
    for i in range(a.shape[1]):
        total += a[:, i, None] * b[None, :, i]
    return total


def sums_table() -> Sums:
    """Make every row: (unit or arithmetic, promotion or addition) with its assumptions and its function."""
    out: Sums = {}
    for info in accumulator.accumulators():
        for every in PROMOTIONS:
            told = "never promoted" if every is None else f"promoted every {every}"
            out[info.name, told] = (0, _unit(info.name, every))
        if info.scale is None and info.result == "float32":
            for told, add in _ADDITIONS.items():
                out[info.name, told] = (1, _added(info.name, add))
            out[info.name, "promotion forgotten: one chain, scaled at its end"] = (
                1,
                _promotion_forgotten(info.name),
            )
            out[info.name, "the first part of k left out"] = (1, _part_missing(info.name, 0))
            out[info.name, "the last part of k left out"] = (1, _part_missing(info.name, -1))
        if "bfloat16" in info.inputs:
            out[info.name, "dequantized to bfloat16 before"] = (1, _bfloat16_unit(info.name))
    out["float64", "dequantized, rounded once"] = (1, lambda given: exact_product(given).astype(f32))
    out["float32", "dequantized, one chain in the order of k"] = (1, _in_order)
    return out
