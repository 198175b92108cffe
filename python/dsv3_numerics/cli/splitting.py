"""Options of the verbs that one machine is too small for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import Command

if TYPE_CHECKING:
    from ..tasks.plan import Split


def split_options(command: Command) -> Command:
    """Add ``--part`` and ``--dask`` to a verb."""
    for option in (
        click.option(
            "--dask",
            metavar="WHERE",
            help="Let workers of Dask do it: tcp://host:8786, scheduler.json, or local:N processes.",
        ),
        click.option(
            "--part",
            metavar="I/N",
            help="Do the I-th of N parts, beside other processes or machines; the verb merge ends it.",
        ),
    ):
        command = option(command)
    return command


def split_of(part: str | None, dask: str | None, **others: object) -> Split:
    """Read ``--part`` and ``--dask``; the others are options that count threads, which Dask does."""
    from ..tasks.plan import Split

    for name, value in others.items():
        if dask is not None and value is not None:
            raise click.UsageError(f"--{name}: not with --dask, where each task takes one thread")
    try:
        return Split.of(part, dask)
    except ValueError as error:
        raise click.UsageError(f"--{error}") from error


def part_done(folder: Path, part: object, what: str) -> None:
    """Say that a part is done, and how to go on."""
    click.echo(f"Part {part} is done: {what}. When all parts are: dsv3-numerics merge {folder}")
