"""The files of an attribution: results.csv, results.json, its plots, and report.md, which shows it all."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from ..study.drawing import save_plots
from ..study.files import json_ready, replacing
from .plots import PLOTS
from .remarks import remarks
from .report import lines
from .result import COLUMNS, Attribution
from .variants import LOGITS


def save(result: Attribution, folder: Path) -> Path:
    """Write every file into a folder, which is made if need be; returns the report."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(result, folder / "results.csv")
    write_json(result, folder / "results.json")
    plots = _draw(result, folder)
    path = folder / "report.md"
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines(result, plots)) + "\n", encoding="utf-8")
    return path


def _draw(result: Attribution, folder: Path) -> dict[str, str]:
    """Every plot that the parts allow; the file's name by title."""
    drawn = {}
    for title, plot in PLOTS.items():
        try:
            drawn[title] = save_plots(result, {title: plot}, folder)[title].name
        except LookupError:
            continue
    return drawn


def write_csv(result: Attribution, path: Path) -> Path:
    """One line per figure; the header is `COLUMNS`, what a figure does not have is empty."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(result.records())
    return path


def write_json(result: Attribution, path: Path) -> Path:
    """Everything: the same figures, the costs, and those of the logits token by token."""
    content = {
        "partial": result.partial or None,
        "notes": result.notes,
        "recipe": json.loads(result.recipe.to_json()),
        "settings": result.settings,
        "seconds": result.seconds,
        "remarks": remarks(result),
        "costs": [_plain(cost) | {"verdict": cost.verdict} for cost in result.costs()],
        "rows": list(result.records()),
        "tokens": {v.name: result.part(LOGITS, v)["tokens"] for v in result.done(LOGITS)},
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(json_ready(content), indent=1) + "\n", encoding="utf-8")
    return path


def _plain(value: Any) -> Any:
    """Named tuples, however nested, as mappings."""
    if hasattr(value, "_asdict"):
        return {name: _plain(part) for name, part in value._asdict().items()}
    return value
