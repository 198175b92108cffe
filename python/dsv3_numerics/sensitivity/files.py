"""Files of an analysis: results.csv, results.json, plots, and report.md and report.html with it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..report.drawing import drawn_svg, save_possible
from ..report.files import write_json, write_lines, write_rows
from ..report.html import write_html
from .findings import findings
from .plots import PLOTS
from .report import lines
from .result import COLUMNS, SensitivityData
from .variant import LOGITS


def save(result: SensitivityData, folder: Path) -> Path:
    """Write every file into a folder, which is made if need be; returns the report."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(COLUMNS, result.records(), folder / "results.csv")
    write_json(content(result), folder / "results.json")
    plots = save_possible(result, PLOTS, folder)
    write_html(lines(result, plots), drawn_svg(result, PLOTS), folder / "report.html")
    return write_lines(lines(result, plots), folder / "report.md")


def content(result: SensitivityData) -> dict[str, Any]:
    """Collect what the JSON file holds: all figures, the costs, and figures of the logits token by token."""
    return {
        "partial": result.partial or None,
        "notes": result.notes,
        "recipe": json.loads(result.recipe.to_json()),
        "settings": result.settings,
        "seconds": result.seconds,
        "findings": findings(result),
        "costs": [_plain(cost) | {"effect": cost.effect} for cost in result.costs()],
        "rows": list(result.records()),
        "tokens": {v.name: result.part(LOGITS, v)["tokens"] for v in result.done(LOGITS)},
    }


def _plain(value: Any) -> Any:
    """Named tuples, however nested, as mappings."""
    if hasattr(value, "_asdict"):
        return {name: _plain(part) for name, part in value._asdict().items()}
    return value
