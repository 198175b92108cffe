"""The files of an attribution: results.csv, results.json, its plots, and report.md, which shows it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..study.drawing import save_possible
from ..study.files import json_ready, write_rows, write_text
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
    plots = save_possible(result, PLOTS, folder)
    return write_text("\n".join(lines(result, plots)) + "\n", folder / "report.md")


def write_csv(result: Attribution, path: Path) -> Path:
    """One line per figure; the header is `COLUMNS`, what a figure does not have is empty."""
    return write_rows(COLUMNS, result.records(), path)


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
    return write_text(json.dumps(json_ready(content), indent=1) + "\n", path)


def _plain(value: Any) -> Any:
    """Named tuples, however nested, as mappings."""
    if hasattr(value, "_asdict"):
        return {name: _plain(part) for name, part in value._asdict().items()}
    return value
