"""Hypotheses about products: what may have been done to operands, and how results are rounded and laid out.

Lives here: the tables, and the operands that they work on. Sums are in `product_sums`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from ..layouts import into_tiles, out_of_tiles
from ..number_formats import encode, format_info, formats
from ..quantized import Quantized
from .code_rows import as_bits
from .scale_rows import Floats, cut_to_bfloat16, f32, to_bfloat16, to_float16

PROMOTIONS: tuple[int | None, ...] = (128, None, 32, 64, 256, 512)
_BF16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Operands:
    """Rows of both sides, scales in tiles along k, and what is added to."""

    a: Any
    b: Any
    c: Floats | None = None
    partials: dict[Any, Floats] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Sums of parts that several hypotheses share, of samples."""

    @classmethod
    def of(cls, a: Any, b: Any, c: Floats | None) -> Operands:
        """Bring blocks into tiles, which can be sampled."""
        return cls(_tiled(a), _tiled(b), c)

    def take(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Operands:
        """Choose rows of both sides."""
        c = None if self.c is None else self.c[np.ix_(rows, columns)]
        return Operands(_taken(self.a, rows), _taken(self.b, columns), c)

    @property
    def group(self) -> int | None:
        """Codes along k that share scales on both sides; None where scales do not change."""
        k = codes_of(self.a).shape[1]
        lengths = [x.block[0] for x in (self.a, self.b) if isinstance(x, Quantized) and x.block[0] < k]
        return min(lengths) if lengths else None

    def factors(self, every: int | None = None) -> Iterator[tuple[slice, Floats, Floats]]:
        """Yield each part of k in which no scale changes, at most `every` long, with the scales of both."""
        k = codes_of(self.a).shape[1]
        step = self.group or 128
        for start in range(0, k, step):
            end, left, right = min(start + step, k), _scales_at(self.a, start), _scales_at(self.b, start)
            for begin in range(start, end, every or step):
                yield slice(begin, min(begin + (every or step), end)), left, right


def codes_of(x: Any) -> Array:
    """Return the codes of an operand."""
    return x.codes if isinstance(x, Quantized) else np.asarray(x)


def _tiled(x: Any) -> Any:
    if not isinstance(x, Quantized) or x.axis is not None:
        return x
    rows, wide = x.block
    scales = np.repeat(x.scales, rows, axis=0)[: x.shape[0]]
    return Quantized(x.codes, scales, x.format, (wide,), 1, x.scale_kind, None, x.global_scale)


def _taken(x: Any, rows: NDArray[np.intp]) -> Any:
    if not isinstance(x, Quantized):
        return np.ascontiguousarray(np.asarray(x)[rows])
    return replace(x, codes=np.ascontiguousarray(x.codes[rows]), scales=np.ascontiguousarray(x.scales[rows]))


def _scales_at(x: Any, start: int) -> Floats:
    if not isinstance(x, Quantized):
        return np.ones(len(np.asarray(x)), f32)
    found: Floats = x.weight_scale_inv()[:, start // x.block[0]]
    return found


def dequantized(x: Any) -> Floats:
    """Return an operand as float32."""
    return x.dequantize() if isinstance(x, Quantized) else np.asarray(x).astype(f32)


# --- Operands -----------------------------------------------------------------------------------------------

Change = Callable[[Operands], Operands | None]


def _on(side: str, how: Callable[[Any], Any]) -> Change:
    """Change one side; None where that does not go, or changes nothing."""

    def change(given: Operands) -> Operands | None:
        x = given.a if side == "a" else given.b
        moved = how(x)
        if moved is None:
            return None
        return replace(given, a=moved) if side == "a" else replace(given, b=moved)

    return change


def _bytes(x: Array) -> bytes:
    return np.ascontiguousarray(x).tobytes()


def _of_blocks(how: Callable[[Array], Array | None]) -> Callable[[Any], Any]:
    """Move scales of blocks of 128 rows, which all 128 have."""

    def change(s: Array) -> Array | None:
        blocks = s[::128]
        if len(s) <= 128 or _bytes(np.repeat(blocks, 128, axis=0)[: len(s)]) != _bytes(s):
            return None
        moved = how(blocks)
        return None if moved is None else np.repeat(moved, 128, axis=0)[: len(s)]

    return _of_scales(change)


def _of_scales(how: Callable[[Array], Array | None]) -> Callable[[Any], Any]:
    def change(x: Any) -> Any:
        if not isinstance(x, Quantized):
            return None
        scales = how(x.scales)
        if scales is None or _bytes(scales) == _bytes(x.scales):
            return None
        return replace(x, scales=np.ascontiguousarray(scales))

    return change


def _of_codes(how: Callable[[Array], Array | None]) -> Callable[[Any], Any]:
    def change(x: Any) -> Any:
        codes = how(codes_of(x))
        if codes is None or _bytes(codes) == _bytes(codes_of(x)):
            return None
        codes = np.ascontiguousarray(codes)
        return replace(x, codes=codes) if isinstance(x, Quantized) else codes

    return change


def _as_format(name: str) -> Callable[[Any], Any]:
    """Read the codes as those of another format."""
    info = format_info(name)

    def change(x: Any) -> Any:
        codes = codes_of(x)
        own = format_info(x.format if isinstance(x, Quantized) else codes.dtype)
        if own.bits != info.bits or own.name == info.name or codes.dtype.kind not in "Vf":
            return None
        read = codes.view(info.dtype)
        return replace(x, codes=read, format=info.name) if isinstance(x, Quantized) else read

    return change


def _ones(s: Array) -> Array:
    return np.ones_like(s, f32).astype(s.dtype)


def _squared(s: Array) -> Array | None:
    if s.dtype == f32:
        return s * s
    wide = 2 * s.view(np.uint8).astype(np.int64) - 127
    return wide.clip(0, 254).astype(np.uint8).view(s.dtype) if s.dtype.name == "float8_e8m0fnu" else None


def _inverse(s: Array) -> Array | None:
    with np.errstate(all="ignore"):
        if s.dtype == f32:
            return f32(1) / s
    return (254 - s.view(np.uint8)).view(s.dtype) if s.dtype.name == "float8_e8m0fnu" else None


def _bias(by: int) -> Callable[[Array], Array | None]:
    def change(s: Array) -> Array | None:
        if s.dtype == f32:
            return s * f32(2.0**by)
        wide = s.view(np.uint8).astype(np.int64) + by
        return wide.clip(0, 254).astype(np.uint8).view(s.dtype) if s.dtype.name == "float8_e8m0fnu" else None

    return change


def _power(up: bool) -> Callable[[Array], Array | None]:
    def change(s: Array) -> Array | None:
        if s.dtype != f32:
            return None
        mantissa, exponent = np.frexp(s)
        power: Array = np.ldexp(f32(1), exponent - ((mantissa == 0.5) | (not up))).astype(f32)
        return power

    return change


def _swizzled(back: bool) -> Callable[[Array], Array | None]:
    """Lay scales out in tiles of 128 rows by 4 groups, or undo it, under the same shape."""

    def change(s: Array) -> Array | None:
        rows, groups = s.shape
        if rows % 128 or groups % 4:
            return None
        return out_of_tiles(s) if back else into_tiles(s)

    return change


_SCALE_MOVES: dict[str, Callable[[Array], Array | None]] = {
    "off by one group (one late)": lambda s: np.roll(s, 1, 1),
    "off by one group (one early)": lambda s: np.roll(s, -1, 1),
    "off by one row (one late)": lambda s: np.roll(s, 1, 0),
    "off by one row (one early)": lambda s: np.roll(s, -1, 0),
    "transposed memory under an untransposed shape": lambda s: s.reshape(s.shape[::-1]).T,
    "transposed": lambda s: s.T if s.shape[0] == s.shape[1] else s.T.reshape(s.shape),
    "128x4 swizzled": _swizzled(back=False),
    "read as if 128x4 swizzled": _swizzled(back=True),
    "groups in reverse": lambda s: s[:, ::-1],
    "all those of the first group": lambda s: np.repeat(s[:, :1], s.shape[1], axis=1),
    "all those of the last group": lambda s: np.repeat(s[:, -1:], s.shape[1], axis=1),
    "all those of the first row": lambda s: np.repeat(s[:1], s.shape[0], axis=0),
    "left out (1)": _ones,
    "applied twice": _squared,
    "inverted": _inverse,
    "times two (an exponent bias off by one)": _bias(1),
    "halved (an exponent bias off by one)": _bias(-1),
    "rounded to bfloat16": lambda s: to_bfloat16(s) if s.dtype == f32 else None,
    "cut to bfloat16": lambda s: cut_to_bfloat16(s) if s.dtype == f32 else None,
    "rounded to float16": lambda s: to_float16(s) if s.dtype == f32 else None,
    "rounded up to a power of two": _power(up=True),
    "rounded down to a power of two": _power(up=False),
}


_BLOCK_MOVES = (
    "off by one row (one late)", "off by one row (one early)", "transposed", "groups in reverse",
    "transposed memory under an untransposed shape", "all those of the first row",
)  # fmt: skip


def _pairs(codes: Array) -> Array | None:
    even = codes.shape[1] % 2 == 0
    return codes.reshape(len(codes), -1, 2)[:, :, ::-1].reshape(codes.shape) if even else None


def _without_subnormals(codes: Array) -> Array | None:
    try:
        info = format_info(codes.dtype)
    except (TypeError, ValueError):
        return None
    if info.is_integer or not info.has_subnormals:
        return None
    small = np.abs(codes.astype(f32)) < info.tiny
    return np.where(small.astype(bool), np.zeros_like(codes), codes)


_CODE_MOVES: dict[str, Callable[[Array], Array | None]] = {
    "neighbours swapped in pairs (nibbles swapped)": _pairs,
    "shifted by one along k (one late)": lambda c: np.roll(c, 1, 1),
    "shifted by one along k (one early)": lambda c: np.roll(c, -1, 1),
    "shifted by 128 along k (one tile late)": lambda c: np.roll(c, 128, 1) if c.shape[1] > 128 else None,
    "shifted by 128 along k (one tile early)": lambda c: np.roll(c, -128, 1) if c.shape[1] > 128 else None,
    "with k in reverse": lambda c: c[:, ::-1],
    "transposed": lambda c: c.T if c.shape[0] == c.shape[1] else None,
    "of transposed memory (row-major for column-major)": lambda c: c.reshape(c.shape[::-1]).T,
    "with subnormals flushed to zero": _without_subnormals,
}


def _global(how: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def change(x: Any) -> Any:
        if not isinstance(x, Quantized) or x.global_scale is None:
            return None
        with np.errstate(all="ignore"):
            return replace(x, global_scale=how(np.asarray(x.global_scale, f32)))

    return change


def _rounded_to(dtype: Any) -> Callable[[Any], Any]:
    """Round plain operands to another dtype."""

    def change(x: Any) -> Any:
        if isinstance(x, Quantized):
            return None
        codes = codes_of(x)
        if codes.dtype.itemsize < 2 or codes.dtype == dtype:
            return None
        with np.errstate(over="ignore"):
            return codes.astype(f32).astype(dtype)

    return change


def _cut_to_bf16(x: Any) -> Any:
    if isinstance(x, Quantized) or codes_of(x).dtype != f32:
        return None
    return cut_to_bfloat16(codes_of(x)).astype(_BF16)


def _both(how: Callable[[Any], Any]) -> Change:
    def change(given: Operands) -> Operands | None:
        a, b = how(given.a), how(given.b)
        return None if a is None or b is None else replace(given, a=a, b=b)

    return change


def _scales_exchanged(given: Operands) -> Operands | None:
    a, b = given.a, given.b
    if not (isinstance(a, Quantized) and isinstance(b, Quantized)) or a.scales.shape != b.scales.shape:
        return None
    if a.scales.dtype != b.scales.dtype:
        return None
    return replace(given, a=replace(a, scales=b.scales), b=replace(b, scales=a.scales))


_SIDE: dict[str, Callable[[Any], Any]] = {
    **{f"scales of {{}} {name}": _of_scales(how) for name, how in _SCALE_MOVES.items()},
    **{f"scales of blocks of {{}} {name}": _of_blocks(_SCALE_MOVES[name]) for name in _BLOCK_MOVES},
    **{f"codes of {{}} {name}": _of_codes(how) for name, how in _CODE_MOVES.items()},
    **{
        f"codes of {{}} read as {info.name}": _as_format(info.name)
        for info in formats()
        if info.bits <= 8 and info.dtype.kind in "Vf" and not info.is_integer
    },
    "global scale of {} left out": _global(lambda g: np.ones_like(g)),
    "global scale of {} applied twice": _global(lambda g: g * g),
    "global scale of {} inverted": _global(lambda g: f32(1) / g),
}

CHANGES: dict[str, Change] = {
    "c left out": lambda given: replace(given, c=None) if given.c is not None else None,
    "c applied twice": lambda given: replace(given, c=given.c + given.c) if given.c is not None else None,
    **{name.format(side): _on(side, how) for side in "ab" for name, how in _SIDE.items()},
    "scales of a and b exchanged": _scales_exchanged,
    **{f"both: {name.format('a and b')}": _both(how) for name, how in _SIDE.items()},
    "both rounded to bfloat16 before": _both(_rounded_to(_BF16)),
    "both cut to bfloat16 before": _both(_cut_to_bf16),
    "both rounded to float16 before": _both(_rounded_to(np.dtype(np.float16))),
    "both rounded to float8_e4m3fn before": _both(_rounded_to(np.dtype(ml_dtypes.float8_e4m3fn))),
    "a rounded to bfloat16 before": _on("a", _rounded_to(_BF16)),
    "b rounded to bfloat16 before": _on("b", _rounded_to(_BF16)),
}
"""Changes that operands may have gone through: each counts as one assumption."""

# --- Outputs ------------------------------------------------------------------------------------------------

OUTPUTS: dict[str, dict[str, tuple[int, Callable[[Floats], Array]]]] = {
    "float32": {
        "float32": (0, lambda x: x),
        "rounded to bfloat16, held as float32": (1, to_bfloat16),
        "cut to bfloat16, held as float32": (1, cut_to_bfloat16),
        "rounded to float16, held as float32": (1, to_float16),
        "rounded to float8_e4m3fn, held as float32": (1, lambda x: _e4m3(x)),
        "cut to tf32, held as float32": (
            1,
            lambda x: (np.ascontiguousarray(x).view(np.uint32) & np.uint32(0xFFFFE000)).view(f32),
        ),
    },
    "bfloat16": {
        "rounded to bfloat16, to nearest even": (0, lambda x: x.astype(_BF16)),
        "cut to bfloat16": (1, lambda x: cut_to_bfloat16(x).astype(_BF16)),
        "rounded to bfloat16, ties away from zero": (1, lambda x: encode(x, _BF16, rounding="nearest_away")),
        "rounded up to bfloat16": (1, lambda x: encode(x, _BF16, rounding="up")),
        "rounded down to bfloat16": (1, lambda x: encode(x, _BF16, rounding="down")),
        "rounded to float8_e4m3fn, held as bfloat16": (1, lambda x: _e4m3(x).astype(_BF16)),
        "rounded to float16, then to bfloat16 (double rounding)": (1, lambda x: to_float16(x).astype(_BF16)),
    },
    "float16": {
        "rounded to float16, to nearest even": (0, lambda x: _half(x)),
        "cut to float16": (1, lambda x: encode(x, "float16", rounding="toward_zero")),
        "rounded to float16, overflow saturated": (1, lambda x: encode(x, "float16")),
        "rounded to float16, ties away from zero": (
            1,
            lambda x: encode(x, "float16", rounding="nearest_away"),
        ),
        "rounded to bfloat16, then to float16 (double rounding)": (1, lambda x: _half(to_bfloat16(x))),
    },
}


def _e4m3(x: Floats) -> Floats:
    return encode(x, "float8_e4m3fn").astype(f32)


def _half(x: Floats) -> Array:
    with np.errstate(over="ignore"):
        return x.astype(np.float16)


LAYOUTS: dict[str, tuple[int, Callable[[Array], Array | None]]] = {
    "as given": (0, lambda p: p),
    "transposed": (1, lambda p: p.T),
    "off by one row (one late)": (1, lambda p: np.roll(p, -1, 0)),
    "off by one row (one early)": (1, lambda p: np.roll(p, 1, 0)),
    "off by one column (one late)": (1, lambda p: np.roll(p, -1, 1)),
    "off by one column (one early)": (1, lambda p: np.roll(p, 1, 1)),
    "bytes reversed (the other byte order)": (1, lambda p: as_bits(p).byteswap().view(p.dtype)),
    "rows in reverse": (1, lambda p: p[::-1]),
    "columns in reverse": (1, lambda p: p[:, ::-1]),
    "transposed memory (row-major for column-major)": (1, lambda p: p.reshape(p.shape[::-1]).T),
}
