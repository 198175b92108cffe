"""Experiments as rows: jobs that measure, and what is told of their rows.

An `Experiment` is a row of the table `EXPERIMENTS`. It makes a list of jobs, each of which returns rows of
figures; everything told afterwards (tables, findings, plots, known figures beside the measured ones)
is made from the rows alone, so that an interrupted experiment tells what it has.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..report.page import ReportTable
from ..report.running import possible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Value = str | int | float | None
"""A figure, or what it is a figure of. None: there is none."""

Row = dict[str, Value]
"""Row of results: a value by the name of its column."""

Quantity = float | tuple[float, float]
"""A number, or the lowest and the highest."""


class RunConfig(NamedTuple):
    """How an experiment is run: the seed of all its random numbers, and whether it is a quick, small run."""

    seed: int = 0
    quick: bool = False

    def rng(self, *key: str | int) -> np.random.Generator:
        """Random numbers for one purpose, named by `key`: the same whatever else is drawn before.

        Examples
        --------
        >>> from dsv3_numerics.experiments import RunConfig
        >>> RunConfig(1).rng("a").random() == RunConfig(1).rng("a").random() != RunConfig(1).rng("b").random()
        True
        """
        return np.random.default_rng([self.seed, *(zlib.crc32(str(part).encode()) for part in key)])


class Job(NamedTuple):
    """A piece of an experiment: what the progress bar calls it, what it does, and how long (in any unit)."""

    label: str
    measure: Callable[[], Iterable[Row]]
    cost: float = 1.0


class PublishedFigure(NamedTuple):
    """Published figure, or one found earlier: its name, its value or range, and the same, measured here.

    `measured` raises LookupError where the rows it needs are not there; `text` writes a value.
    """

    what: str
    value: Quantity
    measured: Callable[[ExperimentData], Quantity]
    text: Callable[[float], str]

    def spelled(self, value: Quantity) -> str:
        """Return a value, or a range, as text; in short where both ends read alike."""
        ends = value if isinstance(value, tuple) else (value,)
        return " to ".join(dict.fromkeys(map(self.text, ends)))


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes
    ----------
    name, title : str
        For the command line; for the report.
    shows, source : str
        What one learns from it, in a sentence; where the claim or the figures come from.
    jobs : callable
        Makes the jobs for a `RunConfig`.
    tables : callable
        The report's tables, from a `ExperimentData`.
    findings : tuple of callables
        Each makes a sentence from the figures; one that raises LookupError, since its rows are missing, is
        left out.
    published : tuple of PublishedFigure
        PublishedFigure figures, to put beside the measured ones.
    plots : mapping
        File name and drawing function by title; one that raises LookupError is left out.
    """

    name: str
    title: str
    shows: str
    source: str
    jobs: Callable[[RunConfig], list[Job]]
    tables: Callable[[ExperimentData], Iterable[ReportTable]]
    findings: tuple[Callable[[ExperimentData], str], ...]
    published: tuple[PublishedFigure, ...]
    plots: Mapping[str, tuple[str, Callable[[ExperimentData, Figure], None]]]


@dataclass
class ExperimentData:
    """Figures of an experiment, and how it was run.

    Attributes
    ----------
    experiment : Experiment
    config : RunConfig
    rows : list of dict
        The figures, in the order of the jobs. `part` says to which part of the experiment a row belongs;
        rows of one part have the same columns.
    settings : dict
        How it was run: seed, versions, machine.
    partial : str
        Why it is not complete; empty if it is.
    seconds : float
        Time it took.
    """

    experiment: Experiment
    config: RunConfig
    rows: list[Row] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    partial: str = ""
    seconds: float = 0.0

    def select(self, part: str, **where: Value) -> Iterator[Row]:
        """Yield the rows of a part with these values in their columns."""
        for row in self.rows:
            if row["part"] == part and all(row[column] == value for column, value in where.items()):
                yield row

    def value(self, column: str, part: str, **where: Value) -> float:
        """One figure.

        Raises
        ------
        LookupError
            No row, or more than one, is like this.
        """
        found = [row[column] for row in self.select(part, **where)]
        if len(found) != 1 or not isinstance(found[0], int | float):
            raise LookupError(f"{part}: {len(found)} rows with {where}, expected one with a number")
        return float(found[0])

    def kinds(self, column: str, part: str, **where: Value) -> list[Any]:
        """Return the different values of a column, in the order in which they appear.

        Raises
        ------
        LookupError
            No row is like this.
        """
        found = list(dict.fromkeys(row[column] for row in self.select(part, **where)))
        if not found:
            raise LookupError(f"{part}: no rows with {where}")
        return found

    def findings(self) -> list[str]:
        """Return the sentences that the figures allow."""
        return possible(self.experiment.findings, self)

    def comparison(self) -> list[tuple[PublishedFigure, Quantity]]:
        """Pair the published figures that were measured too with the measured ones."""
        found = []
        for figure in self.experiment.published:
            try:
                found.append((figure, figure.measured(self)))
            except LookupError:
                continue
        return found

    def tables(self) -> list[ReportTable]:
        """Return the report's tables; those without rows are left out."""
        return [table for table in self.experiment.tables(self) if table.rows]


def pivot(
    result: ExperimentData,
    part: str,
    rows: str,
    columns: str,
    text: Callable[[Row], str],
    **where: Value,
) -> tuple[list[str], list[list[str]]]:
    """Return a table with a row for each value of one column and a column for each value of another.

    Empty where no row is like `where`.

    Returns
    -------
    header : list of str
        The values of `columns`, after an empty corner.
    body : list of list of str
        For each value of `rows`, the value and `text` of the first row found; a dash where there is none.
    """
    if not any(True for _ in result.select(part, **where)):
        return [""], []
    across = result.kinds(columns, part, **where)
    body = []
    for down in result.kinds(rows, part, **where):
        cells = [str(down)]
        for value in across:
            found = next(result.select(part, **where, **{rows: down, columns: value}), None)
            cells.append("–" if found is None else text(found))
        body.append(cells)
    return ["", *map(str, across)], body
