"""Sections of a report in Markdown: tables, findings, pictures, and how it was made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple


class ReportTable(NamedTuple):
    """Table of a report.

    Attributes
    ----------
    title : str
    header : list of str
    rows : list of list of str
        Texts, the first column to the left and the others to the right.
    note : str
        Line that says how to read it; may be empty.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lay out a table as lines of Markdown, its first column to the left and the others to the right."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def table_section(table: ReportTable) -> Iterator[str]:
    """Lay out a table under its title."""
    yield f"## {table.title}"
    yield ""
    if table.note:
        yield table.note
        yield ""
    yield from markdown(table.header, table.rows)


def findings_section(findings: Sequence[str]) -> Iterator[str]:
    """Lay out findings as a list; nothing where there are none."""
    if findings:
        yield "## What came out"
        yield ""
        yield from (f"* {finding}" for finding in findings)
        yield ""


def picture_sections(plots: Mapping[str, str], captions: Mapping[str, str] | None = None) -> Iterator[str]:
    """Show pictures under their titles: file name by title, and a caption for some."""
    for title, name in plots.items():
        yield f"## {title}"
        yield ""
        yield f"![{title}]({name})"
        yield ""
        if captions and title in captions:
            yield captions[title]
            yield ""


def made_section(facts: Mapping[str, str]) -> Iterator[str]:
    """List how the report was made; facts without a text are left out."""
    yield "## How this was made"
    yield ""
    yield from (f"* {name}: {text}" for name, text in facts.items() if text)
