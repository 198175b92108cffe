"""Progress of long work: the one type of callback that every function takes, and a counter that calls it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float, float], None]
"""Callback ``progress(name, done, total)``: the current item, the work done so far, and all of it.

The unit is the function's own (bytes, elements, layers); `done` never falls and ends at `total`.
"""


class Meter:
    """Counter of work done, which tells a callback.

    Parameters
    ----------
    progress : callable or None
        Called after each step, if there is one.
    total : float
        All there is to do.

    Examples
    --------
    >>> from dsv3_numerics._progress import Meter
    >>> meter = Meter(lambda name, done, total: print(name, done, total), 3)
    >>> meter.advance("a", 2)
    a 2.0 3
    >>> meter.advance("b")
    b 2.0 3
    """

    def __init__(self, progress: Progress | None, total: float) -> None:
        self._progress = progress
        self.total = total
        self.done = 0.0

    def advance(self, name: str, amount: float = 0.0) -> None:
        """Add to the work done; without an amount, announce the next item."""
        self.done += amount
        if self._progress is not None:
            self._progress(name, min(self.done, self.total), self.total)
