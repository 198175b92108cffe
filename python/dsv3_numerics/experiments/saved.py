"""The result that users hold: an experiment's figures, and the files that are written of them."""

from __future__ import annotations

from pathlib import Path

from .experiment import ExperimentData


class Result(ExperimentData):
    """Result of an experiment: its figures (see `ExperimentData`), and how to save them."""

    def save(self, folder: str | Path) -> Path:
        """Write CSV, JSON, plots and report into a folder, which is made if need be; returns the report."""
        from .files import save

        return save(self, Path(folder))
