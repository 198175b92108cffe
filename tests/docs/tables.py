"""Prints tables of pages from the data: `python tests/docs/tables.py` rewrites them in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from blocks import rewrite

import dsv3_numerics as d3

FORMATS = Path(__file__).parents[2] / "docs" / "formats.md"


def _number(value: float) -> str:
    """In short if that is exact, as a multiple of a power of two otherwise."""
    if 1 <= value < 1e6 and float(f"{value:g}") == value:
        return f"{value:g}"
    mantissa, exponent = math.frexp(value)
    factor = "" if mantissa == 0.5 else f"{2 * mantissa:.10g} × "
    return f"{factor}2^{exponent - 1}"


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def formats() -> str:
    """One row per format."""
    headings = [
        "format",
        "bits",
        "exponent",
        "mantissa",
        "bias",
        "max",
        "normal from",
        "smallest",
        "NaN",
        "Inf",
        "codes",
    ]
    rows = [
        [
            f"`{f.name}`",
            str(f.bits),
            *(("–", "–", "–") if f.is_integer else map(str, (f.exponent_bits, f.mantissa_bits, f.bias))),
            _number(float(f.max)),
            _number(float(f.tiny)),
            _number(float(f.smallest_subnormal)),
            "yes" if f.has_nan else "–",
            "yes" if f.has_inf else "–",
            str(f.dtype),
        ]
        for f in d3.formats()
    ]
    return _table(headings, rows)


def rules() -> str:
    """One row per scale rule: the columns in which it is not the plain one."""
    plain = d3.Rule().columns()
    rows = []
    for name, rule in d3.rules().items():
        other = [f"`{column}={_cell(v)}`" for column, v in rule.columns().items() if v != plain[column]]
        rows.append([f"`{name}`", ", ".join(other) or "–"])
    return _table(["rule", "columns, where not the plain ones"], rows)


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(map(_cell, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


PAGE = Path(__file__).parents[2] / "docs" / "rules.md"
BLOCKS: dict[str, tuple[Path, Callable[[], str]]] = {
    "formats": (FORMATS, formats),
    "rules": (PAGE, rules),
}


def render(block: str) -> str:
    """Make the table as it should be."""
    return BLOCKS[block][1]()


def main() -> None:
    """Rewrite the tables."""
    for page in (FORMATS, PAGE):
        rewrite(page, {block: make() for block, (file, make) in BLOCKS.items() if file == page})


if __name__ == "__main__":
    main()
