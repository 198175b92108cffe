"""A number on its own: value tables, `encode`, `decode`, `pack` and `unpack` from their definitions.

A format is a row of `FORMATS`. `value_table` spells out what each code means; everything else follows from
it. Every float32, float16 and bfloat16 value, every quotient by a power of two and every midpoint is exact in
float64, so the arithmetic below has no rounding of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .philox import random_bytes, random_words

Array = NDArray[Any]
Float64s = NDArray[np.float64]


class Row(NamedTuple):
    """Exponent bits, mantissa bits, bias, what the topmost codes mean, and whether there are subnormals."""

    exp: int
    man: int
    bias: int
    top: str
    subnormals: bool = True

    @property
    def bits(self) -> int:
        """Width of a code; `exp` and `man` are the magnitude's, and all but scales have a sign."""
        return self.exp + self.man + (self.top != "scale")

    @property
    def sign(self) -> int:
        """The sign bit."""
        return 1 << (self.bits - 1)


FORMATS = {
    "float8_e4m3fn": Row(4, 3, 7, "nan_only"),
    "float8_e5m2": Row(5, 2, 15, "ieee"),
    "float8_e4m3": Row(4, 3, 7, "ieee"),
    "float8_e3m4": Row(3, 4, 3, "ieee"),
    "float8_e4m3fnuz": Row(4, 3, 8, "fnuz"),
    "float8_e5m2fnuz": Row(5, 2, 16, "fnuz"),
    "float8_e4m3b11fnuz": Row(4, 3, 11, "fnuz"),
    "float8_e8m0fnu": Row(8, 0, 127, "scale"),
    "float6_e2m3fn": Row(2, 3, 1, "none"),
    "float6_e3m2fn": Row(3, 2, 3, "none"),
    "float4_e2m1fn": Row(2, 1, 1, "none"),
    "bfloat16": Row(8, 7, 127, "ieee"),
    "float16": Row(5, 10, 15, "ieee"),
    "e5m6": Row(5, 6, 15, "ieee"),
    "int8": Row(0, 7, 0, "integer"),
    "int4": Row(0, 3, 0, "integer"),
}
"""Rows of formats by name, as `dsv3_numerics.formats` has them: a second list on purpose."""


_SPELLED = re.compile(r"e(\d+)m(\d+)b(-?\d+)_(ieee|nan_only|fnuz|none)(_nosub)?")


def format_row(name: str) -> Row:
    """Find a format's row, from its name in the table or one that spells the row, such as e3m2b3_none."""
    if name in FORMATS:
        return FORMATS[name]
    parts = _SPELLED.fullmatch(name)
    if parts is None:
        raise ValueError(f"{name!r} is neither a format of the table nor a spelled row")
    exp, man, bias, top, nosub = parts.groups()
    return Row(int(exp), int(man), int(bias), top, nosub is None)


def code_dtype(name: str) -> np.dtype[Any]:
    """Find the NumPy dtype of a format's codes: ml_dtypes' where it has one, else unsigned integers."""
    if name == "e5m6" or name not in FORMATS:
        return np.dtype(np.uint8 if format_row(name).bits <= 8 else np.uint16)
    return np.dtype(getattr(ml_dtypes, name, None) or name)


_BY_DTYPE = {code_dtype(name): name for name in FORMATS if name != "e5m6"}


def format_name(dtype: Any) -> str:
    """Return the row's name, from the name itself or from a dtype of its codes."""
    return dtype if isinstance(dtype, str) else _BY_DTYPE[np.dtype(dtype)]


def nan_code(f: Row) -> int | None:
    """Return the canonical NaN without its sign bit (IEEE: quiet), or None."""
    full = (1 << (f.exp + f.man)) - 1
    quiet = full - (1 << f.man >> 1) + 1
    return {"ieee": quiet, "nan_only": full, "fnuz": f.sign, "scale": full}.get(f.top)


def inf_code(f: Row) -> int | None:
    """Plus infinity, or None."""
    return ((1 << f.exp) - 1) << f.man if f.top == "ieee" else None


@cache
def value_table(name: str) -> Float64s:
    """Return the value of each code of a format.

    Parameters
    ----------
    name : str
        A key of `FORMATS`.

    Returns
    -------
    ndarray of float64, shape (2**bits,)
        Exact. NaN codes carry the sign that decoding gives them.

    Examples
    --------
    >>> value_table("float4_e2m1fn")[:8].tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    f = format_row(name)
    code = np.arange(1 << f.bits)
    if f.top == "integer":
        return (code - 2 * (code & f.sign)).astype(np.float64)
    if f.top == "scale":
        return np.where(code == nan_code(f), np.nan, np.ldexp(1.0, code - f.bias))
    exponent, mantissa = (code >> f.man) & ((1 << f.exp) - 1), code & ((1 << f.man) - 1)
    normal = exponent > 0
    value = np.ldexp(mantissa + (normal << f.man), np.where(normal, exponent, 1) - f.bias - f.man)
    value = np.where(normal | f.subnormals, value, 0)
    if f.top == "ieee":
        value = np.where(exponent == (1 << f.exp) - 1, np.where(mantissa == 0, np.inf, np.nan), value)
    elif f.top != "none":
        value = np.where(code & (~f.sign if f.top == "nan_only" else -1) == nan_code(f), np.nan, value)
    return np.asarray(np.copysign(value, np.where(code & f.sign, -1.0, 1.0)))


@cache
def _magnitudes(name: str) -> tuple[Float64s, NDArray[np.intp]]:
    """Return the finite values without sign, ascending, and their codes."""
    table = value_table(name)
    codes = np.flatnonzero(np.isfinite(table) & ~np.signbit(table))
    values, first = np.unique(table[codes], return_index=True)  # without subnormals, many codes are zero
    return values, codes[first]


def _exponent(magnitude: Float64s) -> NDArray[np.intc]:
    """floor(log2(magnitude)); anything for zero, infinity and NaN."""
    return np.frexp(magnitude)[1] - np.intc(1)


def round_to_odd(x: Float64s) -> Float64s:
    """float64 to float32's grid, inexact results going to the odd neighbour.

    A later rounding to fewer digits is then as good as the only one (Boldo and Melquiond, IEEE Transactions
    on Computers 57(4), 2008). Magnitudes beyond float32 become its largest finite number, which is odd.
    """
    magnitude = np.where(np.isfinite(x), np.abs(x), 0)
    quantum = np.maximum(_exponent(magnitude), -126) - 23
    m = np.ldexp(magnitude, -quantum)
    base = np.floor(m)
    odd = base + ((m != base) & (base % 2 == 0))
    limited = np.fmin(np.ldexp(odd, quantum), float(np.finfo(np.float32).max))
    return np.copysign(np.where(np.isfinite(x), limited, np.abs(x)), x)


def _nearest_away(m: Float64s, negative: Array, words: Any) -> Float64s:
    return np.floor(m) + (m - np.floor(m) >= 0.5)


def _stochastic(m: Float64s, negative: Array, words: Any) -> Float64s:
    return np.asarray(np.floor(m) + (words < np.floor((m - np.floor(m)) * 2.0**32)))


def _stochastic8(m: Float64s, negative: Array, words: Any) -> Float64s:
    return np.asarray(np.floor(m) + (np.floor((m - np.floor(m)) * 2.0**8) + words >= 2.0**8))


def _nearest_toward_zero(m: Float64s, negative: Array, words: Any) -> Float64s:
    return np.ceil(m - 0.5)


# Each mode maps a magnitude, in units of the spacing around it, to a whole number.
_ROUND: dict[str, Callable[[Float64s, Array, Any], Float64s]] = {
    "nearest_even": lambda m, negative, words: np.rint(m),
    "nearest_away": _nearest_away,
    "nearest_toward_zero": _nearest_toward_zero,
    "toward_zero": lambda m, negative, words: np.floor(m),
    "up": lambda m, negative, words: np.where(negative, np.floor(m), np.ceil(m)),
    "down": lambda m, negative, words: np.where(negative, np.ceil(m), np.floor(m)),
    "stochastic": _stochastic,
    "stochastic8": _stochastic8,
}
RANDOM_BITS = {"stochastic": random_words, "stochastic8": random_bytes}
"""Modes that round at random, and the function that draws the bits of elements 0..n-1 from a seed."""
# Where a mode's overflow is infinite (IEEE 754-2019, 7.4).
_CARRIES: dict[str, Callable[[Array], Any]] = {
    "toward_zero": lambda negative: False,
    "up": lambda negative: ~negative,
    "down": lambda negative: negative,
}


def _round_on_grid(x: Float64s, f: Row, rounding: str, words: Any) -> Float64s:
    """|x| rounded to the format's spacing, as if the exponent had no upper end."""
    smallest = -f.bias if f.top == "scale" else 1 - f.bias
    exponent = np.maximum(_exponent(np.abs(x)), smallest) - f.man
    if not f.subnormals:  # below the smallest normal number the next one is zero
        exponent = np.where(np.abs(x) < 2.0**smallest, smallest, exponent)
    quantum = np.zeros_like(exponent) if f.top == "integer" else exponent
    rounded = _ROUND[rounding](np.ldexp(np.abs(x), -quantum), np.signbit(x), words)
    return np.asarray(np.ldexp(rounded, quantum))


def _with_sign(code: Array, negative: Array, f: Row) -> Array:
    if f.top == "integer":
        return np.where(negative, -code, code) & ((1 << f.bits) - 1)
    signless = (code == 0) if f.top == "fnuz" else f.top == "scale"
    return np.where(negative & ~np.asarray(signless), code | f.sign, code)


def _scale_rules(code: Array, x: Float64s, overflow: str) -> Array:
    """E8M0 has neither sign nor zero: negative numbers are NaN, and zero is too unless results saturate."""
    refused = (x < 0) | ((x == 0) & (overflow == "nonfinite"))
    return np.where(refused, 0xFF, code)


def encode(
    x: ArrayLike,
    fmt: Any,
    *,
    rounding: str = "nearest_even",
    overflow: str = "saturate",
    nan: str = "code",
    seed: int = 0,
    words: Any = None,
) -> Array:
    """Numbers to codes: round on the grid, settle overflow, look the code up in the table of values.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        Any shape. float64 is rounded once.
    fmt : str or dtype
        The target format.
    rounding, overflow, nan, seed
        As in `dsv3_numerics.encode`.
    words : ndarray, shape of `x`, optional
        The random bits of a mode that takes them, instead of those of `seed` in C order.

    Returns
    -------
    ndarray
        Codes, shape of `x`.

    Raises
    ------
    ValueError
        NaN without a code for it (or ``nan="raise"``); ``overflow="nonfinite"`` in a finite format.

    Examples
    --------
    >>> encode(np.float32([1.0, 1.07, 1e9]), "float8_e4m3fn").astype(float).tolist()
    [1.0, 1.125, 448.0]
    """
    name = format_name(fmt)
    f = format_row(name)
    given = np.asarray(x)
    if rounding in RANDOM_BITS and words is None:
        words = RANDOM_BITS[rounding](given.size, seed).reshape(given.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        wide = np.asarray(given.astype(np.float64))
        wide = round_to_odd(wide) if rounding in RANDOM_BITS else wide
        value = _round_on_grid(wide, f, rounding, words)
    negative, is_nan = np.signbit(wide), np.isnan(wide)
    if is_nan.any() and (nan == "raise" or (nan == "code" and nan_code(f) is None)):
        raise ValueError(f"x contains NaN and nan={nan!r} has no code for it in {name}")
    grid, codes = _magnitudes(name)
    code = codes[np.searchsorted(grid, np.fmin(value, grid[-1]))]
    if overflow == "nonfinite":
        top = inf_code(f) if inf_code(f) is not None else nan_code(f)
        if top is None:
            raise ValueError(f"overflow='nonfinite': {name} has only finite values")
        carries = np.isinf(wide) | (_CARRIES[rounding](negative) if rounding in _CARRIES else True)
        code = np.where((value > grid[-1]) & carries, top, code)
    code = np.where(is_nan, {"code": nan_code(f), "zero": 0}.get(nan, codes[-1]), code)
    code = _with_sign(code, negative, f)
    code = _scale_rules(code, wide, overflow) if f.top == "scale" else code
    out = code_dtype(name)
    return code.astype(f"u{out.itemsize}").view(out)


def _raw(codes: ArrayLike, fmt: Any) -> tuple[NDArray[np.intp], str]:
    """Codes as whole numbers in 0..2**bits-1, and the format they are in."""
    array = np.asarray(codes)
    name = format_name(array.dtype if fmt is None else fmt)
    return array.view(f"u{array.itemsize}").astype(np.intp) & ((1 << format_row(name).bits) - 1), name


def decode(codes: ArrayLike, *, fmt: Any = None, dtype: Any = np.float32) -> Array:
    """Codes to numbers: look them up, then round once to `dtype` (which only float16 and bfloat16 need).

    Parameters
    ----------
    codes : array of an ml_dtypes dtype, or of uint8 / uint16 with `fmt`
        Only the low bits that the format has are read.
    fmt : str or dtype, optional
        The format, where the dtype does not say it.
    dtype : dtype
        float32, float64, float16 or bfloat16.

    Returns
    -------
    ndarray of `dtype`, shape of `codes`

    Examples
    --------
    >>> decode(np.uint8([0x38, 0x7E]), fmt="float8_e4m3fn").tolist()
    [1.0, 448.0]
    """
    raw, name = _raw(codes, fmt)
    with np.errstate(over="ignore"):
        value = value_table(name)[raw]
        if np.dtype(dtype) == np.float64:
            return np.asarray(value)
        return np.asarray(np.asarray(value, np.float32).astype(dtype))


def _order(bits: int) -> NDArray[np.intp]:
    """Places of a code's bits in the stream: E5M6 fills words from the top, others bytes from the bottom."""
    return np.arange(bits)[::-1] if bits == 12 else np.arange(bits)


def pack(codes: ArrayLike, *, fmt: Any = None) -> Array:
    """Codes side by side without unused bits, along the last axis.

    Codes fill bytes from the low bit up. 12-bit codes fill three 32-bit words per eight codes from the top
    bit down, as DeepSeek's TileKernels do. A group is the fewest codes that fill whole bytes, or those three
    words; the last one is filled up with zero codes.

    Examples
    --------
    >>> pack(np.uint8([1, 2, 3]), fmt="float4_e2m1fn").tolist()
    [33, 3]
    """
    raw, name = _raw(codes, fmt)
    bits = format_row(name).bits
    group = 8 if bits == 12 else 8 // np.gcd(bits, 8)
    padded = np.pad(raw, [(0, 0)] * (raw.ndim - 1) + [(0, -raw.shape[-1] % group)])
    stream = (padded[..., None] >> _order(bits) & 1).reshape(*raw.shape[:-1], padded.shape[-1] * bits)
    if bits != 12:
        return np.packbits(stream.astype(np.uint8), axis=-1, bitorder="little")
    return np.ascontiguousarray(np.packbits(stream.astype(np.uint8), axis=-1)).view(">u4").astype(np.uint32)


def unpack(packed: ArrayLike, *, fmt: Any, size: int) -> Array:
    """Return the first `size` codes of each row that `pack` wrote.

    Examples
    --------
    >>> unpack(np.uint8([33, 3]), fmt="float4_e2m1fn", size=3).view(np.uint8).tolist()
    [1, 2, 3]
    """
    name, array = format_name(fmt), np.asarray(packed)
    bits = format_row(name).bits
    if bits == 12:
        stream = np.unpackbits(np.ascontiguousarray(array.astype(">u4")).view(np.uint8), axis=-1)
    else:
        stream = np.unpackbits(array, axis=-1, bitorder="little")
    held = stream.shape[-1] // bits
    rows = stream[..., : held * bits].reshape(*array.shape[:-1], held, bits)
    code: Array = (rows * (1 << _order(bits))).sum(axis=-1)[..., :size]
    out = code_dtype(name)
    return code.astype(f"u{out.itemsize}").view(out)
