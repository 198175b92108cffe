"""Operands of products: what may be given, and whether two sides, a unit and its promotions fit together.

Lives here: checks, and the errors that name both sides. Not here: the products (`gemm`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ._arrays import Array, as_array, destination, flat, positive, whole
from .accumulator import AccumulatorInfo, accumulator_info
from .number_formats import format_info
from .prepared import PreparedWeights
from .quantized import Quantized

_OUTPUTS = {np.dtype(np.float32): "float32", np.dtype(ml_dtypes.bfloat16): "bfloat16"}
_WIDENED = [np.dtype(t) for t in (np.float32, np.float16, ml_dtypes.bfloat16)]


# Names of a unit's operands where they are float32 arrays of which it sees the upper bits.
TF32 = "tf32"


@dataclass(frozen=True)
class Side:
    """One operand: codes, scales of partial sums, and scales that go into the unit, each with its block."""

    name: str
    codes: Array
    format: str
    scales: NDArray[np.float32] | None = None
    block: tuple[int, int] = (1, 1)
    unit_scales: NDArray[np.uint8] | None = None
    unit_block: tuple[int, int] = (1, 1)

    def argument(self) -> tuple[Any, ...]:
        """As the core takes it."""
        scales, inside = (None if x is None else flat(x) for x in (self.scales, self.unit_scales))
        return flat(self.codes), self.format, scales, self.block, inside, self.unit_block

    @property
    def group(self) -> int:
        """Codes along k that share a scale of partial sums: all, where there is one scale."""
        k = max(int(self.codes.shape[-1]), 1)
        return k if self.scales is None else min(self.block[1], k)

    def __str__(self) -> str:
        blocks = [
            "x".join(map(str, block))
            for block, scales in ((self.unit_block, self.unit_scales), (self.block, self.scales))
            if scales is not None
        ]
        scales = f", a scale for {blocks[0]}" if blocks else ""
        return f"{self.name} ({self.codes.shape} {self.format}{scales})"


def side_of(x: Any, name: str, unit: AccumulatorInfo) -> Side:
    """Check an operand of a product."""
    if isinstance(x, PreparedWeights):
        return _prepared_side(x, name, unit)
    if not isinstance(x, Quantized):
        side = plain_side(x, name, unit)
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
    block = block_of(x)
    if unit.scale is not None:
        return _scaled_side(x, name, unit, block)
    scales = x.weight_scale_inv()
    if np.isnan(scales).any():
        raise ValueError(f"{name}: found NaN among the scales of {shape}, expected numbers")
    return Side(name, x.codes, x.format, scales, block)


def block_of(x: Quantized) -> tuple[int, int]:
    """Return the rows and columns that share a scale, of tiles along the last axis or of blocks."""
    rows, cols = (1, *x.block) if x.axis is not None else x.block
    return min(rows, max(x.codes.shape[-2], 1)), min(cols, max(x.codes.shape[-1], 1))


def _prepared_side(x: PreparedWeights, name: str, unit: AccumulatorInfo) -> Side:
    """Check weights that are laid out: for this unit, and as the right operand."""
    if name != "b":
        raise TypeError(
            f"{name}: found prepared weights {x.shape}, expected arrays; products take those as b"
        )
    if x.accumulator != unit.name:
        raise ValueError(
            f"{name}: found weights prepared for accumulator {x.accumulator!r}, expected {unit.name!r}, the "
            "product's"
        )
    side: Side = replace(x.side, name=name)
    return side


def _wanted(unit: AccumulatorInfo) -> str:
    """Describe the operands of a unit that takes scales with the codes."""
    blocks = " or ".join(map(str, unit.blocks))
    kind = {"float8_e8m0fnu": '"mx" or "ue8m0"', "float8_e4m3fn": '"nvfp4"'}[str(unit.scale)]
    return (
        f"{' or '.join(unit.inputs)} with a scale in {unit.scale} for each {blocks} along k, which "
        f"accumulator {unit.name!r} takes: a Quantized with scales of kind {kind} and tiles of {blocks}"
    )


def _scaled_side(x: Quantized, name: str, unit: AccumulatorInfo, block: tuple[int, int]) -> Side:
    """Check an operand whose scales go into the unit; its global scale, if it has one, stays outside."""
    shape, kind = x.shape, str(x.scales.dtype)
    if kind != unit.scale:
        raise ValueError(f"{name}: found {x.scale_kind} scales of {kind}, expected {_wanted(unit)}")
    if block[1] < shape[-1] and all(block[1] % length for length in unit.blocks):
        raise ValueError(f"{name}: found a scale for {block[0]}x{block[1]}, expected {_wanted(unit)}")
    scales = x.scales.view(np.uint8)
    check_scale_codes(scales, kind, name)
    if x.global_scale is None:
        return Side(name, x.codes, x.format, None, (1, 1), scales, block)
    outer = np.asarray(x.global_scale, np.float32)
    if np.isnan(outer).any():
        raise ValueError(f"{name}: found NaN as global scale, expected numbers")
    # one for the tensor, or one for each row
    whole, rows = (shape[-2], min(shape[-2], 1)) if outer.ndim == 0 else (1, shape[-2])
    outer = np.broadcast_to(outer, (*shape[:-2], rows, min(shape[-1], 1)))
    return Side(name, x.codes, x.format, outer, (max(whole, 1), max(shape[-1], 1)), scales, block)


def check_unit_scales(side: Side, unit: AccumulatorInfo) -> None:
    """Refuse codes alone where a unit takes scales with them."""
    if unit.scale is not None and side.unit_scales is None:
        raise ValueError(f"{side.name}: found codes without scales, expected {_wanted(unit)}")


def check_scale_codes(scales: NDArray[np.uint8], kind: str, name: str) -> None:
    """Refuse NaN, and negative scales where the unit has no sign for them."""
    wide = kind == "float8_e8m0fnu"
    bad = np.argwhere(scales == 255 if wide else (scales & 0x7F == 0x7F) | (scales > 0x7F))
    if bad.size:
        place = tuple(bad[0].tolist())
        byte = int(scales[place])
        what = "NaN" if wide or byte & 0x7F == 0x7F else "a negative scale"
        expected = "0 to 254" if wide else "0x00 to 0x7E, as UE4M3 has no sign"
        raise ValueError(
            f"{name}: found byte {byte if wide else hex(byte)}, {what}, among the {kind} scales of "
            f"{scales.shape} at {place}, expected {expected}"
        )


def plain_side(x: Any, name: str, unit: AccumulatorInfo) -> Side:
    """Check codes without scales: an array of a format's dtype, or float32 where a unit cuts it."""
    array = as_array(x, name)
    native = array.dtype.newbyteorder("=")
    if unit.inputs == (TF32,) and native == np.float32:
        return Side(name, array.astype(native, copy=False).view(np.uint32), TF32)
    try:
        info = format_info(native)
    except TypeError:
        raise TypeError(
            f"{name}: found dtype {array.dtype}, expected codes of a format's dtype, such as float8_e4m3fn, "
            "or a Quantized"
        ) from None
    return Side(name, array, info.name)


def step_scales(x: Any, side: Side, unit: AccumulatorInfo, name: str) -> NDArray[np.uint8] | None:
    """Check scales of steps, as codes: shape (..., products / block). Any code is taken."""
    if unit.scale is None:
        if x is not None:
            raise ValueError(f"{name}: found scales, expected none: {unit.name!r} takes codes alone")
        return None
    counts = [unit.products // block for block in unit.blocks]
    shapes = " or ".join(f"(..., {count})" for count in counts)
    if x is None:
        raise ValueError(
            f"{name}: found None, expected scales of shape {shapes} for the codes of {side}: accumulator "
            f"{unit.name!r} takes them in {unit.scale}"
        )
    scales = as_array(x, name)
    if scales.dtype not in (np.dtype(np.uint8), format_info(unit.scale).dtype):
        raise TypeError(f"{name}: found dtype {scales.dtype}, expected {unit.scale}, or its codes as uint8")
    if scales.shape[-1:] not in [(count,) for count in counts]:
        raise ValueError(f"{name}: found shape {scales.shape}, expected {shapes} for {unit.name!r}")
    return scales.view(np.uint8)


def check_formats(left: Side, right: Side, unit: AccumulatorInfo) -> None:
    """Both sides in formats that the unit takes."""
    if not {left.format, right.format} <= set(unit.inputs):
        takes = "tf32, as float32 arrays" if unit.inputs == (TF32,) else ", ".join(unit.inputs)
        raise TypeError(f"a and b: found {left} and {right}, but accumulator {unit.name!r} takes {takes}")


def misfit(left: Side, right: Side, expected: str) -> ValueError:
    return ValueError(f"a and b: found {left} and {right}, {expected}")


@dataclass(frozen=True)
class Product:
    """Two sides that fit together, and how they are added."""

    left: Side
    right: Side
    unit: AccumulatorInfo
    every: int
    "0 for never"

    @classmethod
    def of(cls, a: Any, b: Any, accumulator: Any, promote_every: Any) -> Product:
        unit = accumulator_info(accumulator)
        left, right = side_of(a, "a", unit), side_of(b, "b", unit)
        check_formats(left, right, unit)
        for side in (left, right):
            check_unit_scales(side, unit)
        if left.codes.shape[-1] != right.codes.shape[-1]:
            raise misfit(left, right, "expected last axes of one length, over which products are summed")
        if promote_every is None:
            for side in (left, right):
                if side.group < side.codes.shape[-1]:
                    raise misfit(left, right, f"expected promotion, because the scales of {side.name} change")
            return cls(left, right, unit, 0)
        every = positive(promote_every, "promote_every")
        if every % unit.interval:
            part = "the products in" if unit.interval == unit.products else "half"
            raise ValueError(
                f"promote_every: found {every}, expected None or a multiple of {unit.interval}, {part} "
                f"a step of {unit.name}"
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
        return cls(left, right, unit, min(every, -(-max(k, 1) // unit.interval) * unit.interval))

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
        for side in (self.left, self.right):
            inputs += [x for x in (side.scales, side.unit_scales) if x is not None]
        result = destination(out, shape, target, *inputs)
        return None if start is None else flat(start), result, _OUTPUTS[target]


def _widened(c: Any) -> NDArray[np.float32]:
    """Return an accumulator as float32, exactly."""
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
