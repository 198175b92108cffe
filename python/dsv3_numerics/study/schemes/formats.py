"""Schemes that round to a format: each element on its own, or in groups that share a scale."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import _core
from ...formats import decode, encode, format_info, formats
from ...quant import Rule, Scale, quantize_blocks
from .base import GROUPS, NAMED, WHOLE, Approximation, Floats, Group, Scheme, pick, read_group

_SCALES: dict[str, Scale] = {"f32": "float32", "ue8m0": "ue8m0", "mx": "mx", "nvfp4": "nvfp4"}
_SCALE_BITS = {"float32": 32, "ue8m0": 8, "mx": 8, "nvfp4": 8}
_TENSOR_BITS = {"nvfp4": 32}  # stored once per tensor, next to the scales of the groups
_OWN_RULE = ("mx", "nvfp4")  # scale kinds whose standard leaves no choice of rule
_DEFAULT_RULE: Rule = "deepseek_v3"
_NAMES = {spelling: name for name, spelling in NAMED.items()}


@dataclass(frozen=True)
class Cast(Scheme):
    """Every element rounded to a format on its own, without a scale (``bf16``, ``e4m3``)."""

    format: str

    @property
    def group(self) -> Group | None:
        return None

    def bits(self, rows: int, cols: int) -> int:
        return rows * cols * format_info(self.format).bits

    def quantize(
        self, slab: npt.NDArray[np.floating], amax: Floats | None = None, tensor_amax: float | None = None
    ) -> Approximation:
        codes = encode(slab, self.format)
        values = decode(codes, fmt=self.format)
        rows, cols = slab.shape
        layout = (1, rows, cols, rows, cols)
        one = np.ones(1, np.float32)
        return Approximation(values, _saturated(slab, codes, self.format, layout, one))

    def __str__(self) -> str:
        return short_names()[self.format]

    @classmethod
    def takes(cls, parts: list[str]) -> bool:
        return len(parts) == 1

    @classmethod
    def read(cls, spelling: str, parts: list[str]) -> Scheme:
        name = _format(spelling, parts[0], named=True)
        if format_info(name).is_integer:
            raise ValueError(
                f"scheme {spelling!r}: {parts[0]} needs a scale; expected for example {parts[0]}:1x128"
            )
        return cls(name)


@dataclass(frozen=True)
class Scaled(Scheme):
    """Groups of elements that share a scale (``e4m3:1x128:f32``, ``mxfp8``)."""

    format: str
    block: Group
    scale: Scale = "float32"
    rule: Rule = _DEFAULT_RULE

    @property
    def group(self) -> Group | None:
        return self.block

    @property
    def needs_tensor_amax(self) -> bool:
        return self.scale == "nvfp4"

    def bits(self, rows: int, cols: int) -> int:
        br, bc = self.block
        groups = -(-rows // (br or rows)) * -(-cols // (bc or cols))
        codes = rows * cols * format_info(self.format).bits
        return codes + groups * _SCALE_BITS[self.scale] + _TENSOR_BITS.get(self.scale, 0)

    def quantize(
        self, slab: npt.NDArray[np.floating], amax: Floats | None = None, tensor_amax: float | None = None
    ) -> Approximation:
        q = quantize_blocks(
            slab,
            dtype=self.format,
            block=None if self.block == WHOLE else self.block,
            scale=self.scale,
            rule=self.rule,
            amax=amax,
            tensor_amax=tensor_amax if self.needs_tensor_amax else None,
        )
        rows, cols = slab.shape
        layout = (1, rows, cols, self.block[0] or rows, self.block[1] or cols)
        scales = np.ascontiguousarray(q.weight_scale_inv(), np.float32).ravel()
        return Approximation(q.dequantize(), _saturated(slab, q.codes, self.format, layout, scales))

    def __str__(self) -> str:
        spelling = self._spell()
        return _NAMES.get(spelling, spelling)

    def _spell(self) -> str:
        group = next((k for k, v in GROUPS.items() if v == self.block), None)
        parts = [short_names()[self.format], group or f"{self.block[0]}x{self.block[1]}"]
        if not format_info(self.format).is_integer or (self.scale, self.rule) != ("float32", _DEFAULT_RULE):
            parts.append(next(k for k, v in _SCALES.items() if v == self.scale))
        if self.rule != _DEFAULT_RULE:
            parts.append(self.rule)
        return ":".join(parts)

    @classmethod
    def takes(cls, parts: list[str]) -> bool:
        return 2 <= len(parts) <= 4

    @classmethod
    def read(cls, spelling: str, parts: list[str]) -> Scheme:
        name = _format(spelling, parts[0])
        block = read_group(spelling, parts[1])
        scale = _SCALES[pick(spelling, "scale", parts[2], list(_SCALES))] if len(parts) > 2 else "float32"
        rules = [str(rule["name"]) for rule in _core.scale_rules()]
        rule: Any = pick(spelling, "rule", parts[3], rules) if len(parts) > 3 else _DEFAULT_RULE
        if scale in _OWN_RULE and len(parts) > 3:
            raise ValueError(
                f"scheme {spelling!r}: {parts[2]} scales follow their own standard and take no rule"
            )
        return cls(name, block, scale, rule)


def _saturated(
    slab: npt.NDArray[np.floating],
    codes: npt.NDArray[np.generic],
    fmt: str,
    layout: tuple[int, int, int, int, int],
    scales: Floats,
) -> int:
    raw = codes.reshape(-1).view(f"u{codes.itemsize}")
    return _core.count_saturated(slab.reshape(-1), slab.dtype.name, raw, fmt, layout, scales)


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


def _format(spelling: str, text: str, *, named: bool = False) -> str:
    names = short_names()
    if text in names:
        return text
    options = list(names.values()) + (list(NAMED) if named else [])
    found = pick(spelling, "format", text, options)
    return next(name for name, short in names.items() if short == found)
