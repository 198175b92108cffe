"""Files of an experiment: results.csv, results.json, its plots, and report.md, which shows it all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ..report import provenance
from ..report.drawing import save_possible
from ..report.files import write_json, write_lines, write_rows
from ..report.page import ReportTable, findings_section, made_section, picture_sections, table_section
from .experiment import ExperimentData


def save(result: ExperimentData, folder: Path) -> Path:
    """Write every file into a folder, which is made if need be; returns the report.

    The CSV and JSON files say nothing of the machine's speed: the same seed and package write the same CSV.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in result.rows for name in row)) or ["part"]
    write_rows(columns, result.rows, folder / "results.csv")
    write_json(content(result), folder / "results.json")
    plots = save_possible(result, result.experiment.plots, folder)
    return write_lines(_lines(result, plots), folder / "report.md")


def content(result: ExperimentData) -> dict[str, object]:
    """Collect what the JSON file holds: rows, findings, published figures beside measured ones."""
    about = result.experiment
    return {
        "experiment": about.name,
        "title": about.title,
        "shows": about.shows,
        "source": about.source,
        "partial": result.partial or None,
        "settings": result.settings,
        "seconds": result.seconds,
        "findings": result.findings(),
        "published": [
            {"what": figure.what, "published": figure.value, "measured": measured}
            for figure, measured in result.comparison()
        ],
        "rows": result.rows,
    }


def _lines(result: ExperimentData, plots: Mapping[str, str]) -> Iterator[str]:
    about = result.experiment
    yield f"# {about.title}"
    yield ""
    if result.partial:
        yield f"> **Partial: {result.partial}.** What is here was finished."
        yield ""
    if result.config.quick:
        yield "> A quick run, of small sizes: its figures scatter more than those of a full run."
        yield ""
    yield f"{about.shows} Source: {about.source}."
    yield ""
    yield from findings_section(result.findings())
    yield from picture_sections(plots)
    for table in result.tables():
        yield from table_section(table)
    rows = [[f.what, f.spelled(f.value), f.spelled(measured)] for f, measured in result.comparison()]
    if rows:
        note = "Known: published, or found earlier by an independent prototype."
        title = "Known figures beside the measured ones"
        yield from table_section(ReportTable(title, ["", "known", "measured"], rows, note))
    quick = " --quick" if result.config.quick else ""
    yield from made_section(
        {
            "command": f"`dsv3-numerics experiment {about.name} --seed {result.config.seed}{quick}`",
            **dict(provenance.facts(result.settings)),
            "time": f"{result.seconds:.1f} s",
        }
    )
