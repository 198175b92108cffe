"""Operands of matrix products that tests share: codes and accumulators chosen to be hard to add."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsv3_numerics import Quantized, reference
from dsv3_numerics.reference import ACCUMULATORS, FORMATS, value_table
from dsv3_numerics.reference.formats import code_dtype, nan_code

KINDS = ["plain", "bits", "sparse", "tiny", "cancel", "special"]
SCALED_UNITS = [name for name, row in ACCUMULATORS.items() if row.scale is not None]
TENSOR_CORES = [
    name
    for name, row in ACCUMULATORS.items()
    if row.unit == "tensor_core" and row.scale is None and row.inputs != ("tf32",)
]
FP8_UNITS = [
    name for name, row in ACCUMULATORS.items() if "float8_e4m3fn" in row.inputs and row.scale is None
]


def pairs(accumulator: str) -> list[tuple[str, str]]:
    """Every pair of input formats of an accumulator; of those that take any, each with one other.

    E5M6 is left out: its codes have no dtype that says so.
    """
    inputs = tuple(name for name in ACCUMULATORS[accumulator].inputs if name != "e5m6")
    if len(inputs) <= 5:
        return [(a, b) for a in inputs for b in inputs]
    return list(zip(inputs, (*inputs[3:], *inputs[:3]), strict=True))


def codes(rng: np.random.Generator, name: str, shape: tuple[int, ...], kind: str = "bits") -> NDArray[Any]:
    """Codes of a format as its dtype.

    plain: like a normal distribution. bits: all finite codes alike, so all exponents alike. sparse: mostly
    zeros of both signs. tiny: the smallest magnitudes, most of them subnormal. cancel: each second code is
    the negative of the one before. special: bits, with NaN and infinities among them.
    """
    if name == "tf32":
        return _floats(rng, shape, kind)
    f, table = FORMATS[name], value_table(name)
    finite = np.flatnonzero(np.isfinite(table))
    code = rng.choice(finite, shape)
    if kind == "plain":
        order = finite[np.argsort(table[finite], kind="stable")]
        scaled = rng.standard_normal(shape) * float(table[order[-1]]) / 4
        code = order[np.clip(np.searchsorted(table[order], scaled), 0, len(order) - 1)]
    elif kind == "sparse":
        zeros = np.flatnonzero(table == 0) if (table == 0).any() else finite[:1]
        code = np.where(rng.random(shape) < 0.8, rng.choice(zeros, shape), code)
    elif kind == "tiny":
        small = finite[np.argsort(np.abs(table[finite]), kind="stable")][: 5 << f.man]
        code = rng.choice(small, shape)
    elif kind == "cancel" and f.top not in ("integer", "scale", "fnuz"):
        pair = shape[-1] // 2 * 2
        code[..., 1:pair:2] = code[..., 0:pair:2] ^ f.sign
    elif kind == "special":
        specials = np.flatnonzero(~np.isfinite(table))
        if specials.size:
            code = np.where(rng.random(shape) < 0.5 / max(shape[-1], 1), rng.choice(specials, shape), code)
    dtype = code_dtype(name)
    return np.asarray(code).astype(f"u{dtype.itemsize}").view(dtype)


def _floats(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> NDArray[np.float32]:
    """The same of float32, which units cut to tf32."""
    ordinary = rng.standard_normal(shape).astype(np.float32)
    spread = {"plain": 0, "cancel": 4, "sparse": 8, "tiny": -130}.get(kind, 60)
    powers = spread if spread < 0 else rng.integers(-spread, spread + 1, shape)
    values = np.ldexp(ordinary, powers).astype(np.float32)
    if kind == "sparse":
        values = np.where(rng.random(shape) < 0.8, np.float32(-0.0), values)
    if kind == "cancel":
        pair = shape[-1] // 2 * 2
        values[..., 1:pair:2] = -values[..., 0:pair:2]
    if kind == "special":
        some = np.float32([np.nan, np.inf, -np.inf, 1e-45])
        values = np.where(rng.random(shape) < 0.5 / max(shape[-1], 1), rng.choice(some, shape), values)
    return values.astype(np.float32)


def unit_scales(
    rng: np.random.Generator, accumulator: str, shape: tuple[int, ...], kind: str = "bits"
) -> NDArray[Any]:
    """Codes of the scales that a unit takes: any number of the format, or (plain) such as tensors have."""
    if ACCUMULATORS[accumulator].scale == "float8_e8m0fnu":
        any_of = (70, 185) if rng.random() < 0.5 else (0, 255)
        low, high = (122, 133) if kind == "plain" else any_of
        return rng.integers(low, high, shape).astype(np.uint8).view("float8_e8m0fnu")
    low, high = (0x28, 0x48) if kind == "plain" else (0, 0x7F)
    return rng.integers(low, high, shape).astype(np.uint8).view("float8_e4m3fn")


def step_scales(
    rng: np.random.Generator, accumulator: str, shape: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    """Operands of `mma_step` beside codes: nothing, or scales of both sides in any of the unit's blocks."""
    row = ACCUMULATORS[accumulator]
    if row.scale is None:
        return {}
    whole = (*shape, row.products // int(rng.choice(row.blocks)))
    return {f"{side}_scales": unit_scales(rng, accumulator, whole) for side in "ab"}


def side(rng: np.random.Generator, accumulator: str, name: str, shape: tuple[int, int], kind: str) -> Any:
    """An operand of a product: codes, with scales where the unit takes them."""
    x, row = codes(rng, name, shape, kind), ACCUMULATORS[accumulator]
    if row.scale is None:
        return x
    tile = int(rng.choice(row.blocks)) * int(rng.integers(1, 3))
    scales = unit_scales(rng, accumulator, (shape[0], -(-shape[1] // tile)), kind)
    nv = row.scale == "float8_e4m3fn"
    whole = np.float32(rng.choice([1.0, 0.75, 3e-5])) if nv else None
    return Quantized(x, scales, name, (tile,), 1, "nvfp4" if nv else "mx", None, whole)


def twin(x: Any) -> Any:
    """The same in the textbook's container."""
    return reference.Quantized(**vars(x)) if isinstance(x, Quantized) else x


def starts(rng: np.random.Generator, shape: tuple[int, ...], result: str = "float32") -> NDArray[np.float32]:
    """Accumulators to add to: zeros of both signs, ordinary, huge, tiny and special numbers of `result`."""
    width = np.dtype(result).itemsize * 8
    any_bits = rng.integers(0, 1 << width, shape).astype(f"u{width // 8}").view(result).astype(np.float32)
    spread = np.exp2(rng.integers(-24, 16, shape))
    ordinary = np.clip(rng.standard_normal(shape) * spread, -6e4, 6e4).astype(result).astype(np.float32)
    which = rng.random(shape)
    zero = np.where(rng.random(shape) < 0.5, np.float32(0.0), np.float32(-0.0))
    return np.where(which < 0.2, zero, np.where(which < 0.7, ordinary, any_bits)).astype(np.float32)


def bits(x: Any) -> NDArray[Any]:
    """Floating-point numbers as whole ones, so that NaN equals NaN and -0 differs from 0."""
    array = np.asarray(x)
    return array.view(f"u{array.dtype.itemsize}")


def has_nan(name: str) -> bool:
    """The format has a code for NaN."""
    return nan_code(FORMATS[name]) is not None
