"""The files of an experiment: results.csv, results.json, its plots, and report.md, which shows it all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..study import provenance
from ..study.drawing import save_possible
from ..study.files import json_ready, write_rows, write_text
from ..study.tables import markdown
from .experiment import Result


def save(result: Result, folder: Path) -> Path:
    """Write every file into a folder, which is made if need be; returns the report.

    The CSV and JSON files say nothing of the machine's speed: the same seed and package write the same CSV.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(result, folder / "results.csv")
    write_json(result, folder / "results.json")
    plots = save_possible(result, result.experiment.plots, folder)
    return write_text("\n".join(_lines(result, plots)) + "\n", folder / "report.md")


def write_csv(result: Result, path: Path) -> Path:
    """One line per row; columns that a part does not have are empty in its rows."""
    columns = list(dict.fromkeys(name for row in result.rows for name in row)) or ["part"]
    return write_rows(columns, result.rows, path)


def write_json(result: Result, path: Path) -> Path:
    """Everything: rows, remarks, known figures beside the measured ones, versions and settings."""
    about = result.experiment
    content = {
        "experiment": about.name,
        "title": about.title,
        "shows": about.shows,
        "source": about.source,
        "partial": result.partial or None,
        "settings": result.settings,
        "seconds": result.seconds,
        "remarks": result.remarks(),
        "known": [
            {"what": known.what, "known": known.value, "measured": measured}
            for known, measured in result.comparison()
        ],
        "rows": result.rows,
    }
    return write_text(json.dumps(json_ready(content), indent=1) + "\n", path)


def _lines(result: Result, plots: Mapping[str, str]) -> Iterator[str]:
    about = result.experiment
    yield f"# {about.title}"
    yield ""
    if result.partial:
        yield f"> **Partial: {result.partial}.** What is here was finished."
        yield ""
    if result.setting.quick:
        yield "> A quick run, of small sizes: its figures scatter more than those of a full run."
        yield ""
    yield f"{about.shows} Source: {about.source}."
    yield ""
    yield from _findings(result, plots)
    yield "## How this was made"
    yield ""
    quick = " --quick" if result.setting.quick else ""
    yield f"* command: `dsv3-numerics experiment {about.name} --seed {result.setting.seed}{quick}`"
    yield from (f"* {what}: {text}" for what, text in provenance.lines(result.settings))
    yield f"* time: {result.seconds:.1f} s"


def _findings(result: Result, plots: Mapping[str, str]) -> Iterator[str]:
    remarks = result.remarks()
    if remarks:
        yield "## What came out"
        yield ""
        yield from (f"* {remark}" for remark in remarks)
        yield ""
    for title, name in plots.items():
        yield f"## {title}"
        yield ""
        yield f"![{title}]({name})"
        yield ""
    for table in result.tables():
        yield f"## {table.title}"
        yield ""
        if table.note:
            yield table.note
            yield ""
        yield from markdown(table.header, table.rows)
    comparison = result.comparison()
    if comparison:
        yield "## Known figures beside the measured ones"
        yield ""
        yield "Known: published, or found earlier by an independent prototype."
        yield ""
        rows = [[k.what, k.spelled(k.value), k.spelled(measured)] for k, measured in comparison]
        yield from markdown(["", "known", "measured"], rows)
