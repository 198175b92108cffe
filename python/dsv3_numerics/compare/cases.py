"""Input, codes and scales of a search, a few rows at a time: samples, pieces and cases.

Lives here: what `quantization_search` goes through. Nothing holds a whole input in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..number_formats import format_info
from .case import Case, own_global
from .code_layouts import CodeReading, code_readings
from .code_rows import INPUTS
from .hypotheses import Given, View
from .scale_layouts import PLAIN_LAYOUT, LaidScales, ScaleReading, readings
from .scale_rows import AMAXES, WHOLE_AMAXES, Floats, f32

_SAMPLE = 1 << 14  # elements
_PIECE = 1 << 18
BLOCKS: tuple[tuple[int | None, int | None], ...] = (
    (1, 128), (128, 128), (1, 64), (1, 32), (1, 16), (64, 64), (32, 32), (16, 16), (1, None), (None, None),
    (128, 1), (64, 1), (32, 1), (16, 1), (None, 1), (1, 256), (1, 512), (256, 256),
)  # fmt: skip


@dataclass
class Sample:
    """Rows of the input in whole groups of one block."""

    x: Floats
    rows: NDArray[np.intp]
    groups: NDArray[np.intp]
    codes: dict[str, CodeReading] = field(default_factory=dict)
    scales: dict[str, Floats] = field(default_factory=dict)
    likeness: dict[tuple[str, str], float] = field(default_factory=dict)


class Cases:
    """Everything that hypotheses of one search are made from."""

    def __init__(self, given: Given, block: tuple[int, int] | None) -> None:
        self.given, self.info = given, given.info
        m, k = given.x.shape
        self.row_amax: Floats = np.zeros(m, f32)
        self.top = 0.0
        for rows in self.pieces(1):
            x = np.abs(given.rows(rows))
            self.row_amax[rows] = x.max(axis=1)
            self.top = max(self.top, float(x.max(initial=0, where=np.isfinite(x))))
        wanted = BLOCKS if block is None else (block,)
        clipped = dict.fromkeys((min(high or m, m), min(wide or k, k)) for high, wide in wanted)
        self.read: dict[tuple[tuple[int, int], bool], list[ScaleReading]] = {}
        self.blocks = [b for b in clipped if self.readings_of(b)]
        if given.stored is None and block is None:
            first = 1, min(128, k)
            self.blocks = [first, *[b for b in self.blocks if b != first][:3]]
        if not self.blocks:
            stored = given.stored
            assert stored is not None
            raise ValueError(
                f"scales: found shape {stored.shape} of {stored.dtype}, expected one for each group of x "
                f"{x.shape}, in groups of {', '.join(f'{a or m}x{b or k}' for a, b in wanted)}"
            )
        self.samples: dict[tuple[int, int], Sample] = {}
        self.amaxes: dict[tuple[tuple[int, int], str], tuple[Floats, Floats, Floats]] = {}

    # --- Readings -------------------------------------------------------------------------------------------

    def readings_of(self, block: tuple[int, int], *, deep: bool = False) -> list[ScaleReading]:
        key = block, deep
        if key not in self.read:
            (m, k), (high, wide) = self.given.x.shape, block
            rows, groups = -(-m // high), -(-k // wide)
            if self.given.stored is None:
                self.read[key] = [ScaleReading(PLAIN_LAYOUT, 0, LaidScales(None, rows, groups))]
            else:
                self.read[key] = list(
                    readings(
                        self.given.stored, rows, groups, self.given.outer, own_global(self.top, self.info),
                        nvfp4=self.given.outer is not None or (self.info.bits == 4 and wide == 16), deep=deep,
                    )
                )  # fmt: skip
        return self.read[key]

    def sample(self, block: tuple[int, int]) -> Sample:
        """Choose rows in whole groups, spread evenly, and read their codes."""
        if block in self.samples:
            return self.samples[block]
        (m, k), high = self.given.x.shape, block[0]
        count = -(-m // high)
        wanted = min(count, max(2, _SAMPLE // (high * k)))
        amax = self.row_amax
        special = np.array([amax.argmin(), amax.argmax()]) // high  # where floors and largest numbers show
        groups = np.unique(np.concatenate([np.linspace(0, count - 1, wanted).astype(np.intp), special]))
        rows = (groups[:, None] * high + np.arange(high)).reshape(-1)
        rows = rows[rows < m]
        found = Sample(self.given.rows(rows), rows, groups)
        for reading in code_readings(
            self.given.codes, found.x, block[1], self.info, self.given.x.shape, rows
        ):
            found.codes[reading.name] = reading
        self.samples[block] = found
        return found

    def pieces(self, high: int, size: int = _PIECE) -> Iterator[NDArray[np.intp]]:
        """Yield all rows in order, some whole groups at a time; `size` elements where groups are lower."""
        m, k = self.given.x.shape
        step = max(1, size // (k * high)) * high
        for start in range(0, m, step):
            yield np.arange(start, min(start + step, m))

    def high(self, views: Iterable[View]) -> int:
        """Return the number of rows that belong together under every view."""
        return math.lcm(*(128 if "128x128" in view.input else 1 for view in views))

    def case(self, view: View, rows: NDArray[np.intp], groups: NDArray[np.intp], x: Floats) -> Case:
        """Make the case of a view, of some rows in whole groups."""
        info = format_info(view.fmt) if view.fmt else self.info
        outer = self.given.outer
        if isinstance(outer, np.ndarray) and outer.ndim:
            outer = outer[rows]
        case = Case(
            INPUTS[view.input][1](x),
            info,
            view.block,
            self.top,
            view.amax,
            view.most,
            view.odd,
            outer=outer,
        )
        if view.amax in WHOLE_AMAXES:
            with np.errstate(all="ignore"):
                whole = AMAXES[view.amax][1](*self.whole_amaxes(view))
            case.whole_amax = np.ascontiguousarray(whole[groups], f32)
        return case

    def whole_amaxes(self, view: View) -> tuple[Floats, Floats, Floats]:
        """Return largest magnitudes, largest and least numbers of all groups."""
        key = view.block, view.input
        if key not in self.amaxes:
            found: tuple[list[Floats], ...] = ([], [], [])
            plain = View(view.block, view.input)
            for rows in self.pieces(math.lcm(view.block[0], self.high([view]))):
                case = self.case(plain, rows, rows, self.given.rows(rows))
                for out, part in zip(found, case.extremes(), strict=True):
                    out.append(part)
            self.amaxes = {key: tuple(np.concatenate(parts) for parts in found)}  # type: ignore[dict-item]
        return self.amaxes[key]
