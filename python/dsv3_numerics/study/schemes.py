"""Schemes: how one tensor is quantized, in one readable line.

A scheme is spelled ``format:group:scale[:rule]`` (quantized with shared scales), ``format`` alone (a plain
cast), or by a name out of `NAMED`. A scheme turns a slab of a tensor into its approximation and says how many
bits it stores; nothing else in the study knows what a scheme does. A new kind of scheme is a subclass with
the four methods of `Scheme` and one entry in `KINDS`.
"""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from ..formats import decode, encode, format_info, formats
from ..quant import Rule, Scale, quantize_blocks

Floats = npt.NDArray[np.float32]
Group = tuple[int | None, int | None]
"""Rows and columns that share one scale; None is the whole axis, so (None, None) is the whole tensor."""

WHOLE: Group = (None, None)
_GROUPS: dict[str, Group] = {"tensor": WHOLE, "row": (1, None), "col": (None, 1)}
_SCALES: dict[str, Scale] = {"f32": "float32", "ue8m0": "ue8m0", "mx": "mx", "nvfp4": "nvfp4"}
_SCALE_BITS = {"float32": 32, "ue8m0": 8, "mx": 8, "nvfp4": 8}
_TENSOR_BITS = {"nvfp4": 32}  # stored once per tensor, next to the scales of the groups
_OWN_RULE = ("mx", "nvfp4")  # scale kinds whose standard leaves no choice of rule
_DEFAULT_RULE: Rule = "deepseek_v3"
_MAX_GROUP = 1 << 20  # a group given in numbers is held in memory whole; row, col and tensor are not


class Approximation(NamedTuple):
    """What a scheme makes of a slab: the values read back (its shape), and how many elements were clipped."""

    values: Floats
    saturated: int


class Scheme(ABC):
    """How a tensor is quantized.

    `parse` reads a spelling and ``str`` writes it; ``Scheme.parse(str(scheme)) == scheme``. Schemes are
    frozen dataclasses: hashable, and equal when they say the same.

    Examples
    --------
    >>> from dsv3_numerics.study import Scheme
    >>> scheme = Scheme.parse("e4m3:1x128:f32")
    >>> scheme.format, scheme.group, scheme.scale, scheme.rule
    ('float8_e4m3fn', (1, 128), 'float32', 'deepseek_v3')
    >>> str(Scheme.parse("e2m1:1x32:mx"))
    'mxfp4'
    """

    @property
    @abstractmethod
    def group(self) -> Group | None:
        """Rows and columns that share a scale (None: the whole axis); None where there are no scales."""

    @property
    def needs_tensor_amax(self) -> bool:
        """Whether a slab cannot be quantized without the largest magnitude of the whole tensor."""
        return False

    @abstractmethod
    def bits(self, rows: int, cols: int) -> int:
        """Bits that a (rows, cols) tensor takes, with its scales."""

    @abstractmethod
    def quantize(
        self, slab: npt.NDArray[np.floating], amax: Floats | None = None, tensor_amax: float | None = None
    ) -> Approximation:
        """Quantize and read back a (rows, cols) slab.

        Parameters
        ----------
        slab : ndarray of float32 or float64, shape (rows, cols)
            It starts on a group's border.
        amax : ndarray of float32, optional
            The largest magnitude of each group, where the groups reach beyond the slab.
        tensor_amax : float, optional
            The largest magnitude of the tensor, where the scheme needs it and the slab is not all of it.
        """

    @classmethod
    def parse(cls, spelling: str | Scheme) -> Scheme:
        """Read a scheme.

        Parameters
        ----------
        spelling : str or Scheme
            ``format:group:scale[:rule]``, a format alone, or a name such as ``mxfp4``. A Scheme is returned
            as it is.

        Raises
        ------
        ValueError
            The spelling is not a scheme; the message lists what is possible.

        Examples
        --------
        >>> from dsv3_numerics.study import Scheme
        >>> Scheme.parse("e4m3:2x2:f16")
        Traceback (most recent call last):
        ...
        ValueError: scheme 'e4m3:2x2:f16': unknown scale 'f16'; expected one of f32, ue8m0, mx, nvfp4
        """
        if isinstance(spelling, Scheme):
            return spelling
        text = spelling.strip().lower()
        parts = NAMED.get(text, text).split(":")
        for kind in KINDS:
            if kind.takes(parts):
                return kind.read(spelling, parts)
        raise ValueError(
            f"scheme {spelling!r}: {len(parts)} parts; expected format, or format:group:scale[:rule]"
        )

    @classmethod
    def takes(cls, parts: list[str]) -> bool:
        """Whether this kind of scheme reads a spelling of these parts."""
        return False

    @classmethod
    def read(cls, spelling: str, parts: list[str]) -> Scheme:
        """Read the parts of a spelling that this kind takes; kinds without a spelling take none."""
        raise TypeError(f"{cls.__name__} has no spelling, found {spelling!r}")


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
        group = next((k for k, v in _GROUPS.items() if v == self.block), None)
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
        block = _group(spelling, parts[1])
        scale = _SCALES[_pick(spelling, "scale", parts[2], list(_SCALES))] if len(parts) > 2 else "float32"
        rules = [str(rule["name"]) for rule in _core.scale_rules()]
        rule: Any = _pick(spelling, "rule", parts[3], rules) if len(parts) > 3 else _DEFAULT_RULE
        if scale in _OWN_RULE and len(parts) > 3:
            raise ValueError(
                f"scheme {spelling!r}: {parts[2]} scales follow their own standard and take no rule"
            )
        return cls(name, block, scale, rule)


KINDS: tuple[type[Scheme], ...] = (Cast, Scaled)

NAMED: dict[str, str] = {
    "mxfp8": "e4m3:1x32:mx",
    "mxfp6": "e2m3:1x32:mx",
    "mxfp4": "e2m1:1x32:mx",
    "nvfp4": "e2m1:1x16:nvfp4",
}
"""Names for schemes that a standard or a vendor has named."""

_NAMES = {spelling: name for name, spelling in NAMED.items()}


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
    found = _pick(spelling, "format", text, options)
    return next(name for name, short in names.items() if short == found)


def _group(spelling: str, text: str) -> Group:
    if text in _GROUPS:
        return _GROUPS[text]
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    if not match:
        hint = _suggest(text, list(_GROUPS))
        raise ValueError(
            f"scheme {spelling!r}: unknown group {text!r}; expected ROWSxCOLS (1x128, 128x128, 128x1), "
            f"tensor, row or col{hint}"
        )
    block = (int(match[1]), int(match[2]))
    if not 0 < block[0] * block[1] <= _MAX_GROUP:
        raise ValueError(
            f"scheme {spelling!r}: group {text} has {block[0] * block[1]} elements; "
            f"expected 1 to {_MAX_GROUP} (row, col and tensor have no limit)"
        )
    return block


def _pick(spelling: str, what: str, text: str, options: list[str]) -> str:
    if text in options:
        return text
    possible = ", ".join(options) + _suggest(text, options)
    raise ValueError(f"scheme {spelling!r}: unknown {what} {text!r}; expected one of {possible}")


def _suggest(text: str, options: list[str]) -> str:
    close = difflib.get_close_matches(text, options, 1)
    return f" (did you mean {close[0]}?)" if close else ""


DEFAULT_SPELLINGS = (
    "bf16",
    "e5m6:1x128:ue8m0",
    "int8:1x128",
    "mxfp8",
    "e4m3:1x128:f32",
    "e4m3:128x128:f32",
    "e4m3:128x128:ue8m0",
    "e4m3:tensor:f32",
    "e5m2:1x128:f32",
    "mxfp6",
    "int4:1x128",
    "nvfp4",
    "mxfp4",
)
