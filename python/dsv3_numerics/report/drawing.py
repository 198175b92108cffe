"""Common ground of all plots: the look, the colours, and how a figure becomes a file.

matplotlib is imported when a plot is drawn, with its file-only backend, so that nothing here needs a display.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .._atomic import replacing

Subject = TypeVar("Subject")

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


def save_plots(
    subject: Subject, plots: Mapping[str, tuple[str, Callable[[Subject, Any], None]]], folder: Path
) -> dict[str, Path]:
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
    from matplotlib.figure import Figure

    paths = {}
    with matplotlib.rc_context(LOOK):
        for title, (name, plot) in plots.items():
            figure = Figure(dpi=130)
            FigureCanvasAgg(figure)
            plot(subject, figure)
            path = folder / name
            with replacing(path) as file:
                figure.savefig(file.path, format="png", metadata={"Software": None})
            paths[title] = path
    return paths


def save_possible(
    subject: Subject, plots: Mapping[str, tuple[str, Callable[[Subject, Any], None]]], folder: Path
) -> dict[str, str]:
    """Draw as `save_plots`, but for plots that raise LookupError for lack of figures; file name by title."""
    drawn = {}
    for title, plot in plots.items():
        try:
            drawn[title] = save_plots(subject, {title: plot}, folder)[title].name
        except LookupError:
            continue
    return drawn
