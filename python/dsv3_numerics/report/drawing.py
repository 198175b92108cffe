"""Common ground of all plots: the look, the colours, and how a figure becomes a file.

matplotlib is imported when a plot is drawn, with its file-only backend, so that nothing here needs a display.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from .._atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.figure import Figure

Subject = TypeVar("Subject")
Plots = Mapping[str, tuple[str, Callable[[Subject, Any], None]]]
"""A file's name and the function that draws a subject into a figure, by title."""

LOOK: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
}


class Style(NamedTuple):
    """How a line or a point is drawn, in every plot."""

    colour: str
    marker: str
    line: Any


LINES: tuple[Any, ...] = (
    "-",
    (0, (4, 1.5)),
    (0, (1, 1)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
)
"""Dashes for lines of one colour, the plainest first."""


def own_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the axes that a caller gave, or those of a new figure of pyplot, in the package's look.

    Parameters
    ----------
    ax : Axes or None
    size : pair of float
        Width and height of a new figure, inches.
    """
    if ax is not None:
        return ax
    import matplotlib
    from matplotlib import pyplot

    with matplotlib.rc_context(LOOK):
        return pyplot.subplots(figsize=size)[1]


def alone(
    plot: Callable[[Subject, Axes], object], size: Callable[[Subject], tuple[float, float]]
) -> Callable[[Subject, Figure], None]:
    """Make a plot into axes one that has a figure to itself."""

    def draw(subject: Subject, figure: Figure) -> None:
        figure.set_size_inches(*size(subject))
        plot(subject, figure.add_subplot())

    return draw


def _figure(subject: Subject, plot: Callable[[Subject, Any], None], canvas: type[FigureCanvasBase]) -> Figure:
    """Draw a plot into a figure of its own."""
    from matplotlib.figure import Figure

    figure = Figure(dpi=130)
    canvas(figure)
    plot(subject, figure)
    return figure


def drawn_svg(subject: Subject, plots: Plots[Subject]) -> dict[str, str]:
    """Draw plots as SVG in the colour of a page's text; by file name, those without figures left out.

    Parameters
    ----------
    subject : object
        What every plot is drawn from.
    plots : mapping
        As `save_plots` has it.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.collections import QuadMesh

    drawn = {}
    for title, (name, plot) in plots.items():
        # One salt for each picture: names within a page stay apart, and the same figures give the same bytes.
        with matplotlib.rc_context(LOOK | {"svg.fonttype": "none", "svg.hashsalt": title}):
            try:
                figure = _figure(subject, plot, FigureCanvasSVG)
            except LookupError:
                continue
            for mesh in figure.findobj(QuadMesh):
                mesh.set_rasterized(True)
            stream = io.StringIO()
            figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        drawn[name] = _inline(stream.getvalue())
    return drawn


def _inline(svg: str) -> str:
    """Cut the head of an SVG file, and let black be the colour of the page's text."""
    inner = svg[svg.index("<svg ") :]
    inner = re.sub(r"#(?:000000|222222|262626)\b", "currentColor", inner)
    return re.sub(r"<text(?=[ >])", '<text fill="currentColor"', inner)


def save_plots(subject: Subject, plots: Plots[Subject], folder: Path) -> dict[str, Path]:
    """Draw plots of a subject into a folder.

    Parameters
    ----------
    subject : object
        What every plot is drawn from.
    plots : mapping
        The file's name and the function that draws the subject into a figure, by title.
    folder : Path

    Returns
    -------
    dict of str to Path
        Each file by the title of its plot.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    paths = {}
    with matplotlib.rc_context(LOOK):
        for title, (name, plot) in plots.items():
            figure = _figure(subject, plot, FigureCanvasAgg)
            path = folder / name
            with replacing(path) as file:
                figure.savefig(file.path, format="png", metadata={"Software": None})
            paths[title] = path
    return paths


def save_possible(subject: Subject, plots: Plots[Subject], folder: Path) -> dict[str, str]:
    """Draw as `save_plots`, but for plots that raise LookupError for lack of figures; file name by title."""
    drawn = {}
    for title, plot in plots.items():
        try:
            drawn[title] = save_plots(subject, {title: plot}, folder)[title].name
        except LookupError:
            continue
    return drawn
