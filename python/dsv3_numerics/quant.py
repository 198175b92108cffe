"""Numbers that share a scale: quantization of tiles and blocks.

Lives here: names, policies and documentation of the quantizers; the arithmetic is the core's. The
result's container is in `quantized`, single numbers are in `formats`, the definitions in
`reference.quant`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from . import _core
from ._arrays import (
    Array,
    brief,
    crossing,
    deliver,
    destination,
    flat,
    normalize_axis,
    positive,
    seed_key,
    source,
)
from ._scale_arguments import (
    GlobalScale,
    WholeArray,
    checked_amax,
    checked_scales,
    global_scales,
    magnitude,
    one_of,
)
from .number_formats import FormatInfo, Rounding, format_info
from .quantized import SCALE_DTYPES, Quantized, core_layout, scales_shape
from .scale_rule import DEFAULT_RULES, Rule, Scale

NonFinite = Literal["raise", "propagate"]

# Kinds of scale that a standard defines: its format, and the elements that share a scale.
_STANDARDS: dict[str, tuple[str, int]] = {"mx": ("float8_e4m3fn", 32), "nvfp4": ("float4_e2m1fn", 16)}
_FLOAT32_EXPONENT = 8  # such formats need no scale, or are one
_FORMAT, _TILE, _BLOCK = "float8_e4m3fn", 128, (128, 128)
_TENSOR: GlobalScale = "tensor"
# Calls on plain arrays that were checked: they are done again without.
_TILES, _BLOCKS = _core.QuantizePlans(), _core.QuantizePlans()


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
        infinite). Any strides; a copy is made of input in the other byte order, or unaligned.
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
    again = None
    if amax is scales is tensor_amax is floor is seed is None and global_scale is _TENSOR:
        again = _TILES, (fmt, tile, axis, scale, rule, rounding, nonfinite)
        made = _TILES.run(x, again[1], out)
        if made is not None:
            return Quantized.of_checked(*made)
    array, kind = source(x, "x")
    if array.ndim == 0:
        raise ValueError("x: found no axis, expected at least one")
    place = normalize_axis(axis, array.ndim)
    one_of("scale", scale, SCALE_DTYPES)
    length: Any = _STANDARDS.get(scale, (None, _TILE))[1] if tile == "standard" else tile
    block = (max(array.shape[place], 1) if length is None else positive(length, "tile"),)
    settings = Settings(
        scale, rule, floor, amax, scales, tensor_amax, global_scale, rounding, seed, nonfinite, out
    )
    return _quantize(array, kind, fmt, block, place, settings, again)


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
    again = None
    if amax is scales is tensor_amax is floor is seed is None and global_scale is _TENSOR:
        again = _BLOCKS, (fmt, block, scale, rule, rounding, nonfinite)
        made = _BLOCKS.run(w, again[1], out)
        if made is not None:
            return Quantized.of_checked(*made)
    array, kind = source(w, "w")
    if array.ndim < 2:
        raise ValueError(f"w: found shape {array.shape}, expected at least two axes")
    one_of("scale", scale, SCALE_DTYPES)
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
    return _quantize(array, kind, fmt, size, None, settings, again)


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
    one_of("scale", kind, SCALE_DTYPES)
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
def _core_rule(rule: Rule, scale: str, fmt: str, is_found: bool) -> _core.RuleRow:
    """Return the rule as the core holds it; ValueError unless it can make such scales for the format."""
    row = _core.rule_row(rule.columns())
    _core.check_rule(row, scale, fmt, is_found)
    return row


def _quantize(
    x: Array,
    kind: str,
    fmt: Any,
    block: tuple[int, ...],
    axis: int | None,
    settings: Settings,
    again: tuple[_core.QuantizePlans, tuple[Any, ...]] | None,
) -> Quantized:
    scale = settings.scale
    one_of("scale", scale, SCALE_DTYPES)
    one_of("nonfinite", settings.nonfinite, ("raise", "propagate"))
    info = _checked_format(fmt, scale)
    rule = _checked_rule(settings)
    shape, layout = scales_shape(x.shape, block, axis), core_layout(x.shape, block, axis)
    if settings.amax is not None and settings.scales is not None:
        raise ValueError("scales: found scales and amax, expected one of the two")
    largest = None if settings.amax is None else checked_amax(settings.amax, shape)
    given = None if settings.scales is None else checked_scales(settings.scales, shape, scale, rule)
    row = _core_rule(rule, scale, info.name, given is None)
    rounding = settings.rounding
    if rounding is not None:
        one_of("rounding", rounding, get_args(Rounding))
    key = seed_key(settings.seed, rounding)
    inputs = [array for array in (x, largest, given) if array is not None]
    codes_out, scales_out = _two(settings.out)
    codes = destination(codes_out, x.shape, info.dtype, *inputs, name="out[0]")
    stored = destination(scales_out, shape, SCALE_DTYPES[scale], *inputs, name="out[1]")
    data = crossing(x, kind)
    whole = WholeArray(data, layout, shape, largest, -1 if axis is None else axis)
    encode_by, decode_by, global_scale = global_scales(
        scale, settings.global_scale, settings.tensor_amax, whole, info, rule
    )
    _core.quantize(
        data,
        layout,
        info.name,
        flat(codes),
        stored.reshape(-1).view(np.uint8),
        scale=scale,
        rule=row,
        global_encode=encode_by,
        global_decode=decode_by,
        amax=largest,
        scales=given,
        nonfinite=settings.nonfinite,
        rounding=rounding,
        seed=key,
        known=whole.found if largest is None and given is None else None,
    )
    q = Quantized(
        deliver(codes, codes_out),
        deliver(stored, scales_out),
        info.name,
        block,
        axis,
        scale,
        str(rule),
        global_scale,
    )
    if again is not None and scale != "nvfp4" and x.dtype.isnative:
        plans, call = again
        rest = {name: value for name, value in vars(q).items() if name not in ("codes", "scales")}
        how = (info.name, scale, row, settings.nonfinite, rounding)
        plans.keep(call, x, codes, stored, kind, layout, *how, rest)
    return q


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
    return rule.replace(amax_floor=magnitude(floor, "floor"))


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
