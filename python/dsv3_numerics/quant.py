"""Numbers that share a scale: quantization of tiles and blocks.

Lives here: names, policies and documentation of the quantizers; the arithmetic is the core's. The
result's container is in `quantized`, single numbers are in `formats`, the definitions in
`reference.quant`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arrays import (
    Array,
    as_array,
    brief,
    deliver,
    destination,
    flat,
    normalize_axis,
    positive,
    seed_key,
    source,
)
from .number_formats import FormatInfo, Rounding, decode, encode, format_info
from .quantized import (
    SCALE_DTYPES,
    Quantized,
    broadcasts,
    checked_global_scale,
    core_layout,
    scales_shape,
)
from .scale_rule import DEFAULT_RULES, Rule, Scale, rules

NonFinite = Literal["raise", "propagate"]
GlobalScale = Literal["tensor", "row"]

# Kinds of scale that a standard defines: its format, and the elements that share a scale.
_STANDARDS: dict[str, tuple[str, int]] = {"mx": ("float8_e4m3fn", 32), "nvfp4": ("float4_e2m1fn", 16)}
_FLOAT32_EXPONENT = 8  # such formats need no scale, or are one
_FORMAT, _TILE, _BLOCK = "float8_e4m3fn", 128, (128, 128)
_KEPT_SCALES = {"ue8m0": "powers of two from 2**-127 to 2**127", "nvfp4": "float8_e4m3fn numbers"}


def quantize_tiles(
    x: ArrayLike,
    *,
    fmt: Any = "standard",
    tile: int | Literal["standard"] | None = "standard",
    axis: int = -1,
    scale: Scale = "float32",
    rule: str | Rule | None = None,
    floor: float | None = None,
    amax: ArrayLike | None = None,
    scales: ArrayLike | None = None,
    tensor_amax: ArrayLike | None = None,
    global_scale: ArrayLike | GlobalScale | None = "tensor",
    rounding: Rounding | None = None,
    seed: int | np.random.Generator | None = None,
    nonfinite: NonFinite = "raise",
    out: tuple[Array | None, Array | None] | None = None,
) -> Quantized:
    """Quantize with one scale for every `tile` consecutive elements of an axis.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        At least one axis. float64 is rounded to float32 first, where the rules begin (what lies beyond is
        infinite). No copy is made of C-contiguous input in native byte order, one of any other.
    fmt : str, dtype, Format or FormatInfo
        The codes' format, see `formats`: any with a sign and at most 7 exponent bits. "standard":
        float8_e4m3fn, and float4_e2m1fn for "nvfp4", which takes no other.
    tile : int, None or "standard"
        Elements that share a scale; the last tile of an axis may be short. "standard": 128, or the
        standard's: 32 for "mx", 16 for "nvfp4". None: the whole axis (a scale per row, say).
    axis : int
        The axis that is cut into tiles.
    scale : {"float32", "ue8m0", "mx", "nvfp4"}
        float32: a number. ue8m0: a power of two, from the float32 scale. mx: a power of two as OCP
        Microscaling and its implementations have it. nvfp4: E4M3 scales under one float32 scale of scales.
    rule : str or Rule, optional
        Whose arithmetic is followed, bit for bit: a name of `rules`, such a name with other columns
        (``"deepgemm(amax_floor=0)"``), or a `Rule`. By default "deepseek_v3"; for "mx" "floor" (others:
        "ceil", "even", "rceil"); for "nvfp4" "nvfp4".
    floor : float, optional
        Least amax, instead of the rule's. mx and nvfp4 have none.
    amax : array_like of float32, optional
        Largest magnitudes to use instead of those found, shape of the scales. Where they are too small,
        codes saturate.
    scales : array_like, optional
        The scales themselves (static, calibrated, delayed): one number for all tiles, or an array of the
        scales' shape, of
        float32 or of the dtype in which they are stored. Nothing is searched; what is too large saturates.
    tensor_amax : float or array_like of float32, optional
        For "nvfp4": the largest magnitude of a tensor of which `x` is a part (or, with
        ``global_scale="row"``, of each row).
        Parts that are given the same one have the global scale, scales and codes that the tensor has.
    global_scale : {"tensor", "row"}, None, float or array_like of float32
        For "nvfp4": the scale of scales is that of the whole array; one for each row (a token, say), so that
        rows do not
        touch each other; none; or given (static): what stored scales are multiplied by, one number or an
        array that broadcasts to the scales.
    rounding : str, optional
        How quotients become codes, see `encode`; by default as the rule says: mostly to nearest even.
    seed : int or numpy.random.Generator, optional
        For stochastic rounding, which needs one. An integer gives the same bits in every call, by the
        element's place in C order; a generator gives new ones in each.
    nonfinite : {"raise", "propagate"}
        NaN and infinity in `x` raise, or make their tile's scale and codes what float32 arithmetic makes
        of them (formats with NaN only). Power-of-two and NVFP4 scales of such a tile are NaN, and its
        codes too. Where the rule passes over NaN, and where `amax` or `scales` are given, NaN only makes its
        own code NaN.
    out : tuple of two (ndarray or None), optional
        Where codes and scales are written: exact shapes and dtypes, writeable. They may overlap the input.

    Returns
    -------
    Quantized
        Its `codes` and `scales` are those of `out`, where given.

    Raises
    ------
    TypeError
        Other input (integers, complex numbers, objects, masked arrays, arrays on a GPU), or arguments of
        another type.
    numpy.exceptions.AxisError
        `axis` out of range.
    ValueError
        No axis; `tile` below 1; an unknown name; a rule that cannot be with this scale or format; `floor` or
        `amax`
        negative or not finite; `scales` that are not positive, or that their dtype does not hold; arrays of
        another
        shape than the scales; no `seed` for stochastic rounding; NaN or infinity in `x`. After an error the
        content of `out` is undefined.

    Notes
    -----
    A `Rule` says every operation, each rounded to float32. With ``a = max(amax, floor, max * 2**-126)``:

    ============ ===== ================ ================= ==============================
    rule         floor scale s          quotient          power of two at or above s by
    ============ ===== ================ ================= ==============================
    deepseek_v3  1e-4  a / max          x / s             bits: exponent, plus one if any
    deepgemm     1e-4  a / max          x * (1 / s)       bits
    deepep       1e-4  a * (1 / max)    x * (max / a)     bits
    vllm         1e-10 a / max          x / s             ceil(float32(log2(max(s, 1e-10))))
    ============ ===== ================ ================= ==============================

    `rules` has them all, and ``docs/rules.md`` says whose each is. Codes saturate. Sources: DeepSeek-V3
    technical report, 3.3.2, and the kernels of the projects that the rules are named after.

    Examples
    --------
    >>> import numpy as np
    >>> q = quantize_tiles(np.float32([[448, 1, 2, 224]]), tile=2)
    >>> q.scales
    array([[1. , 0.5]], dtype=float32)
    >>> q.dequantize()
    array([[448.,   1.,   2., 224.]], dtype=float32)
    """
    array, kind = source(x, "x")
    if array.ndim == 0:
        raise ValueError("x: found no axis, expected at least one")
    place = normalize_axis(axis, array.ndim)
    _one_of("scale", scale, SCALE_DTYPES)
    length: Any = _STANDARDS.get(scale, (None, _TILE))[1] if tile == "standard" else tile
    block = (max(array.shape[place], 1) if length is None else positive(length, "tile"),)
    settings = Settings(
        scale, rule, floor, amax, scales, tensor_amax, global_scale, rounding, seed, nonfinite, out
    )
    return _quantize(array, kind, fmt, block, place, settings)


def quantize_blocks(
    w: ArrayLike,
    *,
    fmt: Any = "standard",
    block: tuple[int | None, int | None] | Literal["standard"] | None = "standard",
    scale: Scale = "float32",
    rule: str | Rule | None = None,
    floor: float | None = None,
    amax: ArrayLike | None = None,
    scales: ArrayLike | None = None,
    tensor_amax: ArrayLike | None = None,
    global_scale: ArrayLike | GlobalScale | None = "tensor",
    rounding: Rounding | None = None,
    seed: int | np.random.Generator | None = None,
    nonfinite: NonFinite = "raise",
    out: tuple[Array | None, Array | None] | None = None,
) -> Quantized:
    """Quantize with one scale for every block of the last two axes; leading axes are a stack of matrices.

    Parameters
    ----------
    w : array_like of float32, float64, float16 or bfloat16
        At least two axes.
    block : tuple of two (int or None), None or "standard"
        Rows and columns that share a scale; blocks at the edges may be short. "standard": (128, 128), or the
        standard's: (1, 32) for "mx", (1, 16) for "nvfp4". None stands for a whole
        axis: (1, None) is a scale per row, (None, 1) per column, and None alone, for (None, None), per
        matrix.
    fmt, scale, rule, floor, amax, scales, tensor_amax, global_scale, rounding, seed, nonfinite, out
        As for `quantize_tiles`.

    Returns
    -------
    Quantized

    Raises
    ------
    TypeError, ValueError
        As for `quantize_tiles`.

    Examples
    --------
    >>> import numpy as np
    >>> q = quantize_blocks(np.ones((576, 7168), np.float32))
    >>> q.scales.shape
    (5, 56)
    """
    array, kind = source(w, "w")
    if array.ndim < 2:
        raise ValueError(f"w: found shape {array.shape}, expected at least two axes")
    _one_of("scale", scale, SCALE_DTYPES)
    if isinstance(block, str) and block == "standard":
        block = (1, _STANDARDS[scale][1]) if scale in _STANDARDS else _BLOCK
    given: Any = (None, None) if block is None else block
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise ValueError(f"block: found {brief(block)}, expected two lengths (each may be None) or None")
    lengths = zip(given, array.shape[-2:], strict=True)
    size = tuple(max(whole, 1) if length is None else positive(length, "block") for length, whole in lengths)
    settings = Settings(
        scale, rule, floor, amax, scales, tensor_amax, global_scale, rounding, seed, nonfinite, out
    )
    return _quantize(array, kind, fmt, size, None, settings)


def requantize_tiles(
    q: Quantized,
    *,
    axis: int,
    tile: int | Literal["standard"] | None = "standard",
    scale: Scale | None = None,
    rule: str | Rule | None = None,
    floor: float | None = None,
    rounding: Rounding | None = None,
    seed: int | np.random.Generator | None = None,
) -> Quantized:
    """Regroup: dequantize to float32 and quantize along another axis, as backward needs it (1x128 to 128x1).

    With UE8M0 scales on both sides no number changes, as long as none becomes subnormal in its new tile
    (under MX's scales the top of a tile may saturate).

    Parameters
    ----------
    q : Quantized
        Tiles or blocks.
    axis, tile, floor, rounding, seed
        As for `quantize_tiles`.
    scale, rule : str, optional
        As for `quantize_tiles`; those of `q` by default, the rule with the floor that `q` was made with.
        Another kind of scale has its own default.

    Returns
    -------
    Quantized
        In the format of `q`.

    Raises
    ------
    TypeError, ValueError
        As for `quantize_tiles`.

    Examples
    --------
    >>> import numpy as np
    >>> q = quantize_tiles(np.float32([[1, 2], [3, 4]]), tile=2, scale="ue8m0")
    >>> bool((requantize_tiles(q, axis=0, tile=2).dequantize() == q.dequantize()).all())
    True
    """
    if not isinstance(q, Quantized):
        raise TypeError(f"q: found {type(q).__name__}, expected a Quantized (quantize_tiles makes one)")
    kind: Any = q.scale_kind if scale is None else scale
    _one_of("scale", kind, SCALE_DTYPES)
    same = {kind, q.scale_kind} <= {"float32", "ue8m0"} or kind == q.scale_kind
    return quantize_tiles(
        q.dequantize(),
        fmt=q.format,
        tile=tile,
        axis=axis,
        scale=kind,
        rule=(q.rule if same else None) if rule is None else rule,
        floor=floor,
        rounding=rounding,
        seed=seed,
    )


class Settings(NamedTuple):
    """How to quantize: what the quantizers take besides an array, a format and its blocks."""

    scale: str
    rule: str | Rule | None
    floor: float | None
    amax: Any
    scales: Any
    tensor_amax: Any
    global_scale: Any
    rounding: str | None
    seed: Any
    nonfinite: str
    out: Any


@lru_cache(maxsize=1024)
def _check_rule(rule: Rule, scale: str, fmt: str, is_found: bool) -> None:
    """Raise ValueError unless the rule can make scales of this kind for the format; asked once for each."""
    _core.check_rule(rule.columns(), scale, fmt, is_found)


def _quantize(
    x: Array, kind: str, fmt: Any, block: tuple[int, ...], axis: int | None, settings: Settings
) -> Quantized:
    scale = settings.scale
    _one_of("scale", scale, SCALE_DTYPES)
    _one_of("nonfinite", settings.nonfinite, ("raise", "propagate"))
    info = _checked_format(fmt, scale)
    rule = _checked_rule(settings)
    shape, layout = scales_shape(x.shape, block, axis), core_layout(x.shape, block, axis)
    if settings.amax is not None and settings.scales is not None:
        raise ValueError("scales: found scales and amax, expected one of the two")
    largest = None if settings.amax is None else _checked_amax(settings.amax, shape)
    given = None if settings.scales is None else _checked_scales(settings.scales, shape, scale, rule)
    _check_rule(rule, scale, info.name, given is None)
    rounding = settings.rounding
    if rounding is not None:
        _one_of("rounding", rounding, get_args(Rounding))
    key = seed_key(settings.seed, rounding)
    inputs = [array for array in (x, largest, given) if array is not None]
    codes_out, scales_out = _two(settings.out)
    codes = destination(codes_out, x.shape, info.dtype, *inputs, name="out[0]")
    stored = destination(scales_out, shape, SCALE_DTYPES[scale], *inputs, name="out[1]")
    data = flat(x)
    whole = _Whole(data, kind, layout, shape, largest, -1 if axis is None else axis)
    encode_by, decode_by, global_scale = _global_scale(settings, whole, info, rule)
    named = settings.rule if isinstance(settings.rule, str) and settings.floor is None else None
    _core.quantize(
        data,
        kind,
        layout,
        info.name,
        flat(codes),
        stored.reshape(-1).view(np.uint8),
        scale=scale,
        rule=named if named in rules() else rule.columns(),
        global_encode=encode_by,
        global_decode=decode_by,
        amax=largest,
        scales=given,
        nonfinite=settings.nonfinite,
        rounding=rounding,
        seed=key,
    )
    return Quantized(
        deliver(codes, codes_out),
        deliver(stored, scales_out),
        info.name,
        block,
        axis,
        scale,
        str(rule),
        global_scale,
    )


def _one_of(name: str, found: Any, expected: Iterable[str]) -> None:
    if not isinstance(found, str) or found not in expected:
        raise ValueError(f"{name}: found {brief(found)}, expected one of {', '.join(expected)}")


def _checked_format(fmt: Any, scale: str) -> FormatInfo:
    standard = _STANDARDS.get(scale, (_FORMAT, 0))[0]
    info = format_info(standard if isinstance(fmt, str) and fmt == "standard" else fmt)
    if scale == "nvfp4" and info.name != standard:
        raise ValueError(
            f"fmt: found {info.name} with scale='nvfp4', which is a standard for {standard}; leave fmt out, "
            "or take another scale"
        )
    if info.exponent_bits == _FLOAT32_EXPONENT:
        raise ValueError(
            f"fmt: found {info.name}, which takes no scale, expected a format of at most 7 exponent bits "
            "(encode casts without one)"
        )
    return info


def _checked_rule(settings: Settings) -> Rule:
    scale, floor = settings.scale, settings.floor
    rule = Rule.parse(DEFAULT_RULES[scale] if settings.rule is None else settings.rule)
    if floor is None:
        return rule
    if scale in _STANDARDS:
        raise ValueError(f"floor: found {brief(floor)}, but scale={scale!r} has none; leave it out")
    return rule.replace(amax_floor=_magnitude(floor, "floor"))


def _magnitude(value: Any, name: str) -> float:
    """Return a finite float32 of at least 0."""
    if isinstance(value, (bool, np.bool_, str, bytes)) or np.ndim(value):
        raise TypeError(f"{name}: found {brief(value)}, expected a number")
    with np.errstate(over="ignore"):
        try:
            number = float(np.float32(value))
        except OverflowError:  # an integer beyond float64
            number = math.inf
        except (TypeError, ValueError):
            raise TypeError(f"{name}: found {brief(value)}, expected a number") from None
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: found {brief(value)}, expected a finite number of at least 0")
    return number


def _checked_amax(amax: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    array = as_array(amax, "amax")
    if array.dtype.newbyteorder("=") != np.float32:
        raise TypeError(f"amax: found dtype {array.dtype}, expected float32")
    if array.shape != shape:
        raise ValueError(f"amax: found shape {array.shape}, expected {shape}, that of the scales")
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError("amax: found NaN, infinity or a negative number, expected finite magnitudes")
    return flat(array)


def _checked_scales(scales: ArrayLike, shape: tuple[int, ...], scale: str, rule: Rule) -> NDArray[np.float32]:
    """Scales of the caller's, as numbers, one for each block."""
    if scale == "float32" and rule.apply_op == "multiply_ratio":
        raise ValueError(
            f"rule: found '{rule}', which multiplies by max / amax, with scales=, which do not tell amax; "
            "expected a rule that divides by the scale (deepseek_v3) or multiplies by its inverse (deepgemm, "
            "vllm_static)"
        )
    array = as_array(scales, "scales")
    native, stored = array.dtype.newbyteorder("="), SCALE_DTYPES[scale]
    if array.ndim == 0 and native == np.float64:
        array = array.astype(np.float32)
    elif native not in (np.dtype(np.float32), stored):
        expected = "float32" if stored == np.float32 else f"{stored} or float32"
        raise TypeError(f"scales: found dtype {array.dtype}, expected {expected} with scale={scale!r}")
    if array.shape not in ((), shape):
        turned = " (transposed)" if array.shape == shape[::-1] else ""
        raise ValueError(
            f"scales: found shape {array.shape}{turned}, expected one number or {shape}, a scale for each "
            "block"
        )
    numbers: NDArray[np.float32] = array if array.dtype.kind == "f" else decode(array)
    numbers = np.asarray(numbers, np.float32)
    if not np.isfinite(numbers).all():
        code = (
            ""
            if native != stored or stored.itemsize > 1
            else ", such as byte 255,"
            if scale != "nvfp4"
            else ""
        )
        raise ValueError(f"scales: found NaN or infinity{code} expected finite numbers")
    if (numbers < 0).any() or (scale != "nvfp4" and not numbers.all()):
        raise ValueError(
            f"scales: found {float(numbers.min())}, expected numbers above 0"
            + (" or 0" if scale == "nvfp4" else "")
        )
    if stored != np.float32:
        kept = decode(encode(numbers, stored))
        if not np.array_equal(kept, numbers):
            odd = float(numbers[kept != numbers][0]) if numbers.ndim else float(numbers)
            what = _KEPT_SCALES["nvfp4" if scale == "nvfp4" else "ue8m0"]
            raise ValueError(f"scales: found {odd:g}, expected {what} with scale={scale!r}")
    return flat(np.ascontiguousarray(np.broadcast_to(numbers, shape)))


class _Whole(NamedTuple):
    """An array as the core takes it, and the largest magnitudes of its blocks."""

    data: Array
    kind: str
    layout: tuple[int, int, int, int, int]
    shape: tuple[int, ...]
    largest: NDArray[np.float32] | None
    axis: int

    def amax(self) -> NDArray[np.float32]:
        """Finite magnitudes, one for each block."""
        found = self.largest
        if found is None:
            found = np.empty(math.prod(self.shape), np.float32)
            _core.amax(self.data, self.kind, self.layout, found)
        return np.where(np.isfinite(found), found, np.float32(0)).reshape(self.shape)


_ONE = np.ones(1, np.float32)


def _global_scale(
    settings: Settings, whole: _Whole, info: FormatInfo, rule: Rule
) -> tuple[NDArray[np.float32], NDArray[np.float32], Any]:
    """NVFP4's scale of scales: to encode and to decode, as the core takes them, and as it is held."""
    given, top = settings.global_scale, settings.tensor_amax
    word = given if isinstance(given, str) else None
    if settings.scale != "nvfp4":
        if top is not None:
            raise ValueError(f"tensor_amax: found {brief(top)}, but only scale='nvfp4' has a use for it")
        if word != "tensor":
            raise ValueError(f"global_scale: found {brief(given)}, but only scale='nvfp4' has a use for it")
        return _ONE, _ONE, None
    if word is not None:
        _one_of("global_scale", word, get_args(GlobalScale))
    elif top is not None:
        raise ValueError("tensor_amax: found one beside a global_scale, expected one of the two")
    if given is None:
        return _ONE, _ONE, None
    if word is None:
        decode_by = checked_global_scale(given, whole.shape)
        if not decode_by.all():
            raise ValueError("global_scale: found 0, expected numbers above 0")
        with np.errstate(over="ignore"):
            encode_by = np.minimum(np.float32(1) / decode_by, np.finfo(np.float32).max)
        return _spread(encode_by, whole.shape), _spread(decode_by, whole.shape), _held(decode_by)
    if top is not None:
        amax = _checked_tops(top, whole.shape)
    elif word == "row":
        amax = whole.amax().max(axis=whole.axis, keepdims=True, initial=0)
    else:
        amax = np.asarray(whole.amax().max(initial=0))
    encode_by, decode_by = nvfp4_global(amax, rule, info)
    return _spread(encode_by, whole.shape), _spread(decode_by, whole.shape), _held(decode_by)


def nvfp4_global(
    amax: NDArray[np.float32], rule: Rule, info: FormatInfo
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """NVFP4's scale of scales where `amax` is the largest magnitude, to encode, and its inverse."""
    top = np.float32(rule.block_max) * np.float32(rule.max or info.max)
    with np.errstate(divide="ignore", over="ignore"):
        encode_by = np.minimum(top / amax, np.finfo(np.float32).max)
    encode_by = np.asarray(np.where((amax == 0) | (encode_by == 0), np.float32(1), encode_by), np.float32)
    return encode_by, np.asarray(np.float32(1) / encode_by, np.float32)


def _checked_tops(top: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if not np.ndim(top):
        return np.asarray(_magnitude(top, "tensor_amax"), np.float32)
    array = as_array(top, "tensor_amax")
    if array.dtype.newbyteorder("=") != np.float32:
        raise TypeError(f"tensor_amax: found dtype {array.dtype}, expected float32")
    if not broadcasts(array.shape, shape):
        raise ValueError(
            f"tensor_amax: found shape {array.shape}, expected one number or a shape that broadcasts to "
            f"{shape}, that of the scales"
        )
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError("tensor_amax: found NaN, infinity or a negative number, expected finite magnitudes")
    return array.astype(np.float32)


def _spread(values: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    array = np.asarray(values, np.float32)
    return array.reshape(1) if array.ndim == 0 else flat(np.ascontiguousarray(np.broadcast_to(array, shape)))


def _held(values: Any) -> Any:
    array = np.asarray(values, np.float32)
    return np.float32(array) if array.ndim == 0 else np.ascontiguousarray(array)


def _two(out: Any) -> tuple[Array | None, Array | None]:
    if out is None:
        return None, None
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(
            f"out: found {type(out).__name__}, expected a tuple of two arrays, for codes and scales"
        )
    codes, scales = out
    if codes is not None and scales is not None and np.may_share_memory(codes, scales):
        raise ValueError(
            "out: found codes and scales in the same memory, expected arrays apart from each other"
        )
    return codes, scales
