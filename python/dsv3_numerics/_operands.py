"""Operands of products: what may be given, and whether two sides, a unit and its promotions fit together.

Lives here: checks, and the errors that name both sides. Not here: the products (`gemm`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ._arrays import Array, as_array, destination, flat, positive, whole
from .accumulator import AccumulatorInfo, accumulator_info
from .number_formats import FormatInfo, format_info
from .quantized import Quantized

_OUTPUTS = {np.dtype(np.float32): "float32", np.dtype(ml_dtypes.bfloat16): "bfloat16"}
_WIDENED = [np.dtype(t) for t in (np.float32, np.float16, ml_dtypes.bfloat16)]


@dataclass(frozen=True)
class Side:
    """One operand: its codes, and the scales that blocks of (rows, k) share."""

    name: str
    codes: Array
    info: FormatInfo
    scales: NDArray[np.float32] | None
    block: tuple[int, int]

    def arguments(self) -> tuple[Array, str, NDArray[np.float32] | None, tuple[int, int]]:
        """As the core takes it."""
        scales = None if self.scales is None else flat(self.scales)
        return flat(self.codes), self.info.name, scales, self.block

    @property
    def group(self) -> int:
        """Codes along k that share a scale: all, where there is one scale."""
        k = max(int(self.codes.shape[-1]), 1)
        return k if self.scales is None else min(self.block[1], k)

    def __str__(self) -> str:
        scales = "" if self.scales is None else f", a scale for {self.block[0]}x{self.block[1]}"
        return f"{self.name} ({self.codes.shape} {self.info.name}{scales})"


def side_of(x: Any, name: str) -> Side:
    if not isinstance(x, Quantized):
        side = plain_side(x, name)
        if side.codes.ndim < 2:
            raise ValueError(f"{name}: found shape {side.codes.shape}, expected at least two axes")
        return side
    shape = x.shape
    if x.axis is not None and x.axis != len(shape) - 1:
        raise ValueError(
            f"{name}: found tiles along axis {x.axis} of {shape}, expected tiles along the last axis, over "
            "which products are summed, or blocks"
        )
    if len(shape) < 2:
        raise ValueError(f"{name}: found shape {shape}, expected at least two axes")
    rows, cols = (1, *x.block) if x.axis is not None else x.block
    scales = x.weight_scale_inv()
    if np.isnan(scales).any():
        raise ValueError(f"{name}: found NaN among the scales of {shape}, expected numbers")
    block = min(rows, max(shape[-2], 1)), min(cols, max(shape[-1], 1))
    return Side(name, x.codes, format_info(x.format), scales, block)


def plain_side(x: Any, name: str) -> Side:
    """Codes without scales: an array whose dtype is that of a format."""
    array = as_array(x, name)
    try:
        info = format_info(array.dtype.newbyteorder("="))
    except TypeError:
        raise TypeError(
            f"{name}: found dtype {array.dtype}, expected codes of a format's dtype, such as float8_e4m3fn, "
            "or a Quantized"
        ) from None
    return Side(name, array, info, None, (1, 1))


def check_formats(left: Side, right: Side, unit: AccumulatorInfo) -> None:
    """Both sides in formats that the unit takes."""
    if not {left.info.name, right.info.name} <= set(unit.inputs):
        raise TypeError(
            f"a and b: found {left} and {right}, but accumulator {unit.name!r} takes {', '.join(unit.inputs)}"
        )


def misfit(left: Side, right: Side, expected: str) -> ValueError:
    return ValueError(f"a and b: found {left} and {right}, {expected}")


@dataclass(frozen=True)
class Problem:
    """Two sides that fit together, and how they are added."""

    left: Side
    right: Side
    unit: AccumulatorInfo
    every: int
    "0 for never"

    @classmethod
    def of(cls, left: Side, right: Side, accumulator: Any, promote_every: Any) -> Problem:
        unit = accumulator_info(accumulator)
        check_formats(left, right, unit)
        if left.codes.shape[-1] != right.codes.shape[-1]:
            raise misfit(left, right, "expected last axes of one length, over which products are summed")
        if promote_every is None:
            for side in (left, right):
                if side.group < side.codes.shape[-1]:
                    raise misfit(left, right, f"expected promotion, because the scales of {side.name} change")
            return cls(left, right, unit, 0)
        every = positive(promote_every, "promote_every")
        if every % unit.products:
            raise ValueError(
                f"promote_every: found {every}, expected None or a multiple of {unit.products}, the products "
                f"in a step of {unit.name}"
            )
        for side in (left, right):
            if side.group < side.codes.shape[-1] and side.group % every:
                raise misfit(
                    left,
                    right,
                    f"expected scales that last for a multiple of promote_every={every}; those of "
                    f"{side.name} last for {side.group}",
                )
        # An interval beyond the last product is the whole: the core counts in machine words.
        k = left.codes.shape[-1]
        return cls(left, right, unit, min(every, -(-max(k, 1) // unit.products) * unit.products))

    def arrays(
        self, shape: tuple[int, ...], c: Any, dtype: Any, out: Any
    ) -> tuple[NDArray[np.float32] | None, Array, str]:
        """Check the addend and the output, and give the core's name of its dtype."""
        target = np.dtype(dtype)
        if target not in _OUTPUTS:
            raise TypeError(f"dtype: found {target}, expected one of {', '.join(_OUTPUTS.values())}")
        start = None if c is None else _widened(c)
        if start is not None and start.shape != shape:
            raise ValueError(
                f"c: found shape {start.shape}, expected {shape}, that of the result for {self.left} "
                f"and {self.right}"
            )
        inputs = [self.left.codes, self.right.codes, *([] if start is None else [start])]
        inputs += [side.scales for side in (self.left, self.right) if side.scales is not None]
        result = destination(out, shape, target, *inputs)
        return None if start is None else flat(start), result, _OUTPUTS[target]


def _widened(c: Any) -> NDArray[np.float32]:
    """An accumulator as float32, exactly."""
    array = as_array(c, "c")
    if array.dtype.newbyteorder("=") not in _WIDENED:
        raise TypeError(f"c: found dtype {array.dtype}, expected float32, float16 or bfloat16")
    return array.astype(np.float32, copy=False)


def exactly_float32(c: Any) -> NDArray[np.float32]:
    """Any number that float32 holds, also from a Python float."""
    array = as_array(c, "c")
    if array.dtype not in (np.float64, np.int64):
        return _widened(array)
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if not ((narrow == array) | np.isnan(narrow)).all():
        raise ValueError("c: found numbers that float32 does not hold, expected float32 numbers")
    return narrow


def checked_offsets(offsets: Any, experts: int, rows: int) -> NDArray[np.int64]:
    array = as_array(offsets, "offsets")
    if array.dtype.kind not in "iu":
        raise TypeError(f"offsets: found dtype {array.dtype}, expected integers")
    if array.shape != (experts + 1,):
        raise ValueError(
            f"offsets: found shape {array.shape}, expected ({experts + 1},) for {experts} experts"
        )
    ends = [whole(end, "offsets") for end in array.tolist()]
    if ends[0] != 0 or ends[-1] != rows or any(x > y for x, y in pairwise(ends)):
        raise ValueError(
            f"offsets: found {ends[0]} to {ends[-1]}, expected numbers that never fall, from 0 to {rows}, "
            "the rows of a"
        )
    return np.array(ends, np.int64)
