"""Result files of a part: results.csv, results.json, report.md, plots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..report.drawing import save_possible
from ..report.files import json_ready, write_json, write_lines, write_rows
from ..report.page import ReportTable, findings_section, made_section, picture_sections, table_section
from ..report.text import plain
from .texts import human, text_of

if TYPE_CHECKING:
    from .figures import Answer


def to_json(answer: Answer) -> str:
    """Return a part's answer as JSON; what JSON cannot say is null."""
    return json.dumps(json_ready(answer.to_dict()), indent=1)


def save(answer: Answer, folder: Path) -> Path:
    """Write all files of an answer into a folder, which is made if need be; returns the report."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = save_possible(answer, answer.plots, folder)
    rows = ({name: row.get(name) for name in answer.columns} for row in answer.rows)
    write_rows(answer.columns, rows, folder / "results.csv")
    write_json(answer.to_dict(), folder / "results.json")
    return write_lines(_report(answer, pictures), folder / "report.md")


def _report(answer: Answer, pictures: dict[str, str]) -> Iterator[str]:
    yield f"# codesign {answer.part}"
    yield ""
    yield from findings_section(answer.notes)
    yield from picture_sections(pictures)
    rows = [cells(row, answer) for row in answer.rows]
    yield from table_section(ReportTable("Rows", list(answer.columns), rows))
    columns, lines = sweep(answer)
    if lines:
        yield from table_section(ReportTable("Sweep", columns, lines))
    header = ["figure", "value", "tag", "how", "source"]
    yield from table_section(ReportTable("Figures", header, figure_rows(answer)))
    given = {name: text_of(value) for name, value in answer.inputs.items() if value is not None}
    yield from made_section({"inputs": ", ".join(f"{name} {value}" for name, value in given.items())})


def cells(row: dict[str, Any], answer: Answer) -> list[str]:
    """Return the texts of a row."""
    return [_safe(text_of(row.get(column))) for column in answer.columns]


def sweep(answer: Answer) -> tuple[list[str], list[list[str]]]:
    """Header and texts of the sweep over batches, where there are several."""
    lines = answer.data.get("sweep", [])
    if len(lines) < 2:
        return [], []
    return list(lines[0]), [[text_of(value) for value in line.values()] for line in lines]


def figure_rows(answer: Answer) -> list[list[str]]:
    """Figures as texts: name, value, tag, how, source."""
    found = []
    for figure in answer.figures:
        value = figure.value
        if isinstance(value, int | float) and not isinstance(value, bool):
            shown = human(value, figure.unit)
        else:
            shown = f"{text_of(value)} {figure.unit}".strip()
        found.append([_safe(text) for text in (figure.name, shown, figure.tag, figure.how, figure.source)])
    return found


def _safe(text: str) -> str:
    return plain(text).replace("|", "/")
