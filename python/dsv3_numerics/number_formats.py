"""A number on its own: what each format holds, casts both ways, and dense packing.

Lives here: names, policies and documentation; the arithmetic and the one table of formats are the core's.
Numbers that share a scale are in `quant`; the definitions, in ten lines each, in `reference.formats`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _core
from ._arrays import (
    Array,
    as_array,
    brief,
    crossing,
    deliver,
    destination,
    flat,
    positive,
    real_dtype,
    seed_key,
    source,
    whole,
)
from ._html import facts
from ._recipes import one_of
from ._torch import dtype_of

Rounding = Literal[
    "nearest_even",
    "toward_zero",
    "up",
    "down",
    "nearest_away",
    "nearest_toward_zero",
    "stochastic",
    "stochastic8",
]
Overflow = Literal["saturate", "nonfinite"]
NanPolicy = Literal["code", "raise", "zero", "max"]

_ENCODES, _DECODES = _core.CastPlans(), _core.CastPlans()
_encode_again, _decode_again = _ENCODES.run, _DECODES.run
_WORDS = 12  # the width that packs into 32-bit words, as DeepSeek's TileKernels do


@dataclass(frozen=True)
class Format:
    """A format of the caller's own: a sign, an exponent and a mantissa in at most 16 bits.

    It goes wherever the name of a format does. A Format that is a row of the table is that row's format.

    Attributes
    ----------
    exponent, mantissa : int
        Bits of the fields: 0 to 8, and 0 to 15.
    bias : int, optional
        Of the exponent; ``2 ** (exponent - 1) - 1`` by default.
    top : {"ieee", "nan_only", "fnuz", "none"}
        What the topmost codes mean. ieee: an exponent of ones holds infinity and NaN. nan_only: all ones is
        NaN. fnuz: the code of negative zero is the only NaN. none: every code is a number.
    subnormals : bool
        False: numbers round to zero or to the smallest normal one, and the codes in between mean zero.

    Raises
    ------
    ValueError
        A row that cannot be: too many bits, or numbers that are not float32. The message says what can.
    TypeError
        Fields that are no integers.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import Format, decode, encode
    >>> e3m4 = Format(exponent=3, mantissa=4, top="none")
    >>> str(e3m4)
    'e3m4b3_none'
    >>> decode(encode(np.float32([0.3, 100]), e3m4), fmt=e3m4)
    array([ 0.296875, 31.      ], dtype=float32)
    """

    exponent: int
    mantissa: int
    bias: int | None = None
    top: str = "ieee"
    subnormals: bool = True

    def __post_init__(self) -> None:
        for name in ("exponent", "mantissa"):
            object.__setattr__(self, name, whole(getattr(self, name), name))
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected at least 0")
        standard = (1 << max(self.exponent - 1, 0)) - 1
        object.__setattr__(self, "bias", standard if self.bias is None else whole(self.bias, "bias"))
        if self.top not in _TOPS:
            raise ValueError(f"top: found {brief(self.top)}, expected one of {', '.join(_TOPS)}")
        if not isinstance(self.subnormals, (bool, np.bool_)):
            raise TypeError(f"subnormals: found {brief(self.subnormals)}, expected True or False")
        if self.exponent > _MOST or self.mantissa > _MOST or abs(self.bias or 0) > 1 << 20:
            raise ValueError(
                f"exponent, mantissa, bias: found {self}, expected at most 16 bits and a float32's range"
            )
        _core.format_row(str(self))

    def __str__(self) -> str:
        row = f"e{self.exponent}m{self.mantissa}b{self.bias}_{self.top}"
        return row if self.subnormals else f"{row}_nosub"


_MOST = 16  # bits of an exponent or a mantissa
_TOPS = ("ieee", "nan_only", "fnuz", "none")


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
    has_subnormals : bool
        False: below the smallest normal number there is only zero.
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
    has_subnormals: bool = True

    def __str__(self) -> str:
        lines = [f"{key:<20}{value}" for key, value in vars(self).items()]
        return "\n".join([f"Machine parameters for {self.name}", "-" * 40, *lines])

    def _repr_html_(self) -> str:
        return facts(f"Machine parameters for {self.name}", vars(self))


def _info(row: dict[str, Any]) -> FormatInfo:
    name, top, man = row["name"], row["top"], row["mantissa_bits"]
    integer, scale = top == "integer", top == "scale"
    width = np.uint8 if row["bits"] <= 8 else np.uint16
    largest = np.empty(1, np.float64)
    _core.decode(np.array([row["max_code"]], width), name, (largest, "float64"))
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
        smallest_subnormal=1.0 if integer else smallest_normal * (2.0**-man if row["subnormals"] else 1),
        eps=1.0 if integer else 2.0**-man,
        has_nan=row["nan_code"] is not None,
        has_inf=row["inf_code"] is not None,
        has_signed_zero=top in ("nan_only", "ieee", "none"),
        is_integer=integer,
        dtype=np.dtype(getattr(ml_dtypes, name, None) or getattr(np, name, None) or width),
        n_codes=1 << row["bits"],
        has_subnormals=row["subnormals"],
    )


_FORMATS = {info.name: info for info in map(_info, _core.formats())}
# uint8 and uint16 hold codes of formats without a dtype of their own, and do not say which.
_MADE: dict[str, FormatInfo] = {}


def _short_names() -> dict[str, str]:
    """Short names to names: e4m3 is float8_e4m3fn; of two with one name, the one that ends in fn has it."""
    short: dict[str, str] = {}
    for name in sorted(_FORMATS, key=lambda name: not name.endswith("fn")):
        said = {"bfloat16": "bf16", "float16": "f16"}.get(name) or re.sub(r"^float\d_|fn$", "", name)
        short.setdefault(said, name)
    return short


_SHORT = _short_names()
_BY_DTYPE = {info.dtype: info for info in _FORMATS.values() if info.dtype.kind != "u"}


def formats() -> tuple[FormatInfo, ...]:
    """Every format, in the order of the table.

    Examples
    --------
    >>> [info.name for info in formats() if info.bits == 6]
    ['float6_e2m3fn', 'float6_e3m2fn']
    """
    return tuple(_FORMATS.values())


def format_info(fmt: Any) -> FormatInfo:
    """Look up the limits of a format.

    Parameters
    ----------
    fmt : str, dtype, Format or FormatInfo
        A format's name, long (float8_e4m3fn) or short (e4m3), the dtype of its codes, or a format of the
        caller's own, also by its spelled row (e3m4b3_none).

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
    if isinstance(fmt, FormatInfo):
        return fmt
    if isinstance(fmt, (str, Format)):
        name = str(fmt)
        found = _FORMATS.get(_SHORT.get(name, name)) or _MADE.get(name)
        return found or _made(name)
    try:
        return _BY_DTYPE[np.dtype(dtype_of(fmt))]
    except (KeyError, TypeError):
        raise TypeError(
            f"fmt: found {brief(fmt)}, expected the name of a format, its dtype, a Format or a FormatInfo"
        ) from None


def _made(name: str) -> FormatInfo:
    """Make a format of the caller's own, or find the row of the table that it is."""
    if not re.fullmatch(r"e\d{1,2}m\d{1,2}b-?\d{1,7}_[a-z_]+", name):
        raise ValueError(
            f"fmt: found {brief(name)}, expected one of {', '.join(_FORMATS)}, a short name such as e4m3, "
            "or a Format"
        )
    row = _core.format_row(name)
    info = _FORMATS.get(row["name"]) or _info(row)
    _MADE[name] = _MADE[info.name] = info
    return info


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
    fmt: Any,
    *,
    rounding: Rounding = "nearest_even",
    overflow: Overflow = "saturate",
    nan: NanPolicy = "code",
    seed: int | np.random.Generator | None = None,
    out: Array | None = None,
) -> Array:
    """Cast numbers to a format.

    Each number is rounded once, on the format's grid continued without an upper end; overflow is decided
    afterwards.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        Any shape and strides. A copy is made of input in the other byte order, or unaligned.
    dtype : str or dtype
        The target, see `formats`.
    rounding : str
        "nearest_even", "nearest_away" and "nearest_toward_zero" differ at ties; "up" is towards plus
        infinity, "down" towards minus infinity, "toward_zero" cuts off. "stochastic" takes the larger of two
        neighbouring magnitudes with the probability that makes the mean exact, by 32 random bits of
        Philox4x32-10 from `seed` and the element's place in C order. "stochastic8" takes 8 random bits, the
        bytes of the same words one after another: see Notes.
    overflow : {"saturate", "nonfinite"}
        Beyond the largest number lies that number again ("saturate"), or the infinity of the format, NaN
        where it has none ("nonfinite"; as in IEEE 754, 7.4, directed rounding overflows only in its
        direction). Infinite input is overflow.
    nan : {"code", "raise", "zero", "max"}
        NaN becomes the format's NaN, an error, zero, or the largest number, by its sign bit where the
        format has signs.
    seed : int
        0 to 2**64 - 1, for "stochastic" and "stochastic8", which need one. An integer gives the same bits in
        every call, a `numpy.random.Generator` new ones in each.
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

    "stochastic8" rounds as hardware does: random bits are added below the last bit that is kept, and their
    carry decides. A number that is the fraction f of a step above the smaller magnitude becomes the larger
    one with probability ``floor(256 * f) / 256``. The mean so is at most 2**-8 of a step too small, half of
    that on average, and what lies below 2**-8 of the smallest number is always zero. NVIDIA's ``cvt.rs`` for
    e2m1 also takes one 32-bit word for four elements and adds 8 bits to each (PTX ISA, ``cvt``), as
    TransformerEngine's NVFP4 training uses it. The bits are not the instruction's: the text of the ISA does
    not say which bits are whose, and for 8-bit formats two elements share 16.

    Examples
    --------
    >>> import numpy as np
    >>> encode(np.float32([0.3, 1e6, -1e-9]), "float8_e4m3fn").astype(float).tolist()
    [0.3125, 448.0, -0.0]
    >>> encode(np.float32([0.3]), "e5m6")
    array([845], dtype=uint16)
    """
    if seed is None:
        made = _encode_again(x, fmt, rounding, overflow, nan, out)
        if made is not None:
            return made
    array, kind = source(x, "x")
    info = format_info(fmt)
    for word, name, words in (
        (rounding, "rounding", Rounding),
        (overflow, "overflow", Overflow),
        (nan, "nan", NanPolicy),
    ):
        one_of(word, name, get_args(words))
    key = seed_key(seed, rounding)
    codes = destination(out, array.shape, info.dtype, array)
    _core.encode(crossing(array, kind), flat(codes), info.name, rounding, overflow, nan, key)
    if type(x) is np.ndarray and seed is None and array.dtype.isnative:
        policy = (rounding, overflow, nan)
        plan = _core.CastPlan(kind, info.name, policy, array.dtype, info.dtype)
        _ENCODES.keep(x.dtype, (fmt, *policy), plan)
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
    made = _decode_again(codes, fmt, dtype, None, None, out)
    if made is not None:
        return made
    array, info = code_array(codes, fmt)
    target, kind = real_dtype(dtype)
    numbers = destination(out, array.shape, target, array)
    _core.decode(flat(array), info.name, (flat(numbers), kind))
    if type(codes) is np.ndarray and array.dtype.isnative:
        plan = _core.CastPlan(kind, info.name, None, codes.dtype, target)
        _DECODES.keep(codes.dtype, (fmt, dtype, None, None), plan)
    return deliver(numbers, out)


def _groups(info: FormatInfo) -> tuple[int, int, type[np.generic]]:
    """Codes in a packed group, elements that they fill, and their dtype."""
    if info.bits == _WORDS:
        return 8, 3, np.uint32
    common = math.gcd(info.bits, 8)
    return 8 // common, info.bits // common, np.uint8


def pack(codes: ArrayLike, *, fmt: Any = None) -> Array:
    """Put codes of any width side by side along the last axis.

    Codes fill bytes from the low bit up: two of 4 bits a byte, four of 6 bits three bytes. Only those of 12
    bits fill
    32-bit words from the top bit down, eight codes three words (DeepSeek TileKernels' E5M6). A group is the
    fewest codes
    that fill whole bytes, or those three words; a last group that is not full ends in zero codes.

    Parameters
    ----------
    codes : array_like of a format's dtype, or of uint8 or uint16
        At least one axis.
    fmt : str or dtype, optional
        The format. Needed for uint8 and uint16.

    Returns
    -------
    ndarray of uint8, or uint32 for 12-bit codes
        Shape of `codes` but for the last axis, which is as long as its groups: ``ceil(n / 2)`` for 4 bits,
        ``3 * ceil(n / 4)`` for 6, ``3 * ceil(n / 8)`` for 12.

    Raises
    ------
    TypeError, ValueError
        As `decode`; no axis.

    Examples
    --------
    >>> import numpy as np
    >>> pack(np.uint8([1, 2, 3]), fmt="float4_e2m1fn")
    array([33,  3], dtype=uint8)
    """
    array, info = code_array(codes, fmt)
    group, size, dtype = _groups(info)
    if array.ndim == 0:
        raise ValueError("codes: found no axis, expected at least one")
    rows, length = array.shape[:-1], array.shape[-1]
    packed = _core.empty((*rows, -(-length // group) * size), dtype)
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
        A `size` that does not fill the last axis; no axis.

    Examples
    --------
    >>> import numpy as np
    >>> unpack(np.uint8([33, 3]), fmt="float4_e2m1fn", size=3).astype(float).tolist()
    [0.5, 1.0, 1.5]
    """
    info = format_info(fmt)
    group, width, dtype = _groups(info)
    array = as_array(packed, "packed")
    expected = np.dtype(dtype)
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
    codes = _core.empty((*rows, codes_per_row), info.dtype)
    if codes.size:
        _core.unpack(flat(array), info.name, codes_per_row, flat(codes))
    return codes
