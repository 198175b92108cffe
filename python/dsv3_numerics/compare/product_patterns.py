"""Patterns of differing outputs: clamps, biases, factors, rows that are no sums, scales solved for.

Lives here: masks of outputs that a pattern accounts for, with its evidence. Their order is in
`product_leftovers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .product_rows import Operands, codes_of, dequantized
from .scale_rows import f32

_LISTED = 5
_MANY = 16
_LEAST = 8  # outputs that tell a pattern from chance
Mask = NDArray[np.bool_]
Doubles = NDArray[np.float64]


class Pattern(NamedTuple):
    """Outputs that something accounts for."""

    name: str
    mask: Mask
    evidence: dict[str, Any]


def clamped(b: Doubles, o: Doubles, left: Mask) -> Iterator[Pattern]:
    """Find outputs that were cut off at zero, or at a largest magnitude."""
    negative = left & (b == 0) & (o < 0)
    if negative.sum() >= _LEAST and not (b < 0).any():
        yield Pattern("negative sums are zero (as ReLU has it)", negative, {})
    most = np.abs(b[np.isfinite(b)]).max(initial=0)
    at = left & (np.abs(b) == most) & (np.abs(o) > most) & (np.sign(b) == np.sign(o))
    if at.sum() >= _LEAST:
        yield Pattern("clamped (cut off at the largest magnitude)", at, {"clamped at": float(most)})


def stochastic(low: Doubles, high: Doubles, sums: Doubles, beside: Mask, left: Mask) -> Iterator[Pattern]:
    """Find outputs that are the other neighbour as often as stochastic rounding has it."""
    between = (low < high) & np.isfinite(low) & np.isfinite(high)
    with np.errstate(all="ignore"):
        fraction = np.where(between, (sums - low) / (high - low), 0.0)
    least = np.minimum(fraction, 1 - fraction)[between]
    expected, variance = float(least.sum()), float((least * (1 - least)).sum())
    count = int((left & beside).sum())
    if count > _MANY and count * 20 >= left.sum() * 19 and abs(count - expected) <= 5 * np.sqrt(variance):
        told = {"outputs that are not the nearest": f"{count}; {expected:.1f} of stochastic rounding"}
        yield Pattern(
            "stochastic rounding of the output (the other neighbour, by chance)", left & beside, told
        )


def biased(b: Doubles, o: Doubles, left: Mask, ulp: Doubles) -> Iterator[Pattern]:
    """Find columns, or rows, to each of which one number was added."""
    for axis, what in ((0, "columns"), (1, "rows")):
        if b.shape[axis] < _LEAST or left.mean() < 0.5:
            continue
        away = np.where(np.isfinite(b) & np.isfinite(o), b - o, np.nan)
        if np.isnan(away).any():
            return
        bias = np.median(away, axis=axis, keepdims=True)
        held = np.abs(away - bias) <= 2 * ulp
        if held.mean() > 0.9 and np.abs(bias).max() > 4 * np.median(ulp):
            told = [float(f"{v:.6g}") for v in bias.ravel()[:_LISTED]]
            yield Pattern(f"a bias of {what} added", left & held, {f"bias of {what}": told})
            return


def unrelated_rows(b: Doubles, exact: Doubles, reach: Doubles, left: Mask) -> Iterator[Pattern]:
    """Find rows, or columns, that are no sums of their operands, beside others that are."""
    with np.errstate(all="ignore"):
        far = ~(np.abs(b - exact) <= reach * 2.0**-6)
    for axis, what in ((1, "rows"), (0, "columns")):
        if b.shape[axis] < _LEAST:
            continue
        wrong = left.sum(axis=axis) * 10 >= left.shape[axis] * 9
        wrong &= far.sum(axis=axis) * 2 > far.shape[axis]
        others = ~left.any(axis=axis)
        if wrong.any() and others.sum() >= wrong.sum():
            mask = left & (wrong[:, None] if axis == 1 else wrong[None])
            told = np.flatnonzero(wrong)
            name = f"{what} that are no sums of their operands (padding, or memory never written)"
            yield Pattern(name, mask, {f"{what}": f"{told.size}, {told[:_LISTED].tolist()}"})
            return


def solved_scales(given: Operands, b: Doubles, left: Mask, near: float) -> Iterator[Pattern]:
    """Find rows whose outputs other scales of one side explain: least squares over the groups of k."""
    parts = list(given.factors())
    groups = len(parts)
    sides = (("a", given.a, given.b, b), ("b", given.b, given.a, b.T))
    if given.c is not None or not left.any():
        return
    for name, own, other, out in sides:
        rows = left if name == "a" else left.T
        if out.shape[1] < 2 * groups + 4 or not np.isfinite(out).all():
            continue
        codes, numbers = codes_of(own).astype(f32).astype(np.float64), dequantized(other).astype(np.float64)
        if not (np.isfinite(codes).all() and np.isfinite(numbers).all()):
            return
        basis = np.stack([codes[:, s] @ numbers[:, s].T for s, _, _ in parts], axis=2)
        given_scales = np.stack([(left_ if name == "a" else right) for _, left_, right in parts], axis=1)
        mask = np.zeros_like(rows)
        found = []
        for row in np.flatnonzero(rows.any(axis=1)):
            solution, *_ = np.linalg.lstsq(basis[row], out[row], rcond=None)
            rest = np.abs(basis[row] @ solution - out[row])
            with np.errstate(all="ignore"):
                ratio = solution / given_scales[row]
            if rest.max() <= near * np.abs(out[row]).max() and not (np.abs(ratio - 1) <= 8 * near).all():
                mask[row] = rows[row]
                found.append((int(row), [float(f"{v:.5g}") for v in ratio]))
        if mask.sum() * 10 >= rows.sum() * 9 and found:
            told = {f"scales of {name} over those given, by row": found[:_LISTED], "rows": len(found)}
            turned = mask if name == "a" else mask.T
            yield Pattern(f"other scales of {name} than those given (solved from the product)", turned, told)
            return
