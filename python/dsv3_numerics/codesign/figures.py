"""A figure with its tag, formula and source, and the answer of a part: figures, rows, notes, plots.

Tables, CSV, JSON and reports of every part are made here, from figures and rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

TAGS = ("formula", "simulated", "bound", "fitted", "published", "measured", "measured elsewhere")
"""Kinds of figures; the first four from the strongest to the weakest. measured: by this package."""

ISCA = "arXiv 2505.09343v2"
REPORT = "arXiv 2412.19437v2"

Value = bool | int | float | str | None


def weakest(*tags: str) -> str:
    """Return the tag of a figure that is derived from others: that of the weakest.

    Examples
    --------
    >>> from dsv3_numerics.codesign.figures import weakest
    >>> weakest("formula", "bound", "simulated")
    'bound'
    """
    for tag in tags:
        if tag not in TAGS:
            raise ValueError(f"tag: found {tag!r}, expected one of {', '.join(TAGS)}")
    return max(tags, key=TAGS.index)


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes
    ----------
    name : str
    value : number, text or None
        In SI units: bytes, seconds, FLOP.
    unit, tag, source : str
        `tag`: one of `TAGS`.
    how : str
        The formula with numbers put in.
    """

    name: str
    value: Value
    unit: str
    tag: str
    source: str
    how: str

    def __post_init__(self) -> None:
        if self.tag not in TAGS:
            raise ValueError(f"tag: found {self.tag!r}, expected one of {', '.join(TAGS)}")


Plots = Mapping[str, tuple[str, Callable[["Answer", "Canvas"], None]]]


@dataclass(frozen=True)
class Answer:
    """The result of a part.

    Attributes
    ----------
    part : str
        As the command calls it.
    inputs : dict
        What was asked.
    figures : list of Figure
    columns : sequence of str
        Of `rows`.
    rows : list of dict
    notes : list of str
        Sentences: what was left out, what the figures assume.
    data : dict
        What only plots and JSON need (events of a timeline).
    plots : mapping
        File name and drawing function by title.
    """

    part: str
    inputs: dict[str, Any]
    figures: list[Figure]
    columns: Sequence[str]
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    plots: Plots = field(default_factory=dict)

    def value(self, name: str) -> Value:
        """Return the value of a figure.

        Raises
        ------
        LookupError
            There is none of that name.
        """
        for figure in self.figures:
            if figure.name == name:
                return figure.value
        raise LookupError(f"figure: found {name!r}, expected one of {[f.name for f in self.figures]}")

    def to_dict(self) -> dict[str, Any]:
        """Collect what the JSON file holds: part, version, inputs, figures, rows, notes, data."""
        from importlib import metadata

        found: dict[str, Any] = {
            "part": self.part,
            "version": metadata.version("dsv3_numerics"),
            "inputs": self.inputs,
            "figures": [vars(figure) for figure in self.figures],
            "rows": self.rows,
            "notes": self.notes,
        }
        return found | ({"data": self.data} if self.data else {})

    def save(self, folder: str | Path) -> Path:
        """Write results.csv, results.json, report.md and the plots; returns the report."""
        return save(self, Path(folder))
