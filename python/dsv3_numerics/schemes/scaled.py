"""Schemes that round to a format: not at all, each element on its own, or in groups that share a scale."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .. import _core
from .._arrays import SOURCES, Array, brief, crossing, deliver, destination
from ..number_formats import FormatInfo, Rounding, decode, encode, format_info, formats
from ..quant import quantize_blocks, quantize_tiles
from ..quantized import Quantized
from ..scale_rule import DEFAULT_RULES, Rule, Scale, rules
from .scheme import (
    NAMED,
    WHOLE,
    Approximation,
    CodedSlab,
    Floats,
    Group,
    Scheme,
    check_seed,
    pick,
    read_group,
    refuse_settings,
    write_group,
)

_SCALES: dict[str, Scale] = {"f32": "float32", "ue8m0": "ue8m0", "mx": "mx", "nvfp4": "nvfp4"}
_SCALE_BITS = {"float32": 32, "ue8m0": 8, "mx": 8, "nvfp4": 8}
_TENSOR_BITS = {"nvfp4": 32}  # stored once per tensor, next to the scales of the groups
_OWN_RULE = ("mx", "nvfp4")  # scale kinds with a default rule of their own
_ROW: Literal["row"] = "row"
_NO_SCALE: Literal["none"] = "none"
SharedScale = Literal["tensor", "row", "none"]
_NAMES = {spelling: name for name, spelling in NAMED.items()}

NATIVE: dict[str, int] = {"float32": 32, "float64": 64}
"""NumPy's own floats, which are no rows of the table of formats, and their bits."""

_NATIVE_SHORT = {"f32": "float32", "f64": "float64"}
_TORCH_LIKE = ("bfloat16", "float16")  # overflow is infinity there, as in NumPy and torch
DEFAULT_RULE = "deepseek_v3"
_ROUNDINGS: tuple[str, ...] = get_args(Rounding)
_NEAREST = _ROUNDINGS[0]
_FLASHMLA = "flashmla"
# FlashMLA's scales: powers of two by a float32 logarithm, at least 1e-4 (amax at least 448 times that), kept
# as float32.
_FLASHMLA_SETTINGS: dict[str, Any] = {"scale": "ue8m0", "rule": "vllm", "floor": 448e-4}
_REQUANTIZED = "requantized"
_BYTE = 8


@dataclass(frozen=True)
class Identity(Scheme):
    """Numbers as they are (``none``)."""

    is_identity = True

    @property
    def group(self) -> Group | None:
        return None

    def bits(self, rows: int, cols: int) -> int | None:
        return None

    def approximate(
        self, slab: npt.NDArray[np.floating], amax: Floats | None = None, tensor_amax: float | None = None
    ) -> Approximation:
        raise ValueError("scheme 'none' changes nothing: there is no error to study")

    def encode(self, x: Array, **settings: Any) -> Array:
        refuse_settings(self, settings)
        return x

    def __str__(self) -> str:
        return "none"

    @classmethod
    def takes(cls, parts: list[str]) -> bool:
        return parts == ["none"]

    @classmethod
    def read(cls, spelling: str, parts: list[str]) -> Scheme:
        return cls()


@dataclass(frozen=True)
class Cast(Scheme):
    """Every element rounded to a format on its own, without a scale (``bf16``, ``e4m3``, ``float32``).

    Attributes
    ----------
    format : str
        See `formats`; "float32" and "float64" too.
    rounding : str
        See `encode`.
    """

    format: str
    rounding: str = _NEAREST

    @property
    def group(self) -> Group | None:
        return None

    @property
    def is_native(self) -> bool:
        """True: float32 or float64."""
        return self.format in NATIVE

    @property
    def width(self) -> int:
        """Bits of an element."""
        return NATIVE.get(self.format) or format_info(self.format).bits

    def with_rounding(self, rounding: str) -> Scheme:
        if rounding not in _ROUNDINGS:
            raise ValueError(f"rounding: found {brief(rounding)}, expected one of {', '.join(_ROUNDINGS)}")
        if self.format in NATIVE and rounding != _NEAREST:
            raise ValueError(
                f"rounding: found {brief(rounding)}, but {self.format} is rounded to nearest even"
            )
        return replace(self, rounding=rounding)

    def bits(self, rows: int, cols: int) -> int:
        return rows * cols * self.width

    def approximate(
        self, slab: npt.NDArray[np.floating], amax: Floats | None = None, tensor_amax: float | None = None
    ) -> Approximation:
        if self.format in NATIVE:
            raise ValueError(f"scheme '{self}' changes no float32: there is no error to study")
        check_seed(self, self.rounding, None)
        codes = encode(slab, self.format, rounding=self.rounding)  # type: ignore[arg-type]
        values = decode(codes, fmt=self.format)
        rows, cols = slab.shape
        layout = (1, rows, cols, rows, cols)
        one = np.ones(1, np.float32)
        return Approximation(values, _coded(codes, self.format, layout, one))

    def encode(self, x: Array, *, seed: int | None = None, out: Any = None, **settings: Any) -> Array:
        """Round; beyond the largest number bf16 and f16 become infinite, narrower formats saturate."""
        refuse_settings(self, settings)
        if self.format in NATIVE:
            refuse_settings(self, {} if seed is None else {"seed": seed})
            target = np.dtype(self.format)
            into = destination(out, x.shape, target, x)
            with np.errstate(over="ignore"):
                into[...] = x
            return deliver(into, out)
        check_seed(self, self.rounding, seed)
        overflow: Any = "nonfinite" if self.format in _TORCH_LIKE else "saturate"
        rounding: Any = self.rounding
        return encode(x, self.format, rounding=rounding, overflow=overflow, seed=seed, out=out)

    def decode(self, held: Any, dtype: npt.DTypeLike = np.float32) -> Array:
        if self.format in NATIVE:
            with np.errstate(over="ignore"):
                array: Array = np.asarray(held).astype(dtype, copy=False)
            return array
        return decode(held, fmt=self.format, dtype=dtype)

    def __str__(self) -> str:
        name = self.format if self.format in NATIVE else short_name(self.format)
        return name if self.rounding == _NEAREST else f"{name}:{self.rounding}"

    @classmethod
    def takes(cls, parts: list[str]) -> bool:
        return len(parts) == 1 or (len(parts) == 2 and parts[1] in _ROUNDINGS)

    @classmethod
    def read(cls, spelling: str, parts: list[str]) -> Scheme:
        text = _NATIVE_SHORT.get(parts[0], parts[0])
        name = text if text in NATIVE else _format(spelling, text, named=True)
        if name not in NATIVE and format_info(name).is_integer:
            raise ValueError(
                f"scheme {spelling!r}: {parts[0]} needs a scale; expected for example {parts[0]}:1x128"
            )
        return cls(name).with_rounding(parts[1]) if len(parts) > 1 else cls(name)

    @classmethod
    def of(cls, value: Any) -> Scheme | None:
        if isinstance(value, FormatInfo):
            return cls.read(value.name, [value.name])
        if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
            name = np.dtype(value).name
            return cls.read(name, [name])
        return None


@dataclass(frozen=True)
class Scaled(Scheme):
    """Groups of elements that share a scale (``e4m3:1x128:f32``, ``mxfp8``).

    Attributes
    ----------
    format : str
        Of the codes, see `formats`.
    block : tuple of two (int or None)
        Rows and columns that share a scale; None for the whole axis.
    scale : {"float32", "ue8m0", "mx", "nvfp4"}
        See `quantize_tiles`.
    rule : str or None
        Whose arithmetic makes the scales, see `quantize_tiles`; None: "deepseek_v3", or what a recipe says.
        "flashmla": powers of two by a float32 logarithm, at least 1e-4, kept as float32 or as bytes. MX and
        NVFP4 have rules of their own (``mxfp8:rceil``).
    global_scale : {"tensor", "row", "none"}
        Of NVFP4: one scale of scales for the tensor, one for each row (``nvfp4:row``), or none
        (``nvfp4:none``). With the latter two tokens do not touch each other.
    given : float or None
        Static scale (``e4m3:tensor:f32=0.05``), the same for all groups; of NVFP4 the scale of scales
        (``nvfp4=0.002``), what stored scales are multiplied by. None: found.
    rounding : str or None
        How quotients become codes, see `encode`; None: as the rule says, mostly to nearest even. "stochastic"
        and "stochastic8" take a seed from whoever quantizes.
    requantize : bool
        True: dequantize and requantize a weight that is already quantized.
    """

    format: str
    block: Group
    scale: Scale = "float32"
    rule: str | None = None
    requantize: bool = False
    global_scale: SharedScale = "tensor"
    rounding: str | None = None
    given: float | None = None

    is_quantized = True

    @property
    def group(self) -> Group | None:
        return self.block

    @property
    def needs_tensor_amax(self) -> bool:
        return self.scale == "nvfp4" and self.global_scale == "tensor" and self.given is None

    @property
    def joins_rows(self) -> bool:
        """True: one scale, found in the numbers, is that of several rows."""
        found = self.given is None or self.scale == "nvfp4"
        return self.needs_tensor_amax or (found and self.block[0] != 1)

    @property
    def uses_scale_rule(self) -> bool:
        return self.rule is None and self.scale not in _OWN_RULE and self.given is None

    @property
    def short_format(self) -> str:
        """The format as schemes spell it."""
        return short_name(self.format)

    @property
    def scales(self) -> str:
        """The group and the kind of scale, for people."""
        return f"{write_group(self.block)} {_short_scale(self.scale)}"

    def with_rule(self, rule: str) -> Scheme:
        return replace(self, rule=rule) if self.uses_scale_rule and rule != DEFAULT_RULE else self

    def with_rounding(self, rounding: str) -> Scheme:
        if rounding not in _ROUNDINGS:
            raise ValueError(f"rounding: found {brief(rounding)}, expected one of {', '.join(_ROUNDINGS)}")
        return replace(self, rounding=rounding)

    def per_token(self) -> Scheme:
        return replace(self, global_scale=_ROW) if self.needs_tensor_amax else self

    def bits(self, rows: int, cols: int) -> int:
        br, bc = self.block
        groups = -(-rows // (br or max(rows, 1))) * -(-cols // (bc or max(cols, 1)))
        codes = rows * cols * format_info(self.format).bits
        globals_ = {_ROW: rows, _NO_SCALE: 0}.get(self.global_scale, 1)
        return codes + groups * _SCALE_BITS[self.scale] + globals_ * _TENSOR_BITS.get(self.scale, 0)

    def approximate(
        self, slab: npt.NDArray[np.floating], amax: Floats | None = None, tensor_amax: float | None = None
    ) -> Approximation:
        check_seed(self, self.rounding or "", None)
        q = self._as_stored(
            quantize_blocks(
                slab,
                fmt=self.format,
                block=None if self.block == WHOLE else self.block,
                amax=amax if self.given is None or self.scale == "nvfp4" else None,
                tensor_amax=tensor_amax if self.needs_tensor_amax else None,
                **self._settings(),
            )
        )
        rows, cols = slab.shape
        layout = (1, rows, cols, self.block[0] or rows, self.block[1] or cols)
        scales = np.ascontiguousarray(q.weight_scale_inv(), np.float32).ravel()
        coded = _coded(q.codes, self.format, layout, scales)
        return Approximation(q.dequantize(), coded, floored=self._floored(slab, q, amax))

    def _floored(self, slab: npt.NDArray[np.floating], q: Quantized, amax: Floats | None) -> int:
        """Count elements of groups whose scale is a floor's, and would be smaller without it."""
        if self.given is not None or self.scale in _OWN_RULE:
            return 0
        settings = self._settings()
        rule = Rule.parse(settings.get("rule", DEFAULT_RULE))
        floor = settings.get("floor")
        rule = rule if floor is None else rule.replace(amax_floor=floor)
        if not (rule.amax_floor or rule.scale_floor or rule.pow2_floor):
            return 0

        def scales_of(largest: Floats, by: Rule) -> Floats:
            column = largest.reshape(-1, 1)
            made = quantize_tiles(column, fmt=self.format, tile=1, scale=settings["scale"], rule=by)
            return made.weight_scale_inv()[:, 0]

        least = scales_of(np.zeros(1, np.float32), rule)[0]
        scales = q.weight_scale_inv()
        if not (scales <= least).any():
            return 0
        rows, cols = slab.shape
        sides = (self.block[0] or rows, self.block[1] or cols)
        if amax is None:
            amax = np.empty(scales.shape, np.float32)
            _core.amax(crossing(slab, slab.dtype.name), (1, rows, cols, *sides), amax.reshape(-1))
        small = (scales <= least) & (amax > 0)
        free = rule.replace(amax_floor=0, scale_floor=0, pow2_floor=0)
        small[small] = scales_of(amax[small], free) < least if small.any() else False
        heights, widths = (
            np.minimum(side, length - side * np.arange(-(-length // side)))
            for length, side in zip((rows, cols), sides, strict=True)
        )
        return int(heights @ small @ widths)

    def encode(
        self,
        x: Array,
        *,
        seed: Any = None,
        out: Any = None,
        axis: int = -1,
        floor: float | None = None,
        **settings: Any,
    ) -> Quantized:
        """Codes with scales: tiles along the last axis, or another, or blocks of the last two.

        `floor` is the least amax, if not the rule's.
        """
        refuse_settings(self, settings)
        if out is not None and self.rule == _FLASHMLA:
            refuse_settings(self, {"out": out})
        check_seed(self, self.rounding or "", seed)
        chosen = {"fmt": self.format, "out": out, "seed": seed, **self._settings()}
        if floor is not None:
            chosen["floor"] = floor
        rows, cols = self.block
        if rows == 1 or (self.block == WHOLE and x.ndim == 1):
            return self._as_stored(quantize_tiles(x, tile=cols, axis=axis, **chosen))
        if self.block == WHOLE and x.ndim > 2 and "scales" not in chosen:
            chosen["amax"] = _one_amax(x)
        return self._as_stored(quantize_blocks(x, block=self.block, **chosen))

    def _settings(self) -> dict[str, Any]:
        if self.rule == _FLASHMLA:
            return {**_FLASHMLA_SETTINGS, "rounding": self.rounding}
        found: dict[str, Any] = {"scale": self.scale, "rounding": self.rounding}
        if self.rule is not None:
            found["rule"] = self.rule
        if self.scale == "nvfp4":
            word = None if self.global_scale == _NO_SCALE else self.global_scale
            found["global_scale"] = word if self.given is None else self.given
        elif self.given is not None:
            found["scales"] = self.given
        return found

    def row_codes(self) -> tuple[str, int | None, str, dict[str, Any], str | None] | None:
        """Return what the core needs to quantize rows on their way into a product.

        Format, columns that share a scale, kind of scale, columns of the rule, rounding. None where rows are
        not each for itself, or where more than that is needed: a seed, a scale of scales, codes in words.
        """
        wide = format_info(self.format).bits > _BYTE
        if self.block[0] != 1 or wide or self.scale == "nvfp4" or self.rule == _FLASHMLA:
            return None
        if self.is_random:
            return None
        rule = Rule.parse(DEFAULT_RULES[self.scale] if self.rule is None else self.rule)
        return self.format, self.block[1], self.scale, rule.columns(), self.rounding

    def _as_stored(self, q: Quantized) -> Quantized:
        """Scales as the scheme stores them."""
        if self.rule != _FLASHMLA:
            return q
        if self.scale == "ue8m0":
            return replace(q, rule=None)
        return replace(q, scales=q.weight_scale_inv(), scale_kind=self.scale, rule=None)

    def __str__(self) -> str:
        plain = replace(self, rule=None, global_scale="tensor", rounding=None, given=None)._spell()
        short = self._spell()
        if plain in _NAMES:
            short = ":".join([_NAMES[plain] + self._number(), *self._tail()])
        name = _NAMES.get(self._spell(), short)
        return f"{name}:{_REQUANTIZED}" if self.requantize else name

    def _spell(self) -> str:
        parts = [self.short_format, write_group(self.block)]
        bare = (self.scale, self.rule, self.rounding) == ("float32", None, None)
        if not format_info(self.format).is_integer or not bare or self.given is not None:
            parts.append(_short_scale(self.scale) + self._number())
        return ":".join([*parts, *self._tail()])

    def _number(self) -> str:
        return "" if self.given is None else f"={np.float32(self.given)}".removesuffix(".0")

    def _tail(self) -> list[str]:
        shared = [] if self.global_scale == "tensor" else [self.global_scale]
        return [*shared, *(part for part in (self.rule, self.rounding) if part is not None)]

    @classmethod
    def takes(cls, parts: list[str]) -> bool:
        n = len(parts) - (len(parts) > 2 and parts[-1] == _REQUANTIZED)
        n -= n > 3 and parts[n - 1] in _ROUNDINGS
        n -= n > 3 and parts[2].startswith("nvfp4") and parts[3] in (_ROW, _NO_SCALE)
        return 2 <= n <= 4

    @classmethod
    def read(cls, spelling: str, parts: list[str]) -> Scheme:
        requantize = parts[-1] == _REQUANTIZED and len(parts) > 2
        if requantize:
            parts = parts[:-1]
        rounding = parts[-1] if len(parts) > 3 and parts[-1] in _ROUNDINGS else None
        parts = parts[:-1] if rounding else parts
        word, number, given = parts[2].partition("=") if len(parts) > 2 else ("", "", "")
        shared: SharedScale = "tensor"
        if len(parts) > 3 and word == "nvfp4" and parts[3] in (_ROW, _NO_SCALE):
            shared = _ROW if parts[3] == _ROW else _NO_SCALE
            parts = [*parts[:3], *parts[4:]]
            if number:
                raise ValueError(f"scheme {spelling!r}: found a scale of scales beside {shared!r}")
        name = _format(spelling, parts[0])
        block = read_group(spelling, parts[1])
        scale = _SCALES[pick(spelling, "scale", word, list(_SCALES))] if len(parts) > 2 else "float32"
        rule = None
        if len(parts) > 3:
            rule = parts[3] if parts[3] == _FLASHMLA else _rule(spelling, parts[3], scale, name)
        if rule == _FLASHMLA and (scale not in ("float32", "ue8m0") or number):
            raise ValueError(f"scheme {spelling!r}: {rule} keeps f32 or ue8m0 scales, found {parts[2]}")
        return cls(name, block, scale, rule, requantize, shared, rounding, _given(spelling, number, given))


def _given(spelling: str, number: str, text: str) -> float | None:
    """Read a static scale."""
    if not number:
        return None
    try:
        value = float(np.float32(float(text)))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(
            f"scheme {spelling!r}: found static scale {text!r}, expected a finite number above 0, "
            "such as 0.05"
        )
    return value


def _rule(spelling: str, text: str, scale: str, fmt: str) -> str:
    """Read a rule, by a name alone or with other columns, that can make this kind of scale."""
    if "(" not in text:
        pick(spelling, "rule", text, [*rules(), _FLASHMLA])
    try:
        rule = Rule.parse(text)
        _core.check_rule(rule.columns(), scale, fmt, True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scheme {spelling!r}: {error}") from error
    return str(rule)


def _short_scale(scale: str) -> str:
    return next(short for short, name in _SCALES.items() if name == scale)


def _one_amax(x: Array) -> Floats:
    """Return the largest magnitude of a stack of matrices, once for each matrix."""
    rows, cols = math.prod(x.shape[:-1]), x.shape[-1]
    found = np.zeros(1, np.float32)
    if x.size:
        _core.amax(crossing(x, SOURCES[x.dtype.newbyteorder("=")]), (1, rows, cols, rows, cols), found)
    return np.full((*x.shape[:-2], 1 if x.shape[-2] else 0, 1 if cols else 0), found[0], np.float32)


def _coded(
    codes: npt.NDArray[np.generic], fmt: str, layout: tuple[int, int, int, int, int], scales: Floats
) -> CodedSlab:
    return CodedSlab(codes.reshape(-1).view(f"u{codes.itemsize}"), fmt, layout, scales)


@cache
def short_names() -> dict[str, str]:
    """How schemes spell the formats: library name -> short name.

    ``float8_e4m3fn`` is ``e4m3``; where two formats would have one short name, the ``fn`` format has it.
    """
    short: dict[str, str] = {}
    for info in sorted(formats(), key=lambda f: not f.name.endswith("fn")):
        if info.mantissa_bits == 0:
            continue  # a scale format: it holds no values
        name = {"bfloat16": "bf16", "float16": "f16"}.get(info.name) or re.sub(
            r"^float\d_|fn$", "", info.name
        )
        short[info.name] = info.name if name in short.values() else name
    return short


_SPELLED = re.compile(r"e\d+m\d+b-?\d+_\w+")


def short_name(fmt: str) -> str:
    """How schemes spell a format: its short name, or the row that a format made at run time is spelled by."""
    return short_names().get(fmt, fmt)


def _format(spelling: str, text: str, *, named: bool = False) -> str:
    names = short_names()
    if text in names:
        return text
    if _SPELLED.fullmatch(text):
        try:
            return format_info(text).name
        except ValueError as error:
            raise ValueError(f"scheme {spelling!r}: {error}") from error
    options = list(names.values()) + (list(NAMED) + list(NATIVE) if named else [])
    found = pick(spelling, "format", text, options)
    return next(name for name, short in names.items() if short == found)
