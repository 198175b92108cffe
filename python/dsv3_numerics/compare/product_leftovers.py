"""Differences between products, classified by what each of them looks like.

Lives here: the order in which outputs are looked at, and the evidence that is kept. Every difference is
counted in one class; what fits none is "unexplained".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from ..number_formats import encode
from .code_rows import as_bits
from .kinds import kind_of
from .product_patterns import Pattern, biased, clamped, solved_scales, stochastic, unrelated_rows
from .product_rows import Operands, codes_of
from .product_sums import exact_product, magnitude
from .scale_rows import Floats, f32

_FEW = 4
_LISTED = 5
_NARROW = 2.0**-12
"""Error of sums of 13 bits, relative to the sum of magnitudes; such units are looked for by name first."""
Mask = NDArray[np.bool_]


def classify(
    given: Operands, found: Array, own: Array, sums: Floats
) -> tuple[dict[str, int], dict[str, Any], bool]:
    """Put every output that differs in a class.

    Returns
    -------
    classes, evidence, garbage
        Outputs in each class; figures; True where B has nothing to do with the product.
    """
    u, v = as_bits(found), as_bits(own)
    left: Mask = u != v
    total = int(left.sum())
    classes: dict[str, int] = {}
    evidence: dict[str, Any] = {}

    def take(name: str, mask: Mask) -> None:
        nonlocal left
        mask = mask & left
        if mask.any():
            classes[name] = classes.get(name, 0) + int(mask.sum())
            left = left & ~mask

    b, o = found.astype(np.float64), own.astype(np.float64)
    exact, reach = exact_product(given), magnitude(given)
    with np.errstate(all="ignore"):
        most = float(kind_of(own.dtype).values(_largest(own.dtype))[0])
        take("largest number where there is infinity (saturated)", np.isinf(o) & (np.abs(b) == most))
        take("infinity where there is the largest number", np.isinf(b) & (np.abs(o) == most))
        bad = ~np.isfinite(b) | ~np.isfinite(o)
        if total > _FEW and bad.any():
            evidence["NaN or infinite: outputs, rows, columns, first place"] = (
                f"{int(bad.sum())}, {int(bad.any(axis=1).sum())}, {int(bad.any(axis=0).sum())}, "
                f"{np.argwhere(bad)[0].tolist()}"
            )
            take("NaN or infinite", bad)
        take("signs of zero", (b == 0) & (o == 0))

        def follow(patterns: Iterator[Pattern]) -> None:
            for name, mask, told in patterns:
                if (mask & left).any():
                    evidence.update(told)
                    take(name, mask)

        follow(clamped(b, o, left))
        _moved_rows(take, evidence, u, v, left)
        if left.any():
            _moved_rows(lambda name, mask: take(name, mask.T), evidence, u.T, v.T, left.T, "columns")
        take("zeros where there is a sum", (b == 0) & (reach > 0) & (np.abs(o) > 0))
        factor = b / o
        power = (np.frexp(np.abs(factor))[0] == 0.5) & (np.abs(factor) != 1)
        if (power & left).any():
            evidence["factors"] = np.unique(factor[power & left])[:_LISTED].tolist()
        take("off by a power of two (a scale)", power & (factor > 0))
        take("sign turned", factor == -1)
        _factors(take, evidence, factor, left, own.dtype)
        narrow = {"float32": 2.0**-23, "float16": 2.0**-10}.get(own.dtype.name, 2.0**-7)
        if total > _FEW:
            follow(biased(b, o, left, narrow * np.maximum(np.abs(b), np.abs(o))))
            follow(unrelated_rows(b, exact, reach, left))
            far = np.abs(b - exact)[left] > 2.0**-8 * reach[left]
            if far.size and far.mean() > 0.25:
                follow(solved_scales(given, b, left, max(4 * narrow, 2.0**-9)))
        flips = left & (np.bitwise_count(u ^ v) == 1)
        if 0 < total <= _FEW and int(flips.sum()) == int(left.sum()):
            places = np.argwhere(flips)[:_LISTED]
            if len(places):
                evidence["flipped bits: place, found, expected"] = [
                    (p.tolist(), hex(int(u[tuple(p)])), hex(int(v[tuple(p)]))) for p in places
                ]
            take("one flipped bit" if len(places) == 1 else "flipped bits", flips)
        take("NaN or infinite", ~np.isfinite(b) | ~np.isfinite(o))
        half = 0.0
        if own.dtype != f32:
            line = kind_of(own.dtype).line
            beside = np.abs(line(u) - line(v)) == 1
            middle = (b + o) / 2
            low, high = _neighbours(sums, own.dtype)
            by_chance = (b == low) | (b == high)
            follow(stochastic(low, high, sums.astype(np.float64), by_chance, left))
            take("ties only (rounding of the output)", beside & (sums == middle))
            half = 2.0**-8 if own.dtype == np.dtype(ml_dtypes.bfloat16) else 2.0**-11
        k = codes_of(given.a).shape[1]
        error = np.maximum(np.abs(b - exact) - half * np.abs(exact), 0)
        relative = error / reach
        if left.any():
            evidence["largest error over the sum of magnitudes, in units of 2**-24"] = float(
                relative[left].max() * 2.0**24
            )
            evidence["terms of a sum"] = k
        take("order of sums (within the bound of float32)", error <= k * 2.0**-24 * reach)
        take("sums of fewer bits (within 2**-12 of the sum of magnitudes)", error <= _NARROW * reach)
        noise, signal = float(np.nansum((b - exact)[left] ** 2)), float(np.nansum(exact[left] ** 2))
    garbage = bool(total * 2 > u.size and int(left.sum()) * 2 > total and noise > signal / 4)
    if left.any():
        classes["unexplained"] = int(left.sum())
        evidence["unexplained, first places"] = np.argwhere(left)[:_LISTED].tolist()
    return classes, evidence, garbage


def _largest(dtype: np.dtype[Any]) -> Array:
    """Return the code of the largest finite number."""
    info: Any = np.finfo if dtype.kind == "f" else ml_dtypes.finfo
    most = info(dtype).max
    return np.asarray([most], dtype).view(f"u{dtype.itemsize}")


def _factors(
    take: Any, evidence: dict[str, Any], factor: NDArray[np.float64], left: Mask, dtype: np.dtype[Any]
) -> None:
    """Find outputs, rows and columns that are all off by one factor."""
    near = 2.0**-6 if dtype != f32 else 2.0**-9
    everywhere = bool((left.sum(axis=1) * 2 > left.shape[1]).all())
    kinds = ((1, "rows"), (0, "columns"))
    for axis, what in ((None, "all outputs"), *kinds) if everywhere else kinds:
        held = np.where(left & np.isfinite(factor) & (factor != 0), factor, np.nan)
        count = np.isfinite(held).sum(axis=axis, keepdims=True)
        if not count.any():
            return
        middle = _median(held, axis)
        alike = np.abs(held / middle - 1) < near
        lines = (alike.sum(axis=axis, keepdims=True) >= 0.9 * count) & (count >= 8)
        lines &= np.abs(middle - 1) > 2 * near
        mask = alike & lines
        if mask.any():
            take(f"{what} off by one factor (a scale)", mask)
            evidence[f"factors of {what}"] = [float(f"{v:.6g}") for v in middle[lines].ravel()[:_LISTED]]
            return


def _median(held: NDArray[np.float64], axis: int | None) -> NDArray[np.float64]:
    """Return the median of what is no NaN, NaN where there is nothing."""
    ordered = np.sort(held, axis=axis).reshape(held.shape if axis is not None else (1, -1))
    along = 1 if axis is None else axis
    last = np.maximum(np.isfinite(ordered).sum(axis=along, keepdims=True) - 1, 0)
    return np.take_along_axis(ordered, last // 2, axis=along)


def _neighbours(sums: Floats, dtype: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the numbers of a dtype at or below, and at or above."""
    low, high = (encode(sums, dtype, rounding=way).astype(np.float64) for way in _WAYS)
    return low, high


_WAYS: tuple[Any, Any] = ("down", "up")


def _moved_rows(
    take: Any, evidence: dict[str, Any], u: Array, v: Array, left: Mask, lines: str = "rows"
) -> None:
    """Find rows, and tiles of 64 columns, that stand elsewhere; or columns, of transposes."""
    m, n = u.shape
    for width in dict.fromkeys((n, min(n, 128), min(n, 64)) if lines == "rows" else (n,)):
        whole = n // width
        if width < 2 or m * whole < 2:
            continue
        own, found, open_ = (
            np.ascontiguousarray(x[:, : whole * width]).reshape(m * whole, width) for x in (v, u, left)
        )
        where = {tile.tobytes(): i for i, tile in reversed(list(enumerate(own)))}
        pairs = [
            (int(t), where[found[t].tobytes()])
            for t in np.flatnonzero(open_.any(axis=1))
            if found[t].tobytes() in where and np.unique(found[t]).size > 1
        ]
        if not pairs:
            continue
        mask = np.zeros(left.shape, np.bool_)
        for tile, _ in pairs:
            row, column = divmod(tile, whole)
            mask[row, column * width : (column + 1) * width] = True
        there = dict(pairs)
        swapped = all(there.get(y) == x for x, y in pairs)
        what = lines if width == n else "tiles"
        name = f"swapped {what}" if swapped else f"{what} of another place"
        take(name, mask)
        evidence[f"{name}: found at, belongs at"] = [
            (divmod(x, whole), divmod(y, whole)) for x, y in pairs[:_LISTED]
        ]
        return
