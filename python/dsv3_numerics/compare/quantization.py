"""Quantization explained: which rule, rounding, order and layout makes these codes and scales of that input.

Lives here: what is asked for, and its checks. The search is in `quantization_search`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import Array, as_array, source
from ..number_formats import FormatInfo, code_array, format_info, unpack
from ..quantized import Quantized
from .code_rows import as_bits
from .explanation import Explanation
from .hypotheses import Given
from .quantization_search import Search
from .scale_rows import f32


def explain_quantization(
    x: ArrayLike,
    codes: ArrayLike | Quantized,
    scales: ArrayLike | None = None,
    *,
    fmt: str | None = None,
    block: tuple[int, int] | None = None,
    global_scale: Any = None,
) -> Explanation:
    """Find what made codes and scales of an input.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        The input, shape (..., k); leading axes are rows.
    codes : array_like of a format's dtype or of its unsigned integers, or Quantized
        Result to be explained. Two codes of 4 bits may share a byte, the low one first.
    scales : array_like, optional
        Its scales in any layout: float32, bfloat16, float16, float8_e8m0fnu (or uint8), float8_e4m3fn, or
        int32 words of four exponents. Not given with a Quantized. Without scales the codes are taken for
        those of a cast, or of a quantization whose scales are not known.
    fmt : str, optional
        Format of codes that are plain unsigned integers.
    block : tuple of two int, optional
        Rows and columns that share a scale. By default every usual group that fits the number of scales.
    global_scale : float or array_like of float32, optional
        Scale of all scales, for NVFP4 (and then scales of uint8 are float8_e4m3fn), or one for each row.

    Returns
    -------
    Explanation
        `fits` names every hypothesis that reproduces codes and scales bit for bit.

    Raises
    ------
    TypeError, ValueError
        Arrays of another kind; codes of another size than the input; scales that fit no group.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import quantize_tiles
    >>> x = np.linspace(-3, 3, 1024, dtype=np.float32).reshape(4, 256) ** 3
    >>> q = quantize_tiles(x, rule="deepep")
    >>> found = explain_quantization(x, q.codes, q.scales)
    >>> found.cause, "deepep" in found.column("rule"), "deepgemm" in found.column("rule")
    ('equal', True, False)
    """
    if isinstance(codes, Quantized):
        if scales is not None:
            raise ValueError("scales: found an array beside a Quantized, expected None")
        fmt, block = codes.format, block or _block_of(codes)
        global_scale = codes.global_scale
        scales, codes = codes.scales, codes.codes
    array, _ = source(x, "x")
    if array.ndim < 2:
        raise ValueError(f"x: found shape {array.shape}, expected at least two axes")
    if not array.size:
        raise ValueError(f"x: found shape {array.shape}, expected elements")
    numbers = array.reshape(-1, array.shape[-1])
    held, info = _codes_of(codes, fmt, numbers.shape)
    outer = _outer_of(global_scale, len(numbers))
    stored = None
    if scales is not None:
        stored = as_array(scales, "scales")
        if not stored.dtype.isnative:
            stored = stored.astype(stored.dtype.newbyteorder("="))
        stored = stored.reshape(-1, stored.shape[-1]) if stored.ndim else stored.reshape(1, 1)
    return Search(Given(numbers, held, stored, info, outer), block).run()


def _outer_of(value: Any, rows: int) -> Any:
    """Return a scale of all scales as float32, or one for each row."""
    if value is None:
        return None
    array = np.asarray(value, np.float32)
    if array.size == 1:
        return f32(array.reshape(-1)[0])
    if array.size != rows:
        raise ValueError(f"global_scale: found shape {array.shape}, expected one number, or one for each row")
    return array.reshape(rows, 1)


def _block_of(q: Quantized) -> tuple[int, int]:
    if q.axis is None:
        return q.block[0], q.block[1]
    if q.axis != q.ndim - 1:
        if q.ndim == 2:
            return q.block[0], 1
        raise ValueError(f"codes: found tiles along axis {q.axis} of {q.shape}, expected the last")
    return 1, q.block[0]


def _codes_of(codes: Any, fmt: str | None, shape: tuple[int, ...]) -> tuple[Array, FormatInfo]:
    """Return codes as unsigned integers, two axes, and their format."""
    array = as_array(codes, "codes")
    if fmt is not None and format_info(fmt).bits == 4 and array.size * 2 == shape[0] * shape[1]:
        array = unpack(np.ascontiguousarray(array).view(np.uint8), fmt=fmt, size=array.shape[-1] * 2)
    array, info = code_array(array, fmt, "codes")
    if array.size != shape[0] * shape[1]:
        raise ValueError(
            f"codes: found shape {array.shape}, expected {shape[0] * shape[1]} codes for x of {shape}"
        )
    bits = as_bits(array.astype(array.dtype.newbyteorder("="), copy=False))
    return (bits.reshape(shape) if bits.shape != shape[::-1] else bits), info
