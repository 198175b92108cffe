"""Numbers that share a scale: tiles and blocks, in float32 arithmetic spelled out operation by operation.

Every `np.float32` below is deliberate: the rules differ from each other only in where float32 rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .formats import (
    FORMATS,
    Array,
    decode,
    encode,
    format_name,
    nan_code,
    value_table,
)

Float32s = NDArray[np.float32]
f32 = np.float32
SMALLEST_NORMAL = f32(2.0**-126)


class Rule(NamedTuple):
    """How one project computes a scale: amax floor, amax to scale, numbers to quotients, power of two."""

    floor: float
    scale_op: str
    apply_op: str
    pow2_op: str


RULES = {
    "deepseek_v3": Rule(1e-4, "divide", "divide", "bit"),
    "deepgemm": Rule(1e-4, "divide", "multiply_inverse", "bit"),
    "deepep": Rule(1e-4, "multiply", "multiply_ratio", "bit"),
    "vllm": Rule(1e-10, "divide", "divide", "float_log2"),
}


class Scaling(NamedTuple):
    """Stored scales (as float32 values), what a code is multiplied by, and how numbers become quotients."""

    stored: Float32s
    effective: Float32s
    global_scale: np.float32 | None = None
    multiplier: Float32s | None = None


def _ceil_power_of_two(s: Float32s, op: str) -> Float32s:
    """Return the power of two at or above s, within float32's normal range.

    ``float_log2`` takes the logarithm as float32, which drops to a whole number for s a few units above a
    power of two. Its float32 rounding is the correct one: float64 log2 is within 1e-13, and no logarithm of a
    float32 near a power of two is that close to the midpoint that decides (tests check it with 60 digits).
    """
    if op == "float_log2":
        exponent = np.ceil(np.log2(s.astype(np.float64)).astype(f32))
    else:
        mantissa, above = np.frexp(s)
        exponent = (above - (mantissa == f32(0.5))).astype(f32)
    limited = np.where(np.isfinite(s), np.clip(exponent, -126, 127), 0).astype(np.intc)
    return np.where(np.isfinite(s), np.ldexp(f32(1), limited), f32(np.nan))


def _shared(amax: Float32s, fmax: np.float32, rule: Rule, power_of_two: bool) -> Scaling:
    """Return a float32 scale by a project's rule, or the power of two above it."""
    amax = np.maximum(np.maximum(amax, f32(rule.floor)), fmax * SMALLEST_NORMAL)
    s = amax / fmax if rule.scale_op == "divide" else amax * (f32(1) / fmax)
    if power_of_two:
        s = _ceil_power_of_two(s, rule.pow2_op)
        return Scaling(s, s)
    multiplier = {"multiply_inverse": f32(1) / s, "multiply_ratio": fmax / amax}.get(rule.apply_op)
    return Scaling(s, s, multiplier=multiplier)


def _float32(amax: Float32s, fmax: np.float32, rule: Rule, top: float | None) -> Scaling:
    return _shared(amax, fmax, rule, power_of_two=False)


def _ue8m0(amax: Float32s, fmax: np.float32, rule: Rule, top: float | None) -> Scaling:
    return _shared(amax, fmax, rule, power_of_two=True)


def _mx(amax: Float32s, fmax: np.float32, rule: Rule, top: float | None) -> Scaling:
    """OCP Microscaling 1.0, 6.3: the largest power of two in amax over the largest one in the format."""
    exponent = np.frexp(amax)[1] - np.frexp(fmax)[1]
    exponent = np.where((amax > 0) & np.isfinite(amax), np.clip(exponent, -127, 127), -127)
    s = np.where(np.isfinite(amax), np.ldexp(f32(1), exponent), f32(np.nan))
    return Scaling(s, s)


def _nvfp4(amax: Float32s, fmax: np.float32, rule: Rule, top: float | None) -> Scaling:
    """Return an E4M3 scale per block under a float32 scale for all, which non-finite blocks do not touch."""
    largest = f32(amax.max(initial=0, where=np.isfinite(amax)) if top is None else top)
    g = np.maximum(largest / (f32(448) * fmax), SMALLEST_NORMAL) if largest > 0 else f32(1)
    t = np.where(np.isfinite(amax), amax / fmax / g, f32(np.nan))
    stored = np.maximum(decode(encode(t, "float8_e4m3fn")), f32(2.0**-9))
    return Scaling(stored, stored * g, global_scale=f32(g))


SCALES = {"float32": _float32, "ue8m0": _ue8m0, "mx": _mx, "nvfp4": _nvfp4}
SCALE_FORMATS = {"float32": None, "ue8m0": "float8_e8m0fnu", "mx": "float8_e8m0fnu", "nvfp4": "float8_e4m3fn"}


def expand(scales: Array, shape: tuple[int, ...], block: tuple[int, ...]) -> Array:
    """Scales repeated to `shape`, each over its block of the last ``len(block)`` axes."""
    for axis, length in enumerate(block, start=len(shape) - len(block)):
        scales = np.repeat(scales, length, axis=axis).take(np.arange(shape[axis]), axis=axis)
    return scales


def block_amax(x: Float32s, block: tuple[int, ...]) -> Float32s:
    """Largest magnitude of each block of the last ``len(block)`` axes; NaN wins."""
    amax = np.abs(x)
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
    rule: str | None
    global_scale: np.float32 | None

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


def _quantize(
    x: Float32s,
    name: str,
    block: tuple[int, ...],
    scale: str,
    rule: str,
    floor: float | None,
    amax: ArrayLike | None,
    tensor_amax: float | None,
    nonfinite: str,
) -> tuple[Array, Array, np.float32 | None]:
    """Codes, stored scales and global scale for blocks over the last axes."""
    if nonfinite == "raise" and not np.isfinite(x).all():
        raise ValueError("x contains NaN or infinity (nonfinite='propagate' carries them through)")
    if nonfinite == "propagate" and nan_code(FORMATS[name]) is None:
        raise ValueError(f"nonfinite='propagate' needs a format with NaN, got {name}")
    fmax = f32(np.nanmax(np.where(np.isinf(value_table(name)), np.nan, value_table(name))))
    with np.errstate(all="ignore"):
        largest = block_amax(x, block) if amax is None else np.asarray(amax, np.float32)
        row = RULES[rule] if floor is None else RULES[rule]._replace(floor=floor)
        how = SCALES[scale](largest, fmax, row, tensor_amax)
        factor = expand(how.effective if how.multiplier is None else how.multiplier, x.shape, block)
        quotient = x / factor if how.multiplier is None else x * factor
        quotient = np.copysign(quotient, x)  # a NaN that hardware makes may have either sign
    stored = how.stored if SCALE_FORMATS[scale] is None else encode(how.stored, SCALE_FORMATS[scale])
    return encode(quotient, name), stored, how.global_scale


def _standard(scale: str) -> tuple[str, int]:
    """Return the format and the tile that a kind of scale has by default."""
    if scale == "nvfp4":
        return "float4_e2m1fn", 16
    return "float8_e4m3fn", 32 if scale == "mx" else 128


def quantize_tiles(
    x: ArrayLike,
    *,
    dtype: Any = "standard",
    tile: Any = "standard",
    axis: int = -1,
    scale: str = "float32",
    rule: str = "deepseek_v3",
    floor: float | None = None,
    amax: ArrayLike | None = None,
    tensor_amax: float | None = None,
    nonfinite: str = "raise",
) -> Quantized:
    """Quantize with one scale per `tile` consecutive elements of `axis`.

    Arguments as in `dsv3_numerics.quantize_tiles`.

    Examples
    --------
    >>> quantize_tiles(np.float32([448, 1, 2, 224]), tile=2).scales.tolist()
    [1.0, 0.5]
    """
    array, name = _narrow(x), format_name(_standard(scale)[0] if dtype == "standard" else dtype)
    tile = _standard(scale)[1] if tile == "standard" else tile
    axis = axis % array.ndim
    moved = np.moveaxis(array, axis, -1)
    block = (tile or max(moved.shape[-1], 1),)
    largest = None if amax is None else np.moveaxis(np.asarray(amax), axis, -1)
    codes, scales, g = _quantize(moved, name, block, scale, rule, floor, largest, tensor_amax, nonfinite)
    kept = rule if scale in ("float32", "ue8m0") else None
    return Quantized(
        np.moveaxis(codes, -1, axis), np.moveaxis(scales, -1, axis), name, block, axis, scale, kept, g
    )


def quantize_blocks(
    w: ArrayLike,
    *,
    dtype: Any = "float8_e4m3fn",
    block: tuple[int | None, int | None] | None = (128, 128),
    scale: str = "float32",
    rule: str = "deepseek_v3",
    floor: float | None = None,
    amax: ArrayLike | None = None,
    tensor_amax: float | None = None,
    nonfinite: str = "raise",
) -> Quantized:
    """Quantize with one scale per block of the last two axes.

    Arguments as in `dsv3_numerics.quantize_blocks`.

    Examples
    --------
    >>> quantize_blocks(np.float32([[448, 1], [2, 224]]), block=(1, 2)).scales.tolist()
    [[1.0], [0.5]]
    """
    array, name = _narrow(w), format_name(dtype)
    whole = [max(length, 1) for length in array.shape[-2:]]
    size = tuple(given or length for given, length in zip(block or (None, None), whole, strict=True))
    codes, scales, g = _quantize(array, name, size, scale, rule, floor, amax, tensor_amax, nonfinite)
    kept = rule if scale in ("float32", "ue8m0") else None
    return Quantized(codes, scales, name, size, None, scale, kept, g)


def requantize_tiles(
    q: Quantized, *, axis: int, tile: int | None = 128, scale: str | None = None, rule: str | None = None
) -> Quantized:
    """Dequantize to float32 and quantize along another axis, by default with the same kind of scale."""
    return quantize_tiles(
        dequantize(q),
        dtype=q.format,
        tile=tile,
        axis=axis,
        scale=scale or q.scale_kind,
        rule=rule or q.rule or "deepseek_v3",
    )
