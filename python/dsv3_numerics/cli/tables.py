"""The verbs that list what can be named: ``accumulators``, ``dialects``, ``schemes`` and ``recipes``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import click

from .console import make_console, print_json
from .options import json_option


@click.command("accumulators")
@json_option
def accumulators_command(as_json: bool) -> None:
    """List the accumulators of matrix units that products can be added by.

    Their names are what `accumulator=` and a recipe's field take.

    \b
    Examples:
      dsv3-numerics accumulators
      dsv3-numerics accumulators --json
    """
    from ..accumulator import accumulators

    _print([asdict(info) for info in accumulators()], as_json)


@click.command("dialects")
@json_option
def dialects_command(as_json: bool) -> None:
    """List the dialects of low-precision checkpoints: how published files hold a weight X.

    {x} is the weight's name, {m} the same without ".weight". Those are what inspect names, and what convert
    and open read; convert writes the ones that its help names.

    \b
    Examples:
      dsv3-numerics dialects
      dsv3-numerics dialects --json
    """
    from ..checkpoint.dialects import DIALECTS, summary

    rows = [asdict(row) | {"product": row.product} if as_json else summary(row) for row in DIALECTS]
    _print(rows, as_json)


@click.command("schemes")
@click.argument("shape", required=False, default="4096x7168", metavar="ROWSxCOLUMNS")
@json_option
def schemes_command(shape: str, as_json: bool) -> None:
    """List schemes by name, with what they stand for and their bits per element with scales.

    Any other is spelled format:group:scale[:rule], as e4m3:1x128:f32: formats are those of the verb formats;
    groups ROWSxCOLUMNS, row, col and tensor. Bits are those of a matrix of that shape, 4096x7168 by default.

    \b
    Examples:
      dsv3-numerics schemes
      dsv3-numerics schemes 128x512 --json
    """
    from ..schemes import NAMED, Scheme
    from ..study import DEFAULT_SCHEMES

    rows, cols = _shape(shape)
    names = dict.fromkeys([*NAMED, *map(str, DEFAULT_SCHEMES)])
    found = []
    for name in names:
        bits = Scheme.parse(name).bits(rows, cols)
        meaning = NAMED.get(name, "")
        found.append({"name": name, "meaning": meaning, "bits": bits / (rows * cols) if bits else None})
    _print(found, as_json)


@click.command("recipes")
@click.argument("name", required=False)
@json_option
def recipes_command(name: str | None, as_json: bool) -> None:
    """List the recipes by name, or print the fields of one.

    \b
    Examples:
      dsv3-numerics recipes
      dsv3-numerics recipes deepseek_v3
      dsv3-numerics recipes deepseek_v3 --json > mine.json    a file for --recipe
    """
    import json

    from ..model import PRESETS, Recipe

    if name is None:
        recipes = [(preset, Recipe.preset(preset)) for preset in PRESETS]
        _print(
            [{"name": preset, "choices": list(recipe.choices())} for preset, recipe in recipes],
            as_json,
        )
        return
    try:
        recipe = Recipe.preset(name)
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("recipe: "), param_hint="NAME") from error
    if as_json:
        print_json(json.loads(recipe.to_json()))
    else:
        click.echo(str(recipe))


def _shape(text: str) -> tuple[int, int]:
    rows, _, cols = text.partition("x")
    if not (rows.isdigit() and cols.isdigit() and int(rows) and int(cols)):
        raise click.BadParameter(f"found {text!r}, expected a shape such as 4096x7168", param_hint="SHAPE")
    return int(rows), int(cols)


def _print(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print rows of the same columns as JSON, or as a table."""
    if as_json:
        print_json(rows)
        return
    from ..report.terminal import Column, rich_table

    columns: list[Column] = [
        (
            name,
            {
                "justify": "right" if _is_number(rows[0][name]) else "left",
                "overflow": "fold",
                "no_wrap": name == "name",  # what users copy stays in one piece
            },
        )
        for name in rows[0]
    ]
    make_console().print(rich_table(columns, ([_text(value) for value in row.values()] for row in rows)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return str(value)
