"""The accumulators that the experiments compare: what tables and plots call them, and how they are drawn.

Units that differ in name only (Blackwell's and Hopper's 16-bit units, Ampere's and Ada's), and those that
differ in the input format only (float16 and bfloat16), stand for each other here.
"""

from __future__ import annotations

from typing import NamedTuple

from ..report.charts import Style


class Unit(NamedTuple):
    """An accumulator in tables and plots; `promoted`: whether its partial sums are worth promoting."""

    title: str
    style: Style
    promoted: bool = True


UNITS: dict[str, Unit] = {
    "hopper_fp8_f16": Unit("Hopper FP8, float16 sums", ("#CC79A7", "v", "-")),
    "hopper_fp8": Unit("Hopper FP8", ("#D55E00", "o", "-")),
    "ada_fp8": Unit("Ada FP8", ("#E69F00", "^", "-")),
    "hopper_mma_fp8": Unit("Hopper FP8, mma.sync", ("#009E73", "D", "-")),
    "blackwell_fp8": Unit("Blackwell FP8", ("#0072B2", "s", "-")),
    "hopper_bf16": Unit("Hopper BF16", ("#56B4E9", "P", "-")),
    "ada_bf16": Unit("Ada BF16", ("#332288", "X", "-")),
    "float32": Unit("float32", ("#555555", "*", "-"), promoted=False),
    "exact": Unit("exact, rounded once", ("#AAAAAA", ".", "-"), promoted=False),
}
"""By the accumulator's name, the coarsest first."""


def title(accumulator: str) -> str:
    """Name an accumulator for people."""
    return UNITS[accumulator].title


STYLES: dict[str, Style] = {unit.title: unit.style for unit in UNITS.values()}
"""How lines are drawn, by title."""


def how(promote_every: int | None) -> str:
    """Name an interval for people."""
    return "never promoted" if promote_every is None else f"promoted every {promote_every}"
