"""Partial sums of products: what a unit holds after each step, and float32 sums after each promotion.

Lives here: `partial_sums`. It multiplies the first k of both operands again and again, so a partial sum is by
construction what the whole product would be if k ended there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .._arrays import Array
from ..accumulator import accumulator_info
from ..quantized import Quantized
from .tensors import Tensor, Tensors

Multiply = Callable[..., Array]
"""A product ``(a, b, *, accumulator, promote_every)`` in float32."""


def partial_sums(a: Any, b: Any, multiply: Multiply, unit: str, every: int | None) -> Tensors:
    """Make the sums of a unit after each step, and float32 sums after each promotion.

    Parameters
    ----------
    a, b : Quantized or array
        k along the last axis.
    multiply : callable
        The product, of any kind that keeps k last.
    unit : str
    every : int or None
        Promotion interval.

    Returns
    -------
    dict
        ``step_sums`` (steps, ...): with scales where there is no promotion, since the unit adds them then;
        otherwise of codes alone, from zero again after each interval, and ``promotion_sums`` (intervals, ...)
        with scales, whose last is the product.
    """
    step, k = accumulator_info(unit).products, a.shape[-1]
    told = f"the unit's sums after each step of {step} products"

    def upto(end: int, **options: Any) -> Array:
        return multiply(cut(a, 0, end), cut(b, 0, end), accumulator=unit, **options)

    if every is None:
        sums = [upto(end, promote_every=None) for end in _ends(0, k, step)]
        return {"step_sums": Tensor(np.stack(sums), told)}
    sums = []
    for start in range(0, k, every):
        for end in _ends(start, min(start + every, k), step):
            sides = (np.ascontiguousarray(codes(x)[..., start:end]) for x in (a, b))
            sums.append(multiply(*sides, accumulator=unit, promote_every=None))
    promoted = [upto(end, promote_every=every) for end in _ends(0, k, every)]
    return {
        "step_sums": Tensor(np.stack(sums), f"{told}, from zero again after each {every}; without scales"),
        "promotion_sums": Tensor(
            np.stack(promoted), f"float32 sums with scales, after each {every} products"
        ),
    }


def _ends(start: int, stop: int, step: int) -> list[int]:
    """List the ends of steps; the last may be short."""
    return [min(end, stop) for end in range(start + step, stop + step, step)]


def codes(x: Any) -> Array:
    """Return the codes of an operand, or the operand itself where it has no scales."""
    found: Array = x.codes if isinstance(x, Quantized) else x
    return found


def cut(x: Any, start: int, stop: int) -> Any:
    """Return a part of k; it begins where a scale does."""
    part = np.ascontiguousarray(codes(x)[..., start:stop])
    if not isinstance(x, Quantized):
        return part
    length = x.block[-1]
    scales = np.ascontiguousarray(x.scales[..., start // length : -(-stop // length)])
    return replace(x, codes=part, scales=scales)
