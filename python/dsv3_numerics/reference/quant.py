"""Numbers that share a scale: tiles and blocks, in float32 arithmetic spelled out operation by operation.

Every `np.float32` below is deliberate: the rules differ from each other only in where float32 rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .formats import (
    RANDOM_BITS,
    Array,
    decode,
    encode,
    format_name,
    format_row,
    nan_code,
    value_table,
)

Float32s = NDArray[np.float32]
f32 = np.float32
SMALLEST_NORMAL = f32(2.0**-126)


class Rule(NamedTuple):
    """A project's way from a block's largest magnitude `a` to its scale `s` and codes: a column a step."""

    amax_nan: str = "keep"
    "NaN in a block is its amax (keep), or is passed over (skip)"
    amax_floor: float = 0
    max: float | None = None
    "what amax is brought to; the format's largest number by default"
    scale_op: str = "divide"
    "s: a / max (divide), a * (1 / max) (multiply), 1 / min(max / a, FLT_MAX) (inverse), or none"
    scale_floor: float = 0
    pow2_floor: float = 0
    "least s before a power of two is made of it"
    pow2_op: str = "bit"
    least_exponent: int = -126
    apply_op: str = "divide"
    "x / s (divide), x * (1 / s) (multiply_inverse), x * min(max / a, FLT_MAX) (multiply_ratio)"
    byte0: str = "scale"
    "what x is divided by where a power of two is 2^-127: the scale, 2^-126 (normal), or 1 (one)"
    zero_tile: str = "floor"
    "the scale of zeros: that of the least amax, or one"
    rounding: str = "nearest_even"
    negative_zero: bool = True
    block_max: float = 448
    "NVFP4: the block scale that the tensor's amax gets"
    candidates: tuple[float, ...] = (6.0,)
    "NVFP4: what a block's amax may become"
    zero_scale: str = "max"
    "NVFP4: x is multiplied by FLT_MAX (max) or zero where a block scale is zero"
    block_op: str = "divide"
    "NVFP4: (a / target) * g, (a * (1 / target)) * g (multiply), or a * (g * (1 / target)) (multiply_global)"
    subnormals: str = "nearest"
    "E5M6: below 2^-14 the low 17 bits of the float32 decide (float32_tail), wherever the cut is"


_DEEPSEEK = Rule(amax_floor=1e-4)
_CUDA = Rule(amax_nan="skip")
_MX = Rule(scale_op="none", least_exponent=-127)
_NVFP4 = Rule(amax_nan="skip", scale_op="none", pow2_op="none", apply_op="multiply_inverse")
_INVERSE = Rule(scale_op="inverse", apply_op="multiply_ratio", zero_tile="one", least_exponent=-127)
RULES = {
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v3_log2": _DEEPSEEK._replace(pow2_op="float_log2"),
    "deepseek_v32_exp": _DEEPSEEK._replace(scale_op="multiply"),
    "deepgemm": _DEEPSEEK._replace(apply_op="multiply_inverse"),
    "deepgemm_fp4": _DEEPSEEK._replace(
        apply_op="multiply_inverse", rounding="nearest_toward_zero", negative_zero=False
    ),
    "deepep": _CUDA._replace(amax_floor=1e-4, scale_op="multiply", apply_op="multiply_ratio"),
    "vllm": _CUDA._replace(amax_floor=1e-10, pow2_floor=1e-10, pow2_op="float_log2"),
    "vllm_triton": Rule(amax_floor=1e-10, scale_op="multiply", pow2_op="float_log2"),
    "vllm_per_token": _CUDA._replace(scale_floor=float(f32(1) / (f32(448) * f32(512))), pow2_op="none"),
    "vllm_static": Rule(apply_op="multiply_inverse", pow2_op="none"),
    "vllm_fp8_ds_mla": _CUDA._replace(scale_floor=float(SMALLEST_NORMAL), pow2_op="none"),
    "sglang_triton": Rule(amax_floor=1e-10, apply_op="multiply_inverse", pow2_op="none"),
    "sglang_cuda": _CUDA._replace(amax_floor=1e-10, scale_op="multiply", apply_op="multiply_ratio"),
    "sglang_colmajor": Rule(amax_floor=1e-10, pow2_op="float_log2"),
    "tilekernels": _DEEPSEEK._replace(apply_op="multiply_ratio"),
    "tilekernels_fp4": Rule(apply_op="multiply_ratio"),
    "tilekernels_e5m6": _DEEPSEEK._replace(apply_op="multiply_ratio", subnormals="float32_tail"),
    "torchao": Rule(amax_floor=1e-12, scale_op="inverse", apply_op="multiply_ratio", pow2_op="none"),
    "transformers": _INVERSE._replace(pow2_op="none"),
    "transformer_engine": _INVERSE._replace(amax_nan="skip", pow2_op="ratio"),
    "fnuz_224": Rule(amax_floor=1e-10, max=224),
    "floor": _MX._replace(pow2_op="floor"),
    "ceil": _MX._replace(pow2_op="ceil"),
    "even": _MX._replace(pow2_op="even"),
    "rceil": Rule(least_exponent=-127),
    "transformer_engine_mx": _CUDA._replace(scale_op="multiply", least_exponent=-127),
    "torchao_floor": _MX._replace(pow2_op="floor", byte0="normal"),
    "torchao_ceil": _MX._replace(pow2_op="ceil", byte0="normal"),
    "torchao_even": _MX._replace(pow2_op="even", byte0="normal"),
    "torchao_rceil": Rule(pow2_op="float_log2", least_exponent=-127, byte0="one"),
    "nvfp4": _NVFP4,
    "transformer_engine_nvfp4": _NVFP4._replace(block_op="multiply_global"),
    "nvfp4_vllm": _NVFP4._replace(block_op="multiply", zero_scale="zero"),
    "nvfp4_flashmla": Rule(scale_op="none", pow2_op="none", scale_floor=2.0**-9),
    "nvfp4_four_over_six": _NVFP4._replace(block_max=256, candidates=(6.0, 4.0)),
}
DEFAULT_RULES = {"float32": "deepseek_v3", "ue8m0": "deepseek_v3", "mx": "floor", "nvfp4": "nvfp4"}
SCALE_FORMATS = {"float32": None, "ue8m0": "float8_e8m0fnu", "mx": "float8_e8m0fnu", "nvfp4": "float8_e4m3fn"}
FLT_MAX = np.finfo(f32).max


class Scaling(NamedTuple):
    """Stored scales (as float32 values), what a code is multiplied by, and how numbers become quotients."""

    stored: Float32s
    effective: Float32s
    multiplier: Float32s | None = None
    "None: numbers are divided, by the divisor, or by the effective scale"
    divisor: Float32s | None = None

    def quotient(self, x: Float32s, block: tuple[int, ...]) -> Float32s:
        """Bring numbers into the range of codes."""
        found: Any
        if self.multiplier is not None:
            found = x * expand(self.multiplier, x.shape, block)
        else:
            divisor = self.effective if self.divisor is None else self.divisor
            found = x / expand(divisor, x.shape, block)
        return np.asarray(found, f32)


def _top(name: str) -> np.float32:
    """Return the largest finite number of a format."""
    table = value_table(name)
    return f32(np.nanmax(np.where(np.isinf(table), np.nan, table)))


def _ceil_exponent(s: Float32s, op: str) -> Float32s:
    """Return the exponent of the power of two at or above s.

    ``float_log2`` takes the logarithm as float32, which drops to a whole number for s a few units above a
    power of two. Its float32 rounding is the correct one: float64 log2 is within 1e-13, and no logarithm of a
    float32 near a power of two is that close to the midpoint that decides (tests check it with 60 digits).
    """
    if op == "float_log2":
        logarithm: Float32s = np.log2(s.astype(np.float64)).astype(f32)
        return np.ceil(logarithm)
    mantissa, above = np.frexp(s)
    exponent: Float32s = (above - (mantissa == f32(0.5))).astype(f32)
    return exponent


def _above_top(amax: Float32s, name: str, op: str) -> Float32s:
    """Return the exponent of amax, rounded as the rule says, less that of the largest number."""
    if op == "even":  # half a unit of the last mantissa bit reaches the next binade, or does not
        mantissa, exponent = np.frexp(amax.astype(np.float64))  # which the largest float32 does not overflow
        bits = format_row(name).man + 1
        rounded: Any = np.ldexp(np.floor(np.ldexp(mantissa, bits) + 0.5), exponent - bits)
        amax = rounded
    mantissa, above = np.frexp(amax)
    up = (mantissa != f32(0.5)) if op == "ceil" else 0
    exponent = np.where(amax > 0, above - 1 + up, -1000)
    found: Float32s = (exponent - (np.frexp(_top(name))[1] - 1)).astype(f32)
    return found


def _raised(amax: Float32s, fmax: np.float32, rule: Rule) -> Float32s:
    """amax and its floors."""
    least = fmax * SMALLEST_NORMAL if rule.least_exponent == -126 else f32(0)
    return np.maximum(amax, np.maximum(f32(rule.amax_floor), least))


def _float_scale(amax: Float32s, fmax: np.float32, rule: Rule, floor: float) -> Float32s:
    """Return the float32 scale of each block."""
    a = _raised(amax, fmax, rule)
    ways: dict[str, Float32s] = {
        "divide": a / fmax,
        "multiply": a * (f32(1) / fmax),
        "inverse": f32(1) / np.minimum(fmax / a, FLT_MAX),
    }
    s = np.maximum(ways[rule.scale_op], f32(floor))
    return np.where((amax == 0) & (rule.zero_tile == "one"), f32(1), s)


def _float32(amax: Float32s, name: str, rule: Rule, fmax: np.float32) -> Scaling:
    s = _float_scale(amax, fmax, rule, rule.scale_floor)
    s = np.where(np.isinf(amax), amax, s)  # infinity is its own scale: x / inf is zero, or NaN
    ratio = np.minimum(fmax / _raised(amax, fmax, rule), FLT_MAX)
    ratio = np.where((amax == 0) & (rule.zero_tile == "one"), f32(1), ratio)
    multiplier = {"multiply_inverse": f32(1) / s, "multiply_ratio": ratio}.get(rule.apply_op)
    return Scaling(s, s, multiplier)


def _power_of_two(amax: Float32s, name: str, rule: Rule, fmax: np.float32) -> Scaling:
    if rule.pow2_op in ("floor", "ceil", "even"):
        exponent = _above_top(_raised(amax, fmax, rule), name, rule.pow2_op)
    elif rule.pow2_op == "ratio":
        exponent = f32(1) - np.frexp(np.minimum(fmax / _raised(amax, fmax, rule), FLT_MAX))[1]
    else:
        s = _float_scale(amax, fmax, rule, max(rule.scale_floor, rule.pow2_floor))
        exponent = _ceil_exponent(s, rule.pow2_op)
        exponent = np.where(s == 0, -1000, np.where(np.isinf(s), 1000, exponent))
    exponent = np.where((amax == 0) & (rule.zero_tile == "one"), 0, exponent)
    exponent = np.clip(np.where(np.isfinite(amax), exponent, 0), rule.least_exponent, 127).astype(np.intc)
    s = np.where(np.isfinite(amax), np.ldexp(f32(1), exponent), f32(np.nan))
    return Scaling(s, s, _by_power(s, rule))


def _by_power(s: Float32s, rule: Rule) -> Float32s:
    """Return what numbers are multiplied by under a power of two."""
    byte0 = {"scale": 127, "normal": 126, "one": 0}[rule.byte0]
    return np.where(s == f32(2.0**-127), np.ldexp(f32(1), byte0), f32(1) / s)


def nvfp4_global(amax: Any, rule: Rule, fmax: np.float32) -> tuple[Float32s, Float32s]:
    """Return the scale of scales, to encode and to decode, of numbers up to `amax`."""
    with np.errstate(divide="ignore", over="ignore"):
        encode = np.minimum(f32(rule.block_max) * fmax / np.asarray(amax, f32), FLT_MAX)
    encode = np.asarray(np.where((amax == 0) | (encode == 0), f32(1), encode), f32)
    return encode, np.asarray(f32(1) / encode, f32)


def _by_nvfp4(stored: Float32s, decode_by: Float32s, rule: Rule) -> Scaling:
    """Codes of a block whose E4M3 scale is known."""
    effective = stored * decode_by
    multiplier = np.minimum(f32(1) / effective, FLT_MAX)
    dead = f32(0) if rule.zero_scale == "zero" else FLT_MAX
    if rule.apply_op == "divide":
        return Scaling(stored, effective, None, np.where(stored == 0, f32(1) / dead, effective))
    return Scaling(stored, effective, np.where(stored == 0, dead, multiplier))


def _block_scale(amax: Float32s, target: float, encode_by: Float32s, rule: Rule) -> Float32s:
    inverse = f32(1) / f32(target)
    ways = {
        "divide": (amax / f32(target)) * encode_by,
        "multiply": (amax * inverse) * encode_by,
        "multiply_global": amax * (encode_by * inverse),
    }
    return decode(encode(np.maximum(ways[rule.block_op], f32(rule.scale_floor)), "float8_e4m3fn"))


SCALES = {"float32": _float32, "ue8m0": _power_of_two, "mx": _power_of_two}


def expand(scales: Array, shape: tuple[int, ...], block: tuple[int, ...]) -> Array:
    """Scales repeated to `shape`, each over its block of the last ``len(block)`` axes."""
    for axis, length in enumerate(block, start=len(shape) - len(block)):
        scales = np.repeat(scales, length, axis=axis).take(np.arange(shape[axis]), axis=axis)
    return scales


def block_amax(x: Float32s, block: tuple[int, ...], nan: str = "keep") -> Float32s:
    """Largest magnitude of each block of the last ``len(block)`` axes; NaN wins, or is passed over."""
    amax = np.abs(x) if nan == "keep" else np.where(np.isnan(x), f32(0), np.abs(x))
    for axis, length in enumerate(block, start=x.ndim - len(block)):
        amax = np.maximum.reduceat(amax, np.arange(0, x.shape[axis], length), axis=axis)
    return amax


@dataclass(frozen=True)
class Quantized:
    """Codes with their scales, and how the two belong together."""

    codes: Array
    scales: Array
    format: str
    block: tuple[int, ...]
    axis: int | None
    scale_kind: str
    rule: Rule
    global_scale: Float32s | None
    "NVFP4: one for all blocks, or of the scales' shape with ones where they share it"

    def effective_scales(self) -> Float32s:
        """Return the factor of the codes, one float32 per block."""
        stored = self.scales if self.scales.dtype == np.float32 else decode(self.scales)
        return stored if self.global_scale is None else stored * self.global_scale

    def dequantize(self, dtype: Any = np.float32) -> Array:
        """See the function `dequantize`."""
        return dequantize(self, dtype)


def dequantize(q: Quantized, dtype: Any = np.float32) -> Array:
    """``float32(code) * scale``, one float32 multiplication; float16 and bfloat16 round it once more.

    Examples
    --------
    >>> q = quantize_tiles(np.float32([[1, -2, 448]]), tile=3)
    >>> dequantize(q).tolist()
    [[1.0, -2.0, 448.0]]
    """
    axis = -1 if q.axis is None else q.axis
    codes, scales = np.moveaxis(q.codes, axis, -1), np.moveaxis(q.effective_scales(), axis, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        product = decode(codes, fmt=q.format) * expand(scales, codes.shape, q.block)
        return np.moveaxis(product, -1, axis).astype(dtype)


def _narrow(x: ArrayLike) -> Float32s:
    """Return sources as float32, where the rules begin: exact, but float64 is rounded to nearest even."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(x).astype(np.float32)


class Options(NamedTuple):
    """Options of the quantizers besides a format and blocks; see `dsv3_numerics.quantize_tiles`."""

    scale: str = "float32"
    rule: str | Rule | None = None
    floor: float | None = None
    amax: ArrayLike | None = None
    scales: ArrayLike | None = None
    tensor_amax: ArrayLike | None = None
    global_scale: Any = "tensor"
    rounding: str | None = None
    seed: int = 0
    nonfinite: str = "raise"

    def row(self) -> Rule:
        """Find the rule's columns."""
        rule = self.rule or DEFAULT_RULES[self.scale]
        row = RULES[rule] if isinstance(rule, str) else rule
        return row if self.floor is None else row._replace(amax_floor=self.floor)


def _global(amax: Float32s, options: Options, rule: Rule, fmax: np.float32) -> tuple[Float32s, Float32s]:
    """NVFP4's scale of scales: found for the tensor or for each row, from a given amax, given, or none."""
    given = options.global_scale
    if options.tensor_amax is not None:
        return nvfp4_global(np.asarray(options.tensor_amax, f32), rule, fmax)
    if given is None:
        return np.ones((), f32), np.ones((), f32)
    if not isinstance(given, str):
        return np.minimum(f32(1) / np.asarray(given, f32), FLT_MAX), np.asarray(given, f32)
    finite = np.where(np.isfinite(amax), amax, f32(0))
    axes = None if given == "tensor" else -1
    return nvfp4_global(finite.max(axis=axes, keepdims=given == "row", initial=0), rule, fmax)


def _search(
    x: Float32s, name: str, block: tuple[int, ...], amax: Float32s, scale_of: Any, rule: Rule
) -> Float32s:
    """Find the stored scale, of the candidates', whose codes read back with the least squared error.

    Errors are summed in float64, element by element in C order; of equal ones the first wins.
    """
    rounding = rule.rounding
    best, least = None, None
    for target in rule.candidates:
        how = scale_of(target)
        codes = encode(how.quotient(x, block), name, rounding=rounding)
        back = decode(codes, fmt=name) * expand(how.effective, x.shape, block)
        squares = (back.astype(np.float64) - x.astype(np.float64)) ** 2
        error = np.zeros(amax.shape)
        for place in np.ndindex(*x.shape):
            inner = zip(place[x.ndim - len(block) :], block, strict=True)
            at = (*place[: x.ndim - len(block)], *(p // b for p, b in inner))
            error[at] += squares[place]
        if best is None or least is None:
            best, least = how.stored, error
        else:
            best, least = np.where(error < least, how.stored, best), np.minimum(error, least)
    chosen: Float32s = np.asarray(best, f32)
    return chosen


def _quantize(
    x: Float32s, name: str, block: tuple[int, ...], options: Options, order: Any
) -> tuple[Array, Array, Float32s | None]:
    """Codes, stored scales and global scale for blocks over the last axes.

    `order` lays numbers by their place in the caller's array out as `x` is.
    """
    rule, scale = options.row(), options.scale
    if options.nonfinite == "raise" and not np.isfinite(x).all():
        raise ValueError("x contains NaN or infinity (nonfinite='propagate' carries them through)")
    if options.nonfinite == "propagate" and nan_code(format_row(name)) is None:
        raise ValueError(f"nonfinite='propagate' needs a format with NaN, got {name}")
    fmax = _top(name) if rule.max is None else f32(rule.max)
    with np.errstate(all="ignore"):
        found = block_amax(x, block, rule.amax_nan)
        largest = found if options.amax is None else np.asarray(options.amax, np.float32)
        g = None
        if scale == "nvfp4":
            encode_by, g = _global(largest, options, rule, fmax)

            def scale_of(target: float) -> Scaling:
                return _by_nvfp4(_block_scale(largest, target, encode_by, rule), g, rule)

            if options.scales is not None:
                stored = decode(np.asarray(options.scales))
            elif len(rule.candidates) > 1:
                stored = _search(x, name, block, largest, scale_of, rule)
            else:
                stored = scale_of(rule.candidates[0]).stored
            how = _by_nvfp4(stored, g, rule)
        elif options.scales is not None:
            given = np.asarray(options.scales)
            s = given if given.dtype == np.float32 else decode(given)
            inverse: Any = {"multiply_inverse": f32(1) / s}.get(rule.apply_op)
            how = Scaling(s, s, inverse if scale == "float32" else _by_power(s, rule))
        else:
            how = SCALES[scale](largest, name, rule, fmax)
        quotient = how.quotient(x, block)
        # Blocks of zeros have codes of zero, even where the scale underflows to zero, and 0 / 0 is NaN.
        quotient = np.where(expand(block_amax(x, block) == 0, x.shape, block), f32(0), quotient)
        quotient = np.copysign(quotient, x)  # a NaN that hardware makes may have either sign
        if rule.max is not None:
            quotient = np.copysign(np.minimum(np.abs(quotient), fmax), quotient)
    rounding = options.rounding or rule.rounding
    draw = RANDOM_BITS.get(rounding)
    words = None if draw is None else order(draw(x.size, options.seed))
    codes = encode(quotient, name, rounding=rounding, words=words)
    row = format_row(name)
    e5m6 = (row.exp, row.man, row.bias, row.subnormals) == (5, 6, 15, True)
    if e5m6 and rule.subnormals == "float32_tail" and rounding == "nearest_even":
        small = np.abs(quotient) < f32(2.0**-14)
        codes = np.where(small, _by_tail(np.where(small, quotient, f32(0))), codes)
    if not rule.negative_zero:
        minus = quotient_is_minus_zero(codes, name)
        codes = np.where(minus, codes.dtype.type(0), codes)
    stored = how.stored if SCALE_FORMATS[scale] is None else encode(how.stored, SCALE_FORMATS[scale])
    return codes, stored, None if options.global_scale is None else g


def _by_tail(quotient: Float32s) -> Array:
    """Return E5M6 codes of numbers below 2^-14 as TileKernels makes them.

    The half-precision bits are cut by four, and one is added where the last kept bit and the low 17 bits of
    the float32 exceed a half of 2^17, as if the number were normal.
    """
    bits = np.ascontiguousarray(quotient, f32).view(np.uint32).astype(np.int64)
    kept = np.floor(np.abs(quotient.astype(np.float64)) / 2.0**-20).astype(np.int64)
    up = (kept & 1) + (bits & 0x1FFFF) > 0x10000
    codes: Array = ((bits >> 31 << 11) | (kept + up)).astype(np.uint16)
    return codes


def quotient_is_minus_zero(codes: Array, name: str) -> Any:
    """Codes of negative zero."""
    value = decode(codes, fmt=name)
    return (value == 0) & np.signbit(value)


def _standard(scale: str) -> tuple[str, int]:
    """Return the format and the tile that a kind of scale has by default."""
    if scale == "nvfp4":
        return "float4_e2m1fn", 16
    return "float8_e4m3fn", 32 if scale == "mx" else 128


def quantize_tiles(
    x: ArrayLike,
    *,
    fmt: Any = "standard",
    tile: Any = "standard",
    axis: int = -1,
    **options: Any,
) -> Quantized:
    """Quantize with one scale per `tile` consecutive elements of `axis`.

    Arguments as in `dsv3_numerics.quantize_tiles`.

    Examples
    --------
    >>> quantize_tiles(np.float32([448, 1, 2, 224]), tile=2).scales.tolist()
    [1.0, 0.5]
    """
    fmt, tile = (
        _standard(options.get("scale", "float32"))[i] if v == "standard" else v
        for i, v in enumerate((fmt, tile))
    )
    array, name = _narrow(x), format_name(fmt)
    axis = axis % array.ndim
    moved = np.moveaxis(array, axis, -1)
    block = (tile or max(moved.shape[-1], 1),)
    for key in ("amax", "scales", "tensor_amax", "global_scale"):
        if key in options and np.ndim(options[key]):
            options[key] = np.moveaxis(np.asarray(options[key]), axis, -1)
    chosen = Options(**options)

    def order(words: Any) -> Any:
        return np.moveaxis(words.reshape(array.shape), axis, -1)

    codes, scales, g = _quantize(moved, name, block, chosen, order)
    if g is not None and np.ndim(g):
        g = np.moveaxis(g, -1, axis)
    return Quantized(
        np.moveaxis(codes, -1, axis),
        np.moveaxis(scales, -1, axis),
        name,
        block,
        axis,
        chosen.scale,
        chosen.row(),
        g,
    )


def quantize_blocks(
    w: ArrayLike,
    *,
    fmt: Any = "standard",
    block: tuple[int | None, int | None] | None = (128, 128),
    **options: Any,
) -> Quantized:
    """Quantize with one scale per block of the last two axes.

    Arguments as in `dsv3_numerics.quantize_blocks`; the block is always said.

    Examples
    --------
    >>> quantize_blocks(np.float32([[448, 1], [2, 224]]), block=(1, 2)).scales.tolist()
    [[1.0], [0.5]]
    """
    fmt = _standard(options.get("scale", "float32"))[0] if fmt == "standard" else fmt
    array, name = _narrow(w), format_name(fmt)
    whole = [max(length, 1) for length in array.shape[-2:]]
    size = tuple(given or length for given, length in zip(block or (None, None), whole, strict=True))
    chosen = Options(**options)
    codes, scales, g = _quantize(array, name, size, chosen, lambda words: words.reshape(array.shape))
    return Quantized(codes, scales, name, size, None, chosen.scale, chosen.row(), g)


def requantize_tiles(
    q: Quantized, *, axis: int, tile: Any = "standard", scale: str | None = None, **options: Any
) -> Quantized:
    """Dequantize to float32 and quantize along another axis, by default with the same scale and rule."""
    kind = scale or q.scale_kind
    options.setdefault("rule", q.rule if kind == q.scale_kind else None)
    return quantize_tiles(dequantize(q), fmt=q.format, tile=tile, axis=axis, scale=kind, **options)
