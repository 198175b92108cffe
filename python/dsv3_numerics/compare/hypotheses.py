"""Hypotheses about a quantization: their choices by name, and how they are told.

Lives here: what the search of `quantization_search` is given, its views of the input, and its hypotheses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array
from ..number_formats import FormatInfo
from .code_rows import INPUTS, PLAIN_INPUT, PLAIN_ROUNDING
from .explanation import Fit
from .scale_layouts import PLAIN_LAYOUT, ScaleReading
from .scale_rows import AMAXES, AS_STORED, PLAIN_AMAX, Floats

NO_SCALE = "no scale (a cast)"
OWN = "the rule's own"


@dataclass(frozen=True)
class Given:
    """Input, and codes and scales that were found: two axes each; codes as unsigned integers.

    The input has any dtype, and is read a few rows at a time.
    """

    x: Array
    codes: Array
    stored: Array | None
    info: FormatInfo
    outer: Any

    def rows(self, rows: Any) -> Floats:
        """Return rows of the input as float32."""
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(self.x[rows], np.float32)


@dataclass(frozen=True)
class View:
    """Departures that a `Case` is made with."""

    block: tuple[int, int]
    input: str = PLAIN_INPUT
    fmt: str = ""
    amax: str = PLAIN_AMAX
    most: float | None = None
    odd: bool = False

    @property
    def plain(self) -> bool:
        return self.amax == PLAIN_AMAX and self.most is None and not self.odd

    @property
    def assumptions(self) -> int:
        return (
            INPUTS[self.input][0] + 2 * bool(self.fmt) + AMAXES[self.amax][0]
            + (self.most is not None) + self.odd
        )  # fmt: skip


@dataclass(frozen=True)
class Hypothesis:
    """Choices by name; `realize` makes codes and scales of them."""

    view: View
    reading: ScaleReading
    codes_layout: str
    scale: str
    use: str
    quotient: str
    rounding: str
    assumptions: int
    rule: tuple[str, str] | None = None
    "kind and rule, where a quantizer of the package is the hypothesis"
    row_assumptions: int = 0
    "those of its scales, which a rule's name saves"


def columns_of(h: Hypothesis, rule: str, info: FormatInfo) -> dict[str, str]:
    """Name the choices, plain ones only where a reader needs them."""
    view = h.view
    columns = {"rule": rule, "groups": f"{view.block[0]}x{view.block[1]}"}
    if h.rule is not None:
        columns["scale"] = h.rule[0]
    else:
        columns["quotient"] = h.quotient
        columns["rounding"] = h.rounding
        if h.use != AS_STORED:
            columns["codes by"] = h.use
    if h.scale == NO_SCALE:
        del columns["groups"], columns["quotient"]
    if view.fmt:
        columns["codes"] = f"{view.fmt}, read as {info.name}"
    if view.most is not None:
        columns["max"] = f"{view.most:g}"
    if view.amax != PLAIN_AMAX:
        columns["amax"] = view.amax
    if h.reading.layout != PLAIN_LAYOUT:
        columns["scale layout"] = h.reading.layout
    columns |= h.reading.columns
    if h.codes_layout != "as given":
        columns["code layout"] = h.codes_layout
    if view.input != PLAIN_INPUT:
        columns["input"] = view.input
    return columns


def unique(fits: list[Fit]) -> list[Fit]:
    """Leave out composed hypotheses that say the same as a rule with nothing changed."""
    named = {(fit.columns["rule"], fit.assumptions) for fit in fits if "scale" in fit.columns}
    kept: dict[str, Fit] = {}
    for fit in fits:
        plain = fit.columns.get("rounding") == PLAIN_ROUNDING and "codes by" not in fit.columns
        if plain and (fit.columns["rule"], fit.assumptions) in named:
            continue
        kept.setdefault(fit.name, fit)
    return list(kept.values())
