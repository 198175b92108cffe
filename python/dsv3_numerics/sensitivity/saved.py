"""The result that users hold: a sensitivity analysis, and the table and files that are made of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .._html import table
from ..report.drawing import own_axes
from ..report.text import counted
from .result import SensitivityData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table


class Sensitivity(SensitivityData):
    """Cost of each choice of a recipe: the figures (see `SensitivityData`), and how to show and save them."""

    def table(self) -> Table:
        """Make a rich table of the costs: ``rich.print(result.table())``."""
        from .tables import costs_table

        return costs_table(self)

    def plot_costs(self, metric: str = "kl_nats", ax: Axes | None = None) -> Axes:
        """Draw the cost of each choice, alone and left out.

        Parameters
        ----------
        metric : {"kl_nats", "relative_error"}
            KL from float64 in nats, or the logits' error, drawn as SQNR in dB.
        ax : matplotlib Axes, optional
            Where to draw; a new figure of pyplot if there is none.

        Raises
        ------
        LookupError
            Nothing has been measured yet.
        """
        from .plots import METRICS, costs

        if metric not in METRICS:
            raise ValueError(f"metric: found {metric!r}, expected one of {', '.join(METRICS)}")
        return costs(self, own_axes(ax, (8, 1.6 + 0.75 * (len(self.choices) + 2))), metric)

    def plot_tokens(self, ax: Axes | None = None) -> Axes:
        """Draw the share of tokens below each divergence; `ax` as in `plot_costs`."""
        from .plots import tokens

        return tokens(self, own_axes(ax, (9.5, 5.4)))

    def plot_layers(self, ax: Axes | None = None) -> Axes:
        """Draw the error that each layer makes on float64's input; `ax` as in `plot_costs`."""
        from .plots import layers

        return layers(self, own_axes(ax, (9.5, 5.4)))

    def plot_experts(self, part: str = "layers", ax: Axes | None = None) -> Axes:
        """Draw the share of tokens that go to other experts, by layer.

        Parameters
        ----------
        part : {"layers", "logits"}
            On float64's inputs, or running freely.
        ax : matplotlib Axes, optional
            As in `plot_costs`.

        Raises
        ------
        LookupError
            No layer has experts, or nothing has been measured yet.
        """
        from .plots import routes
        from .variant import LAYERS, LOGITS

        if part not in (LAYERS, LOGITS):
            raise ValueError(f"part: found {part!r}, expected {LAYERS!r} or {LOGITS!r}")
        return routes(self, own_axes(ax, (7, 5)), part)

    def plot_operations(self, ax: Axes | None = None) -> Axes:
        """Draw the error of each operation by choice; `ax` as in `plot_costs`."""
        from .plots import operations, operations_size

        return operations(self, own_axes(ax, operations_size(self)))

    def _repr_html_(self) -> str:
        from .tables import costs_shown

        shown = costs_shown(self)
        return table(str(self)[1:-1], shown.header, shown.rows)

    def save(self, folder: str | Path) -> Path:
        """Write CSV, JSON, plots and report, as Markdown and HTML, into a folder; returns the former."""
        from .files import save

        return save(self, Path(folder))

    def __repr__(self) -> str:
        state = f", partial ({self.partial})" if self.partial else ""
        return f"<Sensitivity of {self.recipe.name}: {counted(len(self.choices), 'choice')}{state}>"
