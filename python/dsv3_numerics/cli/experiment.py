"""The verb ``experiment``: what the papers claim, measured again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import BY_USER, INTERRUPTED, make_console, progress_bar, writable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..experiments import Experiment, Result


@click.command("experiment")
@click.argument("name", required=False)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Output folder  [default: experiment-NAME]"
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, metavar="N", help="Of all random numbers  [default: 0]"
)
@click.option("--quick", is_flag=True, help="Small sizes: seconds, to see that it works.")
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads  [default: all CPUs]")
def experiment_command(
    name: str | None, out: Path | None, seed: int, quick: bool, threads: int | None
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
    from ..experiments import find

    console = make_console()
    if name is None:
        console.print(_table())
        return
    try:
        chosen = find(name)
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("name: "), param_hint="NAME") from error
    folder = writable(out or Path(f"experiment-{chosen.name}"))
    result = _run(chosen, seed, quick, threads)
    _finish(result, folder, console)
    if result.partial:
        sys.exit(INTERRUPTED)


def _table() -> Table:
    from rich import box
    from rich.table import Table

    from ..experiments import EXPERIMENTS

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
    table.add_column("name", no_wrap=True)
    table.add_column("what it shows", ratio=3)
    table.add_column("source", ratio=2)
    for row in EXPERIMENTS:
        table.add_row(row.name, row.shows, row.source)
    return table


def _run(chosen: Experiment, seed: int, quick: bool, threads: int | None) -> Result:
    """Do all jobs with a progress bar; interrupted, the result says so and keeps what is done."""
    from ..experiments import execute, prepare

    result, jobs = prepare(chosen, seed=seed, quick=quick)
    with progress_bar() as progress:
        try:
            execute(result, jobs, threads=threads, progress=progress)
        except KeyboardInterrupt:
            result.partial = BY_USER
    return result


def _finish(result: Result, folder: Path, console: Console) -> None:
    report = result.save(folder)
    console.print(result.experiment.title, style="bold")
    for finding in result.findings():
        console.print(f"• {finding}", markup=False, highlight=False)
    if result.partial:
        console.print(f"Partial: {result.partial}", style="bold red", markup=False, highlight=False)
    console.print(f"Report: {report}", markup=False, highlight=False, soft_wrap=True)
