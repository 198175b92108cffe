"""Draws docs/images/sizes.png from the rows of bench_sizes: `python bench/draw_sizes.py [amd]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsv3_numerics.report.charts import draw_lines
from dsv3_numerics.report.drawing import LINES, Style, save_plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
OURS = "dsv3_numerics"
STYLES = {
    OURS: Style("#0072B2", "o", LINES[0]),
    "numkong": Style("#D55E00", "v", LINES[1]),
    "torch": Style("#009E73", "s", LINES[2]),
    "ml_dtypes": Style("#999999", "D", LINES[3]),
}

Rates = dict[str, dict[str, dict[int, float]]]
"""10^9 elements in a second, by cast, by who casts, by the exponent of the size."""


def rates(rows: list[dict[str, Any]]) -> Rates:
    """Gather the rows of each cast."""
    found: Rates = {}
    for row in rows:
        cast, exponent = found.setdefault(row["kernel"], {OURS: {}}), int(row["size"].removeprefix("2^"))
        cast[OURS][exponent] = row["gelem_s"]
        cast.setdefault(row["yardstick"].removeprefix("x "), {})[exponent] = row["gelem_s"] / row["ratio"]
    return found


def draw(found: Rates, figure: Figure) -> None:
    """Draw a panel for each cast, in three columns."""
    columns = 3
    height = -(-len(found) // columns)
    figure.set_size_inches(12, 2.6 * height)
    panels: Any = figure.subplots(height, columns, sharex=True, squeeze=False)
    for axes, (cast, lines) in zip(panels.flat, found.items(), strict=False):
        series = {name: (list(points), list(points.values())) for name, points in lines.items()}
        draw_lines(axes, series, STYLES)
        for line in axes.lines:
            line.set_markersize(3)
        axes.set_title(cast.replace("->", " to "), fontsize=10)
        axes.set_ylim(bottom=0)
        axes.set_xticks(range(8, 28, 4), [f"$2^{{{i}}}$" for i in range(8, 28, 4)])
    for axes in panels.flat[len(found) :]:
        axes.set_visible(False)
    for axes in panels.flat[: len(found)][-columns:]:
        axes.set_xlabel("elements")
        axes.tick_params(labelbottom=True)
    for axes in panels[:, 0]:
        axes.set_ylabel("G elements/s")
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
    )


def main() -> None:
    """Draw what the bench of a maker's CPU has found."""
    folder = ROOT / "bench" / "results" / (sys.argv[1] if len(sys.argv) > 1 else "amd")
    rows = json.loads((folder / "sizes.json").read_text())["rows"]
    save_plots(rates(rows), {"sizes": ("sizes.png", draw)}, ROOT / "docs" / "images")


if __name__ == "__main__":
    main()
