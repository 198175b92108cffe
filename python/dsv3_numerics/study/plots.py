"""Plots that answer one question each: which tensors suffer, which magnitudes suffer, and what do bits buy.

Colour says the element format's family and line style the kind of scale, in a palette that colour-blind
readers can tell apart (Okabe and Ito).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..report.drawing import LINES, Style, alone, save_possible
from ..report.text import decibels, plain
from ..schemes import Scheme
from .files import octaves
from .result import StudyData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

MAX_ROWS = 240  # tensors in the heatmap one by one; above, one row for each name pattern
MAX_LABELS = 80  # and at most so many patterns, those with most tensors

# family of formats (a pattern on the library's name): colour, marker
_FAMILIES = (
    (r"int", "#E69F00", "s"),
    (r"float8_e4m3", "#0072B2", "o"),
    (r"float8_e5m2", "#56B4E9", "v"),
    (r"float8", "#332288", "p"),
    (r"float6", "#009E73", "D"),
    (r"float4", "#D55E00", "^"),
    (r"logfmt", "#882255", "P"),
    (r"bfloat16|float16|e5m6", "#555555", "X"),
    (r"", "#CC79A7", "*"),
)


def styles(schemes: tuple[Scheme, ...]) -> list[Style]:
    """Colour and marker by the family of the element format; lines of one family differ in their dashes."""
    found: list[Style] = []
    used: dict[str, int] = {}
    for scheme in schemes:
        name = str(getattr(scheme, "format", ""))
        colour, marker = next((c, m) for pattern, c, m in _FAMILIES if re.match(pattern, name))
        found.append(Style(colour, marker, LINES[used.get(colour, 0) % len(LINES)]))
        used[colour] = used.get(colour, 0) + 1
    return found


def draw(study: StudyData, folder: Path) -> dict[str, Path]:
    """Draw every plot that there are figures for into a folder; returns path by title."""
    return {title: folder / name for title, name in save_possible(study, PLOTS, folder).items()}


def layer_pattern(name: str) -> str:
    """Return the name with its layer numbers replaced, so that like tensors of all layers have one.

    Examples
    --------
    >>> layer_pattern("encoder.layer.11.attention.q.weight")
    'encoder.layer.*.attention.q.weight'
    >>> layer_pattern("layer3.experts.17.down_proj input")
    'layer*.experts.*.down_proj input'
    """
    return re.sub(r"(?:(?<![^._/])|(?<=\blayer))\d+(?![^._/])", "*", name)


def heatmap(study: StudyData, axes: Axes) -> Axes:
    """SQNR of every tensor against the median of its scheme; like names together, the hardest on top."""
    if len(study.tensors) < 2:
        raise LookupError("one tensor is its own median")
    totals = study.totals()
    columns = sorted(range(len(totals)), key=lambda i: -totals[i].sqnr_db)
    bands, note = _bands(study)
    gaps = np.concatenate([band.gaps for band in bands])[:, columns]
    edges = np.concatenate([[0], np.concatenate([_heights(band) for band in bands]).cumsum()])
    ends = np.cumsum([0, *(len(b.gaps) for b in bands)])
    reach = max(3.0, float(np.nanpercentile(np.abs(gaps), 98))) if np.isfinite(gaps).any() else 3.0
    image = axes.pcolormesh(np.arange(len(columns) + 1), edges, gaps, cmap="RdBu", vmin=-reach, vmax=reach)
    axes.set_facecolor("#bdbdbd")
    axes.hlines(edges[ends[1:-1]], 0, len(columns), colors="white", linewidth=1.2)
    axes.vlines(np.arange(1, len(columns)), 0, edges[-1], colors="white", linewidth=1.2)
    axes.set_ylim(edges[-1], 0)
    axes.set_yticks((edges[ends[:-1]] + edges[ends[1:]]) / 2, [b.label for b in bands], fontsize=8)
    names = [f"{totals[i].scheme}  [{decibels(totals[i].median_sqnr_db)}]" for i in columns]
    axes.set_xticks(np.arange(len(columns)) + 0.5, names, rotation=40, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(
        image,
        ax=axes,
        orientation="horizontal",
        shrink=0.5,
        aspect=40,
        extend="both",
        pad=min(0.08, 0.25 / edges[-1]),
    )
    bar.set_label(
        "SQNR of the tensor minus the scheme's median [in brackets], dB.  Red: harder than usual" + note
    )
    axes.set_title("Which tensors suffer under which scheme?")
    return axes


def heatmap_size(study: StudyData) -> tuple[float, float]:
    """Width and height of the heatmap, inches: it grows with its rows."""
    return 11, 2.4 + sum(sum(_heights(band)) for band in _bands(study)[0])


def _heights(band: _Band) -> list[float]:
    return [max(0.055, 0.15 / len(band.gaps))] * len(band.gaps)


class _Band(NamedTuple):
    """Rows of the heatmap with one label: the tensors of one name pattern."""

    label: str
    gaps: npt.NDArray[np.float64]


def _bands(study: StudyData) -> tuple[list[_Band], str]:
    """Return the heatmap's rows, hardest pattern first, and what a reader has to know about them."""
    db = study.sqnr_db()
    medians = np.array([t.median_sqnr_db for t in study.totals()])
    with np.errstate(invalid="ignore"):
        gaps = np.where(np.isfinite(db), db - medians, np.nan)
    groups: dict[str, list[int]] = {}
    for i, tensor in enumerate(study.tensors):
        groups.setdefault(layer_pattern(_text(tensor.name)), []).append(i)
    merged = len(study.tensors) > MAX_ROWS
    if merged:
        groups = dict(sorted(groups.items(), key=lambda g: -len(g[1]))[:MAX_LABELS])
    bands = []
    for name, members in groups.items():
        rows = np.fmin.reduce(gaps[members], keepdims=True) if merged else gaps[members]
        one = len(members) == 1
        bands.append(
            _Band(_text(study.tensors[members[0]].name) if one else f"{name}  ×{len(members)}", rows)
        )
    bands.sort(key=lambda b: _mean(b.gaps))
    note = "; the worst tensor of each row" if merged else ""
    return bands, note + (".  Grey: exact" if np.isnan(gaps).any() else "")


def _text(name: str) -> str:
    """Return a name as matplotlib draws it: a dollar sign would begin a formula."""
    return plain(name).replace("$", r"\$")


def _mean(gaps: npt.NDArray[np.float64]) -> float:
    known = gaps[np.isfinite(gaps)]
    return float(known.mean()) if known.size else math.inf


def _octave_shares(study: StudyData) -> dict[int, float]:
    """Share of the elements by octave, but for those with next to none."""
    total = max(study.histograms[0, :, 0].sum(), 1.0)
    return {k: n / total for k, n, _ in octaves(study.histograms[0]) if n > 1e-5 * total}


def by_magnitude(study: StudyData, axes: Axes) -> Axes:
    """Relative error against the magnitude of the value, one line per scheme."""
    from matplotlib.ticker import FuncFormatter

    share = _octave_shares(study)
    lines = []
    for scheme, histogram, style in zip(study.schemes, study.histograms, styles(study.schemes), strict=True):
        points = [(k, error) for k, _, error in octaves(histogram) if k in share and error > 0]
        if points:
            (line,) = axes.plot(
                [k for k, _ in points],
                [error for _, error in points],
                color=style.colour,
                linestyle=style.line,
                marker=style.marker,
                markersize=4,
                linewidth=1.6,
            )
            lines.append((max(e for _, e in points), sum(e for _, e in points), str(scheme), line))
    lines.sort(key=lambda entry: (-entry[1], entry[2]))
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(axes.get_ylim()[0], 1e-5))  # next to exact is as good as exact
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g}%"))
    axes.axhline(1, color="#999999", linewidth=0.8)
    axes.set_ylabel("relative error (root mean square)\n100%: it became zero")
    axes.set_title("Which magnitudes lose their precision?")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(
        [entry[3] for entry in lines],
        [entry[2] for entry in lines],
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        handlelength=4,
        title="most error first",
        alignment="left",
    )
    _octave_axis(axes, share)
    return axes


def magnitudes(study: StudyData, axes: Axes) -> Axes:
    """Share of the elements by octave of their magnitude."""
    from matplotlib.ticker import FuncFormatter

    share = _octave_shares(study)
    axes.bar(list(share), list(share.values()), width=0.9, color="#999999")
    axes.set_ylabel("share of\nelements")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g}%"))
    _octave_axis(axes, share)
    return axes


def _octave_axis(axes: Axes, share: dict[int, float]) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    axes.set_xlabel("magnitude of the value, by octave")
    axes.xaxis.set_major_locator(MultipleLocator(2 if len(share) <= 40 else 8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"$2^{{{v:g}}}$"))


def _by_magnitude(study: StudyData, figure: Figure) -> None:
    """Errors by magnitude, over where the values are."""
    figure.set_size_inches(11, 6.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    by_magnitude(study, above).set_xlabel("")
    magnitudes(study, below)


def bits_against_sqnr(study: StudyData, axes: Axes) -> Axes:
    """Storage against accuracy, with the Pareto front."""
    totals = [t for t in study.totals() if math.isfinite(t.sqnr_db)]
    points = [(t.pooled.bits_per_element, t.sqnr_db) for t in totals]
    corners = _staircase(points)
    axes.plot(
        [b for b, _ in corners], [d for _, d in corners], color="#999999", zorder=1, label="best for its bits"
    )
    for style, (bits, db) in zip(styles(tuple(t.scheme for t in totals)), points, strict=True):
        axes.scatter(bits, db, color=style.colour, marker=style.marker, s=60, zorder=3, edgecolors="white")
    axes.set_xlabel("bits per element, with scales")
    axes.set_ylabel("SQNR over all tensors (dB)")
    axes.set_title("What do bits buy?")
    axes.margins(0.14)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    _label(axes, points, corners, [str(t.scheme) for t in totals])
    return axes


def _staircase(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto front as a line: points that no other beats in both, with corners between them."""
    corners: list[tuple[float, float]] = []
    for bits, db in sorted(points, key=lambda p: (p[0], -p[1])):
        if not corners or db > corners[-1][1]:
            corners += [(bits, corners[-1][1]), (bits, db)] if corners else [(bits, db)]
    return corners


def _label(
    axes: Axes,
    points: list[tuple[float, float]],
    line: list[tuple[float, float]],
    names: list[str],
) -> None:
    """Name the points: each label at the place around its point that hides least, nearest first."""
    figure: Any = axes.figure.figure  # the whole one, where the axes are of a part of it
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    dots = [axes.transData.transform(p) for p in points]
    ends = [axes.transData.transform(p) for p in line]
    steps = [a + (b - a) * t for a, b in pairwise(ends) for t in np.linspace(0, 1, 60)]
    placed: list[Bbox] = []
    for point, name in sorted(zip(points, names, strict=True), key=lambda e: -e[0][1]):
        text = axes.annotate(
            name, point, (0, 0), textcoords="offset points", va="center", fontsize=9, zorder=4
        )

        def cost(place: tuple[float, float], text: Annotation = text) -> float:
            box, anchor = _move(text, place).padded(3), axes.transData.transform(text.xy)
            others = [dot for dot in dots if math.dist(dot, anchor) > 1]
            end = (box.x0 if box.x0 > anchor[0] else box.x1, (box.y0 + box.y1) / 2)
            leader = [anchor + (np.array(end) - anchor) * t for t in np.linspace(0.1, 0.95, 20)]
            inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
            hidden = sum(bool(box.overlaps(other)) for other in placed)
            covered = sum(box.padded(9).contains(*dot) for dot in others) + box.contains(*anchor)
            cut = any(other.contains(*at) for other in placed for at in leader)
            cut = cut or any(math.dist(dot, at) < 8 for dot in others for at in leader)
            crossed = any(box.contains(*step) for step in steps)
            return 1000 * (not inside) + 1000 * hidden + 300 * (covered + cut) + 40 * crossed + place[0]

        # The nearest place that costs nothing else is the best: all others are as far or further.
        free = next((place for place in _PLACES if cost(place) == place[0]), None)
        best = free or min(_PLACES, key=cost)
        placed.append(_move(text, best).padded(1))
        if best[0] > _PLACES[0][0]:
            axes.annotate(
                "",
                point,
                text.xyann,
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "#999999", "lw": 0.7},
            )


_ANGLES = (0, 180, 30, 330, 150, 210, 60, 300, 120, 240, 15, 345, 165, 195)
_PLACES = [(reach, angle) for reach in (9, 20, 32, 46, 62, 80, 100) for angle in _ANGLES]


def _move(text: Annotation, place: tuple[float, float]) -> Bbox:
    """Put a label at a distance (points) and angle (degrees) from its point; returns the box it fills."""
    reach, angle = place[0], math.radians(place[1])
    text.xyann = (reach * math.cos(angle), reach * math.sin(angle))
    text.set_horizontalalignment("left" if math.cos(angle) > 0 else "right")
    return text.get_window_extent()


PLOTS: dict[str, tuple[str, Callable[[StudyData, Any], None]]] = {
    "Bits against SQNR": ("bits_sqnr.png", alone(bits_against_sqnr, lambda _: (9, 6))),
    "Error against magnitude": ("error_magnitude.png", _by_magnitude),
    "SQNR by scheme and tensor": ("sqnr_heatmap.png", alone(heatmap, heatmap_size)),
}
"""Title, file and function of each plot."""
