"""The result that users hold: a sensitivity analysis, and the table and files that are made of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .result import SensitivityData

if TYPE_CHECKING:
    from rich.table import Table


class Sensitivity(SensitivityData):
    """Cost of each choice of a recipe: the figures (see `SensitivityData`), and how to show and save them."""

    def table(self) -> Table:
        """Make a rich table of the costs: ``rich.print(result.table())``."""
        from .tables import costs_table

        return costs_table(self)

    def save(self, folder: str | Path) -> Path:
        """Write CSV, JSON, plots and report into a folder, which is made if need be; returns the report."""
        from .files import save

        return save(self, Path(folder))

    def __repr__(self) -> str:
        state = f", partial ({self.partial})" if self.partial else ""
        return f"<Sensitivity of {self.recipe.name}: {len(self.choices)} choices{state}>"
