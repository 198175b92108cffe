"""Tables in HTML, as notebooks show them.

Lives here: `table`, which every ``_repr_html_`` of the package is made by.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out a table with a caption; the first cell of a row names it.

    Examples
    --------
    >>> table("Sizes", ["", "bits"], [["a", 8]])
    '<table><caption>Sizes</caption><tr><th></th><th>bits</th></tr><tr><th>a</th><td>8</td></tr></table>'
    """
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "".join(
        f"<tr><th>{_text(first)}</th>{''.join(f'<td>{_text(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f"<table><caption>{_text(caption)}</caption>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def facts(caption: str, values: Mapping[str, object]) -> str:
    """Lay out names with their values."""
    return table(caption, [], values.items())


def _text(value: object) -> str:
    return html.escape(str(value))
