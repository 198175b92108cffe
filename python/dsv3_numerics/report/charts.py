"""Charts: lines with names at their ends, dots in rows, axes in percent and powers of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Style = tuple[str, str, Any]
"""Colour, marker, dashes."""

Points = tuple[Sequence[float], Sequence[float]]

GREY = "#999999"
RING = "ring"
"""A marker that leaves room for another one inside."""


def draw_lines(axes: Axes, series: Mapping[str, Points], styles: Mapping[str, Style]) -> None:
    """Draw a line for each name, through its points."""
    for name, (xs, ys) in series.items():
        colour, marker, dashes = styles[name]
        axes.plot(
            xs,
            ys,
            color=colour,
            marker=marker,
            linestyle=dashes,
            linewidth=1.7,
            markersize=5,
            label=name,
        )
    axes.grid(axis="y", alpha=0.25)


def name_ends(axes: Axes, series: Mapping[str, Points], styles: Mapping[str, Style], gap: float = 13) -> None:
    """Write each name beside the last point of its line, at least `gap` points apart from the others."""
    figure: Any = axes.get_figure()
    figure.draw_without_rendering()
    to_points = 72 / figure.dpi
    ends = []
    for name, (xs, ys) in series.items():
        at = axes.transData.transform((xs[-1], ys[-1])) * to_points
        if np.isfinite(at).all():
            ends.append((float(at[1]), name, xs[-1], ys[-1]))
    ends.sort()
    heights = spread_out([end[0] for end in ends], gap)
    for (height, name, x, y), placed in zip(ends, heights, strict=True):
        axes.annotate(
            name,
            (x, y),
            (9, placed - height),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=styles[name][0],
            annotation_clip=False,
        )


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights moved as little as may be so that they are `gap` apart.

    Examples
    --------
    >>> from dsv3_numerics.report.charts import spread_out
    >>> spread_out([0.0, 1.0, 50.0], 10)
    [-4.5, 5.5, 50.0]
    """
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _foot(groups[-1], gap) - _top(groups[-2], gap) < gap:
            last = groups.pop()
            groups[-1] += last
    return [_foot(group, gap) + i * gap for group in groups for i in range(len(group))]


def _foot(group: list[float], gap: float) -> float:
    """Return the lowest place of heights that stand `gap` apart around their own middle."""
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: list[float], gap: float) -> float:
    return _foot(group, gap) + gap * (len(group) - 1)


def percent_axis(axis: Any) -> None:
    """Fractions shown in percent, without needless digits."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


def powers_of_two(axes: Axes, values: Sequence[float]) -> None:
    """Set a logarithmic x axis with a tick at each of these values."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xticks(list(values), [f"{value:g}" for value in values])
    axes.xaxis.set_minor_locator(NullLocator())


def dots(
    axes: Axes, labels: Sequence[str], series: Mapping[str, Mapping[str, float]], styles: Mapping[str, Style]
) -> None:
    """Draw a row for each label, the first on top, and in it a dot for each name that has a value there."""
    for name, values in series.items():
        colour, marker, _ = styles[name]
        rows = [i for i, label in enumerate(labels) if label in values]
        look: dict[str, Any] = {"s": 62, "color": colour, "edgecolors": "white", "linewidths": 0.8}
        if marker == RING:
            look = {"s": 150, "facecolors": "none", "edgecolors": colour, "linewidths": 1.5}
        shape = "o" if marker == RING else marker
        axes.scatter([values[labels[i]] for i in rows], rows, marker=shape, label=name, zorder=3, **look)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.hlines(range(len(labels)), *axes.get_xlim(), colors="#dddddd", linewidth=0.8, zorder=1)
    axes.margins(x=0.02)
    axes.grid(axis="x", alpha=0.25)


def legend(axes: Axes, title: str = "", **options: Any) -> None:
    """Put the names to the right of the axes."""
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)} | options
    axes.legend(frameon=False, handlelength=3.2, title=title, alignment="left", **place)
