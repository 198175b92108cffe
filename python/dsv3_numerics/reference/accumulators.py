"""One step of a matrix unit in whole numbers: the accumulators' table, the step, and its roundings.

`mma_step` follows the specification line by line, one dot product at a time, in Python's integers and
fractions; nothing here can round by accident. Products of matrices are in `gemm`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from .formats import FORMATS, Row, value_table

FP8 = ("float8_e4m3fn", "float8_e5m2")
FP8_FP6_FP4 = (*FP8, "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn")
SIGNED = tuple(name for name, row in FORMATS.items() if row.top != "scale")
NARROW = tuple(name for name in SIGNED if FORMATS[name].bits <= 8)
WORDS = tuple(name for name in SIGNED if name in NARROW or name == "bfloat16")
FLOAT32 = Row(8, 23, 127, "ieee")
FLOAT32_UNBOUNDED = Row(11, 23, 1023, "ieee")
"""As many bits, and no exponent that a float32 could meet is too small."""
TF32 = Row(8, 10, 127, "ieee")


class Accumulator(NamedTuple):
    """How one unit adds `products` products and what it had.

    `fraction` bits of each term are kept below the largest exponent, or below `floor`, where all terms are
    smaller. The sum becomes a number of `result`:
    of `keep` fraction bits, toward zero, or, without `keep`, the nearest one, ties to even.
    """

    unit: str
    products: int
    fraction: int
    floor: int | None
    keep: int | None
    result: str
    inputs: tuple[str, ...]
    scale: str | None = None
    blocks: tuple[int, ...] = ()

    @property
    def format(self) -> Row:
        """The result's fields."""
        return FLOAT32 if self.result == "float32" else FORMATS[self.result]

    @property
    def nan(self) -> int:
        """The only NaN that the unit writes, as float32."""
        return 0x7FC00000 if self.unit in ("float32", "bf16_dot") else 0x7FFFFFFF


def _rows(name: str, like: Accumulator, half_floor: int) -> dict[str, Accumulator]:
    """Return the row of a unit, and that of its float16 results, whose floor is another."""
    return {name: like, f"{name}_f16": like._replace(floor=half_floor, keep=None, result="float16")}


HALF, BFLOAT, FLOAT = ("float16",), ("bfloat16",), ("tf32",)
FOUR, FNUZ = ("float4_e2m1fn",), ("float8_e4m3fnuz", "float8_e5m2fnuz")
_HOPPER_FP8 = Accumulator("tensor_core", 32, 13, -133, 13, "float32", FP8)
_HOPPER = Accumulator("tensor_core", 16, 25, -133, 23, "float32", HALF)
_AMPERE = Accumulator("tensor_core", 8, 24, -132, 23, "float32", HALF)
_BLACKWELL_FP8 = _HOPPER_FP8._replace(fraction=25, keep=23, inputs=FP8_FP6_FP4)
_MXF8 = _BLACKWELL_FP8._replace(scale="float8_e8m0fnu", blocks=(32,))
_MXF4 = Accumulator("scaled_groups", 64, 35, -139, 23, "float32", FOUR, "float8_e8m0fnu", (32, 16))
_NVFP4 = _MXF4._replace(scale="float8_e4m3fn", blocks=(16,))
_VOLTA = Accumulator("tensor_core", 4, 23, -131, 23, "float32", HALF)
_CDNA3 = Accumulator("matrix_core", 8, 24, None, None, "float32", HALF)
ACCUMULATORS: dict[str, Accumulator] = {
    **_rows("hopper_fp8", _HOPPER_FP8, -21),
    **_rows("ada_fp8", _HOPPER_FP8._replace(products=16, floor=-132), -20),
    **_rows("blackwell_fp8", _BLACKWELL_FP8, -21),
    "blackwell_mxf8": _MXF8,
    "blackwell_mxf4": _MXF4,
    "blackwell_nvfp4": _NVFP4,
    "rtx_blackwell_mxf8": _MXF8,
    "rtx_blackwell_mxf4": _MXF4,
    "rtx_blackwell_nvfp4": _NVFP4,
    **_rows("hopper_f16", _HOPPER, -21),
    "hopper_bf16": _HOPPER._replace(inputs=BFLOAT),
    "hopper_tf32": _HOPPER._replace(products=8, inputs=FLOAT),
    **_rows("blackwell_f16", _HOPPER, -21),
    "blackwell_bf16": _HOPPER._replace(inputs=BFLOAT),
    "blackwell_tf32": _HOPPER._replace(products=8, inputs=FLOAT),
    **_rows("ada_f16", _AMPERE, -20),
    "ada_bf16": _AMPERE._replace(inputs=BFLOAT),
    "ada_tf32": _AMPERE._replace(products=4, inputs=FLOAT),
    **_rows("ampere_f16", _AMPERE, -20),
    "ampere_bf16": _AMPERE._replace(inputs=BFLOAT),
    "ampere_tf32": _AMPERE._replace(products=4, inputs=FLOAT),
    **_rows("turing_f16", _AMPERE, -20),
    **_rows("volta_f16", _VOLTA, -19),
    **_rows("hopper_mma_fp8", Accumulator("software", 32, 25, -133, 23, "float32", FP8), -21),
    "cdna3_fp8": _CDNA3._replace(unit="matrix_core_fp8", products=16, inputs=FNUZ),
    "cdna3_f16": _CDNA3,
    "cdna3_bf16": _CDNA3._replace(inputs=BFLOAT),
    "exact": Accumulator("exact", 32, 0, None, None, "float32", SIGNED),
    "float32": Accumulator("float32", 32, 0, None, None, "float32", NARROW),
    "vdpbf16ps": Accumulator("bf16_dot", 2, 0, None, None, "float32", WORDS),
}
"""Rows of units by name, as `dsv3_numerics.accumulators` has them: a second list on purpose."""


class Number(NamedTuple):
    """A finite number as ``significand * 2**(exponent - man)``, or a special with significand 0."""

    value: float
    significand: int
    exponent: int
    man: int


def number(code: int, f: Row) -> Number:
    """Return the parts of a code; a subnormal is not normalised and keeps the smallest normal exponent."""
    field, mantissa = code >> f.man & (1 << f.exp) - 1, code & (1 << f.man) - 1
    significand = mantissa + ((1 << f.man) if field else 0)
    significand = -significand if code & f.sign else significand
    exponent = max(field, 1) - f.bias
    value = math.copysign(math.ldexp(significand, exponent - f.man), -1 if code & f.sign else 1)
    full = (1 << f.exp) - 1
    if f.top == "ieee" and field == full:
        return Number(math.nan if mantissa else math.copysign(math.inf, significand), 0, exponent, f.man)
    if f.top == "fnuz" and code == f.sign:
        return Number(math.nan, 0, exponent, f.man)
    if f.top == "nan_only" and field == full and mantissa == (1 << f.man) - 1:
        return Number(math.nan, 0, exponent, f.man)
    return Number(value, significand, exponent, f.man)


def shifted(significand: int, places: int) -> int:
    """``significand * 2**places``, the magnitude truncated toward zero."""
    magnitude = abs(significand) << places if places >= 0 else abs(significand) >> -places
    return -magnitude if significand < 0 else magnitude


def round_toward_zero(total: int, quantum: int, keep: int) -> float:
    """``total * 2**quantum`` as a float32 with `keep` fraction bits; what underflows is +0."""
    if total == 0:
        return 0.0
    e = max(total.bit_length() - 1 + quantum, -126)
    if e > 127:
        return math.copysign(math.inf, total)
    return math.ldexp(shifted(total, quantum - (e - keep)), e - keep)


def round_nearest_even(x: Fraction, f: Row) -> float:
    """Return a number rounded once to a format of the IEEE kind, with subnormals and infinities."""
    if x == 0:
        return 0.0
    top = (1 << (f.exp - 1)) - 1
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()  # off by one at most
    exponent -= abs(x) < Fraction(2) ** exponent
    quantum = max(exponent, 1 - f.bias) - f.man
    rounded = round(x / Fraction(2) ** quantum) * Fraction(2) ** quantum
    magnitude = math.inf if abs(rounded) >= 1 << (top + 1) else float(abs(rounded))
    return math.copysign(magnitude, x.numerator)


def special(values: Sequence[float]) -> float | None:
    """Return the sum of terms of which some are not finite, or None."""
    if any(map(math.isnan, values)) or {math.inf, -math.inf} <= set(values):
        return math.nan
    return next(filter(math.isinf, values), None)


def tensor_core(a: Sequence[Number], b: Sequence[Number], c: Number, row: Accumulator) -> float:
    """One step: align all terms to the largest exponent, truncate each, add exactly, round once."""
    found = special([x.value * y.value for x, y in zip(a, b, strict=True)] + [c.value])
    if found is not None:
        return found
    terms = [
        (x.significand * y.significand, x.exponent + y.exponent, x.man + y.man)
        for x, y in zip(a, b, strict=True)
    ]
    terms = [term for term in [*terms, (c.significand, c.exponent, c.man)] if term[0]]
    return aligned_sum(terms, row)


def aligned_sum(terms: Sequence[tuple[int, int, int]], row: Accumulator) -> float:
    """Terms ``significand * 2**(exponent - man)``, aligned and truncated, added exactly, rounded once."""
    exponents = [exponent for _, exponent, _ in terms]
    largest = max(exponents if row.floor is None else [row.floor, *exponents])
    quantum = largest - row.fraction
    total = sum(shifted(s, exponent - man - quantum) for s, exponent, man in terms)
    if row.keep is not None:
        return round_toward_zero(total, quantum, row.keep)
    return round_nearest_even(Fraction(total) * Fraction(2) ** quantum, row.format) + 0.0


class Scaled(NamedTuple):
    """An operand's number, and the scale that stands beside it."""

    number: Number
    scale: Number


def scale_number(code: int, name: str) -> Number:
    """Return the parts of a scale. UE8M0 has no zero; UE4M3 is E4M3 without its sign, which is ignored."""
    if name == "float8_e8m0fnu":
        return Number(math.nan if code == 255 else math.ldexp(1, code - 127), 1, code - 127, 0)
    return number(code & 0x7F, FORMATS[name])


def moved(x: Scaled) -> Number:
    """Return a number times a power of two: the exponent moves, and zero and infinity stay what they are."""
    value = x.number.value * x.scale.value if math.isnan(x.scale.value) else x.number.value
    return x.number._replace(value=value, exponent=x.number.exponent + x.scale.exponent)


def scaled_groups(a: Sequence[Scaled], b: Sequence[Scaled], c: Number, row: Accumulator) -> float:
    """One step: sixteen products at a time are added exactly; only the scales' exponents align the groups."""
    if any(math.isnan(x.scale.value) for x in (*a, *b)) or math.isnan(c.value):
        return math.nan
    if math.isinf(c.value):
        return c.value
    terms = [(c.significand, c.exponent, c.man)] if c.significand else []
    for first in range(0, len(a), 16):
        pairs = list(zip(a[first : first + 16], b[first : first + 16], strict=True))
        products = [Fraction(x.number.value) * Fraction(y.number.value) for x, y in pairs]
        x, y = pairs[0][0].scale, pairs[0][1].scale
        if x.significand * y.significand and any(products):
            quarters = int(sum(products) * 4)
            terms.append(
                (quarters * x.significand * y.significand, x.exponent + y.exponent, 2 + x.man + y.man)
            )
    return aligned_sum(terms, row)


def matrix_core(a: Sequence[Number], b: Sequence[Number], c: Number, row: Accumulator) -> float:
    """One step of CDNA3: groups of products, then their sums, then the accumulator, each aligned and cut.

    FP8 has two groups, even and odd k, and drops an accumulator more than 25 places below the largest
    exponent. 16-bit formats have one.
    """
    fp8 = row.unit == "matrix_core_fp8"
    values = [x.value * y.value for x, y in zip(a, b, strict=True)]
    found = special([math.copysign(math.inf, v) if abs(v) >= 2.0**128 else v for v in values] + [c.value])
    if found is not None:
        return found
    groups = []
    for first in range(2 if fp8 else 1):
        pairs = list(zip(a, b, strict=True))[first :: 2 if fp8 else 1]
        terms = [(x.significand * y.significand, x.exponent + y.exponent, x.man + y.man) for x, y in pairs]
        terms = [term for term in terms if term[0]]
        if terms:
            largest = max(exponent for _, exponent, _ in terms)
            total = sum(shifted(s, exponent - man - largest + 24) for s, exponent, man in terms)
            groups.append((total, largest))
    products = max((exponent for _, exponent in groups), default=None)
    largest = c.exponent if products is None else max(products, c.exponent)
    total = 0
    if products is not None:
        total = floored(sum(floored(s, e - products) for s, e in groups), products - 24 + 32 - largest)
    if not fp8 or c.exponent >= largest - 25:
        total += 256 * floored(c.significand, c.exponent - c.man + 24 - largest)
    if total == 0:
        return 0.0
    own = max(abs(total).bit_length() - 1 + largest - 32, -126)
    quantum = max(largest - 32, own - 31)
    total = floored(total, largest - 32 - quantum)
    return round_nearest_even(Fraction(total) * Fraction(2) ** quantum, row.format)


def floored(significand: int, places: int) -> int:
    """``significand * 2**places``, truncated toward minus infinity."""
    return significand << places if places >= 0 else significand >> -places


def software(a: Sequence[Number], b: Sequence[Number], c: Number, row: Accumulator) -> float:
    """Hopper's ``mma.sync``: float16 operands, two steps of 16 from zero, then an ordinary addition."""
    unit = row._replace(products=16)
    half = FORMATS["float16"]
    a, b = ([_bits(x.value, "float16", half) for x in side] for side in (a, b))
    total = _bits(0.0, row.result, row.format)
    for pair in ((0, 1), (2, 3)):
        places = [k for k in range(len(a)) if k % 4 in pair]
        value = tensor_core([a[k] for k in places], [b[k] for k in places], total, unit)
        total = _bits(value, row.result, row.format)
    found = special([total.value, c.value])
    if found is not None:
        return found
    return round_nearest_even(Fraction(total.value) + Fraction(c.value), row.format)


def exact(a: Sequence[Number], b: Sequence[Number], c: Number, row: Accumulator) -> float:
    """Return the sum with nothing lost, rounded once."""
    found = special([x.value * y.value for x, y in zip(a, b, strict=True)] + [c.value])
    if found is not None:
        return found
    total = sum((Fraction(x.value) * Fraction(y.value) for x, y in zip(a, b, strict=True)), Fraction(c.value))
    return round_nearest_even(total, row.format)


def float32(a: Sequence[Number], b: Sequence[Number], c: Number, row: Accumulator) -> float:
    """Return a chain over the even places and one over the odd ones, from zero; then ``c + (even + odd)``."""
    chains = [np.float32(0), np.float32(0)]
    with np.errstate(all="ignore"):
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            chains[k % 2] = chains[k % 2] + np.float32(x.value) * np.float32(y.value)
        return float(np.float32(c.value) + (chains[0] + chains[1]))


def bf16_dot(a: Sequence[Number], b: Sequence[Number], c: Number, row: Accumulator) -> float:
    """Return ``c`` plus the second product, then the first, each in one fused step without subnormals."""
    total = c.value
    for x, y in reversed(list(zip(a, b, strict=True))):
        total = flushed_fma(flushed(x.value), flushed(y.value), flushed(total))
    return total


def flushed(x: float) -> float:
    """Return zero of the same sign for a number below the normal ones of float32."""
    return math.copysign(0.0, x) if abs(x) < 2.0**-126 else x


def flushed_fma(x: float, y: float, z: float) -> float:
    """``x * y + z`` as a float32, rounded once; zero if it is subnormal after rounding to 24 bits."""
    found = special([x * y, z])
    if found is not None:
        return found
    total = Fraction(x) * Fraction(y) + Fraction(z)
    if total == 0:
        return x * y + z  # a zero, of the sign that IEEE 754 gives it
    tiny = abs(round_nearest_even(total, FLOAT32_UNBOUNDED)) < 2.0**-126
    return math.copysign(0.0, total) if tiny else round_nearest_even(total, FLOAT32)


UNITS: dict[str, Callable[[Sequence[Any], Sequence[Any], Number, Accumulator], float]] = {
    "tensor_core": tensor_core,
    "software": software,
    "scaled_groups": scaled_groups,
    "matrix_core_fp8": matrix_core,
    "matrix_core": matrix_core,
    "exact": exact,
    "float32": float32,
    "bf16_dot": bf16_dot,
}


def _bits(value: float, dtype: str, f: Row) -> Number:
    """Return the parts of a number that the dtype holds."""
    with np.errstate(invalid="ignore"):
        return number(int(np.array(value, dtype).view(f"u{np.dtype(dtype).itemsize}")), f)


def _operand(code: int, name: str) -> Number:
    """Any format: its fields where a unit needs them, else its value."""
    if name == "tf32":
        return number(tf32(code), TF32)
    f = FORMATS[name]
    if f.top in ("ieee", "nan_only", "none", "fnuz"):
        return number(code, f)
    return Number(float(value_table(name)[code]), 0, 0, 0)


def tf32(bits: int) -> int:
    """Return the code that is left of float32 bits: ten bits of mantissa; NaN stays NaN."""
    return bits >> 13 | (bits & 0x7FFFFFFF > 0x7F800000)


def step(
    a: Sequence[int],
    a_format: str,
    b: Sequence[int],
    b_format: str,
    c: float,
    accumulator: str,
    a_scales: Sequence[int] = (),
    b_scales: Sequence[int] = (),
) -> float:
    """One step on codes.

    Parameters
    ----------
    a, b : sequences of int
        Codes, as many as the accumulator takes.
    a_format, b_format : str
        Their formats.
    c : float
        What is added to, a number of the accumulator's result.
    accumulator : str
        A key of `ACCUMULATORS`.
    a_scales, b_scales : sequences of int
        Codes of scales, each for as many products as they divide a step into, where the unit takes any.

    Returns
    -------
    float
        A float32, or a float16 for accumulators with such results.

    Examples
    --------
    >>> step([0x38] * 32, "float8_e4m3fn", [0x38] * 32, "float8_e4m3fn", 1.0, "hopper_fp8")
    33.0
    """
    row = ACCUMULATORS[accumulator]
    start = _bits(c, row.result, row.format)
    left: list[Any] = [_operand(x, a_format) for x in a]
    right: list[Any] = [_operand(x, b_format) for x in b]
    if row.scale is not None:
        left, right = _scaled(left, a_scales, row.scale), _scaled(right, b_scales, row.scale)
        if row.unit == "tensor_core":
            left, right = list(map(moved, left)), list(map(moved, right))
    return UNITS[row.unit](left, right, start, row)


def _scaled(numbers: Sequence[Number], scales: Sequence[int], name: str) -> list[Scaled]:
    parts = [scale_number(code, name) for code in scales]
    return [Scaled(x, parts[k * len(parts) // len(numbers)]) for k, x in enumerate(numbers)]
