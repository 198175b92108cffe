"""Tables for the terminal and the report: totals by scheme, and the tensors that suffer most."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..report.terminal import Column, rich_table
from ..report.text import counted, decibels, plain, ppm, share
from .result import StudyData, Total

if TYPE_CHECKING:
    from rich.table import Table


COLUMNS: tuple[tuple[str, Callable[[Total], str]], ...] = (
    ("scheme", lambda t: str(t.scheme)),
    ("bits", lambda t: f"{t.pooled.bits_per_element:.2f}"),
    ("SQNR", lambda t: decibels(t.sqnr_db)),
    ("median", lambda t: decibels(t.median_sqnr_db)),
    ("worst", lambda t: decibels(t.worst_sqnr_db)),
    ("bias ppm", lambda t: ppm(t.pooled.relative_bias)),
    ("to zero", lambda t: share(t.pooled.underflow_rate)),
    ("clipped", lambda t: share(t.pooled.saturation_rate)),
)
"""Title and text of each column of the totals."""


def total_rows(study: StudyData) -> list[tuple[Total, list[str]]]:
    """Return the totals with the texts of their columns, best SQNR first."""
    ordered = sorted(study.totals(), key=_rank)
    return [(total, [text(total) for _, text in COLUMNS]) for total in ordered]


def kind_rows(study: StudyData) -> list[tuple[str, list[str]]]:
    """Each scheme with its SQNR by kind of activation, best over all first; the columns are `study.kinds`."""
    columns = [study.totals(kind) for kind in study.kinds]
    totals = study.totals()
    order = sorted(range(len(totals)), key=lambda i: _rank(totals[i]))
    return [(str(study.schemes[i]), [decibels(column[i].sqnr_db) for column in columns]) for i in order]


def _rank(total: Total) -> tuple[float, float]:
    return -total.sqnr_db, total.pooled.bits_per_element


def worst_rows(study: StudyData, limit: int = 10) -> list[tuple[str, str, float, float]]:
    """Tensors by how far below the scheme's median they fall, worst first: (tensor, scheme, SQNR, median).

    A tensor appears once, under the scheme that treats it worst.
    """
    db = study.sqnr_db()
    found: dict[str, tuple[str, str, float, float]] = {}
    for i, total in enumerate(study.totals()):
        for k in db[:, i].argsort(kind="stable")[:limit]:
            name, value = study.tensors[k].name, float(db[k, i])
            gap = value - total.median_sqnr_db
            if (
                math.isfinite(gap)
                and gap < 0
                and (name not in found or gap < found[name][2] - found[name][3])
            ):
                found[name] = (name, str(total.scheme), value, total.median_sqnr_db)
    return sorted(found.values(), key=lambda row: row[2] - row[3])[:limit]


def totals_table(study: StudyData) -> Table:
    """Make a rich table of the totals."""
    title = f"{counted(len(study.tensors), 'tensor')}, {counted(study.elements, 'element')}; SQNR in dB"
    columns = [_left(COLUMNS[0][0]), *(_right(name) for name, _ in COLUMNS[1:])]
    rows = (texts for _, texts in total_rows(study))
    return rich_table(columns, rows, title=title + (" (partial)" if study.partial else ""), **_LOOK)


def kinds_table(study: StudyData) -> Table:
    """Make a rich table of SQNR by kind of activation."""
    of = "format of the stored codes" if "against" in study.settings else "kind of activation"
    columns: list[Column] = [_left("scheme"), *((kind, {"justify": "right"}) for kind in study.kinds)]
    rows = ([scheme, *texts] for scheme, texts in kind_rows(study))
    return rich_table(columns, rows, title=f"SQNR in dB by {of}", **_LOOK)


def worst_table(study: StudyData, limit: int = 5) -> Table:
    """Make a rich table of the tensors furthest below the median of a scheme."""
    from rich.text import Text

    columns: list[Column] = [("tensor", {"overflow": "fold"}), _left("under")]
    columns += [_right("SQNR dB"), _right("scheme's median")]
    rows = (
        [Text(plain(name)), scheme, decibels(value), decibels(median)]
        for name, scheme, value, median in worst_rows(study, limit)
    )
    return rich_table(columns, rows, title="Hardest tensors", **_LOOK)


_LOOK: dict[str, Any] = {"padding": (0, 1)}


def _left(title: str) -> Column:
    return title, {"no_wrap": True}


def _right(title: str) -> Column:
    return title, {"no_wrap": True, "justify": "right"}
