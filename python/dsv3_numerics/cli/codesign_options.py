"""Options that the parts of ``codesign`` share, and how an answer ends: tables, JSON, files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import make_console, makeable, writable
from .options import PATH, Command

if TYPE_CHECKING:
    from ..codesign import Answer
    from ..report.terminal import Column

_TOO_LONG = {"map", "count", "error_of", "distribution", "printed", "bytes_sent", "cache_bytes"}
_TOO_LONG_OF_PAPER = {"how"}
_TEXTS = {"format", "dispatch", "combine", "cache", "bound_by", "policy", "source"}


def outputs(function: Command) -> Command:
    """Add the options of every part."""
    json_option = click.option("--json", "as_json", is_flag=True, help="JSON to standard output.")
    out = click.option(
        "--out",
        type=PATH,
        callback=makeable,
        metavar="DIR",
        help="Also write CSV, JSON, report.md and plots.",
    )
    return out(json_option(function))


def on_machine(function: Command) -> Command:
    """Add the options of a machine."""
    named = click.option(
        "--hardware",
        default="h800",
        show_default=True,
        metavar="NAME|FILE.toml",
        help="A machine of the package, or of a file: FILE.toml, FILE.toml:NAME.",
    )
    change = click.option(
        "--set",
        "changes",
        multiple=True,
        metavar="KEY=VALUE",
        help="A figure of it, as network=100e9.",
    )
    return named(change(function))


CONFIG = click.argument("config", metavar="CONFIG")
MTP = click.option("--mtp", is_flag=True, help="Count the layers of multi-token prediction too.")


def integers(text: str, name: str) -> list[int]:
    """Whole numbers as 1,4096 or, doubling, 1:512."""
    span = re.fullmatch(r"(\d+):(\d+)", text)
    if span and 1 <= int(span[1]) <= int(span[2]) < 1 << 40:
        low, high = int(span[1]), int(span[2])
        steps = [low << k for k in range(high.bit_length()) if low << k < high]
        return [*steps, high]
    parts = text.split(",")
    if len(parts) > 64 or not all(re.fullmatch(r"\s*-?\d{1,15}\s*", part) for part in parts):
        raise ValueError(f"{name}: found {text!r}, expected whole numbers, as 1,4096 or 1:512")
    return [int(part) for part in parts]


def numbers(text: str, name: str, separator: str = ",") -> list[float]:
    try:
        return [float(part) for part in text.split(separator)]
    except ValueError:
        raise ValueError(f"{name}: found {text!r}, expected numbers between {separator!r}") from None


def finish(answer: Answer, as_json: bool, out: Path | None) -> None:
    """Print an answer: JSON, or tables and notes; and write its files."""
    from ..codesign.files import cells, figure_rows, sweep, to_json
    from ..report.terminal import rich_table

    report = answer.save(writable(out)) if out is not None else None
    if as_json:
        click.echo(to_json(answer))
        return
    console = make_console()
    whole = answer.part == "paper"
    shown = [
        i for i, name in enumerate(answer.columns) if name not in (_TOO_LONG_OF_PAPER if whole else _TOO_LONG)
    ]
    columns: list[Column] = []
    for i in shown:
        to_left = whole or i == 0 or answer.columns[i] in _TEXTS
        columns.append((answer.columns[i], {"justify": "left" if to_left else "right", "overflow": "fold"}))
    rows = (cells(row, answer) for row in answer.rows)
    console.print(rich_table(columns, ([row[i] for i in shown] for row in rows)))
    header, lines = sweep(answer)
    if lines:
        console.print(rich_table([(name, {"justify": "right"}) for name in header], lines))
    if not whole:
        names: list[Column] = ["figure", ("value", {"justify": "right"}), "tag", "how"]
        console.print(rich_table(names, [row[:4] for row in figure_rows(answer)]))
    for note in answer.notes:
        console.print(f"• {note}", markup=False, highlight=False)
    if report is not None:
        console.print(f"Report: {report}", markup=False, highlight=False, soft_wrap=True)


def recipe_formats(name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Take formats from a recipe, under those that were given themselves; None is left out."""
    from ..codesign.recipes import formats_of

    found = formats_of(name, tuple(given)) if name is not None else {}
    return found | {key: value for key, value in given.items() if value is not None}
