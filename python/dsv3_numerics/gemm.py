"""Sums of products as matrix units form them: one step, and products of whole matrices.

Lives here: names, policies and documentation; the arithmetic is the core's, its definition is in
`reference.gemm`. The three products of a layer in training are in `linear`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _core
from ._arrays import Array, deliver, flat
from ._operands import (
    Product,
    Side,
    check_formats,
    check_unit_scales,
    checked_offsets,
    exactly_float32,
    misfit,
    plain_side,
    side_of,
    step_scales,
)
from .accumulator import accumulator_info
from .prepared import PreparedWeights
from .quantized import Quantized


def mma_step(
    a: ArrayLike,
    b: ArrayLike,
    c: ArrayLike = 0.0,
    *,
    accumulator: str,
    a_scales: ArrayLike | None = None,
    b_scales: ArrayLike | None = None,
) -> NDArray[np.float32] | np.float32:
    """One step of a matrix unit, the smallest thing to compare with hardware.

    Parameters
    ----------
    a, b : array_like of a format's dtype
        Shape (..., L), with L the accumulator's `products`. Leading axes broadcast.
    c : array_like of float32, float16 or bfloat16, or float
        What the products are added to; broadcasts with the leading axes. Numbers of the accumulator's
        `result`.
    accumulator : str
        See `accumulators`. For "exact" and "float32" a step has 32 products, for "vdpbf16ps" two.
    a_scales, b_scales : array_like of the unit's `scale`, or of uint8, optional
        Shape (..., L / block): what block-scaled units take with the codes, and only they. Any code is taken,
        as the hardware takes it: NaN spoils the result, and the sign of UE4M3 is ignored.

    Returns
    -------
    ndarray of float32, or float32
        One result for each c; float16 results are widened. NaN is 0x7FFFFFFF (0x7FFF as float16), as tensor
        cores write it, and 0x7FC00000 from "float32" and "vdpbf16ps".

    Raises
    ------
    ValueError
        An unknown accumulator; another last axis than L; shapes that do not broadcast; a `c` that `result`
        does not hold; scales that are missing, or that the accumulator does not take.
    TypeError
        Codes of a format that the accumulator does not take, or of a dtype that names no format.

    Notes
    -----
    With e the sum of both exponents (of fields, so that a subnormal has the smallest), E the largest e among
    nonzero products and c, but at least the accumulator's `floor`, and F its `fraction`: every term is
    truncated toward zero to a multiple of ``2**(E - F)``, the sum of all is exact, and it is rounded once.
    Source: measurements on hardware by Khattak and Mikaitis, "Accurate Models of NVIDIA Tensor Cores" (arXiv
    2512.07004), and by the authors of MMA-Sim (arXiv 2511.10909).

    Examples
    --------
    >>> import ml_dtypes, numpy as np
    >>> a, b = np.zeros((2, 32), ml_dtypes.float8_e4m3fn)
    >>> a[:2], b[:2] = (4, 0.46875), (4, 2**-6)
    >>> mma_step(a, b, accumulator="hopper_fp8") - 16, mma_step(a, b, accumulator="exact") - 16
    (np.float32(0.005859375), np.float32(0.0073242188))
    """
    unit = accumulator_info(accumulator)
    left, right = plain_side(a, "a", unit), plain_side(b, "b", unit)
    check_formats(left, right, unit)
    scales = step_scales(a_scales, left, unit, "a_scales"), step_scales(b_scales, right, unit, "b_scales")
    start, length = exactly_float32(c), unit.products
    a_shape, b_shape = left.codes.shape, right.codes.shape
    if a_shape[-1:] != (length,) or b_shape[-1:] != (length,):
        raise misfit(left, right, f"expected a last axis of {length}, the products in a step of {unit.name}")
    try:
        leading = [x.shape[:-1] for x in scales if x is not None]
        shape = np.broadcast_shapes(a_shape[:-1], b_shape[:-1], start.shape, *leading)
    except ValueError:
        raise misfit(
            left, right, f"expected leading axes that broadcast with each other and with c of {start.shape}"
        ) from None
    out = _core.empty(shape, np.float32)
    _core.mma_step(
        _step_argument(left, scales[0], shape, length),
        _step_argument(right, scales[1], shape, length),
        unit.name,
        flat(np.broadcast_to(start, shape)),
        out.reshape(-1),
    )
    return out if shape else np.float32(out[()])


def _step_argument(
    side: Side, scales: NDArray[np.uint8] | None, shape: tuple[int, ...], length: int
) -> tuple[Any, ...]:
    """One operand of steps, broadcast, as the core takes it."""
    codes = np.broadcast_to(side.codes, (*shape, length))
    if scales is None:
        return replace(side, codes=codes).argument()
    inside = np.broadcast_to(scales, (*shape, scales.shape[-1]))
    block = (1, length // scales.shape[-1])
    return replace(side, codes=codes, unit_scales=inside, unit_block=block).argument()


def prepare(w: ArrayLike | Quantized, *, accumulator: str = "hopper_fp8") -> PreparedWeights:
    """Lay weights out once for many products of one matrix unit, which then need not do it each time.

    Products of few rows under the emulated FP8 units spend a good part of their time on that. Other units
    gain nothing: they take the weights all the same, without a layout.

    Parameters
    ----------
    w : Quantized, or array_like of a format's dtype
        Shape (n, k), as the `b` of `matmul_nt`. Codes and scales are copied.
    accumulator : str
        The unit of the products, see `accumulators`.

    Returns
    -------
    PreparedWeights
        For `matmul_nt` with this accumulator, as `b`: any `a`, `c`, `promote_every` that fits the scales. The
        products have the bytes that `w` itself gives.

    Raises
    ------
    ValueError
        Another number of axes than two; scales that contain NaN, or that the unit does not take; an unknown
        accumulator.
    TypeError
        A format that the accumulator does not take; input of another kind.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import quantize_blocks, quantize_tiles
    >>> x, w = np.full((1, 256), 1.75, np.float32), np.full((3, 256), -3.5, np.float32)
    >>> weights = prepare(quantize_blocks(w), accumulator="hopper_fp8")
    >>> matmul_nt(quantize_tiles(x), weights, accumulator="hopper_fp8")
    array([[-1568., -1568., -1568.]], dtype=float32)
    """
    unit = accumulator_info(accumulator)
    side = side_of(w, "w", unit)
    if side.format not in unit.inputs:
        raise TypeError(f"w: found {side}, but accumulator {unit.name!r} takes {', '.join(unit.inputs)}")
    check_unit_scales(side, unit)
    if side.codes.ndim != 2:
        raise ValueError(f"w: found shape {side.codes.shape}, expected (n, k)")
    held = replace(
        side, codes=_kept(side.codes), scales=_kept(side.scales), unit_scales=_kept(side.unit_scales)
    )
    rows, k = held.codes.shape
    operand = _core.Operand(held.argument(), rows, k)
    return PreparedWeights(unit.name, (rows, k), held.format, operand.prepare(unit.name), held, operand)


def _kept(array: Any) -> Any:
    """Return a copy that nobody changes."""
    if array is None:
        return None
    copy = np.array(array, array.dtype.newbyteorder("="), order="C", copy=True)
    copy.setflags(write=False)
    return copy


def matmul_nt(
    a: ArrayLike | Quantized,
    b: ArrayLike | Quantized | PreparedWeights,
    *,
    c: ArrayLike | None = None,
    accumulator: str = "hopper_fp8",
    promote_every: int | None = 128,
    dtype: DTypeLike = np.float32,
    out: Array | None = None,
) -> Array:
    """Multiply ``a @ b.T`` as a matrix unit does: ``out[m, n] = sum over k of a[m, k] * b[n, k]``.

    Every `promote_every` products, the unit's sum is multiplied by the scales of both sides and added to a
    float32 by one fused multiplication and addition, and the unit starts again from zero, as DeepGEMM does.

    Parameters
    ----------
    a : Quantized, or array_like of a format's dtype
        Shape (..., m, k). Quantized with tiles along k or with blocks; plain codes have no scales. No copy is
        made of C-contiguous codes, one of others.
    b : Quantized, PreparedWeights, or array_like of a format's dtype
        Shape (..., n, k) with the leading axes of `a`, or (n, k) for all of them. Weights of many products
        can be laid out once for their unit: `prepare`.
    c : array_like of float32, float16 or bfloat16, optional
        Added to; shape of the result. Without promotion and scales the unit's own accumulator starts here,
        otherwise the float32 that the partial sums are added to. Numbers of the accumulator's `result`.
    accumulator : str
        See `accumulators`.
    promote_every : int or None
        Products between two promotions, a multiple of the accumulator's `products`. Scales along k may change
        only where a promotion is. None never promotes: one chain over all of k.
    dtype : {float32, bfloat16}
        bfloat16 rounds the float32 once more, to nearest even.
    out : ndarray, optional
        The result is written here: exact shape, `dtype`, writeable. It may overlap the inputs.

    Returns
    -------
    ndarray of `dtype`, shape (..., m, n)
        `out` itself if given. The same bytes at every SIMD level and with any number of threads.

    Raises
    ------
    ValueError
        Shapes that do not fit; scales that change between promotions, or that contain NaN; a `promote_every`
        that is no multiple of a step; an unknown accumulator; a `c` that the accumulator cannot start from.
    TypeError
        Formats that the accumulator does not take; input of another kind; another `dtype`.

    Notes
    -----
    A k that is no multiple of a step is filled up with zeros, which take no part. For k = 0 the result is
    `c`, or zero.

    "float32" is the quick one and no tensor core: for every 32 of k, one chain of float32 sums over the even
    places and one over the odd, both from zero, then ``sum + (even + odd)``. This is the order of AMX, which
    every CPU reproduces here. With n = 17 + promote_every / 32 + k / promote_every roundings in the way of a
    product (one more with scales), its error is at most ``n * u / (1 - n * u)`` times the sum of
    ``abs(a * b)``, with u = 2**-24 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1).

    "vdpbf16ps" is the quick one of bfloat16, in the order of that instruction of x86 CPUs (AVX512_BF16): for
    every two of k, ``sum = fma(a[1], b[1], sum)``, then the same of ``a[0], b[0]``, each rounded to nearest
    even; subnormal numbers are zero before and after each. FP8 is bfloat16 to it.

    Sources: for the steps see `mma_step`; for promotion DeepSeek-V3 technical report, 3.3.2, and DeepGEMM;
    for "vdpbf16ps" Intel's Software Developer's Manual, and the instruction itself.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import quantize_blocks, quantize_tiles
    >>> x, w = np.full((2, 256), 1.75, np.float32), np.full((3, 256), -3.5, np.float32)
    >>> matmul_nt(quantize_tiles(x), quantize_blocks(w))
    array([[-1568., -1568., -1568.],
           [-1568., -1568., -1568.]], dtype=float32)
    """
    if c is None:
        made = _PLANS.run(a, b, (accumulator, promote_every, dtype), out)
        if made is not None:
            return made
    product = Product.of(a, b, accumulator, promote_every)
    left, right = product.left, product.right
    leading = left.codes.shape[:-2]
    if right.codes.ndim > 2 and right.codes.shape[:-2] != leading:
        raise misfit(left, right, f"expected b with two axes, or with leading axes {leading}")
    shape = (*leading, left.codes.shape[-2], right.codes.shape[-2])
    stack = (math.prod(leading), *shape[-2:], left.codes.shape[-1])
    stacked = right.codes.ndim > 2
    start, result, kind = product.arrays(shape, c, dtype, out)
    _core.matmul_nt(
        left.argument(),
        b.operand if isinstance(b, PreparedWeights) else right.argument(),
        stack,
        stacked,
        start,
        (accumulator, product.every),
        (flat(result), kind),
    )
    if c is None and _is_held(a, left) and _is_held(b, right):
        call, how = (accumulator, promote_every, dtype), (accumulator, product.every)
        sides = (left.format, right.format), (left.block, right.block)
        _PLANS.keep(a, b, call, *sides, stack, stacked, how, result, kind)
    return deliver(result, out)


# Products that were checked: they are made again without, of other sides of the same kind too.
_PLANS = _core.ProductPlans(
    (Quantized, ("codes", "scales", "format", "block", "axis", "scale_kind")),
    (PreparedWeights, ("codes", "scales", "format", "block", "unit_scales")),
)


def _is_held(x: Any, side: Side) -> bool:
    """Tell if a side's scales are just those that `x` holds, and none go into the unit."""
    held = x.side if isinstance(x, PreparedWeights) else x
    return side.unit_scales is None and side.scales is getattr(held, "scales", side)


def matmul_grouped_nt(
    a: ArrayLike | Quantized,
    b: ArrayLike | Quantized,
    offsets: ArrayLike,
    *,
    c: ArrayLike | None = None,
    accumulator: str = "hopper_fp8",
    promote_every: int | None = 128,
    dtype: DTypeLike = np.float32,
    out: Array | None = None,
) -> Array:
    """Each expert's rows, ``offsets[e]`` to ``offsets[e + 1]`` of `a`, times its own matrix ``b[e]``.

    Parameters
    ----------
    a : Quantized, or array_like of a format's dtype
        Shape (m, k): the rows of all experts, one expert after the other.
    b : Quantized, or array_like of a format's dtype
        Shape (experts, n, k).
    offsets : array_like of int
        Shape (experts + 1,), from 0 to m, never falling. An expert may have no rows.
    c, accumulator, promote_every, dtype, out
        As for `matmul_nt`, with results of shape (m, n).

    Returns
    -------
    ndarray of `dtype`, shape (m, n)
        `out` itself if given.

    Raises
    ------
    ValueError, TypeError
        As for `matmul_nt`; offsets of another kind, length or order.

    Examples
    --------
    >>> import ml_dtypes, numpy as np
    >>> rows = np.ones((3, 64), ml_dtypes.float8_e4m3fn)
    >>> experts = np.stack([rows[:1], rows[:1] * rows.dtype.type(2)])
    >>> matmul_grouped_nt(rows, experts, [0, 1, 3])
    array([[ 64.],
           [128.],
           [128.]], dtype=float32)
    """
    product = Product.of(a, b, accumulator, promote_every)
    left, right = product.left, product.right
    if left.codes.ndim != 2 or right.codes.ndim != 3:
        raise misfit(left, right, "expected (m, k) and (experts, n, k)")
    (rows, k), (experts, n, _) = left.codes.shape, right.codes.shape
    ends = checked_offsets(offsets, experts, rows)
    start, result, kind = product.arrays((rows, n), c, dtype, out)
    _core.matmul_grouped_nt(
        left.argument(),
        right.argument(),
        ends,
        (experts, rows, n, k),
        start,
        (accumulator, product.every),
        (flat(result), kind),
    )
    return deliver(result, out)
