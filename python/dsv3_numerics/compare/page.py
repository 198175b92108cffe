"""One-page report of a comparison: one HTML file with its own pictures, for light and dark.

Lives here: `write_page`. Figures come from the results; nothing is computed here.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterator
from pathlib import Path

from ..report.files import write_text
from ..report.html import document
from .arrays import ArrayComparison
from .explanation import Explanation
from .files import Comparison, told
from .models import ModelComparison

_PICTURED = 12  # tensors with pictures
_LISTED = 200  # names

_STYLE = """
.verdict { border-left: .3rem solid var(--hot); padding: .4rem .9rem; background: var(--cell); }
.verdict.equal { border-color: var(--good); }
.pictures { display: flex; flex-wrap: wrap; gap: 1.2rem; } figure { margin: 0; max-width: 100%; }
.picture { overflow-x: auto; } .picture svg { max-width: none; }
p, td:first-child { overflow-wrap: anywhere; }
figcaption { color: var(--soft); font-size: .8rem; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; } .axis { stroke: var(--line); }
.bar { fill: var(--mark); } .dot { fill: var(--mark); fill-opacity: .45; } .same { stroke: var(--hot); }
.empty { fill: var(--cell); } .hot { fill: var(--hot); } .curve { fill: none; stroke: var(--mark);
  stroke-width: 2; }
"""


def write_page(
    path: str | os.PathLike[str],
    found: Comparison,
    *,
    why: Explanation | None = None,
    models: ModelComparison | None = None,
) -> Path:
    """Write a comparison as one HTML file.

    Parameters
    ----------
    path : path
        Replaced if it is there.
    found : Comparison
    why : Explanation, optional
    models : ModelComparison, optional

    Returns
    -------
    Path

    Raises
    ------
    OSError
        It cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.compare import compare
    >>> write_page("page.html", compare({"x": np.float32([1, 2])}, {"x": np.float32([1, 3])})).name
    'page.html'
    """
    title = f"compare: {found.a} and {found.b}"
    return write_text(document(title, _parts(found, why, models), _STYLE), Path(path))


def _parts(found: Comparison, why: Explanation | None, models: ModelComparison | None) -> Iterator[str]:
    yield "<h1>Comparison</h1>"
    yield f"<p>A: {_text(found.a)}<br>B: {_text(found.b)}</p>"
    kind = "verdict equal" if found.equal else "verdict"
    yield f'<p class="{kind}">{_text(found.lines()[-1])}</p>'
    if why is not None:
        yield "<h2>Why</h2>"
        kind = "verdict equal" if why.cause == "equal" else "verdict"
        yield f'<p class="{kind}">{_text(why.verdict)}</p>'
        yield f"<pre>{_text(chr(10).join(why.lines()[1:]))}</pre>"
    if models is not None:
        yield from _models(models)
    for note in found.notes:
        yield f"<p>{_text(note)}</p>"
    differing = [one for one in found.tensors if not one.equal]
    for one in differing[:_PICTURED]:
        yield from _tensor(one)
    if len(differing) > _PICTURED:
        yield f"<h2>{len(differing) - _PICTURED} more tensors that differ</h2>"
        yield "<table><tr><th>tensor</th><th>differing</th><th>elements</th><th>SQNR, dB</th></tr>"
        for one in differing[_PICTURED : _PICTURED + _LISTED]:
            noise = "" if one.sqnr_db is None else f"{one.sqnr_db:.4g}"
            yield (
                f"<tr><td>{_text(one.name)}</td><td>{one.differing}</td><td>{one.elements}</td>"
                f"<td>{noise}</td></tr>"
            )
        yield "</table>"
    for side, names in (("A", found.only_a), ("B", found.only_b)):
        if names:
            yield f"<h2>Only in {side}: {len(names)}</h2>"
            yield f"<pre>{_text(chr(10).join(names[:_LISTED]))}</pre>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _tensor(one: ArrayComparison) -> Iterator[str]:
    yield f"<h2>{_text(one.name or 'array')}</h2>"
    yield f"<pre>{_text(chr(10).join(told(one)))}</pre>"
    if not one.differing:
        return
    yield '<div class="pictures">'
    if one.tile_map:
        yield _figure(_map(one.tile_map), "differing elements over rows (down) and columns (across)")
    if one.distance:
        yield _figure(_bars(one.distance), "distance in codes (ULP), differing elements (log scale)")
    points = [(x, y) for x, y in one.sample if math.isfinite(x) and math.isfinite(y)]
    if len(points) > 1:
        yield _figure(_scatter(points), f"B over A, {len(points)} elements; the line is where they are equal")
    yield "</div>"


def _figure(svg: str, caption: str) -> str:
    return f'<figure><div class="picture">{svg}</div><figcaption>{_text(caption)}</figcaption></figure>'


def _svg(width: float, height: float, inside: str, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{_text(label)}">{inside}</svg>'
    )


def _map(cells: list[list[int]]) -> str:
    """Draw a cell for each tile, darker where more differs."""
    rows, columns = len(cells), max(len(row) for row in cells)
    across, down = (max(4.0, min(24.0, 260 / n)) for n in (columns, rows))
    most = max(max(row) for row in cells)
    parts = []
    for i, row in enumerate(cells):
        for j, count in enumerate(row):
            place = f'x="{j * across:g}" y="{i * down:g}" width="{across - 0.6:g}" height="{down - 0.6:g}"'
            parts.append(f'<rect class="empty" {place}/>')
            if count:
                share = 0.25 + 0.75 * math.log1p(count) / math.log1p(most)
                parts.append(
                    f'<rect class="hot" {place} fill-opacity="{share:.2f}"><title>{count}</title></rect>'
                )
    return _svg(columns * across, rows * down, "".join(parts), "error map")


def _bars(counts: dict[str, int]) -> str:
    height, width = 170.0, 46.0
    most = math.log10(max(counts.values()) + 1)
    parts = []
    for i, (name, count) in enumerate(counts.items()):
        tall = (height - 40) * math.log10(count + 1) / most
        x, y = i * width + 4, height - 24 - tall
        parts.append(
            f'<rect class="bar" x="{x:g}" y="{y:.1f}" width="{width - 8:g}" height="{tall:.1f}">'
            f"<title>{_text(name)}: {count}</title></rect>"
        )
        parts.append(f'<text x="{x + 19:g}" y="{y - 3:.1f}" text-anchor="middle">{_short(count)}</text>')
        shown = name if len(name) < 6 else f"≤{_short(int(name.split('-')[-1]))}"
        parts.append(f'<text x="{x + 19:g}" y="{height - 8:g}" text-anchor="middle">{shown}</text>')
    line = height - 24
    parts.append(f'<line class="axis" x1="0" x2="{len(counts) * width:g}" y1="{line:g}" y2="{line:g}"/>')
    return _svg(max(len(counts) * width, 60), height, "".join(parts), "histogram of distances")


def _short(value: int) -> str:
    for power, unit in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g}{unit}"
    return str(value)


def _scatter(points: list[tuple[float, float]]) -> str:
    size, edge = 260.0, 8.0
    low = min(min(x, y) for x, y in points)
    high = max(max(x, y) for x, y in points)
    reach = high - low or 1.0

    def at(value: float) -> float:
        return edge + (size - 2 * edge) * (value - low) / reach

    dots = "".join(
        f'<circle class="dot" cx="{at(x):.1f}" cy="{size - at(y):.1f}" r="1.8"/>' for x, y in points
    )
    line = f'<line class="same" x1="{edge:g}" y1="{size - edge:g}" x2="{size - edge:g}" y2="{edge:g}"/>'
    frame = f'<rect class="axis" fill="none" x="0.5" y="0.5" width="{size - 1:g}" height="{size - 1:g}"/>'
    ends = f'<text x="4" y="{size - 4:g}">{low:.3g}</text>'
    ends += f'<text x="{size - 4:g}" y="14" text-anchor="end">{high:.3g}</text>'
    return _svg(size, size, frame + line + dots + ends, "scatter")


def _models(models: ModelComparison) -> Iterator[str]:
    yield "<h2>The model</h2>"
    yield f'<p class="verdict">{_text(models.verdict)}</p>'
    yield f"<pre>{_text(chr(10).join(models.lines()[1:]))}</pre>"
    errors = [one.errors.median for one in models.layers]
    if len([e for e in errors if e > 0]) > 1:
        yield _figure(_curve(errors), "median relative error of each layer's output (log scale)")


def _curve(values: list[float]) -> str:
    width, height = 520.0, 160.0
    logs = [math.log10(v) if v > 0 and math.isfinite(v) else None for v in values]
    known = [v for v in logs if v is not None]
    low, high = min(known), max(known)
    reach = high - low or 1.0
    step = (width - 60) / max(len(values) - 1, 1)
    points = " ".join(
        f"{50 + i * step:.1f},{height - 20 - (height - 40) * (v - low) / reach:.1f}"
        for i, v in enumerate(logs)
        if v is not None
    )
    ends = f'<text x="2" y="{height - 18:g}">{10**low:.2g}</text><text x="2" y="24">{10**high:.2g}</text>'
    ends += f'<text x="50" y="{height - 4:g}">layer 0</text>'
    ends += f'<text x="{width - 4:g}" y="{height - 4:g}" text-anchor="end">layer {len(values) - 1}</text>'
    return _svg(width, height, f'<polyline class="curve" points="{points}"/>{ends}', "errors of layers")
