"""Tables for the terminal, by rich; it is imported when a table is made.

A table that is wider than its terminal breaks no word: it leaves out columns on the right, and names them,
or, where more than half would go, stands as records, a line for each column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

Column = str | tuple[str, dict[str, Any]]
"""Title of a column, with rich's options if it has any."""

_LEAST = 3
"""Columns that a table keeps before it becomes records."""

_PIECE = 24
"""Characters that a name is folded into at least, in a column that folds."""


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

    Examples
    --------
    >>> from rich.console import Console
    >>> from dsv3_numerics.report.terminal import rich_table
    >>> table = rich_table(["scheme", "bits", "SQNR"], [["e4m3:1x128:f32", "8.25", "31.9"]])
    >>> Console(width=24).print(table)
    e4m3:1x128:f32
      bits  8.25
      SQNR  31.9
    """
    from rich import box

    look: dict[str, Any] = {"box": box.SIMPLE_HEAD, "title_justify": "left", "pad_edge": False}
    table = _fitted()(**(look | options))
    for column in columns:
        title, how = (column, {}) if isinstance(column, str) else column
        table.add_column(title, **how)
    for row in rows:
        table.add_row(*row)
    return table


def shares(ranges: Sequence[tuple[int, int]], room: int) -> list[int]:
    """Share a width among columns: each between its least and its most, the widest giving way first.

    Examples
    --------
    >>> shares([(4, 30), (5, 5), (6, 12)], 30)
    [13, 5, 12]
    """
    widths = [most for _, most in ranges]
    while sum(widths) > room:
        loose = [i for i, (least, _) in enumerate(ranges) if widths[i] > least]
        if not loose:
            break
        widths[max(loose, key=lambda i: widths[i])] -= 1
    return widths


@cache
def _fitted() -> type[Table]:
    """Make the class, of rich's, once."""
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    class FittedTable(Table):
        """A table that chooses its columns by the width that there is."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            ranges = [self._range(console, options, column) for column in self.columns]
            kept = len(ranges)
            while kept and sum(least for least, _ in ranges[:kept]) + self._edges(kept) > options.max_width:
                kept -= 1
            if self.rows and kept < min(len(ranges), max(_LEAST, -(-len(ranges) // 2))):
                yield from self._records()
                return
            kept = max(kept, 1)
            room = options.max_width - self._edges(kept)
            yield from self._first(shares(ranges[:kept], room)).__rich_console__(console, options)
            if left_out := ", ".join(str(column.header) for column in self.columns[kept:]):
                yield Text(f"Not shown for want of width: {left_out}", style="dim")

        def _range(self, console: Console, options: ConsoleOptions, column: Any) -> tuple[int, int]:
            """Least width that breaks no word, or none into small pieces, and width of the longest line."""
            wide = options.update(max_width=10_000)
            measured = [Measurement.get(console, wide, cell) for cell in (column.header, *column.cells)]
            least, most = (max(getattr(m, name) for m in measured) for name in ("minimum", "maximum"))
            if column.no_wrap:
                return most, most
            return (min(least, _PIECE) if column.overflow == "fold" else least), most

        def _edges(self, count: int) -> int:
            """Width of what stands between and around columns."""
            _, right, _, left = self.padding
            between = count - 1 + 2 * self.show_edge if self.box else 0
            return (left + right) * (count if self.pad_edge else count - 1) + between

        def _first(self, widths: Sequence[int]) -> Table:
            """Return a plain table of the first columns, in such widths."""
            _, right, bottom, left = self.padding
            names = ("box", "title", "title_justify", "caption", "caption_justify", "pad_edge", "show_lines")
            table = Table(**{n: getattr(self, n) for n in names}, padding=(0, right, bottom, left))
            columns = self.columns[: len(widths)]
            for column, width in zip(columns, widths, strict=True):
                how = {name: getattr(column, name) for name in ("justify", "no_wrap", "overflow")}
                table.add_column(column.header, width=width, **how)
            for row in zip(*(column.cells for column in columns), strict=True):
                table.add_row(*row)
            return table

        def _records(self) -> RenderResult:
            """Yield each row as its name and a line for each further column."""
            if self.title:
                yield Text(str(self.title), style="table.title")
            titles = [str(column.header) for column in self.columns[1:]]
            for first, *rest in zip(*(column.cells for column in self.columns), strict=True):
                name = first.copy() if isinstance(first, Text) else Text.from_markup(str(first))
                name.overflow = "fold"
                name.stylize("bold")
                yield name
                lines = Table.grid(padding=(0, 2, 0, 0))
                lines.add_column(no_wrap=True)
                lines.add_column(overflow="fold")
                for title, cell in zip(titles, rest, strict=True):
                    if str(cell):
                        lines.add_row(title, cell)
                yield Padding(lines, (0, 0, 0, 2))
            if self.caption:
                yield Text(str(self.caption), style="table.caption")

    return FittedTable
