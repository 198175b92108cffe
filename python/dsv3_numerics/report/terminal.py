"""Tables for the terminal, by rich; it is imported when a table is made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

Column = str | tuple[str, dict[str, Any]]
"""Title of a column, with rich's options if it has any."""


def rich_table(columns: Iterable[Column], rows: Iterable[Sequence[Any]] = (), **options: Any) -> Table:
    """Make a table in the package's look: lines above and below the header only.

    Parameters
    ----------
    columns : iterable of str or (str, dict)
        Titles, with options of ``Table.add_column``.
    rows : iterable of sequences
        Cells, as rich takes them.
    **options
        Of rich's ``Table``.
    """
    from rich import box
    from rich.table import Table

    look: dict[str, Any] = {"box": box.SIMPLE_HEAD, "title_justify": "left", "pad_edge": False}
    table = Table(**(look | options))
    for column in columns:
        title, how = (column, {}) if isinstance(column, str) else column
        table.add_column(title, **how)
    for row in rows:
        table.add_row(*row)
    return table
