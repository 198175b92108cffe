"""Codes of LogFMT without unused bits: DeepEP's layout, and code after code.

Lives here: packing and its way back. What codes mean is in `logfmt` and `logfmt_result`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arrays import Array, as_array, brief, flat, whole

Layout = Literal["plain", "deepep"]

LEAST_BITS, MOST_BITS = 3, 16
_GROUP = 16


def code_dtype(bits: Any) -> np.dtype[Any]:
    """Return the dtype of codes of so many bits, which are checked."""
    found = whole(bits, "bits")
    if not LEAST_BITS <= found <= MOST_BITS:
        why = " (a sign and a zero leave 2 bits one value, and no step)" if found == 2 else ""
        raise ValueError(f"bits: found {brief(found)}, expected {LEAST_BITS} to {MOST_BITS}{why}")
    return np.dtype(np.uint8 if found <= 8 else np.uint16)


def logfmt_pack(codes: ArrayLike, *, bits: int, layout: Layout = "plain") -> NDArray[np.uint8]:
    """Put codes side by side along the last axis; each row starts in a byte of its own.

    Parameters
    ----------
    codes : array_like of uint8 (to 8 bits) or uint16
        At least one axis. The low `bits` count.
    bits : int
        Width of a code with its sign, 3 to 16.
    layout : {"plain", "deepep"}
        plain: code after code, from the low bit of the first byte up; a last byte that is not full ends in
        zero bits. deepep: as DeepEP sends them, in groups of 16 elements: first every K (``bits - 1`` bits,
        from the low bit up), then the 16 signs; a last group that is not full ends in zero codes.

    Returns
    -------
    ndarray of uint8
        Shape of `codes` but for the last axis of n codes: ``ceil(n * bits / 8)``, or for deepep
        ``2 * bits * ceil(n / 16)``.

    Raises
    ------
    TypeError
        Arrays of another dtype.
    ValueError
        No axis; `bits` or `layout` unknown.

    Examples
    --------
    >>> import numpy as np
    >>> logfmt_pack(np.uint8([1, 3, 13, 7]), bits=4)
    array([ 49, 125], dtype=uint8)
    >>> logfmt_pack(np.zeros((2, 7168), np.uint16), bits=10, layout="deepep").shape
    (2, 8960)
    """
    dtype, bits = code_dtype(bits), int(bits)
    array = _checked(codes, "codes", dtype, f" for {bits} bits")
    length = array.shape[-1]
    packed = _core.empty((*array.shape[:-1], _row_bytes(length, bits, layout)), np.uint8)
    if packed.size:
        _core.logfmt_pack(flat(array), (length, bits, layout), flat(packed))
    return packed


def logfmt_unpack(packed: ArrayLike, *, bits: int, size: int, layout: Layout = "plain") -> Array:
    """Take apart what `logfmt_pack` put together.

    Parameters
    ----------
    packed : array_like of uint8
        At least one axis.
    bits : int
        Width of a code with its sign, 3 to 16.
    size : int
        Codes in each row.
    layout : {"plain", "deepep"}
        As it was packed.

    Returns
    -------
    ndarray of uint8 (to 8 bits) or uint16
        Shape of `packed` but for the last axis, which is `size`.

    Raises
    ------
    TypeError, ValueError
        As for `unpack`; `bits` or `layout` unknown.

    Examples
    --------
    >>> import numpy as np
    >>> logfmt_unpack(np.uint8([49, 125]), bits=4, size=4)
    array([ 1,  3, 13,  7], dtype=uint8)
    """
    dtype, bits = code_dtype(bits), int(bits)
    array = _checked(packed, "packed", np.dtype(np.uint8), "")
    length = whole(size, "size")
    if length < 0 or _row_bytes(length, bits, layout) != array.shape[-1]:
        raise ValueError(
            f"size: found {length} codes for a last axis of {array.shape[-1]} bytes, "
            "which holds another number"
        )
    codes = _core.empty((*array.shape[:-1], length), dtype)
    if codes.size:
        _core.logfmt_unpack(flat(array), (length, bits, layout), flat(codes))
    return codes


def _row_bytes(length: int, bits: int, layout: Layout) -> int:
    if layout not in get_args(Layout):
        raise ValueError(f"layout: found {brief(layout)}, expected one of {', '.join(get_args(Layout))}")
    return -(-length * bits // 8) if layout == "plain" else 2 * bits * -(-length // _GROUP)


def _checked(value: ArrayLike, name: str, dtype: np.dtype[Any], why: str) -> Array:
    array = as_array(value, name)
    if array.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"{name}: found dtype {array.dtype}, expected {dtype}{why}")
    if array.ndim == 0:
        raise ValueError(f"{name}: found no axis, expected at least one")
    return array
