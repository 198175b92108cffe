"""The table of safetensors dtypes: what each is in NumPy, and how many bits an element has.

Lives here: the one list of names, and the two ways through it. Formats of less than a byte are stored packed
and seen as bytes; `dsv3_numerics.unpack` takes them apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class Dtype:
    """One dtype of the file format."""

    name: str
    "As safetensors spells it."
    element: np.dtype[Any]
    "Dtype of an element."
    bits: int
    "Bits of an element in the file."

    @property
    def packed(self) -> bool:
        """True: elements share bytes."""
        return self.bits % 8 != 0

    @property
    def stored(self) -> np.dtype[Any]:
        """The dtype of the array that a file's bytes are seen as: uint8 for packed elements."""
        return np.dtype(np.uint8) if self.packed else self.element

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of this shape."""
        return math.prod(shape) * self.bits // 8

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of that array.

        Packed elements shorten the last axis; where its rows do not end on a byte, one axis of bytes is left.
        """
        if not self.packed:
            return shape
        if shape and shape[-1] * self.bits % 8 == 0:
            return (*shape[:-1], shape[-1] * self.bits // 8)
        return (self.nbytes(shape),)


# name, element, bits
DTYPES = {
    name: Dtype(name, np.dtype(element), bits)
    for name, element, bits in [
        ("BOOL", np.bool_, 8),
        ("F4", ml_dtypes.float4_e2m1fn, 4),
        ("F6_E2M3", ml_dtypes.float6_e2m3fn, 6),
        ("F6_E3M2", ml_dtypes.float6_e3m2fn, 6),
        ("U8", np.uint8, 8),
        ("I8", np.int8, 8),
        ("F8_E5M2", ml_dtypes.float8_e5m2, 8),
        ("F8_E4M3", ml_dtypes.float8_e4m3fn, 8),
        ("F8_E8M0", ml_dtypes.float8_e8m0fnu, 8),
        ("F8_E4M3FNUZ", ml_dtypes.float8_e4m3fnuz, 8),
        ("F8_E5M2FNUZ", ml_dtypes.float8_e5m2fnuz, 8),
        ("I16", np.int16, 16),
        ("U16", np.uint16, 16),
        ("F16", np.float16, 16),
        ("BF16", ml_dtypes.bfloat16, 16),
        ("I32", np.int32, 32),
        ("U32", np.uint32, 32),
        ("F32", np.float32, 32),
        ("C64", np.complex64, 64),
        ("F64", np.float64, 64),
        ("I64", np.int64, 64),
        ("U64", np.uint64, 64),
    ]
}
# Codes that mean nothing without a scale beside them.
SCALED = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_BY_ELEMENT = {row.element: row for row in DTYPES.values()}


def of_numpy(dtype: Any) -> Dtype:
    """Return the file's dtype for an array's.

    Raises
    ------
    TypeError
        A dtype that the file format does not have.

    Examples
    --------
    >>> import ml_dtypes
    >>> of_numpy(ml_dtypes.float8_e4m3fn).name
    'F8_E4M3'
    """
    element = np.dtype(dtype).newbyteorder("=")
    if element not in _BY_ELEMENT:
        raise TypeError(f"dtype: found {np.dtype(dtype)}, expected one of {', '.join(map(str, _BY_ELEMENT))}")
    return _BY_ELEMENT[element]
