"""Values of an open checkpoint: weights joined with their scales, and tensors as numbers.

Lives here: what makes a weight and a scale tensor belong together, and reading piece by piece. The arithmetic
is that of `dsv3_numerics.Quantized` and of the casts; the files are `reader`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._arrays import SOURCES, Array, deliver, destination, real_dtype
from ..number_formats import decode, encode, format_info, formats
from ..quantized import Quantized, scales_shape
from .dtypes import SCALED
from .index import shown
from .readers import CheckpointError
from .scan import SCALE_SUFFIX, TensorInfo

if TYPE_CHECKING:
    from .reader import Checkpoint

# How scales may be stored, and the kind of scale that they are. BF16 is widened, which is exact.
SCALE_KINDS = {"F32": "float32", "BF16": "float32", "F8_E8M0": "ue8m0"}
_PIECE = 8 << 20  # bytes read at a time
# Dtypes that the core decodes; a dtype that several formats are stored in says nothing.
_CODES = {info.dtype for info in formats() if info.dtype.name == info.name}


def read(ckpt: Checkpoint, name: str, out: Array | None) -> Array:
    """See `Checkpoint.read`."""
    info = ckpt.info(name)
    array = destination(out, info.row.stored_shape(info.shape), info.row.stored)
    if out is not None and array is not out:
        raise ValueError("out: found a strided array, expected a C-contiguous one")
    with ckpt.reader(info.file) as fill:
        fill(info.begin, array)
    return array


def expected_scales(info: TensorInfo, block: tuple[int, int]) -> tuple[int, ...] | None:
    """The shape that a weight's scales must have; None for what has no rows and columns."""
    return scales_shape(info.shape, block, None) if len(info.shape) > 1 else None


def scale_problem(weight: TensorInfo, scale: TensorInfo, block: tuple[int, int]) -> str | None:
    """Why two tensors cannot be a weight and its scales, as far as their headers tell."""
    if weight.dtype not in SCALED:
        return f"{shown(weight.name)} has scales, but is {weight.dtype}; expected {' or '.join(SCALED)}"
    if scale.dtype not in SCALE_KINDS:
        return f"{shown(scale.name)}: found {scale.dtype}, expected {' or '.join(SCALE_KINDS)}"
    expected = expected_scales(weight, block)
    if scale.shape != expected:
        wanted = "none" if expected is None else list(expected)
        return (
            f"{shown(scale.name)}: found shape {list(scale.shape)}, expected {wanted} "
            f"for a weight of {list(weight.shape)} in blocks of {block[0]}x{block[1]}"
        )
    return None


def scale_values(ckpt: Checkpoint, name: str) -> NDArray[np.float32]:
    """The scales in a tensor, as float32."""
    stored = ckpt.read(name)
    return stored if stored.dtype == np.float32 else decode(stored)


def quantized(ckpt: Checkpoint, name: str) -> Quantized:
    """See `Checkpoint.quantized`."""
    info, block, codes = ckpt.info(name), ckpt.block, ckpt[name]
    found = ckpt.scale_name(name)
    if found is None:
        what = f"no scales, expected {shown(name + SCALE_SUFFIX)}" if info.dtype in SCALED else info.dtype
        raise CheckpointError(f"{ckpt.folder / info.file}: {shown(name)}: not a quantized weight: {what}")
    scale = ckpt.info(found)
    problem = scale_problem(info, scale, block)
    if problem is not None:
        raise CheckpointError(f"{ckpt.folder / scale.file}: {problem}")
    values = scale_values(ckpt, found)
    bad = ~((values >= 0) & (values < np.inf))
    if bad.any():
        at = np.unravel_index(int(bad.argmax()), bad.shape)
        raise CheckpointError(
            f"{ckpt.folder / scale.file}: {shown(found)}: found {values[at]} at {list(map(int, at))}, "
            "expected finite scales that are not negative"
        )
    kind = SCALE_KINDS[scale.dtype]
    stored = encode(values, "float8_e8m0fnu") if kind == "ue8m0" else values
    return Quantized(codes, stored, format_info(codes.dtype).name, block, None, kind)


def dequantized(ckpt: Checkpoint, name: str, dtype: DTypeLike, out: Array | None) -> Array:
    """See `Checkpoint.dequantized`."""
    info = ckpt.info(name)
    target, _ = real_dtype(dtype)
    if info.dtype not in SCALED and ckpt.scale_name(name) is None:
        return _cast(ckpt, info, target, out)
    # The codes of the whole are never touched: pieces of them are read instead.
    whole = quantized(ckpt, name)
    numbers = destination(out, info.shape, target)
    with ckpt.reader(info.file) as fill:
        buffer = np.empty(0, np.uint8)
        for place, r0, r1 in _pieces(info.shape, whole.block[0]):
            shape = (r1 - r0, info.shape[-1])
            if math.prod(shape) > buffer.size:
                buffer = np.empty(math.prod(shape), np.uint8)
            codes = buffer[: math.prod(shape)]
            fill(info.begin + (place * info.shape[-2] + r0) * shape[1], codes)
            matrix = whole.scales.reshape(-1, *whole.scales.shape[-2:])[place]
            part = Quantized(
                codes.view(whole.codes.dtype).reshape(shape),
                matrix[r0 // whole.block[0] : -(-r1 // whole.block[0])],
                whole.format,
                whole.block,
                None,
                whole.scale_kind,
            )
            part.dequantize(target, out=numbers.reshape(-1, *info.shape[-2:])[place, r0:r1])
    return deliver(numbers, out)


def _pieces(shape: tuple[int, ...], block: int) -> Iterator[tuple[int, int, int]]:
    """(matrix, first row, row after the last) of pieces that begin where a block begins."""
    rows, cols = shape[-2:]
    if 0 in shape:  # other axes may be as long as a number can be
        return
    step = max(_PIECE // max(cols, 1) // block, 1) * block
    for place in range(math.prod(shape[:-2])):
        for r0 in range(0, rows, step):
            yield place, r0, min(r0 + step, rows)


def _cast(ckpt: Checkpoint, info: TensorInfo, target: np.dtype[Any], out: Array | None) -> Array:
    if info.packed or info.row.element.kind == "c":
        what = f"{shown(info.name)}: {info.dtype} has no cast to {target}"
        raise CheckpointError(f"{ckpt.folder / info.file}: {what}")
    numbers = destination(out, info.shape, target)
    flat, step = numbers.reshape(-1), _PIECE // info.row.element.itemsize
    with ckpt.reader(info.file) as fill:
        for start in range(0, flat.size, step):
            part = np.empty(min(step, flat.size - start), info.row.element)
            fill(info.begin + start * part.itemsize, part)
            flat[start : start + part.size] = cast(part, target)
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
