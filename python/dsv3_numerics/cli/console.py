"""What the verbs share: the console, and the exit code of an interruption."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130


def make_console() -> Console:
    """A console that fits its terminal; into a pipe or a file it writes lines of 120 columns."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=120)
