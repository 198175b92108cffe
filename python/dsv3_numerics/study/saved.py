"""The result that users hold: a study's figures, and the tables, plots and files that are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..report.text import counted
from .result import StudyData

if TYPE_CHECKING:
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

    def plot(self, folder: str | Path) -> dict[str, Path]:
        """Draw the three plots as PNG files into a folder; returns path by title."""
        from .plots import draw

        return draw(self, Path(folder))

    def save(self, folder: str | Path) -> Path:
        """Write CSV, JSON, plots and report into a folder, which is made if need be; returns the report."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.to_csv(folder / "results.csv")
        self.to_json(folder / "results.json")
        plots = self.plot(folder) if self.tensors else {}
        return self.to_markdown(folder / "report.md", {title: path.name for title, path in plots.items()})

    def __repr__(self) -> str:
        state = f", partial ({self.partial})" if self.partial else ""
        parts = (len(self.tensors), "tensor"), (self.elements, "element"), (len(self.schemes), "scheme")
        size = ", ".join(counted(*part) for part in parts)
        return f"<Study of {size}{state}>"
