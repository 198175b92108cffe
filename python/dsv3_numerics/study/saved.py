"""The result that users hold: a study's figures, and the tables, plots and files that are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .._html import table
from ..report.drawing import own_axes
from ..report.text import counted
from .result import StudyData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table


class Study(StudyData):
    """Errors of tensors under schemes: the figures (see `StudyData`), and how to show and save them."""

    def table(self) -> Table:
        """Make a rich table of the totals: ``rich.print(study.table())``."""
        from .tables import totals_table

        return totals_table(self)

    def to_csv(self, path: str | Path) -> Path:
        """Write one line per tensor and scheme."""
        from .files import write_csv

        return write_csv(self, Path(path))

    def to_json(self, path: str | Path) -> Path:
        """Write everything, with versions and settings; a figure that is not finite is null."""
        from .files import write_json

        return write_json(self, Path(path))

    def to_markdown(self, path: str | Path, plots: Mapping[str, str] | None = None) -> Path:
        """Write the report; `plots` are the pictures to show in it, file name by title."""
        from .report import write_markdown

        return write_markdown(self, Path(path), plots or {})

    def plot_bits(self, ax: Axes | None = None) -> Axes:
        """Draw the SQNR of each scheme over its bits, with the best for their bits.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure of pyplot if there is none.
        """
        from .plots import bits_against_sqnr

        return bits_against_sqnr(self, own_axes(ax, (9, 6)))

    def plot_magnitudes(self, ax: Axes | None = None) -> Axes:
        """Draw the relative error over the magnitude of the value; `ax` as in `plot_bits`."""
        from .plots import by_magnitude

        return by_magnitude(self, own_axes(ax, (11, 6)))

    def plot_tensors(self, ax: Axes | None = None) -> Axes:
        """Draw the SQNR of each tensor beside the median of its scheme; `ax` as in `plot_bits`.

        Raises
        ------
        LookupError
            There is one tensor only, which is its own median.
        """
        from .plots import heatmap, heatmap_size

        return heatmap(self, own_axes(ax, heatmap_size(self)))

    def save_plots(self, folder: str | Path) -> dict[str, Path]:
        """Draw the plots as PNG files into a folder; returns path by title."""
        from .plots import draw

        return draw(self, Path(folder))

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one page of HTML with its pictures in it, which loads nothing."""
        from .report import write_page

        return write_page(self, Path(path))

    def save(self, folder: str | Path) -> Path:
        """Write CSV, JSON, plots and report into a folder, which is made if need be; returns the report.

        The report is there as Markdown (`report.md`, with PNG files) and as one page of HTML (`report.html`).
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.to_csv(folder / "results.csv")
        self.to_json(folder / "results.json")
        plots = self.save_plots(folder) if self.tensors else {}
        self.to_html(folder / "report.html")
        return self.to_markdown(folder / "report.md", {title: path.name for title, path in plots.items()})

    def _repr_html_(self) -> str:
        from .tables import COLUMNS, total_rows

        return table(str(self)[1:-1], [name for name, _ in COLUMNS], [texts for _, texts in total_rows(self)])

    def __repr__(self) -> str:
        state = f", partial ({self.partial})" if self.partial else ""
        parts = (len(self.tensors), "tensor"), (self.elements, "element"), (len(self.schemes), "scheme")
        size = ", ".join(counted(*part) for part in parts)
        return f"<Study of {size}{state}>"
