"""The verb ``inspect``: what a checkpoint is made of, and what in it is inconsistent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import make_console
from .options import PATH, glob_options, missing_scale_option

if TYPE_CHECKING:
    from rich.table import Table

    from ..checkpoint.inspection import Group, Inspection

_EXAMPLES = 3  # of each kind of problem


@click.command("inspect")
@click.argument("path", type=PATH)
@click.option("--scales", is_flag=True, help="Read all scales: NaN, infinite, negative, zero; their range.")
@glob_options("tensors")
@missing_scale_option
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON, each tensor included.")
def inspect_command(
    path: Path,
    scales: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    missing_scale: str | None,
    as_json: bool,
) -> None:
    """Show what a checkpoint holds, what is quantized and how, and what is inconsistent.

    PATH is a .safetensors file, a checkpoint folder, or the folder of a model in a cache. Values are not
    read, except for scales: a sample of them, to see whether float32 scales are powers of two, or all of
    them with --scales. The exit code is 1 if anything is wrong; notes, which do no harm, leave it 0.

    \b
    Examples:
      dsv3-numerics inspect ./DeepSeek-V3
      dsv3-numerics inspect ./DeepSeek-V3 --scales
      dsv3-numerics inspect model-00001-of-000163.safetensors --include '*kv_a_proj*'
      dsv3-numerics inspect ./DeepSeek-V3 --json | jq .scales
    """
    from ..checkpoint import inspect

    found = inspect(
        path,
        include=include,
        exclude=exclude,
        scales=scales,
        missing_scale=1 if missing_scale else None,
    )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        _show(found)
    if not found.consistent:
        sys.exit(1)


def _show(found: Inspection) -> None:
    from ..report.text import plain

    console = make_console()

    def line(text: str, style: str = "") -> None:
        console.print(plain(text), style=style, markup=False, highlight=False, soft_wrap=True)

    total = found.total
    facts = (_many(len(found.files), "file"), _many(total.tensors, "tensor"), _size(total.nbytes))
    line(f"{found.path}: {', '.join(facts)}, {_count(total.parameters)} parameters", style="bold")
    for table in (_patterns(found), _groups("layer", _layer_rows(found)), _groups("dtype", _dtypes(found))):
        if table.row_count:
            console.print(table)
    for text in _quantization(found):
        line(text)
    for text, style in _problems(found):
        line(text, style)


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _count(number: int) -> str:
    """Return a number of parameters, in thousands, millions or billions."""
    for unit, power in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= power:
            return f"{number / power:.4g} {unit}" if number < 1000 * power else f"{number / power:.0f} {unit}"
    return str(number)


def _size(number: int) -> str:
    """Return a number of bytes, decimal."""
    for unit, power in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= power:
            return f"{number / power:.4g} {unit}"
    return f"{number} B"


def _table(*columns: tuple[str, str]) -> Table:
    from ..report.terminal import Column, rich_table

    made: list[Column] = []
    for title, justify in columns:
        wide: Any = {"overflow": "fold"} if title == "tensor" else {"no_wrap": True}
        made.append((title, {"justify": "right" if justify == ">" else "left", **wide}))
    return rich_table(made)


def _patterns(found: Inspection) -> Table:
    from rich.text import Text

    from ..report.text import plain

    several = len(found.dialects) > 1  # one is named below
    table = _table(
        ("tensor", "<"),
        ("dtype", "<"),
        ("shape", "<"),
        ("scales", "<"),
        *([("stored as", "<")] if several else []),
        ("count", ">"),
        ("bytes", ">"),
    )
    for row in found.patterns:
        name = plain(row.name)
        short = name if len(name) <= 120 else f"{name[:80]}...{name[-20:]}"
        shape = str(list(row.shape)) if len(row.shape) <= 8 else f"{len(row.shape)} axes"
        scales = row.scales if len(row.scales) <= 40 else row.scales[:37] + "..."
        dialect = [row.dialect] if several else []
        cells = (short, row.dtype, shape, scales, *dialect, str(row.tensors), _size(row.nbytes))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _groups(title: str, rows: list[tuple[str, Group]]) -> Table:
    table = _table((title, "<"), ("tensors", ">"), ("parameters", ">"), ("bytes", ">"))
    for name, group in rows:
        table.add_row(name, str(group.tensors), _count(group.parameters), _size(group.nbytes))
    return table


def _layer_rows(found: Inspection) -> list[tuple[str, Group]]:
    """Layers in order; neighbours of the same make in one row, with the figures of each."""
    layers = sorted((int(name), group) for name, group in found.layers.items() if name)
    runs: list[tuple[int, int, Group]] = []
    for number, group in layers:
        alone = str(number) in found.mtp
        if runs and runs[-1][1] == number - 1 and runs[-1][2] == group and not alone:
            runs[-1] = (runs[-1][0], number, group)
        else:
            runs.append((number, number, group))
    rows = [(f"{a}" if a == b else f"{a}-{b}, each", group) for a, b, group in runs]
    rows = [(name + " (MTP)" * (name in found.mtp), group) for name, group in rows]
    return rows + [("none", group) for name, group in found.layers.items() if not name]


def _dtypes(found: Inspection) -> list[tuple[str, Group]]:
    return sorted(found.dtypes.items(), key=lambda item: -item[1].nbytes)


def _quantization(found: Inspection) -> list[str]:
    scales = found.scales
    if not found.dialects:
        return [] if found.problems else ["Nothing is quantized."]
    lines = []
    for name, group in sorted(found.dialects.items()):
        size = f" in blocks of {scales.block[0]}x{scales.block[1]}" if scales.block else ""
        shared = size if name in ("deepseek_v3", "deepseek_v4") else ""
        weights, parameters = _many(group.tensors, "weight"), _count(group.parameters)
        lines.append(f"Stored as {name}: {weights}, {parameters} parameters{shared}, {_size(group.nbytes)}.")
    if not scales.count:
        return lines
    kinds = ", ".join(f"{count} {dtype}" for dtype, count in sorted(scales.dtypes.items()))
    looked = f"all {scales.read}" if scales.read == scales.count else f"a sample of {scales.read}"
    what = {
        None: f"none is positive, by {looked}",
        True: f"powers of two (UE8M0), by {looked}",
        False: f"not only powers of two, by {looked}",
    }[scales.powers_of_two]
    reach = "" if scales.least is None else f", {scales.least:.4g} to {scales.largest:.4g}"
    declared = "" if scales.declared is None else f"; the configuration says {scales.declared}"
    return [*lines, f"Scales: {kinds}; {what}{reach}{declared}."]


def _problems(found: Inspection) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for note in (False, True):
        kinds: dict[str, list[str]] = {}
        for problem in found.problems:
            if problem.note is note:
                kinds.setdefault(problem.kind, []).append(problem.text)
        for kind, texts in kinds.items():
            style = "yellow" if note else "bold red"
            lines.append((f"{'Note' if note else 'Problem'}: {kind} ({len(texts)})", style))
            lines += [(f"  {text}", "") for text in texts[:_EXAMPLES]]
            if len(texts) > _EXAMPLES:
                lines.append((f"  and {len(texts) - _EXAMPLES} more", ""))
    return lines or [("Consistent.", "green")]
