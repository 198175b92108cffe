"""A number on its own: what each format holds, casts both ways, and dense packing.

Lives here: names, policies and documentation; the arithmetic and the one table of formats are the core's.
Numbers that share a scale are in `quant`; the definitions, in ten lines each, in `reference.formats`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _core
from ._arrays import (
    Array,
    as_array,
    deliver,
    destination,
    flat,
    positive,
    real_dtype,
    seed_key,
    source,
    whole,
)

Rounding = Literal["nearest_even", "toward_zero", "up", "down", "nearest_away", "stochastic"]
Overflow = Literal["saturate", "nonfinite"]
NanPolicy = Literal["code", "raise", "zero", "max"]

# Packed groups by the width of a code: codes in a group, elements of the packed array that they fill.
_GROUPS = {4: (2, 1), 6: (4, 3), 12: (8, 3)}


@dataclass(frozen=True)
class FormatInfo:
    """The limits of a format, as `numpy.finfo` gives them.

    Attributes
    ----------
    name : str
        ml_dtypes' name where it has one.
    bits, exponent_bits, mantissa_bits, bias : int
        Widths of a code and of its fields (the mantissa without the hidden bit), and the exponent's bias.
    max, min : float
        Largest and least finite number.
    tiny, smallest_subnormal, eps : float
        Smallest normal and smallest positive number; the step from one to the next number. All 1 for
        integers.
    has_nan, has_inf, has_signed_zero, is_integer : bool
        What there are codes for.
    dtype : numpy.dtype
        Of arrays of codes: ml_dtypes' where it has one, else uint16.
    n_codes : int
        ``2 ** bits``.

    Examples
    --------
    >>> info = format_info("float8_e4m3fn")
    >>> info.max, info.tiny, info.has_inf
    (448.0, 0.015625, False)
    """

    name: str
    bits: int
    exponent_bits: int
    mantissa_bits: int
    bias: int
    max: float
    min: float
    tiny: float
    smallest_subnormal: float
    eps: float
    has_nan: bool
    has_inf: bool
    has_signed_zero: bool
    is_integer: bool
    dtype: np.dtype[Any]
    n_codes: int

    def __str__(self) -> str:
        lines = [f"{key:<20}{value}" for key, value in vars(self).items()]
        return "\n".join([f"Machine parameters for {self.name}", "-" * 40, *lines])


def _info(row: dict[str, Any]) -> FormatInfo:
    name, top, man = row["name"], row["top"], row["mantissa_bits"]
    integer, scale = top == "integer", top == "scale"
    width = np.uint8 if row["bits"] <= 8 else np.uint16
    largest = np.empty(1, np.float64)
    _core.decode(np.array([row["max_code"]], width), name, largest, "float64")
    smallest_normal = 1.0 if integer else 2.0 ** (-row["bias"] if scale else 1 - row["bias"])
    high = float(largest[0])
    return FormatInfo(
        name=name,
        bits=row["bits"],
        exponent_bits=row["exponent_bits"],
        mantissa_bits=man,
        bias=0 if integer else row["bias"],
        max=high,
        min=smallest_normal if scale else -high,
        tiny=smallest_normal,
        smallest_subnormal=1.0 if integer else smallest_normal * 2.0**-man,
        eps=1.0 if integer else 2.0**-man,
        has_nan=row["nan_code"] is not None,
        has_inf=row["inf_code"] is not None,
        has_signed_zero=top in ("nan_only", "ieee", "finite"),
        is_integer=integer,
        dtype=np.dtype(getattr(ml_dtypes, name, None) or getattr(np, name, width)),
        n_codes=1 << row["bits"],
    )


_FORMATS = {info.name: info for info in map(_info, _core.formats())}
# uint8 and uint16 hold codes of formats without a dtype of their own, and do not say which.
_BY_DTYPE = {info.dtype: info for info in _FORMATS.values() if info.dtype.kind != "u"}


def formats() -> tuple[FormatInfo, ...]:
    """Every format, in the order of the table.

    Examples
    --------
    >>> [info.name for info in formats() if info.bits == 6]
    ['float6_e2m3fn', 'float6_e3m2fn']
    """
    return tuple(_FORMATS.values())


def format_info(dtype: Any) -> FormatInfo:
    """Return the limits of a format.

    Parameters
    ----------
    dtype : str, dtype or FormatInfo
        A format's name, or the dtype of its codes.

    Returns
    -------
    FormatInfo

    Raises
    ------
    ValueError
        A name that is none of `formats`.
    TypeError
        A dtype that belongs to none of them.

    Examples
    --------
    >>> format_info("float8_e4m3fn").max
    448.0
    >>> format_info("e5m6").dtype
    dtype('uint16')
    """
    if isinstance(dtype, FormatInfo):
        return dtype
    if isinstance(dtype, str):
        if dtype not in _FORMATS:
            raise ValueError(f"dtype: found {dtype!r}, expected one of {', '.join(_FORMATS)}")
        return _FORMATS[dtype]
    try:
        return _BY_DTYPE[np.dtype(dtype)]
    except (KeyError, TypeError):
        raise TypeError(f"dtype: found {dtype!r}, expected the name of a format or its dtype") from None


def code_array(codes: Any, fmt: Any, name: str = "codes") -> tuple[Array, FormatInfo]:
    """Return an array of codes and its format, from its dtype, or from `fmt` for plain unsigned integers.

    Raises
    ------
    TypeError
        A dtype that holds no codes, or unsigned integers of another width than the format's.
    ValueError
        `fmt` missing, or in contradiction to the dtype.
    """
    array = as_array(codes, name)
    known = _BY_DTYPE.get(array.dtype.newbyteorder("="))
    if known is not None:
        if fmt is not None and format_info(fmt) != known:
            raise ValueError(
                f"fmt: found {format_info(fmt).name}, expected {known.name}, the dtype of {name}"
            )
        return array, known
    plain = array.dtype.newbyteorder("=")
    if plain not in (np.uint8, np.uint16):
        raise TypeError(f"{name}: found dtype {array.dtype}, expected a format's dtype, uint8 or uint16")
    if fmt is None:
        raise ValueError(f"fmt: found None, expected a format, because {plain} does not name one")
    info = format_info(fmt)
    if info.dtype.itemsize != plain.itemsize:
        raise TypeError(
            f"{name}: found dtype {plain}, expected uint{8 * info.dtype.itemsize} for {info.name}"
        )
    return array, info


def encode(
    x: ArrayLike,
    dtype: Any,
    *,
    rounding: Rounding = "nearest_even",
    overflow: Overflow = "saturate",
    nan: NanPolicy = "code",
    seed: int = 0,
    out: Array | None = None,
) -> Array:
    """Cast numbers to a format.

    Each number is rounded once, on the format's grid continued without an upper end; overflow is decided
    afterwards.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        Any shape. No copy is made of C-contiguous input in native byte order, one of any other.
    dtype : str or dtype
        The target, see `formats`.
    rounding : {"nearest_even", "toward_zero", "up", "down", "nearest_away", "stochastic"}
        "up" is towards plus infinity; "nearest_away" sends ties away from zero. "stochastic" rounds up
        with the probability that makes the mean exact, by 32 random bits of Philox4x32-10 from `seed` and
        the element's place in C order.
    overflow : {"saturate", "nonfinite"}
        Beyond the largest number lies that number again ("saturate"), or the infinity of the format, NaN
        where it has none ("nonfinite"; as in IEEE 754, 7.4, directed rounding overflows only in its
        direction). Infinite input is overflow.
    nan : {"code", "raise", "zero", "max"}
        NaN becomes the format's NaN, an error, zero, or the largest number, by its sign bit where the
        format has signs.
    seed : int
        0 to 2**64 - 1, used by stochastic rounding.
    out : ndarray, optional
        Codes are written here: shape of `x` and the format's dtype, writeable. It may overlap `x`.

    Returns
    -------
    ndarray
        Codes, shape of `x`, dtype ``format_info(dtype).dtype``; `out` itself if given.

    Raises
    ------
    TypeError
        Other input (integers, complex numbers, objects, masked arrays, arrays on a GPU); a wrong dtype of
        `out`.
    ValueError
        An unknown name; NaN with ``nan="raise"``, or with ``nan="code"`` in a format without NaN;
        ``overflow="nonfinite"`` in a format with neither infinity nor NaN; a wrong shape of `out`. After
        an error the content of `out` is undefined.

    Notes
    -----
    float8_e8m0fnu has neither sign nor zero: what is negative becomes NaN, zero becomes 2**-127
    ("saturate") or NaN ("nonfinite"); between its two smallest numbers the nearer is taken (ml_dtypes 0.6
    goes up there). Formats whose zero has no sign (fnuz, integers) give plain zeros.

    Examples
    --------
    >>> import numpy as np
    >>> encode(np.float32([0.3, 1e6, -1e-9]), "float8_e4m3fn").astype(float).tolist()
    [0.3125, 448.0, -0.0]
    >>> encode(np.float32([0.3]), "e5m6")
    array([845], dtype=uint16)
    """
    array, kind = source(x, "x")
    info = format_info(dtype)
    key = seed_key(seed)
    codes = destination(out, array.shape, info.dtype, array)
    _core.encode(flat(array), kind, flat(codes), info.name, rounding, overflow, nan, key)
    return deliver(codes, out)


def decode(
    codes: ArrayLike, *, fmt: Any = None, dtype: DTypeLike = np.float32, out: Array | None = None
) -> Array:
    """Cast codes to numbers.

    Parameters
    ----------
    codes : array_like of a format's dtype, or of uint8 or uint16
        Any shape. Of a code wider than the format, the low bits count.
    fmt : str or dtype, optional
        The format. Needed for uint8 and uint16.
    dtype : {float32, float64, float16, bfloat16}
        The result's. float32 and float64 are exact; the others round to nearest even where they must.
    out : ndarray, optional
        Numbers are written here: shape of `codes`, of `dtype`, writeable.

    Returns
    -------
    ndarray of `dtype`, shape of `codes`
        `out` itself if given.

    Raises
    ------
    TypeError
        Arrays that hold no codes; another `dtype`.
    ValueError
        `fmt` missing, unknown, or in contradiction to the dtype of `codes`.

    Examples
    --------
    >>> import numpy as np
    >>> decode(np.uint8([0x00, 0x38, 0x7E]), fmt="float8_e4m3fn")
    array([  0.,   1., 448.], dtype=float32)
    """
    array, info = code_array(codes, fmt)
    target, kind = real_dtype(dtype)
    numbers = destination(out, array.shape, target, array)
    _core.decode(flat(array), info.name, flat(numbers), kind)
    return deliver(numbers, out)


def _packable(info: FormatInfo) -> tuple[int, int]:
    if info.bits not in _GROUPS:
        raise ValueError(f"fmt: found {info.name} of {info.bits} bits, expected 4, 6 or 12 bits")
    return _GROUPS[info.bits]


def pack(codes: ArrayLike, *, fmt: Any = None) -> Array:
    """Put 4-, 6- or 12-bit codes side by side along the last axis.

    Two 4-bit codes fill a byte, low half first. Four 6-bit codes fill three bytes from the low bit up.
    Eight 12-bit codes fill three 32-bit words from the top bit down (DeepSeek TileKernels' E5M6). A last
    group that is not full ends in zero codes.

    Parameters
    ----------
    codes : array_like of a format's dtype, or of uint8 or uint16
        At least one axis.
    fmt : str or dtype, optional
        The format. Needed for uint8 and uint16.

    Returns
    -------
    ndarray of uint8, or uint32 for 12-bit codes
        Shape of `codes` but for the last axis: ``ceil(n / 2)``, ``3 * ceil(n / 4)`` or ``3 * ceil(n / 8)``.

    Raises
    ------
    TypeError, ValueError
        As `decode`; formats of 8 or 16 bits; no axis.

    Examples
    --------
    >>> import numpy as np
    >>> pack(np.uint8([1, 2, 3]), fmt="float4_e2m1fn")
    array([33,  3], dtype=uint8)
    """
    array, info = code_array(codes, fmt)
    group, size = _packable(info)
    if array.ndim == 0:
        raise ValueError("codes: found no axis, expected at least one")
    rows, length = array.shape[:-1], array.shape[-1]
    packed = np.empty((*rows, -(-length // group) * size), np.uint32 if info.bits > 8 else np.uint8)
    if array.size:
        _core.pack(flat(array), info.name, length, packed.reshape(-1))
    return packed


def unpack(packed: ArrayLike, *, fmt: Any, size: int | None = None) -> Array:
    """Take apart what `pack` put together.

    Parameters
    ----------
    packed : array_like of uint8, or uint32 for 12-bit formats
        At least one axis.
    fmt : str or dtype
        The format.
    size : int, optional
        Codes in each row; all that its groups hold by default.

    Returns
    -------
    ndarray of the format's dtype
        Shape of `packed` but for the last axis, which is `size`.

    Raises
    ------
    TypeError
        Another dtype of `packed`.
    ValueError
        A `size` that does not fill the last axis; formats of 8 or 16 bits; no axis.

    Examples
    --------
    >>> import numpy as np
    >>> unpack(np.uint8([33, 3]), fmt="float4_e2m1fn", size=3).astype(float).tolist()
    [0.5, 1.0, 1.5]
    """
    info = format_info(fmt)
    group, width = _packable(info)
    array = as_array(packed, "packed")
    expected = np.dtype(np.uint32 if info.bits > 8 else np.uint8)
    if array.dtype.newbyteorder("=") != expected:
        raise TypeError(f"packed: found dtype {array.dtype}, expected {expected} for {info.name}")
    if array.ndim == 0:
        raise ValueError("packed: found no axis, expected at least one")
    *rows, length = array.shape
    codes_per_row = length // width * group if size is None else whole(size, "size")
    if codes_per_row:
        positive(codes_per_row, "size")
    if -(-codes_per_row // group) * width != length:
        raise ValueError(
            f"size: found {codes_per_row} codes for a last axis of {length}, which holds another number"
        )
    codes = np.empty((*rows, codes_per_row), info.dtype)
    if codes.size:
        _core.unpack(flat(array), info.name, codes_per_row, flat(codes))
    return codes
