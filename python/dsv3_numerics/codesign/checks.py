"""Checks of arguments: each raises ValueError that names the argument, what was found and expected."""

from __future__ import annotations

import difflib
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import brief
from .._regular import open_regular, read_array_header


def integer(value: Any, name: str, least: int, most: int) -> int:
    """Return an integer between `least` and `most`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"{name}: found {value!r}, expected an integer")
    number = int(value.__index__())
    if not least <= number <= most:
        raise ValueError(f"{name}: found {number}, expected {least} to {most}")
    return number


def number(value: Any, name: str, *, positive: bool = False, most: float = math.inf) -> float:
    """Return a finite number of at least 0 (above 0 if `positive`), at most `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name}: found {value!r}, expected a number")
    good = abs(value) <= sys.float_info.max and (value > 0 if positive else value >= 0) and value <= most
    if not good:
        bound = "above 0" if positive else "of at least 0"
        end = f" and at most {most:g}" if math.isfinite(most) else ""
        raise ValueError(f"{name}: found {brief(value)}, expected a number {bound}{end}")
    return float(value)


def one_of(found: Any, name: str, possible: Iterable[str]) -> None:
    """Check a word of a list."""
    words = list(possible)
    if isinstance(found, str) and found in words:
        return
    close = difflib.get_close_matches(str(found), words, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(f"{name}: found {found!r}, expected one of {', '.join(words)}{hint}")


def read_array(path: str | Path, name: str) -> NDArray[Any]:
    """Return an array from an ``.npy`` file; no pickles."""
    try:
        with open_regular(path) as file:
            length = os.fstat(file.fileno()).st_size
            read_array_header(file, length).ensure_fits(length)
            file.seek(0)
            found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
        raise ValueError(f"{name}: cannot read {path}: {error}".splitlines()[0]) from None
    return found
