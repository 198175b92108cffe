"""Forms of scales: the shapes that they are stored in, and the blocks of a weight that each is for.

Lives here: `Grid`, a weight seen as a stack of matrices in blocks, and `FORMS`, one function a form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

Shape = tuple[int, ...]


class Grid(NamedTuple):
    """A weight seen as a stack of matrices in blocks.

    Attributes
    ----------
    stack, rows, cols : int
    high, wide : int
        Rows and columns of a block.
    """

    stack: int
    rows: int
    cols: int
    high: int
    wide: int

    @property
    def down(self) -> int:
        """Scales down a matrix."""
        return -(-self.rows // self.high) if self.rows else 0

    @property
    def across(self) -> int:
        """Scales across a matrix."""
        return -(-self.cols // self.wide) if self.cols else 0

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of a block."""
        return self.high, self.wide

    def canonical(self) -> tuple[int, ...]:
        """Return the same for all grids that give every element the same scale."""
        high, wide = min(self.high, max(self.rows, 1)), min(self.wide, max(self.cols, 1))
        if not self.stack * self.rows * self.cols:
            return (0,)
        if self.down * self.across * self.stack == 1:
            return (1,)
        return self.stack, self.rows, self.cols, high, wide


def matrices(shape: Shape) -> tuple[int, int, int]:
    """Return a shape as a stack of matrices: (stack, rows, columns)."""
    if len(shape) < 2:
        return 1, 1, math.prod(shape)
    return math.prod(shape[:-2]), shape[-2], shape[-1]


class Ask(NamedTuple):
    """Input of a form."""

    shape: Shape
    scale: Shape
    block: tuple[int, int]
    group: int


def _one(ask: Ask) -> Grid | None:
    if math.prod(ask.scale) != 1 or len(ask.scale) > max(len(ask.shape), 1):
        return None
    if 0 in ask.shape:
        return None
    stack, rows, cols = matrices(ask.shape)
    return Grid(1, stack * rows, cols, max(stack * rows, 1), max(cols, 1))


def _row(ask: Ask) -> Grid | None:
    stack, rows, cols = matrices(ask.shape)
    shapes: list[Shape] = [(*ask.shape[:-1], 1)]
    if len(ask.shape) == 2:
        shapes.append((rows,))
    fits = len(ask.shape) > 1 and ask.scale in shapes
    return Grid(stack, rows, cols, 1, max(cols, 1)) if fits else None


def _column(ask: Ask) -> Grid | None:
    stack, rows, cols = matrices(ask.shape)
    fits = len(ask.shape) > 1 and ask.scale == (*ask.shape[:-2], 1, cols)
    return Grid(stack, rows, cols, max(rows, 1), 1) if fits else None


def _expert(ask: Ask) -> Grid | None:
    stack, rows, cols = matrices(ask.shape)
    fits = len(ask.shape) > 2 and ask.scale == (*ask.shape[:-2], 1, 1)
    return Grid(stack, rows, cols, max(rows, 1), max(cols, 1)) if fits else None


def _block(ask: Ask) -> Grid | None:
    if len(ask.shape) < 2:
        return None
    grid = Grid(*matrices(ask.shape), *ask.block)
    return grid if ask.scale == (*ask.shape[:-2], grid.down, grid.across) else None


def _split_block(ask: Ask) -> Grid | None:
    if len(ask.shape) < 2:
        return None
    grid = Grid(*matrices(ask.shape), *ask.block)
    return grid if ask.scale == (*ask.shape[:-2], grid.down, 1, grid.across, 1) else None


def _group(ask: Ask) -> Grid | None:
    stack, rows, cols = matrices(ask.shape)
    if len(ask.shape) < 2 or len(ask.scale) != len(ask.shape) or ask.scale[:-1] != ask.shape[:-1]:
        return None
    groups = ask.scale[-1]
    size = ask.group or (cols // groups if groups and cols % groups == 0 else 0)
    return Grid(stack, rows, cols, 1, size) if size and groups * size == cols else None


def _group_column(ask: Ask) -> Grid | None:
    if len(ask.scale) != len(ask.shape) + 1 or ask.scale[-1] != 1:
        return None
    return _group(ask._replace(scale=ask.scale[:-1], group=0))


# Shapes of scales: for a weight [..., N, K] with blocks or groups of a declared size.
FORMS: dict[str, tuple[str, Callable[[Ask], Grid | None]]] = {
    "one": ("one number: [] or [1]", _one),
    "row": ("[N, 1] or [N]", _row),
    "column": ("[..., 1, K]", _column),
    "expert": ("[E, 1, 1]", _expert),
    "block": ("[..., ceil(N / b), ceil(K / b)]", _block),
    "split_block": ("[ceil(N / b), 1, ceil(K / b), 1]", _split_block),
    "group": ("[..., N, K / g]", _group),
    "group_column": ("[N, K / g, 1]", _group_column),
}
