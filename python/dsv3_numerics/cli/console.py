"""What the verbs share: the console, the progress bar, and the exit code of an interruption."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from .._progress import Progress

INTERRUPTED = 130
BY_USER = "interrupted by the user"

_NAME = 36  # columns for what is being done


def make_console() -> Console:
    """A console that fits its terminal; into a pipe or a file it writes lines of 120 columns."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=120)


def writable(folder: Path) -> Path:
    """A folder to write into, made if need be; checked before any work is done."""
    from .._atomic import ensure_writable

    try:
        ensure_writable(folder)
    except OSError as error:
        raise click.ClickException(f"--out: cannot write into {folder}: {error.strerror or error}") from error
    return folder


@contextmanager
def progress_bar(rate: str = "") -> Iterator[Progress]:
    """A bar on standard error, if that is a terminal.

    Parameters
    ----------
    rate : str
        The unit of the speed to show, in millions a second; empty: none is shown.

    Yields
    ------
    Progress
    """
    from rich.console import Console
    from rich.progress import BarColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from ..report.text import plain

    class Rate(TextColumn):
        def render(self, task: Task) -> Any:
            self.text_format = f"{(task.speed or 0) / 1e6:6.1f} M {rate}/s" if rate else ""
            return super().render(task)

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        Rate(""),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    hidden = not console.is_terminal
    with Bar(*columns, console=console, transient=True, disable=hidden, speed_estimate_period=10) as bar:
        task = bar.add_task("", total=None)

        def progress(name: str, done: float, total: float) -> None:
            bar.update(task, completed=done, total=total, description=plain(name)[-_NAME:].rjust(_NAME))

        yield progress
