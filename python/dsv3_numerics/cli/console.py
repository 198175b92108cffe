"""Common ground of the verbs: the console, progress, interruptions and their exit codes, JSON."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import Console

    from .._progress import Progress

INTERRUPTED, TERMINATED = 130, 143
BY_USER, BY_SYSTEM = "interrupted by the user", "terminated by the system"
_CODES = {BY_USER: INTERRUPTED, BY_SYSTEM: TERMINATED}

_NAME = 36  # columns for what is being done


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run as Ctrl-C does, with a code of its own."""


def ensure_streams() -> None:
    """Refuse a closed standard output before any file takes its number; a closed standard error is nowhere.

    Names of files that are no text are written with escapes, on both.

    Raises
    ------
    OSError
        Standard output is closed.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (for the process)
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed, expected it open (>/dev/null drops it)")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def silence() -> None:
    """Send what is still to be written on standard output nowhere: writing it fails."""
    if sys.stdout is None:
        return
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # none of the system's
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(nowhere, number)
    finally:
        os.close(nowhere)


@contextmanager
def terminations() -> Iterator[None]:
    """Raise `Terminated` where SIGTERM arrives, within a block of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def resumable(how: str) -> Iterator[None]:
    """Say how to go on where a block is interrupted: `main` prints the note of the interruption."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(how)
        raise


class Partial(Protocol):
    """A result that may be of an interrupted run."""

    partial: str


@contextmanager
def keeping(result: Partial) -> Iterator[None]:
    """Note an interruption of a block in its result, which keeps what is done."""
    try:
        yield
    except Terminated:
        result.partial = BY_SYSTEM
    except KeyboardInterrupt:
        result.partial = BY_USER


def leave(result: Partial) -> None:
    """End a verb whose result is partial: exit code 130, 143, or 1 for any other reason."""
    if result.partial:
        sys.exit(_CODES.get(result.partial, 1))


def make_console(*, quiet: bool = False) -> Console:
    """Make a console that fits its terminal; into a pipe or a file it writes lines of 120 columns."""
    from rich.console import Console

    return Console(quiet=quiet) if sys.stdout.isatty() else Console(width=120, quiet=quiet)


LONGEST = 2000
"""Characters of a line of a message."""


def error_text(error: Exception) -> str:
    """Write an error as people read it: an operating system's without number and brackets, none for ever."""
    return bounded(_told(error))


def bounded(text: str) -> str:
    """Cut lines that are longer than anybody reads."""
    return "\n".join(
        line if len(line) <= LONGEST else f"{line[:LONGEST]}... ({len(line)} signs)"
        for line in text.split("\n")
    )


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        named = error.filename is not None and str(error.filename) not in error.strerror
        return f"{error.filename}: {error.strerror}" if named else error.strerror
    return str(error) or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)


def print_json(content: Any) -> None:
    """Print JSON on standard output; null for figures that JSON does not have."""
    from ..report.files import json_ready

    click.echo(json.dumps(json_ready(content), indent=1))


def writable(folder: Path) -> Path:
    """Check a folder to write into before any work is done; it is made if need be."""
    from .._atomic import RESERVE, ensure_space, ensure_writable

    try:
        ensure_writable(folder)
        ensure_space(folder, RESERVE)
    except OSError as error:
        raise click.ClickException(f"--out: cannot write into {folder}: {error.strerror or error}") from error
    return folder


def makeable(context: click.Context, parameter: click.Parameter, folder: Path | None) -> Path | None:
    """Check a folder that an option names, as its callback: it is made when there is something to write."""
    if folder is not None:
        ensure_place(folder, parameter.opts[0])
    return folder


def ensure_place(folder: Path, option: str = "--out") -> None:
    """Check that a folder can be made and written into, before any work is done; nothing is made."""
    from .._atomic import RESERVE, ensure_makeable, ensure_space

    try:
        ensure_makeable(folder)
        ensure_space(folder, RESERVE)
    except OSError as error:
        told = f"{option}: cannot write into {folder}: {error.strerror or error}"
        raise click.ClickException(told) from error


def writable_file(file: Path, *, overwrite: bool, option: str = "--out") -> None:
    """Check a file to write before any work is done: its folder must take it, and nothing else be there."""
    from .._atomic import RESERVE, ensure_space, ensure_writable

    if file.exists() and not file.is_file():
        raise click.ClickException(f"{option}: {file} is there and not a file")
    if file.exists() and not overwrite:
        raise click.ClickException(f"{option}: {file} is there already; give another name, or --overwrite")
    if not file.parent.is_dir():
        raise click.ClickException(f"{option}: {file.parent}: no such folder")
    try:
        ensure_writable(file.parent)
        ensure_space(file.parent, RESERVE)
    except OSError as error:
        raise click.ClickException(f"{option}: cannot write {file}: {error.strerror or error}") from error


def results_folder(folder: Path, about: Mapping[str, Any], *, overwrite: bool) -> Path:
    """Check a folder for results: it must be writable, and hold none of another run.

    Parameters
    ----------
    folder : Path
    about : mapping
        What the results are of, as results.json says it.
    overwrite : bool
        Whether other results may be replaced.
    """
    from ..report.files import other_results

    writable(folder)
    other = "" if overwrite else other_results(folder, about)
    if other:
        raise click.ClickException(f"--out: {folder} holds {other}; give another folder, or --overwrite")
    return folder


@contextmanager
def progress_bar(rate: str = "", scale: float = 1e6) -> Iterator[Progress]:
    """Show progress on standard error: a bar where that is a terminal, else a line now and then.

    Parameters
    ----------
    rate : str
        Unit of the speed to show, as ``M elements``; empty: none is shown.
    scale : float
        Work in that unit.

    Yields
    ------
    Progress
    """
    if not sys.stderr.isatty():
        yield LogLines().progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from ..report.text import plain

    class Rate(TextColumn):
        def render(self, task: Task) -> Any:
            self.text_format = f"{(task.speed or 0) / scale:6.2f} {rate}/s" if rate else ""
            return super().render(task)

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        Rate(""),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=10) as bar:
        task = bar.add_task("", total=None)

        def progress(name: str, done: float, total: float) -> None:
            bar.update(task, completed=done, total=total, description=plain(name)[-_NAME:].rjust(_NAME))

        yield progress


class LogLines:
    """Progress in a log: a line every 30 seconds or 5 %, whichever is first; none of a run of a few seconds.

    Parameters
    ----------
    clock : callable
        Seconds.
    """

    SHORT = 10.0
    SECONDS = 30.0
    STEP = 0.05

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = self._last = clock()
        self._share = 0.0

    def progress(self, name: str, done: float, total: float) -> None:
        """Write a line, if it is time for one."""
        from ..report.text import plain

        now, share = self._clock(), done / total if total else 0.0
        due = now - self._last >= self.SECONDS or share - self._share >= self.STEP
        if not due or now - self._start < self.SHORT:
            return
        self._last, self._share = now, share
        took = now - self._start
        left = f", {_duration(took / share - took)} left" if 0 < share < 1 else ""
        click.echo(f"{share:4.0%}  {plain(name)}  ({_duration(took)}{left})", err=True)


def _duration(seconds: float) -> str:
    """Write a time in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
