"""Forms: every way in which a recipe may hold numbers, one row each.

Lives here: the tables that recipes choose from, and how a row turns an array into codes. Nothing else lists
formats of activations, weights, caches or transfers; a new one is one line. Spellings are those of `study`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core
from .._arrays import Array
from ..accumulator import accumulators
from ..logfmt import LogFmt, logfmt_encode
from ..number_formats import decode, encode
from ..quant import Rule, Scale, quantize_blocks, quantize_tiles
from ..quantized import Quantized

# Kinds of scale that are made by a rule of someone's choice; the others are rules of their own.
_RULED = ("float32", "ue8m0")
_SHORT = {"float32": "f32"}


class NotFiniteError(ValueError):
    """NaN or infinity where numbers were to become codes."""


@dataclass(frozen=True)
class Form:
    """A row: how an array is held.

    Attributes
    ----------
    spelling : str
        What a recipe calls it.
    format : str or None
        Of the codes, see `formats`; None for numbers as they are, and for logarithmic codes.
    group : tuple of two (int or None), or None
        Rows and columns that share a scale, None for all of them; None where there are no scales.
    scale : str or None
        See `quantize_tiles`.
    bits : int or None
        Width of a logarithmic code.
    remade : bool
        Whether a weight that is codes already is made anew, from the numbers that they mean.
    """

    spelling: str
    format: str | None = None
    group: tuple[int | None, int | None] | None = None
    scale: Scale | None = None
    bits: int | None = None
    remade: bool = False

    @property
    def coded(self) -> bool:
        """Whether these are codes with scales, which products can take as they are."""
        return self.scale is not None

    @property
    def ruled(self) -> bool:
        """Whether a recipe's rule makes the scales."""
        return self.scale in _RULED

    @property
    def short(self) -> str | None:
        """The format without what only a library needs in its name."""
        return None if self.format is None else re.sub(r"^float\d_|fn$", "", self.format)

    @property
    def along(self) -> int | None:
        """Columns that share a scale; None where all of a row do."""
        return None if self.group is None else self.group[1]

    @property
    def scales(self) -> str:
        """The group and the kind of scale, for people."""
        if self.group is None:
            return "" if self.bits is None else "1x128, least and largest"
        names: Mapping[Any, str] = {(None, None): "tensor", (1, None): "row"}
        size = names.get(self.group, "x".join(map(str, self.group)))
        return f"{size} {_SHORT.get(str(self.scale), self.scale)}"

    def codes(self, x: Array, rule: str, **settings: Any) -> Quantized:
        """An array in codes: rows in tiles, matrices in blocks."""
        assert self.group is not None
        chosen: dict[str, Any] = {"rule": rule} if self.ruled else {}
        chosen |= {"dtype": self.format, "scale": self.scale, **settings}
        with _finite(x):
            if self.group[0] == 1:
                return quantize_tiles(x, tile=self.group[1], **chosen)
            return quantize_blocks(x, block=self.group, **chosen)

    def logarithms(self, x: Array) -> LogFmt:
        """An array in logarithmic codes, in tiles of 128."""
        assert self.bits is not None
        with _finite(x):
            return logfmt_encode(x, bits=self.bits)

    def read_back(self, x: Array, rule: str) -> Array:
        """What is left of numbers that have been in this form; their dtype."""
        if self.bits is not None:
            return self.logarithms(x).dequantize(x.dtype)
        if self.coded:
            return self.codes(x, rule).dequantize(x.dtype)
        return x if self.format is None else to_bfloat16(x)


@contextmanager
def _finite(x: Array) -> Iterator[None]:
    """Tell what is wrong with numbers from what is wrong with arguments."""
    try:
        yield
    except ValueError as error:
        with np.errstate(over="ignore"):
            finite = np.isfinite(x.astype(np.float32, copy=False)).all()
        if finite:
            raise
        raise NotFiniteError(str(error)) from error


def to_bfloat16(x: Array) -> Array:
    """A new array of the same dtype, rounded to bfloat16."""
    with np.errstate(over="ignore"):
        return decode(encode(x, "bfloat16", overflow="nonfinite"), dtype=x.dtype)


def _rows(*forms: Form) -> Mapping[str, Form]:
    return {form.spelling: form for form in forms}


E4M3, E5M2, E2M1 = "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"

ACTIVATIONS = _rows(
    Form("none"),
    Form("e4m3:1x128:f32", E4M3, (1, 128), "float32"),
    Form("e4m3:1x128:ue8m0", E4M3, (1, 128), "ue8m0"),
    Form("e4m3:row:f32", E4M3, (1, None), "float32"),
    Form("e5m2:1x128:f32", E5M2, (1, 128), "float32"),
    Form("e5m2:1x128:ue8m0", E5M2, (1, 128), "ue8m0"),
    Form("int8:1x128:f32", "int8", (1, 128), "float32"),
    Form("int8:row:f32", "int8", (1, None), "float32"),
    Form("mxfp8", E4M3, (1, 32), "mx"),
    Form("mxfp6", "float6_e2m3fn", (1, 32), "mx"),
    Form("mxfp4", E2M1, (1, 32), "mx"),
    Form("nvfp4", E2M1, (1, 16), "nvfp4"),
)
"""The left operand of linears that the release quantizes."""

WEIGHTS = _rows(
    Form("stored"),
    Form("bf16", "bfloat16", remade=True),
    Form("e4m3:128x128:f32", E4M3, (128, 128), "float32"),
    Form("e4m3:128x128:ue8m0", E4M3, (128, 128), "ue8m0"),
    Form("e4m3:128x128:ue8m0:requantized", E4M3, (128, 128), "ue8m0", remade=True),
    Form("e4m3:row:f32", E4M3, (1, None), "float32", remade=True),
    Form("e4m3:tensor:f32", E4M3, (None, None), "float32", remade=True),
    Form("int8:128x128:f32", "int8", (128, 128), "float32", remade=True),
    Form("int8:row:f32", "int8", (1, None), "float32", remade=True),
    Form("mxfp8", E4M3, (1, 32), "mx", remade=True),
    Form("mxfp6", "float6_e2m3fn", (1, 32), "mx", remade=True),
    Form("mxfp4", E2M1, (1, 32), "mx", remade=True),
    Form("nvfp4", E2M1, (1, 16), "nvfp4", remade=True),
)
"""Their right operand."""

CACHES = _rows(
    Form("numbers"),
    Form("float64"),
    Form("float32"),
    Form("bfloat16", "bfloat16"),
    Form("fp8", E4M3, (1, 128), "ue8m0"),
    Form("logfmt8", bits=8),
    Form("logfmt10", bits=10),
)
"""The latent in the cache; `cache_formats` says where the bytes of a token go."""

DISPATCHES = _rows(
    Form("numbers"),
    Form("bf16", "bfloat16"),
    Form("e4m3:1x128:f32", E4M3, (1, 128), "float32"),
    Form("e4m3:1x128:ue8m0", E4M3, (1, 128), "ue8m0"),
)
"""What is sent to experts."""

COMBINES = _rows(
    Form("numbers"),
    Form("bf16", "bfloat16"),
    Form("e5m6:1x128:ue8m0", "e5m6", (1, 128), "ue8m0"),
    Form("logfmt8", bits=8),
    Form("logfmt10", bits=10),
)
"""What an expert sends back."""

NUMBERS: Mapping[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.float32),
}
"""What operations hand to each other, and the dtype of the arrays that hold it."""

GATES = ("numbers", *NUMBERS)
MASKED: Mapping[str, float] = {"-inf": -np.inf, "0": 0.0}
RULES: tuple[Rule, ...] = tuple(row["name"] for row in _core.scale_rules())
ACCUMULATORS = ("none", *(info.name for info in accumulators()))


def one_of(found: Any, name: str, possible: Iterable[str]) -> None:
    """Refuse a word that is not in a table: the message lists what is."""
    words = list(possible)
    if isinstance(found, str) and found in words:
        return
    close = difflib.get_close_matches(str(found), words, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(f"{name}: found {found!r}, expected one of {', '.join(words)}{hint}")
