"""Values of an open checkpoint: weights joined with their scales, and tensors as numbers.

Lives here: codes and scales of a chunk as a row of the table of dialects says, and reading piece by piece.
The arithmetic is the core's: float32(code) times float32 scale, rounded once more where the result is
narrower. Packed bytes are never taken for numbers. The files are `reader`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import _core
from .._arrays import SOURCES, Array, deliver, destination, flat, real_dtype
from ..number_formats import decode, encode, format_info, formats
from ..quantized import Quantized, core_layout
from .chunks import LARGEST_CHUNK, Chunk, WorkerContext, aligned, split
from .index import shown
from .readers import CheckpointError
from .scan import TensorInfo
from .stored import StoredWeight

if TYPE_CHECKING:
    from .reader import Checkpoint

_PIECE = 8 << 20  # bytes read at a time
_BYTE = np.dtype(np.uint8)
# Codes in words are stored with an offset: the same bits as two's complement but for the first.
_OFFSETS = {"int4": np.uint8(0x8), "int8": np.uint8(0x80)}
# Dtypes that the core decodes; a dtype that several formats are stored in says nothing.
_CODES = {info.dtype for info in formats() if info.dtype.name == info.name}


# --- Chunks of a weight -------------------------------------------------------------------------------------


def chunks_of(weight: StoredWeight, *, size: int | None = None, whole: bool = False) -> Iterator[Chunk]:
    """Yield chunks of a weight's grid; packed rows are split between groups only."""
    grid = weight.grid
    shape = (grid.stack, grid.rows, grid.cols)
    if not weight.dialect.packing:
        return split(shape, grid.block, whole=whole, size=size)
    return split(shape, (grid.high, _unit(weight)), whole=whole, size=size)


def _unit(weight: StoredWeight) -> int:
    """Columns between which packed rows may be split."""
    wide = weight.grid.wide
    return wide if wide % 8 == 0 else weight.grid.cols


def read_codes(context: WorkerContext, weight: StoredWeight, chunk: Chunk) -> Array:
    """Codes of a chunk on one axis, one an element, in the dtype of their format."""
    grid, element = weight.grid, np.dtype(format_info(weight.format).dtype)
    if not weight.dialect.packing:
        return context.matrix("codes", weight.codes, chunk, (grid.rows, grid.cols), element)
    packed = _packed(context, weight, chunk)
    out = context.buffer("codes", math.prod(chunk.shape), _BYTE)
    if weight.format == "int8":
        width = chunk.shape[1]
        out.reshape(chunk.shape)[:] = packed.reshape(chunk.shape[0], -1)[:, :width]
    else:
        bytes_of_row = packed.size // max(chunk.shape[0], 1)
        if chunk.shape[1] == 2 * bytes_of_row:
            _core.unpack(packed, weight.format, chunk.shape[1], out)
        else:  # rows that end in the middle of a word
            wide = context.buffer("wide", 2 * packed.size, _BYTE)
            _core.unpack(packed, weight.format, 2 * bytes_of_row, wide)
            out.reshape(chunk.shape)[:] = wide.reshape(chunk.shape[0], -1)[:, : chunk.shape[1]]
    if weight.dialect.packing == "words":
        np.bitwise_xor(out, _OFFSETS[weight.format], out=out)
    return out.view(element)


def _packed(context: WorkerContext, weight: StoredWeight, chunk: Chunk) -> Array:
    """Packed bytes of a chunk, row by row."""
    per = weight.row_bytes
    if chunk.shape[1] == weight.grid.cols:
        part = chunk._replace(c0=0, c1=per)
    else:
        bits = format_info(weight.format).bits
        part = chunk._replace(c0=chunk.c0 * bits // 8, c1=min(-(-chunk.c1 * bits // 8), per))
    return context.matrix("packed", weight.codes, part, (weight.grid.rows, per), _BYTE)


def scale_chunk(weight: StoredWeight, chunk: Chunk) -> Chunk:
    """Which scales a chunk needs."""
    (high, wide), (place, r0, r1, c0, c1) = weight.grid.block, chunk
    return Chunk(place, r0 // high, -(-r1 // high), c0 // wide, -(-c1 // wide))


def read_scales(context: WorkerContext, weight: StoredWeight, chunk: Chunk) -> NDArray[np.float32]:
    """Multipliers of the codes of a chunk, on one axis: float32, the scale of scales taken in.

    Raises
    ------
    CheckpointError
        A scale that is negative, infinite or not a number.
    """
    if weight.scale is None:
        part = scale_chunk(weight, chunk)
        return np.ones(math.prod(part.shape), np.float32)
    sides = weight.grid.down, weight.grid.across
    info = weight.scale
    stored = context.matrix("scales", info, scale_chunk(weight, chunk), sides, info.row.element)
    scales = _meaning(weight, stored)
    if weight.second is not None:
        scales = _with_second(weight, scales, _second(context, weight))
    least = 0 if not weight.format.startswith("int") else -np.finfo(np.float32).max
    # One comparison for the usual case; NaN fails it too.
    if scales.size and not (scales.min() >= least and scales.max() < np.inf):
        at = int(np.argmin((scales >= least) & (scales < np.inf)))
        part = scale_chunk(weight, chunk)
        row, col = divmod(at, part.shape[1])
        place = (part.place * sides[0] + part.r0 + row) * sides[1] + part.c0 + col
        raise bad_scale(context.ckpt, info, scales[at], place)
    return scales


def scale_values(ckpt: Checkpoint, weight: StoredWeight) -> NDArray[np.float32]:
    """Return stored scales of a weight as numbers, without the scale of scales."""
    assert weight.scale is not None
    return _meaning(weight, ckpt.read(weight.scale.name))


def bad_scale(ckpt: Checkpoint, info: TensorInfo, value: object, place: int) -> CheckpointError:
    """Error about a scale that no weight can have."""
    at = [int(i) for i in np.unravel_index(place, info.shape or (1,))]
    return CheckpointError(
        f"{ckpt.folder / info.file}: {shown(info.name)}: found {value} at {at}, "
        "expected finite scales that are not negative"
    )


def _meaning(weight: StoredWeight, stored: Array) -> NDArray[np.float32]:
    if weight.scale_meaning == "e8m0":
        return decode(stored.view(np.uint8), fmt="float8_e8m0fnu")
    return stored if stored.dtype == np.float32 else decode(stored)


def second_value(ckpt: Checkpoint, weight: StoredWeight) -> np.float32:
    """Return the scale of scales.

    Raises
    ------
    CheckpointError
        It is not finite, or negative.
    """
    context = WorkerContext(ckpt)
    try:
        return _second(context, weight)
    finally:
        context.close()


def _second(context: WorkerContext, weight: StoredWeight) -> np.float32:
    """Return the scale of scales, read once."""
    info = weight.second
    assert info is not None
    if info.name not in context.numbers:
        value = np.empty(1, np.float32)
        context.read(info, 0, value)
        number = value[0]
        least = np.float32(0)
        if not (number > least if weight.dialect.divides else number >= least) or number == np.inf:
            expected = "a positive" if weight.dialect.divides else "a"
            raise CheckpointError(
                f"{context.ckpt.folder / info.file}: {shown(info.name)}: found {number}, expected {expected} "
                "finite number that is not negative"
            )
        context.numbers[info.name] = number
    return context.numbers[info.name]


def _with_second(
    weight: StoredWeight, scales: NDArray[np.float32], second: np.float32
) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return scales / second if weight.dialect.divides else scales * second


def layout_of(weight: StoredWeight, chunk: Chunk) -> tuple[int, int, int, int, int]:
    """Return a chunk as the core sees it; it lies inside one block or holds whole ones."""
    high, wide = weight.grid.block
    rows = high if chunk.r0 % high == 0 else max(chunk.shape[0], 1)
    cols = wide if chunk.c0 % wide == 0 else max(chunk.shape[1], 1)
    return core_layout(chunk.shape, (rows, cols), None)


def decode_chunk(context: WorkerContext, weight: StoredWeight, chunk: Chunk, out: Array) -> Array:
    """Numbers of a chunk on one axis, rounded to the dtype of `out`."""
    scales = read_scales(context, weight, chunk)
    layout, result = layout_of(weight, chunk), (flat(out), SOURCES[out.dtype])
    if weight.dialect.packing and format_info(weight.format).bits == 4:
        packed = _packed(context, weight, chunk)
        if 2 * packed.size == math.prod(chunk.shape):  # no row ends in the middle of a word
            flip = int(_OFFSETS[weight.format]) if weight.dialect.packing == "words" else 0
            _core.dequantize_packed((packed, weight.format, layout, flat(scales)), flip, result)
            return out
    codes = read_codes(context, weight, chunk)
    _core.dequantize((flat(codes), weight.format, layout, flat(scales)), result)
    return out


def decode_region(context: WorkerContext, weight: StoredWeight, region: Chunk, out: Array) -> None:
    """Write numbers of any rectangle of a weight's grid into an array of its shape, which may be strided."""
    place, r0, r1, c0, c1 = region
    grid = weight.grid
    unit = _unit(weight) if weight.dialect.packing else 1
    for top, bottom in _segments(r0, r1, grid.high):
        for left, right in _segments(c0, c1, grid.wide):
            begin, end = left // unit * unit, min(-(-right // unit) * unit, grid.cols)
            chunk = Chunk(place, top, bottom, begin, end)
            part = context.buffer("region", math.prod(chunk.shape), out.dtype)
            numbers = decode_chunk(context, weight, chunk, part).reshape(chunk.shape)
            out[top - r0 : bottom - r0, left - c0 : right - c0] = numbers[:, left - begin : right - begin]


def _segments(start: int, stop: int, block: int) -> Iterator[tuple[int, int]]:
    """Yield parts of a range that lie inside a block or hold whole ones: at most three."""
    first, last = -(-start // block) * block, stop // block * block
    if first >= last:
        edges = [start, min(first, stop), stop] if start < first < stop else [start, stop]
    else:
        edges = sorted({start, first, last, stop})
    yield from ((a, b) for a, b in pairwise(edges) if a < b)


# --- Whole tensors ------------------------------------------------------------------------------------------


def read(ckpt: Checkpoint, name: str, out: Array | None) -> Array:
    """See `Checkpoint.read`."""
    info = ckpt.info(name)
    array = destination(out, info.row.stored_shape(info.shape), info.row.stored)
    if out is not None and array is not out:
        raise ValueError("out: found a strided array, expected a C-contiguous one")
    with ckpt.reader(info.file) as fill:
        fill(info.begin, array)
    return array


def weight_named(ckpt: Checkpoint, name: str) -> StoredWeight | None:
    """Return a low-precision weight; None for a tensor that is none.

    Raises
    ------
    KeyError
        No such weight and no such tensor.
    CheckpointError
        The tensor is not understood, or what is declared of all weights; or it holds a part of a weight of
        another name.
    """
    contents = ckpt.contents
    weight = contents.weights.get(name)
    if weight is not None:
        if contents.undeclared is not None:
            raise CheckpointError(f"{contents.undeclared.text}; {shown(name)} may mean something else")
        return weight
    problem = contents.problem_of.get(name)
    if problem is not None:
        raise CheckpointError(problem.text)
    info = ckpt.info(name)
    owner = contents.owner.get(name)
    if owner is not None and contents.weights[owner].codes == info:
        raise CheckpointError(
            f"{ckpt.folder / info.file}: {shown(name)} holds packed codes of {shown(owner)}; ask for that"
        )
    return None


def quantized(ckpt: Checkpoint, name: str) -> Quantized:
    """See `Checkpoint.quantized`."""
    weight = weight_named(ckpt, name)
    if weight is None:
        info = ckpt.info(name)
        raise CheckpointError(
            f"{ckpt.folder / info.file}: {shown(name)}: not a quantized weight: {info.dtype}"
        )
    if not weight.shape:
        raise CheckpointError(f"{ckpt.folder / weight.codes.file}: {shown(name)}: one number, not a tensor")
    scales = _stored_scales(ckpt, weight)
    shape, grid = weight.shape, weight.grid
    codes = ckpt[weight.codes.name] if not weight.dialect.packing else _unpacked(ckpt, weight)
    if len(shape) == 1:
        return Quantized(codes, scales[0].reshape(1), weight.format, (max(shape[0], 1),), 0, *scales[1:])
    lead = shape[:-2]
    values, kind, rule, second = scales
    block: tuple[int, ...]
    axis: int | None
    if weight.form == "one":
        block, axis = (max(shape[-2], 1), max(shape[-1], 1)), None
        values = np.broadcast_to(values.reshape(-1)[:1], (*lead, 1, 1)).copy()
    elif grid.high == 1 and weight.form != "block":
        block, axis = (grid.wide,), len(shape) - 1
        values = values.reshape(*shape[:-1], grid.across)
    else:
        block, axis = grid.block, None
        values = values.reshape(*lead, grid.down, grid.across)
    return Quantized(codes, values, weight.format, block, axis, kind, rule, second)


def _unpacked(ckpt: Checkpoint, weight: StoredWeight) -> Array:
    """All codes of a packed weight, one an element."""
    out = _core.empty(weight.shape, format_info(weight.format).dtype)
    grid = weight.grid
    matrix = out.reshape(grid.stack, grid.rows, grid.cols)
    context = WorkerContext(ckpt)
    try:
        for chunk in chunks_of(weight):
            codes = read_codes(context, weight, chunk).reshape(chunk.shape)
            matrix[chunk.place, chunk.r0 : chunk.r1, chunk.c0 : chunk.c1] = codes
    finally:
        context.close()
    return out


def _stored_scales(
    ckpt: Checkpoint, weight: StoredWeight
) -> tuple[Array, str, str | None, np.float32 | None]:
    """Scales as `Quantized` holds them: the array, its kind, no rule, the scale of scales."""
    if weight.scale is None:
        return np.ones(1, np.float32), "float32", None, None
    info = weight.scale
    stored = ckpt.read(info.name)
    values = _meaning(weight, stored)
    least = 0 if not weight.format.startswith("int") else -np.finfo(np.float32).max
    bad = ~((values >= least) & (values < np.inf))
    if bad.any():
        at = int(bad.argmax())
        raise bad_scale(ckpt, info, values.reshape(-1)[at], at)
    if weight.second is not None:
        second = second_value(ckpt, weight)
        if weight.dialect.divides:  # a product with the reciprocal would be rounded differently
            return _with_second(weight, values, second), "float32", None, None
        return stored, "nvfp4", None, second
    if weight.scale_meaning == "e8m0":
        kind = "mx" if weight.form == "group" else "ue8m0"
        return encode(values, "float8_e8m0fnu"), kind, None, None
    return values, "float32", None, None


def dequantized(ckpt: Checkpoint, name: str, dtype: DTypeLike, out: Array | None) -> Array:
    """See `Checkpoint.dequantized`."""
    target, _ = real_dtype(dtype)
    weight = weight_named(ckpt, name)
    if weight is None:
        return _plain(ckpt, ckpt.info(name), target, out)
    if out is None:
        size = math.prod(weight.plain_shape)
        numbers = aligned(size * target.itemsize).view(target).reshape(weight.plain_shape)
    else:
        numbers = destination(out, weight.plain_shape, target)
    grid = weight.grid
    context = WorkerContext(ckpt)
    try:
        if weight.scale is not None and not weight.size:
            _stored_scales(ckpt, weight)
        transposed = weight.dialect.transposed
        sides = (grid.cols, grid.rows) if transposed else (grid.rows, grid.cols)
        matrix = numbers.reshape(grid.stack, *sides)
        if transposed:
            matrix = matrix.swapaxes(1, 2)
        for chunk in chunks_of(weight, size=_PIECE):
            where = matrix[chunk.place, chunk.r0 : chunk.r1, chunk.c0 : chunk.c1]
            if where.flags.c_contiguous:
                decode_chunk(context, weight, chunk, where.reshape(-1))
            else:
                part = context.buffer("numbers", where.size, target)
                where[...] = decode_chunk(context, weight, chunk, part).reshape(chunk.shape)
    finally:
        context.close()
    return deliver(numbers, out)


def _plain(ckpt: Checkpoint, info: TensorInfo, target: np.dtype[Any], out: Array | None) -> Array:
    """Return a tensor that is no weight in low precision: scales as what they mean, others cast."""
    owner = ckpt.contents.owner.get(info.name)
    if owner is not None:
        weight = ckpt.contents.weights[owner]
        if weight.scale == info and weight.scale_meaning == "e8m0":
            numbers = destination(out, info.shape, target)
            numbers[...] = cast(_meaning(weight, ckpt.read(info.name)), target)
            return deliver(numbers, out)
    return _cast(ckpt, info, target, out)


def _cast(ckpt: Checkpoint, info: TensorInfo, target: np.dtype[Any], out: Array | None) -> Array:
    if info.packed or info.row.element.kind == "c":
        what = f"{shown(info.name)}: {info.dtype} has no cast to {target}"
        raise CheckpointError(f"{ckpt.folder / info.file}: {what}")
    numbers = destination(out, info.shape, target)
    flat_numbers, step = numbers.reshape(-1), _PIECE // info.row.element.itemsize
    with ckpt.reader(info.file) as fill:
        for start in range(0, flat_numbers.size, step):
            part = np.empty(min(step, flat_numbers.size - start), info.row.element)
            fill(info.begin + start * part.itemsize, part)
            flat_numbers[start : start + part.size] = cast(part, target)
    return deliver(numbers, out)


def cast(x: Array, target: np.dtype[Any]) -> Array:
    """Numbers in another dtype, rounded once to nearest even; beyond the largest lies infinity.

    Integers go by way of float64.
    """
    if x.dtype == target:
        return x
    if target in _CODES:
        numbers = x if x.dtype in SOURCES else x.astype(np.float64)
        return encode(numbers, target, overflow="nonfinite")
    if x.dtype in _CODES:
        return decode(x, dtype=target)
    with np.errstate(over="ignore"):
        return x.astype(target)


__all__ = [
    "LARGEST_CHUNK",
    "cast",
    "chunks_of",
    "decode_chunk",
    "dequantized",
    "layout_of",
    "quantized",
    "read",
    "read_codes",
    "read_scales",
    "scale_chunk",
    "weight_named",
]
