"""Table of docs/units.md; ``python tests/docs/units_page.py`` fills it in."""

from __future__ import annotations

import re
from pathlib import Path

import dsv3_numerics as d3
from dsv3_numerics.accumulator import AccumulatorInfo

PAGE = Path(__file__).parents[2] / "docs" / "units.md"
HEADINGS = ["accumulator", "operands", "scales", "L", "F", "floor", "result", "rests on"]


def _short(name: str) -> str:
    return (
        name.split("_", 1)[1].removesuffix("fn").upper() if name.startswith("float") and "_" in name else name
    )


def _row(info: AccumulatorInfo) -> list[str]:
    operands = ", ".join(map(_short, info.inputs)) if len(info.inputs) <= 5 else f"any of {len(info.inputs)}"
    scale = {None: "", "float8_e8m0fnu": "UE8M0", "float8_e4m3fn": "UE4M3"}[info.scale]
    scales = f"{scale} per {' or '.join(map(str, info.blocks))}" if info.scale else "–"
    cut = "nearest" if info.keep is None else f"cut to {info.keep} bits"
    return [
        f"`{info.name}`",
        operands,
        scales,
        str(info.products),
        str(info.fraction) if info.fraction else "–",
        "–" if info.floor is None else f"2^{info.floor}",
        f"{info.result}, {cut}",
        info.evidence,
    ]


def filled(page: str) -> str:
    """The page with the table of accumulators."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *map(_row, d3.accumulators())]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return re.sub(
        r"(?s)(<!-- units: begin[^\n]*-->\n).*?(<!-- units: end -->)",
        lambda m: f"{m[1]}{table}\n{m[2]}",
        page,
        count=1,
    )


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
