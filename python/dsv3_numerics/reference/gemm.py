"""Sums of products of whole matrices: chains of an accumulator's steps, promotion, scales, and experts.

The step is the one of `accumulators.step`, on NumPy's 64-bit integers instead of Python's and for all
outputs at once: no sum of terms needs more than 34 bits, which float64 holds as well. The two are tested
against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from .accumulators import ACCUMULATORS, TF32, Accumulator, number, round_nearest_even, scale_number
from .formats import FORMATS, Array, Float64s, Row, format_name, value_table
from .quant import Float32s, Quantized, expand

f32 = np.float32
# The exponent of what takes no part in a sum.
NOWHERE = -(1 << 20)


@dataclass(frozen=True)
class Operand:
    """Codes of one format, contracted over the last axis, and what each is multiplied by afterwards."""

    codes: Array
    format: str
    scales: Float32s | None = None
    unit_scales: Array | None = None
    """Codes of the scales that go into the unit, one beside each code."""

    def __getitem__(self, index: Any) -> Operand:
        scales, inside = (None if x is None else x[index] for x in (self.scales, self.unit_scales))
        return Operand(self.codes[index], self.format, scales, inside)

    @property
    def values(self) -> Float64s:
        """The codes' meaning, without scales."""
        if self.format == "tf32":
            cut = np.where(np.isnan(self.codes.view(f32)), self.codes, self.codes & np.uint32(0xFFFFE000))
            return cut.view(f32).astype(np.float64)
        return value_table(self.format)[self.codes]

    @property
    def fields(self) -> tuple[Array, Array]:
        """Signed significands and exponents; specials come out as anything."""
        if self.format == "tf32":
            return _float_fields((self.codes >> np.uint32(13)).astype(np.int64), TF32)
        significand, exponent = (table[self.codes] for table in _fields(self.format))
        return significand, exponent

    @property
    def man(self) -> int:
        """Mantissa bits."""
        return TF32.man if self.format == "tf32" else FORMATS[self.format].man


@cache
def _fields(name: str) -> tuple[Array, Array]:
    """Signed significand and exponent of every code."""
    numbers = [number(code, FORMATS[name]) for code in range(1 << FORMATS[name].bits)]
    return np.array([x.significand for x in numbers]), np.array([x.exponent for x in numbers])


def _fields_of_result(c: Float32s, row: Accumulator) -> tuple[Array, Array]:
    """Return the same of accumulators; specials come out as anything."""
    held = c.astype(row.result)
    return _float_fields(held.view(f"u{held.dtype.itemsize}").astype(np.int64), row.format)


def _float_fields(bits: Array, f: Row) -> tuple[Array, Array]:
    field, mantissa = bits >> f.man & (1 << f.exp) - 1, bits & (1 << f.man) - 1
    significand = mantissa + np.where(field > 0, 1 << f.man, 0)
    return np.where(bits & f.sign, -significand, significand), np.maximum(field, 1) - f.bias


def _specials(a: Operand, b: Operand, c: Float32s, row: Accumulator) -> Float64s:
    """0 where all is finite, else what the sum is."""
    terms = a.values * b.values
    if row.unit.startswith("matrix_core"):
        terms = np.where(np.abs(terms) >= 2.0**128, np.copysign(np.inf, terms), terms)
    plus = (terms == np.inf).any(axis=-1) | (c == np.inf)
    minus = (terms == -np.inf).any(axis=-1) | (c == -np.inf)
    lost = np.isnan(terms).any(axis=-1) | np.isnan(c) | (plus & minus)
    for x in (a, b):
        if x.unit_scales is not None:
            lost = lost | (x.unit_scales == 255).any(axis=-1)
    return np.where(lost, np.nan, np.where(plus, np.inf, np.where(minus, -np.inf, 0.0)))


def _aligned(significand: Array, exponent: Array, man: int, quantum: Array) -> Array:
    """Terms in units of ``2**quantum``, magnitudes truncated toward zero."""
    places = np.clip(exponent - man - quantum, -63, 62)
    magnitude = np.abs(significand)
    moved = np.where(places >= 0, magnitude << np.maximum(places, 0), magnitude >> np.maximum(-places, 0))
    return np.asarray(np.where(significand < 0, -moved, moved))


def _toward_zero(x: Float64s, keep: int) -> Float64s:
    e = np.maximum(np.frexp(x)[1] - 1, -126)
    kept = np.ldexp(np.trunc(np.ldexp(x, keep - e)), e - keep) + 0.0
    return np.where(e > 127, np.copysign(np.inf, x), kept)


def as_result(values: Array, row: Accumulator) -> Float32s:
    """Return a unit's results as float32, and every NaN as the unit writes it."""
    held = np.asarray(values).astype(row.result).astype(f32)
    return np.where(np.isnan(held), np.uint32(row.nan).view(f32), held)


def _tensor_core(a: Operand, b: Operand, c: Float32s, row: Accumulator) -> Float32s:
    (sa, ea), (sb, eb) = (_moved(x, row) for x in (a, b))
    product, c_sig_exp = sa * sb, _fields_of_result(c, row)
    exponent = np.where(product == 0, NOWHERE, ea + eb)
    c_exponent = np.where(c_sig_exp[0] == 0, NOWHERE, c_sig_exp[1])
    floor = NOWHERE if row.floor is None else row.floor
    quantum = np.maximum(exponent.max(axis=-1, initial=floor), c_exponent) - row.fraction
    total = _aligned(product, exponent, a.man + b.man, quantum[..., None]).sum(axis=-1)
    total += _aligned(c_sig_exp[0], c_exponent, row.format.man, quantum)
    x = np.ldexp(total.astype(np.float64), quantum)
    rounded = x.astype(row.result) + np.float16(0) if row.keep is None else _toward_zero(x, row.keep)
    special = _specials(a, b, c, row)
    return as_result(np.where(special == 0, rounded, special), row)


def _moved(x: Operand, row: Accumulator) -> tuple[Array, Array]:
    """Return fields, the exponents moved by UE8M0 scales; a NaN scale is among the specials."""
    significand, exponent = x.fields
    if x.unit_scales is None:
        return significand, exponent
    return significand, exponent + x.unit_scales.astype(np.int64) - 127


@cache
def _scale_fields(name: str) -> tuple[Array, Array, Array]:
    """Significand in eighths, exponent, and whether it is NaN, of every code of a scale."""
    parts = [scale_number(code, name) for code in range(256)]
    eighths = np.array([x.significand << 3 - x.man for x in parts])
    return eighths, np.array([x.exponent for x in parts]), np.array([math.isnan(x.value) for x in parts])


def _scaled_groups(a: Operand, b: Operand, c: Float32s, row: Accumulator) -> Float32s:
    assert row.scale is not None
    assert row.keep is not None
    shape = np.broadcast_shapes(a.codes.shape, b.codes.shape)
    pad = [(0, 0)] * (len(shape) - 1) + [(0, -shape[-1] % 16)]
    groups = -(-shape[-1] // 16)
    quarters = np.pad((a.values * b.values * 4).astype(np.int64), pad).reshape(*shape[:-1], groups, 16)
    (sa, ea, na), (sb, eb, nb) = (
        tuple(table[np.asarray(x.unit_scales)[..., ::16]] for table in _scale_fields(row.scale))
        for x in (a, b)
    )
    term, exponent = quarters.sum(axis=-1) * sa * sb, ea + eb
    exponent = np.where((sa * sb != 0) & (quarters != 0).any(axis=-1), exponent, NOWHERE)
    c_significand, c_exponent = _fields_of_result(c, row)
    c_exponent = np.where(c_significand == 0, NOWHERE, c_exponent)
    floor = NOWHERE if row.floor is None else row.floor
    quantum = np.maximum(exponent.max(axis=-1, initial=floor), c_exponent) - row.fraction
    total = _aligned(term, exponent, 8, quantum[..., None]).sum(axis=-1)
    total += _aligned(c_significand, c_exponent, row.format.man, quantum)
    x = _toward_zero(np.ldexp(total.astype(np.float64), quantum), row.keep)
    lost = np.isnan(c) | na.any(axis=-1) | nb.any(axis=-1)
    return as_result(np.where(lost, np.nan, np.where(np.isinf(c), c, x)), row)


def _matrix_core(a: Operand, b: Operand, c: Float32s, row: Accumulator) -> Float32s:
    (sa, ea), (sb, eb) = a.fields, b.fields
    product, exponent = sa * sb, ea + eb
    exponent = np.where(product == 0, NOWHERE, exponent)
    fp8, man = row.unit == "matrix_core_fp8", a.man + b.man
    sums, tops = [], []
    for first in range(2 if fp8 else 1):
        part = np.s_[..., first :: 2 if fp8 else 1]
        tops.append(exponent[part].max(axis=-1, initial=NOWHERE))
        sums.append(_aligned(product[part], exponent[part], man, tops[-1][..., None] - 24).sum(axis=-1))
    c_significand, c_exponent = _fields_of_result(c, row)
    top = np.maximum.reduce(tops)
    largest = np.maximum(top, c_exponent)
    total = np.sum([_floored(s, t - top) for s, t in zip(sums, tops, strict=True)], axis=0)
    total = _floored(total, top + 8 - largest)
    own = 256 * _floored(c_significand, c_exponent + 1 - largest)
    total = total + (np.where(c_exponent >= largest - 25, own, 0) if fp8 else own)
    highest = np.maximum(np.frexp(total.astype(np.float64))[1] - 1 + largest - 32, -126)
    quantum = np.maximum(largest - 32, highest - 31)
    rounded = np.ldexp(_floored(total, largest - 32 - quantum).astype(np.float64), quantum).astype(f32)
    special = _specials(a, b, c, row)
    return as_result(np.where(special == 0, np.where(total == 0, f32(0), rounded), special), row)


def _floored(significand: Array, places: Array) -> Array:
    """``significand * 2**places``, truncated toward minus infinity."""
    left, right = np.clip(places, 0, 62), np.clip(-places, 0, 63)
    return np.asarray(significand << left >> right)


def _software(a: Operand, b: Operand, c: Float32s, row: Accumulator) -> Float32s:
    a, b = (Operand(x.values.astype(np.float16).view(np.uint16), "float16") for x in (a, b))
    total = np.zeros(np.broadcast_shapes(a.codes.shape[:-1], b.codes.shape[:-1]), f32)
    for pair in ([0, 1], [2, 3]):
        places = np.flatnonzero(np.isin(np.arange(a.codes.shape[-1]) % 4, pair))
        total = _tensor_core(a[..., places], b[..., places], total, row)
    return as_result((total.astype(row.result) + c.astype(row.result)).astype(np.float64), row)


def _exact(a: Operand, b: Operand, c: Float32s, row: Accumulator) -> Float32s:
    """Whole numbers of a quantum of each format, which Python multiplies and adds at any length."""
    whole, quantum = zip(*(_whole_numbers(x.format) for x in (a, b)), strict=True)
    total = (whole[0][a.codes] * whole[1][b.codes]).sum(axis=-1)
    special = _specials(a, b, c, row)

    def rounded(number: int, start: float) -> float:
        return round_nearest_even(
            Fraction(number) * Fraction(2) ** sum(quantum) + Fraction(start), row.format
        )

    start = np.where(np.isfinite(c), c, 0).astype(object)
    sums = np.frompyfunc(rounded, 2, 1)(total, start)
    return as_result(np.where(special == 0, np.asarray(sums, np.float64), special), row)


@cache
def _whole_numbers(name: str) -> tuple[Array, int]:
    """Return the value of every code in units of ``2**quantum``, and the quantum; 0 for specials."""
    values = value_table(name)
    finite = np.where(np.isfinite(values), values, 0)
    quantum = int(np.frexp(np.abs(finite[finite != 0]).min())[1]) - 1
    whole = [int(Fraction(x) / Fraction(2) ** quantum) for x in finite.tolist()]
    return np.array(whole, object), quantum


def _float32(a: Operand, b: Operand, c: Float32s, row: Accumulator) -> Float32s:
    products = a.values.astype(f32) * b.values.astype(f32)
    chains = [np.zeros(products.shape[:-1], f32)] * 2
    for k in range(products.shape[-1]):
        chains[k % 2] = chains[k % 2] + products[..., k]
    return as_result((c + (chains[0] + chains[1])).astype(np.float64), row)


def _bf16_dot(a: Operand, b: Operand, c: Float32s, row: Accumulator) -> Float32s:
    x, y = (_flushed(side.values.astype(f32)) for side in (a, b))
    for k in reversed(range(row.products)):
        if k < x.shape[-1]:
            total = _fma_to_odd(x[..., k], y[..., k], _flushed(c))
        else:  # an odd k: the last pair has a zero
            total = (_flushed(c) + f32(0)).astype(np.float64)
        tiny = np.abs((total * 2.0**64).astype(f32)) < 2.0**-62
        c = np.where(tiny, np.copysign(f32(0), total), total).astype(f32)
    return as_result(c.astype(np.float64), row)


def _flushed(x: Float32s) -> Float32s:
    """Return zeros of the same sign in the place of subnormal numbers."""
    return np.where(np.abs(x) < 2.0**-126, np.copysign(f32(0), x), x)


Unit: TypeAlias = Callable[[Operand, Operand, Float32s, Accumulator], Float32s]
UNITS: dict[str, Unit] = {
    "tensor_core": _tensor_core,
    "software": _software,
    "scaled_groups": _scaled_groups,
    "matrix_core_fp8": _matrix_core,
    "matrix_core": _matrix_core,
    "exact": _exact,
    "float32": _float32,
    "bf16_dot": _bf16_dot,
}


def _steps(a: Operand, b: Operand, c: Float32s, row: Accumulator) -> Float32s:
    """Return a chain of steps over k, each starting from the one before; `exact` rounds only at its end."""
    k = a.codes.shape[-1]
    length = max(k, 1) if row.unit == "exact" else row.products
    for start in range(0, k, length):
        part = slice(start, start + length)
        c = UNITS[row.unit](a[..., part], b[..., part], c, row)
    return c


def fma(x: Float32s, y: Float32s, z: Float32s) -> Float32s:
    """``x * y + z`` rounded to float32 once."""
    return _fma_to_odd(x, y, z).astype(f32)


def _fma_to_odd(x: Float32s, y: Float32s, z: Float32s) -> Float64s:
    """``x * y + z`` rounded to odd in float64, so that rounding it to float32 is the only rounding.

    The product is exact in float64, and the error of the sum is known (Knuth).
    """
    product = x.astype(np.float64) * y
    total = product + z
    virtual = total - product
    error = (product - (total - virtual)) + (z - virtual)
    even = total.view(np.int64) % 2 == 0
    toward = np.nextafter(total, np.copysign(np.inf, error))
    return np.where(np.isfinite(total) & (error != 0) & even, toward, total)


@np.errstate(all="ignore")
def _product(a: Operand, b: Operand, c: Float32s, row: Accumulator, every: int | None) -> Float32s:
    """One product of matrices (m, k) and (n, k), promoted or not."""
    left, right = a[:, None], b[None, :]
    if every is None and a.scales is None and b.scales is None:
        return _steps(left, right, c, row)
    k = a.codes.shape[-1]
    for start in range(0, k, every or max(k, 1)):
        part = slice(start, start + (every or k))
        partial = _steps(left[..., part], right[..., part], np.zeros_like(c), row)
        sa, sb = (f32(1) if x.scales is None else x.scales[..., start] for x in (left, right))
        c = fma(np.broadcast_to(sa * sb, c.shape), partial, c)
    return c


def _operand(x: Any, row: Accumulator, scales: Any = None) -> Operand:
    """Codes as whole numbers, and scales spread out to them: those of the unit as codes."""
    if not hasattr(x, "codes"):
        codes = np.asarray(x)
        name = "tf32" if codes.dtype == f32 else format_name(codes.dtype)
        codes = codes.view(f"u{codes.dtype.itemsize}")
        if scales is not None:
            scales = np.asarray(scales).view(np.uint8)
            scales = np.repeat(scales, codes.shape[-1] // scales.shape[-1], axis=-1)
        return Operand(codes, name, None, scales)
    q: Quantized = x
    block = q.block if q.axis is None else (1, *q.block)
    codes = q.codes.view(f"u{q.codes.dtype.itemsize}")
    if row.scale is None:
        return Operand(codes, q.format, expand(q.effective_scales(), codes.shape, block))
    inside = expand(q.scales.view(np.uint8), codes.shape, block)
    whole = None if q.global_scale is None else np.broadcast_to(f32(q.global_scale), codes.shape)
    return Operand(codes, q.format, whole, inside)


def mma_step(
    a: ArrayLike,
    b: ArrayLike,
    c: ArrayLike = 0,
    *,
    accumulator: str,
    a_scales: ArrayLike | None = None,
    b_scales: ArrayLike | None = None,
) -> Float32s:
    """One step of an accumulator for each dot product of the last axis.

    Arguments as in `dsv3_numerics.mma_step`.

    Examples
    --------
    >>> import ml_dtypes
    >>> ones = np.ones(32, ml_dtypes.float8_e4m3fn)
    >>> mma_step(ones, ones, 1.0, accumulator="hopper_fp8").item()
    33.0
    """
    row = ACCUMULATORS[accumulator]
    left, right = _operand(a, row, a_scales), _operand(b, row, b_scales)
    shape = np.broadcast_shapes(left.codes.shape[:-1], right.codes.shape[:-1], np.shape(c))
    with np.errstate(all="ignore"):
        return UNITS[row.unit](left, right, np.broadcast_to(np.asarray(c, f32), shape), row)


def matmul_nt(
    a: Any,
    b: Any,
    *,
    c: ArrayLike | None = None,
    accumulator: str = "hopper_fp8",
    promote_every: int | None = 128,
    dtype: Any = np.float32,
) -> Array:
    """Multiply ``a @ b.T`` for codes or quantized matrices, b also once for a whole stack.

    Arguments as in `dsv3_numerics.matmul_nt`.

    Examples
    --------
    >>> import ml_dtypes
    >>> ones = np.ones((2, 256), ml_dtypes.float8_e4m3fn)
    >>> matmul_nt(ones, ones[:1]).tolist()
    [[256.0], [256.0]]
    """
    row = ACCUMULATORS[accumulator]
    left, right = _operand(a, row), _operand(b, row)
    out = _start(c, (*left.codes.shape[:-1], right.codes.shape[-2]))
    for place in np.ndindex(*out.shape[:-2]):
        weights = right[place] if right.codes.ndim > 2 else right
        out[place] = _product(left[place], weights, out[place], row, promote_every)
    return _written(out, row, dtype)


def matmul_grouped_nt(
    a: Any,
    b: Any,
    offsets: ArrayLike,
    *,
    c: ArrayLike | None = None,
    accumulator: str = "hopper_fp8",
    promote_every: int | None = 128,
    dtype: Any = np.float32,
) -> Array:
    """Rows ``offsets[e]`` to ``offsets[e + 1]`` of `a` times expert e of `b`.

    Arguments as in `dsv3_numerics.matmul_grouped_nt`.

    Examples
    --------
    >>> import ml_dtypes
    >>> ones = np.ones((3, 32), ml_dtypes.float8_e4m3fn)
    >>> experts = np.stack([ones[:1], ones[:1]])
    >>> matmul_grouped_nt(ones, experts, [0, 1, 3], promote_every=32).tolist()
    [[32.0], [32.0], [32.0]]
    """
    row = ACCUMULATORS[accumulator]
    left, right = _operand(a, row), _operand(b, row)
    out = _start(c, (len(left.codes), right.codes.shape[-2]))
    for expert, ends in enumerate(pairwise(np.asarray(offsets).tolist())):
        rows = slice(*ends)
        out[rows] = _product(left[rows], right[expert], out[rows], row, promote_every)
    return _written(out, row, dtype)


def _start(c: ArrayLike | None, shape: tuple[int, ...]) -> Float32s:
    return np.zeros(shape, f32) if c is None else np.array(c, f32)


def _written(x: Float32s, row: Accumulator, dtype: Any) -> Array:
    """Return the result as `dtype`, every NaN as the unit writes it: bfloat16 takes the upper half."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = x.astype(dtype)
    width = 8 * narrow.dtype.itemsize
    nan = np.array(row.nan >> (32 - width), f"u{width // 8}").view(dtype)
    return np.where(np.isnan(x), nan, narrow)
