"""Oracle of casts of float32, computed with NumPy and ml_dtypes alone.

`nonfinite` is the plain `astype` of ml_dtypes; `saturate` is clip, then cast. Formats without NaN are
compared under `nan="zero"`, since there is no code to compare; integers are rounded by `np.rint`.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

INTEGERS = {"int8": (np.dtype(np.int8), 127), "int4": (np.dtype(ml_dtypes.int4), 7)}

#        every format of 8 bits or fewer
SMALL = (
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3",
    "float8_e3m4",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e4m3b11fnuz",
    "float8_e8m0fnu",
    "float6_e2m3fn",
    "float6_e3m2fn",
    "float4_e2m1fn",
    "int8",
    "int4",
)
WIDE = ("bfloat16", "float16")
NO_NAN = {"float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn", "int8", "int4"}


def overflows(fmt: str) -> tuple[str, ...]:
    """The overflow modes of a format."""
    return ("saturate",) if fmt in NO_NAN else ("nonfinite", "saturate")


def code_dtype(fmt: str) -> np.dtype[Any]:
    """The dtype of the codes."""
    return INTEGERS[fmt][0] if fmt in INTEGERS else np.dtype(fmt)


def expected(x: Array, fmt: str, overflow: str) -> Array:
    """Codes, as bytes, of float32 `x`, rounded to nearest even."""
    with np.errstate(all="ignore"):
        if fmt in NO_NAN:
            x = np.where(np.isnan(x), np.copysign(np.float32(0), x), x)
        if fmt in INTEGERS:
            dtype, top = INTEGERS[fmt]
            return np.clip(np.rint(x), -top, top).astype(np.int8).astype(dtype).view(np.uint8)
        if overflow == "saturate":
            x = saturated(x, fmt)
        if fmt == "float8_e8m0fnu":
            # Where ml_dtypes is wrong: it rounds what is just above 2**-127 up, not to nearest.
            x = np.where((x > 2.0**-127) & (x < 1.5 * 2.0**-127), np.float32(2.0**-127), x)
        if fmt in WIDE:  # a NaN of theirs keeps its payload, ours its sign
            x = np.where(np.isnan(x), np.copysign(np.float32(np.nan), x), x)
        return x.astype(fmt).view(np.uint8)


def saturated(x: Array, fmt: str) -> Array:
    """`x` brought into the range of the format; NaN stays NaN."""
    top = np.float32(ml_dtypes.finfo(fmt).max)
    if fmt == "float8_e8m0fnu":
        # Unsigned and without a zero: zero becomes the smallest code, what is below zero has no place at all.
        return np.where(x < 0, np.float32(np.nan), np.clip(x, np.float32(2.0**-127), top))
    return np.clip(x, -top, top)
