"""Input, groups, and one choice of format, magnitudes and largest number: what hypotheses are made from.

Lives here: `Case`, with everything that is computed once for many hypotheses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .._arrays import Array
from .._scale_arguments import nvfp4_global
from ..number_formats import FormatInfo
from ..quant import quantize_blocks, quantize_tiles
from ..quantized import SCALE_DTYPES
from ..scale_rule import Rule, rules
from .code_rows import QUOTIENTS, ROUNDINGS, as_bits
from .scale_rows import (
    AMAXES,
    AS_STORED,
    PLAIN_AMAX,
    TOLD_HALF,
    WHOLE_AMAXES,
    Floats,
    ScaleRow,
    f32,
    rows_of,
    scale_rows,
)

RULE_ROW = "rule "


@dataclass
class Case:
    """Input and groups of one search.

    Attributes
    ----------
    x : ndarray of float32, shape (m, k)
        All of it, or a sample of rows in whole groups.
    info : FormatInfo
        Format that the codes are taken to be of.
    block : tuple of int
    top : float
        Largest magnitude of the whole tensor.
    amax_how : str
        Row of `AMAXES`.
    most : float or None
        Number to which amax is brought, where it is not the format's largest.
    whole_amax : ndarray or None
        Magnitudes of the sample's groups as they are found on everything.
    outer : float32 or None
        NVFP4's scale of scales that came with the scales.
    """

    x: Floats
    info: FormatInfo
    block: tuple[int, int]
    top: float
    amax_how: str = PLAIN_AMAX
    most: float | None = None
    odd: bool = False
    whole_amax: Floats | None = None
    outer: np.float32 | None = None
    rules: dict[tuple[str, str], tuple[Array, Floats] | None] = field(default_factory=dict)
    _made: dict[str, ScaleRow] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """True: nothing departs from what rules of the package do."""
        return self.amax_how == PLAIN_AMAX and self.most is None

    @property
    def limit(self) -> np.float32:
        """Number to which amax is brought."""
        return f32(self.info.max if self.most is None else self.most)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of groups."""
        (m, k), (high, wide) = self.x.shape, self.block
        return -(-m // high), -(-k // wide)

    def groups_of(self, values: Floats, how: np.ufunc) -> Floats:
        """Reduce every group."""
        for axis, length in enumerate(self.block):
            values = how.reduceat(values, np.arange(0, self.x.shape[axis], length), axis=axis)
        return values

    @cached_property
    def amax(self) -> Floats:
        """Largest magnitude of each group, as `amax_how` finds it."""
        plain = self.groups_of(np.abs(self.x), np.maximum)
        if self.amax_how == PLAIN_AMAX:
            return plain
        if self.amax_how in WHOLE_AMAXES and self.whole_amax is not None:
            return self.whole_amax
        with np.errstate(all="ignore"):
            return np.ascontiguousarray(AMAXES[self.amax_how][1](*self.extremes()), f32)

    def extremes(self) -> tuple[Floats, Floats, Floats]:
        """Return largest magnitudes, largest and least numbers of each group."""
        plain = self.groups_of(np.abs(self.x), np.maximum)
        return plain, self.groups_of(self.x, np.maximum), self.groups_of(self.x, np.minimum)

    def spread(self, scales: Floats) -> Floats:
        """Repeat scales over their groups."""
        for axis, length in enumerate(self.block):
            if length > 1:
                scales = np.repeat(scales, length, axis=axis)[
                    (slice(None),) * axis + (slice(self.x.shape[axis]),)
                ]
        return scales

    def by_rule(self, kind: str, rule: str) -> tuple[Array, Floats] | None:
        """Quantize by a rule of the package; None where it does not go with the format."""
        if not self.plain:
            return None
        key = kind, rule
        if key not in self.rules:
            self.rules[key] = self._quantized(kind, rule)
        return self.rules[key]

    def _quantized(self, kind: str, rule: str) -> tuple[Array, Floats] | None:
        options: dict[str, Any] = {"scale": kind, "rule": rule, "fmt": self.info.name}
        options["nonfinite"] = "propagate" if self.info.has_nan else "raise"
        if kind in _GLOBALS:
            options["scale"] = "nvfp4"
            options.update(_GLOBALS[kind](self))
            if options.get("global_scale", "") is _ABSENT:
                return None
        try:
            with np.errstate(all="ignore"):
                if self.block[0] == 1:
                    q = quantize_tiles(self.x, tile=self.block[1], **options)
                else:
                    q = quantize_blocks(self.x, block=self.block, **options)
        except (ValueError, TypeError):
            return None
        return as_bits(q.codes), q.weight_scale_inv()

    def own_global(self) -> np.float32:
        """Return NVFP4's scale of scales for this tensor."""
        return own_global(self.top, self.info)

    def named_rules(self) -> Iterator[tuple[tuple[str, str], tuple[Array, Floats]]]:
        """Yield every rule that goes with the format, with what it makes."""
        for key in all_rules():
            made = self.by_rule(*key)
            if made is not None:
                yield key, made

    def rows(self) -> Iterator[ScaleRow]:
        """Make every row about scales: those of rules first."""
        for (kind, rule), _ in self.named_rules():
            yield from self._rows_of_rule(kind, rule)
        yield from scale_rows(self.amax, float(self.limit), odd=self.odd)

    def row(self, name: str) -> ScaleRow:
        """Make one row."""
        if name not in self._made:
            if name.startswith(RULE_ROW):
                rule, _, rest = name.removeprefix(RULE_ROW).partition(" | ")
                made = self._rows_of_rule(rest.split(" | ")[0], rule)
            else:
                made = scale_rows(self.amax, float(self.limit), odd=self.odd)
            self._made[name] = next(row for row in made if row.name == name)
        return self._made[name]

    def _rows_of_rule(self, kind: str, rule: str) -> Iterator[ScaleRow]:
        made = self.by_rule(kind, rule)
        if made is None:
            return
        scales, name = made[1], f"{RULE_ROW}{rule} | {kind} | "
        floored = self.floored(scales)
        if kind == "float32":
            yield from rows_of(name, 0, scales, self.limit, floored)
            return
        uses = [(AS_STORED, 0, scales)]
        unrounded = self.by_rule("float32", rule)
        if unrounded is not None:
            told = "scale before it was rounded (quantized, then the scale rounded)"
            uses.append((told, 1, unrounded[1]))
        with np.errstate(all="ignore"):
            uses.append(("half the scale (off by a power of two)", 1, scales * f32(0.5)))
            uses.append(("twice the scale (off by a power of two)", 1, scales * f32(2)))
            if kind in _GLOBALS:
                g = self.own_global()
                uses.append(("the scale without the global scale", 1, scales / g))
                uses.append(("the scale with the global scale applied twice", 1, scales * g))
                uses.append(("the scale with the global scale inverted", 1, scales / (g * g)))
            yield ScaleRow(name, 0, scales, floored, uses)
            if kind in _GLOBALS:
                return
            told = "stored as its inverse 1 / s"
            yield ScaleRow(
                f"{name}, {told}", 1, f32(1) / scales, floored, [("scale as it should be", 0, scales)]
            )
            for factor, told in TOLD_HALF.items():
                yield ScaleRow(
                    f"{name}, stored {told}",
                    1,
                    scales * factor,
                    floored,
                    [("scale as it should be", 0, scales)],
                )

    def codes(self, row: ScaleRow, use: str, quotient: str, rounding: str) -> Array:
        """Make the codes of a composed hypothesis."""
        divisor = next(s for name, _, s in row.uses if name == use)
        return ROUNDINGS[rounding][1](self.quotients(divisor, quotient, row.amax), self.info)

    def quotients(self, divisor: Floats, quotient: str, amax: Floats) -> Floats:
        """Divide, in a rule's way; `amax` is not below the rule's floor."""
        with np.errstate(all="ignore"):
            return QUOTIENTS[quotient](self.x, self.spread(divisor), self.spread(amax), self.limit).astype(
                f32
            )

    def floored(self, scales: Floats) -> Floats:
        """Return magnitudes not below a floor: a scale shows one where amax does not account for it."""
        with np.errstate(all="ignore"):
            return np.where(scales > 2 * self.amax / self.limit, scales * self.limit, self.amax)


_ABSENT = object()
_GLOBALS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "nvfp4": lambda case: {"tensor_amax": case.top},
    "nvfp4, global scale as given": lambda case: {
        "global_scale": _ABSENT if case.outer is None else case.outer
    },
    "nvfp4, global scale of each row": lambda case: {"global_scale": "row"},
    "nvfp4, no global scale": lambda case: {"global_scale": None},
}
"""Kinds of NVFP4 by where the scale of scales comes from."""


def own_global(top: float, info: FormatInfo) -> np.float32:
    """Return NVFP4's scale of scales for a tensor whose largest magnitude is `top`."""
    return f32(nvfp4_global(np.asarray(top, f32), Rule.parse("nvfp4"), info)[1])


def all_rules() -> Iterator[tuple[str, str]]:
    """Every kind of scale with every rule of the package."""
    for kind in (*(k for k in SCALE_DTYPES if k != "nvfp4"), *_GLOBALS):
        yield from ((kind, rule) for rule in rules())
