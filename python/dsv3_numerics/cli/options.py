"""Options that several verbs have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
"""Type of arguments and options that name files and folders."""


def files_option(name: str, metavar: str, told: str) -> Callable[[Command], Command]:
    """Add an option that names a file, and may be repeated."""
    return click.option(name, multiple=True, type=PATH, metavar=metavar, help=told)


def json_option(command: Command) -> Command:
    """Add ``--json`` to a verb."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def threads_option(default: str) -> Callable[[Command], Command]:
    """Add ``--threads`` to a verb; `default` says how many there are without it."""
    told = f"Threads  [default: {default}]"
    return click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help=told)


def glob_options(what: str) -> Callable[[Command], Command]:
    """Add ``--include`` and ``--exclude`` to a verb, for names of such things."""

    def add(command: Command) -> Command:
        for name, text in (("--exclude", "No"), ("--include", "Only")):
            told = f"{text} {what} whose name matches; may be repeated."
            command = click.option(name, multiple=True, metavar="GLOB", help=told)(command)
        return command

    return add


def missing_scale_option(command: Command) -> Command:
    """Add ``--missing-scale`` to a verb."""
    told = "1: FP8 codes without any scale are the numbers themselves."
    return click.option("--missing-scale", type=click.Choice(["1"]), help=told)(command)
