"""Grouped products as kernels are called: rows with an expert each, padded groups, and groups along k.

Lives here: which rows and which k meet which matrix. The products are those of `gemm`, and rows that belong
to no group are not read.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ._arrays import Array, as_array, brief, deliver, destination, whole
from .gemm import matmul_grouped_nt, matmul_nt
from .quantized import Quantized


def matmul_contiguous_nt(
    a: ArrayLike | Quantized,
    b: ArrayLike | Quantized,
    m_indices: ArrayLike,
    *,
    c: ArrayLike | None = None,
    accumulator: str = "hopper_fp8",
    promote_every: int | None = 128,
    dtype: DTypeLike = np.float32,
    out: Array | None = None,
) -> Array:
    """Multiply each row of `a` by the matrix of its own expert.

    Parameters
    ----------
    a : Quantized, or array_like of a format's dtype
        Shape (m, k). Quantized with tiles along k, or with blocks of one row.
    b : Quantized, or array_like of a format's dtype
        Shape (experts, n, k).
    m_indices : array_like of int
        Shape (m,): the expert of each row, in any order; -1 for padding, which is not read.
    c, accumulator, promote_every, dtype, out
        As for `matmul_nt`, with results of shape (m, n).

    Returns
    -------
    ndarray of `dtype`, shape (m, n)
        `out` itself if given. Rows of padding are `c`, or zero.

    Raises
    ------
    ValueError, TypeError
        As for `matmul_nt`; indices of another shape, kind or range; blocks of `a` that hold several rows.

    Notes
    -----
    Source: DeepGEMM, ``m_grouped_fp8_gemm_nt_contiguous``.

    Examples
    --------
    >>> import ml_dtypes, numpy as np
    >>> rows = np.ones((3, 64), ml_dtypes.float8_e4m3fn)
    >>> experts = np.stack([rows[:1], rows[:1] * rows.dtype.type(2)])
    >>> matmul_contiguous_nt(rows, experts, [1, -1, 0]).tolist()
    [[128.0], [0.0], [64.0]]
    """
    shape, experts = _shapes(a, b, 2)
    indices = _integers(m_indices, "m_indices", (shape[0],), -1, experts - 1)
    rows = np.flatnonzero(indices >= 0)
    order = rows[np.argsort(indices[rows], kind="stable")]
    offsets = np.searchsorted(indices[order], np.arange(experts + 1))
    return _picked(a, b, order, offsets, c, dtype, out, accumulator, promote_every)


def matmul_masked_nt(
    a: ArrayLike | Quantized,
    b: ArrayLike | Quantized,
    masked_m: ArrayLike,
    *,
    c: ArrayLike | None = None,
    accumulator: str = "hopper_fp8",
    promote_every: int | None = 128,
    dtype: DTypeLike = np.float32,
    out: Array | None = None,
) -> Array:
    """Multiply the first rows of each expert's own buffer by its matrix, as decoding does.

    Parameters
    ----------
    a : Quantized, or array_like of a format's dtype
        Shape (experts, max m, k). Quantized with tiles along k, or with blocks of one row.
    b : Quantized, or array_like of a format's dtype
        Shape (experts, n, k).
    masked_m : array_like of int
        Shape (experts,): rows of each buffer that count. Those beyond are not read: they may hold anything,
        NaN among their scales too.
    c, accumulator, promote_every, dtype, out
        As for `matmul_nt`, with results of shape (experts, max m, n).

    Returns
    -------
    ndarray of `dtype`, shape (experts, max m, n)
        `out` itself if given. Rows beyond are `c`, or zero.

    Raises
    ------
    ValueError, TypeError
        As for `matmul_nt`; counts of another shape, kind or range; blocks of `a` that hold several rows.

    Notes
    -----
    Source: DeepGEMM, ``m_grouped_fp8_gemm_nt_masked``.

    Examples
    --------
    >>> import ml_dtypes, numpy as np
    >>> buffers = np.ones((2, 2, 64), ml_dtypes.float8_e4m3fn)
    >>> matmul_masked_nt(buffers, buffers[:, :1], [1, 0]).tolist()
    [[[64.0], [0.0]], [[0.0], [0.0]]]
    """
    shape, experts = _shapes(a, b, 3)
    if shape[0] != experts:
        raise ValueError(f"a and b: found {shape[0]} buffers and {experts} matrices, expected as many")
    counts = _integers(masked_m, "masked_m", (experts,), 0, shape[1])
    within = np.arange(shape[1]) < counts[:, None]
    order, offsets = np.flatnonzero(within), np.concatenate([[0], np.cumsum(counts)])
    n = np.shape(b.codes if isinstance(b, Quantized) else b)[1]
    if c is not None:
        c = as_array(c, "c")
        if c.shape != (*shape[:2], n):
            raise ValueError(f"c: found shape {c.shape}, expected {(*shape[:2], n)}, that of the result")
        c = c.reshape(-1, n)
    flat_out = _picked(_flattened(a, shape), b, order, offsets, c, dtype, None, accumulator, promote_every)
    result = destination(out, (*shape[:2], n), flat_out.dtype)
    result[...] = flat_out.reshape(result.shape)
    return deliver(result, out)


def matmul_k_grouped_nt(
    a: ArrayLike | Quantized,
    b: ArrayLike | Quantized,
    ks: ArrayLike,
    *,
    c: ArrayLike | None = None,
    accumulator: str = "hopper_fp8",
    promote_every: int | None = 128,
    dtype: DTypeLike = np.float32,
) -> Array:
    """Multiply each expert's part of k, as the gradient of experts' weights (Wgrad) does.

    Parameters
    ----------
    a, b : Quantized, or array_like of a format's dtype
        Shapes (m, k) and (n, k), the k (tokens) of all experts one after another. Quantized with tiles along
        k, or with blocks; a part begins where a scale does.
    ks : array_like of int
        Shape (experts,): how much of k each has; zero is allowed. Their sum is k.
    c : array_like of float32, float16 or bfloat16, optional
        Added to; shape (experts, m, n).
    accumulator, promote_every, dtype
        As for `matmul_nt`.

    Returns
    -------
    ndarray of `dtype`, shape (experts, m, n)

    Raises
    ------
    ValueError, TypeError
        As for `matmul_nt`; parts of another kind, a sum that is not k, a part that begins inside a scale.

    Notes
    -----
    Source: DeepGEMM, ``k_grouped_fp8_gemm_tn_contiguous``.

    Examples
    --------
    >>> import ml_dtypes, numpy as np
    >>> tokens = np.ones((1, 96), ml_dtypes.float8_e4m3fn)
    >>> matmul_k_grouped_nt(tokens, tokens, [32, 0, 64]).tolist()
    [[[32.0]], [[0.0]], [[64.0]]]
    """
    shapes = [np.shape(x.codes if isinstance(x, Quantized) else x) for x in (a, b)]
    if any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(f"a and b: found shapes {shapes[0]} and {shapes[1]}, expected (m, k) and (n, k)")
    (m, k), n = shapes[0], shapes[1][0]
    parts = _integers(ks, "ks", (np.size(as_array(ks, "ks")),), 0, k)
    if parts.sum() != k:
        raise ValueError(f"ks: found parts of {int(parts.sum())} in all, expected {k}, the k of a and b")
    if c is not None and np.shape(c) != (len(parts), m, n):
        raise ValueError(f"c: found shape {np.shape(c)}, expected {(len(parts), m, n)}")
    starts, results = np.concatenate([[0], np.cumsum(parts)]).tolist(), []
    for e in range(len(parts)):
        x, y = (_part_of_k(v, starts[e], starts[e + 1], name, e) for v, name in ((a, "a"), (b, "b")))
        start = None if c is None else as_array(c, "c")[e]
        results.append(
            matmul_nt(x, y, c=start, accumulator=accumulator, promote_every=promote_every, dtype=dtype)
        )
    return np.stack(results) if results else np.zeros((0, m, n), dtype)


def _shapes(a: Any, b: Any, axes: int) -> tuple[tuple[int, ...], int]:
    """Return the shape of a, and how many matrices b has."""
    shapes = [np.shape(x.codes if isinstance(x, Quantized) else x) for x in (a, b)]
    if len(shapes[0]) != axes or len(shapes[1]) != 3:
        expected = "(m, k)" if axes == 2 else "(experts, max m, k)"
        raise ValueError(
            f"a and b: found shapes {shapes[0]} and {shapes[1]}, expected {expected} and (experts, n, k)"
        )
    return shapes[0], shapes[1][0]


def _integers(x: Any, name: str, shape: tuple[int, ...], least: int, most: int) -> NDArray[np.int64]:
    array = as_array(x, name)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name}: found dtype {array.dtype}, expected integers")
    if array.shape != shape:
        raise ValueError(f"{name}: found shape {array.shape}, expected {shape}")
    values = [whole(value, name) for value in array.tolist()]
    for place, value in enumerate(values):
        if not least <= value <= most:
            raise ValueError(f"{name}: found {value} at {place}, expected {least} to {most}")
    return np.array(values, np.int64)


def _one_row(x: Quantized) -> None:
    """Refuse scales that several rows share: rows are picked."""
    tiles = x.axis == len(x.shape) - 1
    if not tiles and not (x.axis is None and x.block[0] == 1):
        raise ValueError(f"a: found {brief(x)}, expected tiles along the last axis, or blocks of one row")


def _rows(x: Any, order: NDArray[np.int64]) -> Any:
    if not isinstance(x, Quantized):
        return as_array(x, "a")[order]
    _one_row(x)
    return replace(x, codes=x.codes[order], scales=x.scales[order], **_outer(x, lambda g: g[order]))


def _flattened(x: Any, shape: tuple[int, ...]) -> Any:
    """Lay the buffers of all experts out as rows of one matrix."""
    if not isinstance(x, Quantized):
        return as_array(x, "a").reshape(-1, shape[-1])
    _one_row(x)
    rows = math.prod(shape[:2])
    codes, scales = x.codes.reshape(rows, shape[-1]), x.scales.reshape(rows, x.scales.shape[-1])
    axis = None if x.axis is None else 1
    return replace(x, codes=codes, scales=scales, axis=axis, **_outer(x, lambda g: g.reshape(rows, 1)))


def _outer(x: Quantized, pick: Any) -> dict[str, Any]:
    """Pick from the global scale, where there is one for each row."""
    if x.global_scale is None or np.ndim(x.global_scale) == 0:
        return {}
    return {"global_scale": pick(np.asarray(x.global_scale))}


def _part_of_k(x: Any, start: int, stop: int, name: str, expert: int) -> Any:
    if not isinstance(x, Quantized):
        return as_array(x, name)[:, start:stop]
    if x.axis not in (None, 1):
        raise ValueError(f"{name}: found tiles along axis {x.axis}, expected tiles along k, or blocks")
    length = min(x.block[-1], max(x.shape[1], 1))
    if start % length and stop > start:
        raise ValueError(
            f"ks: found part {expert} begins at {start}, inside a scale of {name}, expected a multiple of "
            f"{length}"
        )
    first = start // length
    last = -(-stop // length) if stop > start else first
    codes = np.ascontiguousarray(x.codes[:, start:stop])
    scales = np.ascontiguousarray(x.scales[:, first:last])
    return replace(x, codes=codes, scales=scales)


def _picked(
    a: Any,
    b: Any,
    order: NDArray[np.int64],
    offsets: NDArray[np.int64],
    c: Any,
    dtype: Any,
    out: Any,
    accumulator: str,
    promote_every: int | None,
) -> Array:
    """Multiply picked rows, and put the products where they came from; the others are c, or zero."""
    rows = len(a.codes if isinstance(a, Quantized) else as_array(a, "a"))
    n = np.shape(b.codes if isinstance(b, Quantized) else b)[1]
    start = None if c is None else as_array(c, "c")
    if start is not None and start.shape != (rows, n):
        raise ValueError(f"c: found shape {start.shape}, expected {(rows, n)}, that of the result")
    product = matmul_grouped_nt(
        _rows(a, order),
        b,
        offsets,
        c=None if start is None else start[order],
        accumulator=accumulator,
        promote_every=promote_every,
        dtype=dtype,
    )
    result = destination(out, (rows, n), product.dtype)
    result[...] = 0 if start is None else start.astype(np.float32)
    result[order] = product
    return deliver(result, out)
