"""SwiGLU and its gradient in NumPy, with the rounding points of a compute dtype."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .._arrays import Array

Float64s = NDArray[np.float64]

COMPUTE = ("float32", "bf16", "float64")
"""Compute dtypes of SwiGLU: each result is rounded, every operation, nothing."""


def rounded(x: Float64s, compute: str, last: bool = True) -> Array:
    """Round an operation's result; `last`: of several that one kernel may do together."""
    if compute == "float64" or (compute == "float32" and not last):
        return x
    narrow: Array = x.astype(np.float32)
    return narrow if compute == "float32" else narrow.astype(ml_dtypes.bfloat16)


def swiglu(a: Array, b: Array, compute: str) -> Array:
    """``silu(a) * b``.

    Examples
    --------
    >>> swiglu(np.float32([0, 100]), np.float32([3, 2]), "float32")
    array([  0., 200.], dtype=float32)
    """
    gate, up = a.astype(np.float64), b.astype(np.float64)
    return rounded(rounded(gate * _sigmoid(gate), compute, last=False).astype(np.float64) * up, compute)


def swiglu_gradient(a: Array, b: Array, dh: Array, compute: str) -> tuple[Array, Array]:
    """Return the gradients of a and b, from that of ``silu(a) * b``."""
    gate, up, above = (x.astype(np.float64) for x in (a, b, dh))
    share = _sigmoid(gate)
    silu = rounded(gate * share, compute, last=False).astype(np.float64)
    of_silu = rounded(above * up, compute, last=False).astype(np.float64)
    return rounded(of_silu * (share * (1 + gate * (1 - share))), compute), rounded(above * silu, compute)


def _sigmoid(x: Float64s) -> Float64s:
    """``1 / (1 + exp(-x))`` without overflow."""
    small = np.exp(-np.abs(x))
    found: Float64s = np.where(x < 0, small, 1.0) / (1 + small)
    return found
