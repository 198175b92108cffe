"""Tables for the terminal and the report: totals by scheme, and the tensors that suffer most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .result import Study, Total

if TYPE_CHECKING:
    from rich.table import Table


def plain(name: str) -> str:
    """A name from a file, safe to print: control characters become their escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def decibels(value: float) -> str:
    """An SQNR to a tenth; "exact" where nothing changed at all."""
    return "exact" if value == math.inf else f"{value:.1f}"


def share(fraction: float) -> str:
    """A rate in percent, short: what is not zero never reads as 0.

    Examples
    --------
    >>> share(0.0261), share(0.0003), share(0.000001), share(0)
    ('2.6%', '0.03%', '<0.01%', '0')
    """
    if fraction == 0:
        return "0"
    if fraction < 1e-4:
        return "<0.01%"
    return f"{100 * fraction:.1f}%" if fraction >= 0.9995e-3 else f"{100 * fraction:.2f}%"


def ppm(fraction: float) -> str:
    """A signed drift in parts per million."""
    return f"{1e6 * fraction:+.1f}" if abs(fraction) < 9.95e-6 else f"{1e6 * fraction:+.0f}"


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


def total_rows(study: Study) -> list[tuple[Total, list[str]]]:
    """The totals with the texts of their columns, best SQNR first."""
    ordered = sorted(study.totals(), key=_rank)
    return [(total, [text(total) for _, text in COLUMNS]) for total in ordered]


def kind_rows(study: Study) -> list[tuple[str, list[str]]]:
    """Each scheme with its SQNR by kind of activation, best over all first; the columns are `study.kinds`."""
    columns = [study.totals(kind) for kind in study.kinds]
    totals = study.totals()
    order = sorted(range(len(totals)), key=lambda i: _rank(totals[i]))
    return [(str(study.schemes[i]), [decibels(column[i].sqnr_db) for column in columns]) for i in order]


def _rank(total: Total) -> tuple[float, float]:
    return -total.sqnr_db, total.pooled.bits_per_element


def worst_rows(study: Study, limit: int = 10) -> list[tuple[str, str, float, float]]:
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


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table as lines of Markdown, its first column to the left and the others to the right."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def totals_table(study: Study) -> Table:
    """The totals as a rich table."""
    from rich.table import Table

    title = f"{len(study.tensors)} tensors, {study.elements:,} elements; SQNR in dB"
    table = Table(title=title + (" (partial)" if study.partial else ""), **_look())
    for i, (name, _) in enumerate(COLUMNS):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for _, texts in total_rows(study):
        table.add_row(*texts)
    return table


def kinds_table(study: Study) -> Table:
    """SQNR by kind of activation as a rich table."""
    from rich.table import Table

    table = Table(title="SQNR in dB by kind of activation", **_look())
    table.add_column("scheme", no_wrap=True)
    for kind in study.kinds:
        table.add_column(kind, justify="right")
    for scheme, texts in kind_rows(study):
        table.add_row(scheme, *texts)
    return table


def worst_table(study: Study, limit: int = 5) -> Table:
    """The tensors furthest below the median of a scheme, as a rich table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Hardest tensors", **_look())
    table.add_column("tensor", overflow="fold")
    table.add_column("under", no_wrap=True)
    table.add_column("SQNR dB", justify="right", no_wrap=True)
    table.add_column("scheme's median", justify="right", no_wrap=True)
    for name, scheme, value, median in worst_rows(study, limit):
        table.add_row(Text(plain(name)), scheme, decibels(value), decibels(median))
    return table


def _look() -> dict[str, Any]:
    from rich import box

    return {"box": box.SIMPLE_HEAD, "title_justify": "left", "pad_edge": False, "padding": (0, 1)}
