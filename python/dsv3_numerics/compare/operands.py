"""Codes and scales of files, joined into operands of products.

Lives here: which scale dtypes and groups are understood. The explanation of products is in `product`.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from .._arrays import Array, as_array
from ..number_formats import code_array, format_info, unpack
from ..quantized import Quantized, scales_shape

_F32, _E8M0, _E4M3 = (np.dtype(t) for t in (np.float32, ml_dtypes.float8_e8m0fnu, ml_dtypes.float8_e4m3fn))
_WIDENED = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
_GROUPS = {_F32: (128, 64, 32, 16), _E8M0: (32, 128, 64, 16), _E4M3: (16, 32, 64, 128)}
"""Lengths of groups by the dtype of their scales, the usual one first."""


def operand(
    codes: Any, scales: Any, *, name: str, fmt: str | None = None, global_scale: Any = None
) -> Quantized:
    """Join codes and scales; the groups are those that fit the shapes.

    Parameters
    ----------
    codes : array_like of a format's dtype, or of unsigned integers with `fmt`
        Shape (rows, k); codes of 4 bits may share a byte, the low one first.
    scales : array_like
        One for each group, row by row: float32; float16 or bfloat16, which are widened; float8_e8m0fnu, its
        bytes, or words of four of them (int32); float8_e4m3fn.
    name : str
        Name of the codes in errors.
    fmt : str, optional
        Format of codes that are plain unsigned integers.
    global_scale : array_like of float32, optional
        Scale of all scales; bytes are then taken for float8_e4m3fn.

    Raises
    ------
    ValueError, TypeError
        Scales of another dtype, or of a shape that fits no group.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import quantize_tiles
    >>> q = quantize_tiles(np.ones((2, 256), np.float32), scale="mx", tile=32)
    >>> operand(q.codes, q.scales.view(np.uint8), name="a").block
    (32,)
    """
    found = as_array(codes, name)
    if fmt is not None and format_info(fmt).bits == 4 and found.dtype == np.uint8 and (found > 15).any():
        found = unpack(np.ascontiguousarray(found), fmt=fmt, size=2 * found.shape[-1])
    found, info = code_array(found, fmt, name)
    found = np.ascontiguousarray(found).view(info.dtype)
    numbers = _numbers(as_array(scales, "scales"), global_scale is not None, name)
    if found.ndim != 2:
        raise ValueError(f"{name}: found shape {found.shape}, expected two axes")
    if global_scale is not None and numbers.dtype != _E4M3:
        raise ValueError(f"{name}: found a global scale beside scales of {numbers.dtype}, expected {_E4M3}")
    outer = None if global_scale is None else np.float32(np.asarray(global_scale, np.float32).reshape(-1)[0])
    if global_scale is not None and np.asarray(global_scale).size != 1:
        raise ValueError(f"{name}: found {np.asarray(global_scale).size} global scales, expected one")
    for wide in (*_GROUPS[numbers.dtype], found.shape[1]):
        for block, axis in (((wide,), 1), ((128, wide), None)):
            shape = scales_shape(found.shape, block, axis)
            packed = (shape[0], -(-shape[1] // 4) * 4)
            if numbers.shape in (shape, packed) and (numbers.shape == shape or numbers.dtype == _E8M0):
                held = np.ascontiguousarray(numbers[:, : shape[1]])
                kind = "nvfp4" if numbers.dtype == _E4M3 else "float32"
                if numbers.dtype == _E8M0:
                    kind = "mx" if wide == 32 else "ue8m0"
                return Quantized(found, held, info.name, block, axis, kind, None, outer)
    raise ValueError(
        f"{name}: found scales of shape {numbers.shape}, expected one for each group of {found.shape}, row "
        f"by row, in groups of {', '.join(map(str, _GROUPS[numbers.dtype]))} or a whole row"
    )


def _numbers(scales: Array, nvfp4: bool, name: str) -> Array:
    """Bring scales to a dtype that products take, without changing them."""
    dtype = scales.dtype.newbyteorder("=")
    scales = np.ascontiguousarray(scales.astype(dtype, copy=False))
    if scales.ndim != 2:
        raise ValueError(f"{name}: found scales of shape {scales.shape}, expected two axes")
    if dtype in _WIDENED:
        return scales.astype(_F32)
    if dtype in (np.int32, np.uint32):
        return scales.view(np.uint8).view(_E8M0)
    if dtype == np.uint8:
        return scales.view(_E4M3 if nvfp4 else _E8M0)
    if dtype not in _GROUPS:
        known = ", ".join(d.name for d in (_F32, *_WIDENED, _E8M0, _E4M3))
        raise ValueError(f"{name}: found scales of {dtype}, expected {known}, uint8 or int32 words")
    return scales
