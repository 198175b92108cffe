"""What the verbs share: the console, the progress bar, and the exit code of an interruption."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
BY_USER = "interrupted by the user"

_NAME = 36  # columns for what is being done


def make_console() -> Console:
    """A console that fits its terminal; into a pipe or a file it writes lines of 120 columns."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=120)


def writable(folder: Path) -> Path:
    """A folder to write into, made if need be; checked before any work is done."""
    from ..study.files import ensure_writable

    try:
        ensure_writable(folder)
    except OSError as error:
        raise click.ClickException(f"--out: cannot write into {folder}: {error.strerror or error}") from error
    return folder


@contextmanager
def progress_bar(total: float, rate: str = "") -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error, if that is a terminal.

    Parameters
    ----------
    total : float
        Of all there is to do.
    rate : str
        The unit of the speed to show, in millions a second; empty: none is shown.

    Yields
    ------
    callable
        To be called with a name and how much was done since the last call.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from ..study.tables import plain

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
    with Progress(*columns, console=console, transient=True, disable=hidden, speed_estimate_period=10) as bar:
        task = bar.add_task("", total=total)

        def report(name: str, done: float) -> None:
            bar.update(task, advance=done, description=plain(name)[-_NAME:].rjust(_NAME))

        yield report
