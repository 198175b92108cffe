"""The verb ``experiment``: what the papers claim, measured again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import keeping, leave, make_console, print_json, progress_bar, results_folder
from .options import PATH, json_option, threads_option

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..experiments import Experiment, Result


@click.command("experiment")
@click.argument("name", required=False)
@click.option("--out", type=PATH, metavar="DIR", help="Output folder  [default: experiment-NAME]")
@click.option(
    "--seed", type=click.IntRange(0), default=0, metavar="N", help="Seed for all random numbers  [default: 0]"
)
@click.option("--quick", is_flag=True, help="Small sizes: seconds, to see that it works.")
@click.option("--overwrite", is_flag=True, help="Replace other results in the output folder.")
@threads_option("all CPUs")
@json_option
def experiment_command(
    name: str | None,
    out: Path | None,
    seed: int,
    quick: bool,
    overwrite: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Run an experiment, or list them all.

    Written are results.csv, results.json, report.md and plots. The same seed gives the same figures. Ctrl-C
    keeps what is done.

    \b
    Examples:
      dsv3-numerics experiment                     the table of experiments
      dsv3-numerics experiment logfmt              one of them, into experiment-logfmt/
      dsv3-numerics experiment drift --quick --out /tmp/drift
    """
    from ..experiments import EXPERIMENTS, find

    console = make_console(quiet=as_json)
    if name is None:
        if as_json:
            print_json([{"name": e.name, "shows": e.shows, "source": e.source} for e in EXPERIMENTS])
        console.print(_table())
        return
    try:
        chosen = find(name)
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("name: "), param_hint="NAME") from error
    about = {"experiment": chosen.name, "seed": seed, "quick": quick}
    folder = results_folder(out or Path(f"experiment-{chosen.name}"), about, overwrite=overwrite)
    result = _run(chosen, seed, quick, threads)
    _finish(result, folder, console)
    if as_json:
        click.echo((folder / "results.json").read_text())
    leave(result)


def _table() -> Table:
    from ..experiments import EXPERIMENTS
    from ..report.terminal import Column, rich_table

    columns: list[Column] = [
        ("name", {"no_wrap": True}),
        ("what it shows", {"ratio": 3}),
        ("source", {"ratio": 2}),
    ]
    return rich_table(columns, ((row.name, row.shows, row.source) for row in EXPERIMENTS), show_lines=True)


def _run(chosen: Experiment, seed: int, quick: bool, threads: int | None) -> Result:
    """Do all jobs with a progress bar; interrupted, the result says so and keeps what is done."""
    from ..experiments import execute, prepare

    result, jobs = prepare(chosen, seed=seed, quick=quick)
    with progress_bar() as progress, keeping(result):
        execute(result, jobs, threads=threads, progress=progress)
    return result


def _finish(result: Result, folder: Path, console: Console) -> None:
    report = result.save(folder)
    console.print(result.experiment.title, style="bold")
    for finding in result.findings():
        console.print(f"• {finding}", markup=False, highlight=False)
    if result.partial:
        console.print(f"Partial: {result.partial}", style="bold red", markup=False, highlight=False)
        console.print("The same command begins anew and replaces it.", markup=False, highlight=False)
    console.print(f"Report: {report}", markup=False, highlight=False, soft_wrap=True)
