"""Sizes of the core's functions, private or not: checked before they reach an allocation or an index."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import sizes

from dsv3_numerics import _core


def test_absurd_sizes_are_refused_or_answered() -> None:
    """In a process of its own with little address space: what nobody checks would end it."""
    program = Path(__file__).parents[1] / "endurance" / "sizes.py"
    done = subprocess.run(
        [sys.executable, program, "--count", "1000"], capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_function_of_the_core_is_tried() -> None:
    functions = {name for name in dir(_core) if callable(getattr(_core, name)) and not name.startswith("_")}
    assert functions - sizes.WITHOUT == {name.split()[0] for name in sizes.CALLS}
