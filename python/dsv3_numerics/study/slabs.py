"""Slabs: a tensor of any size in pieces that fit in memory and cut no group in two.

A slab is some rows of the tensor, all columns of it; only where a few rows are already too much (a vector of
gigabytes) are the columns cut as well. Groups that reach beyond one slab get their largest magnitudes from a
first pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from ..schemes import Scheme
from ..schemes.scheme import WHOLE, Floats, Group

SLAB_ELEMENTS = 1 << 22
"""Elements of a slab, about: 16 MiB of float32, beside its codes and its approximation."""

_WIDE = 4  # a band of rows up to this many slabs large is still read whole: it reads the file in one run
_MAX_UNIT = 1 << 20


class Slab(NamedTuple):
    """Rows [r0, r1) and columns [c0, c1) of a tensor."""

    r0: int
    r1: int
    c0: int
    c1: int

    @property
    def size(self) -> int:
        """Elements."""
        return (self.r1 - self.r0) * (self.c1 - self.c0)


def plan(rows: int, cols: int, unit: tuple[int, int], budget: int = SLAB_ELEMENTS) -> list[Slab]:
    """Cut a (rows, cols) tensor in slabs of about `budget` elements whose borders are multiples of `unit`.

    Examples
    --------
    >>> plan(200, 1000, (128, 128), budget=128_000)
    [Slab(r0=0, r1=128, c0=0, c1=1000), Slab(r0=128, r1=200, c0=0, c1=1000)]
    """
    height, width = unit
    tall = max(budget // cols // height, 1) * height
    if min(height, rows) * cols > _WIDE * budget:
        tall = height
        cols_per = max(budget // min(height, rows) // width, 1) * width
    else:
        cols_per = cols
    return [
        Slab(r, min(r + tall, rows), c, min(c + cols_per, cols))
        for r in range(0, rows, tall)
        for c in range(0, cols, cols_per)
    ]


def unit_of(groups: Iterable[Group | None]) -> tuple[int, int]:
    """Return the smallest slab that cuts none of these groups (a group over a whole axis sets no border)."""
    found = [g for g in groups if g is not None]
    return math.lcm(*(g[0] or 1 for g in found)), math.lcm(*(g[1] or 1 for g in found))


def batches(schemes: Sequence[Scheme]) -> list[tuple[tuple[int, int], list[int]]]:
    """Put schemes together that can share slabs: (unit, indices of the schemes).

    One batch, unless the groups have sizes whose common multiple is out of proportion. A scheme that needs
    the whole tensor is a batch of its own.
    """
    found: list[tuple[tuple[int, int], list[int]]] = []
    for i, scheme in enumerate(schemes):
        if scheme.needs_whole_tensor:
            continue
        for k, (_, members) in enumerate(found):
            unit = unit_of([*(schemes[m].group for m in members), scheme.group])
            if unit[0] * unit[1] <= _MAX_UNIT:
                found[k] = (unit, [*members, i])
                break
        else:
            found.append((unit_of([scheme.group]), [i]))
    alone = [i for i, scheme in enumerate(schemes) if scheme.needs_whole_tensor]
    return [*found, *((unit_of([schemes[i].group]), [i]) for i in alone)]


@dataclass
class Amax:
    """Largest magnitudes of the groups that reach beyond a slab, gathered slab by slab."""

    rows: int
    cols: int
    found: dict[Group, Floats]

    @classmethod
    def needed(cls, rows: int, cols: int, slabs: Sequence[Slab], schemes: Iterable[Scheme]) -> Amax:
        """Room for what these schemes must be told; nothing is `found` if every slab speaks for itself."""
        groups: list[Group] = []
        for scheme in schemes:
            if scheme.needs_tensor_amax:
                groups.append(WHOLE)
            whole = scheme.needs_whole_tensor
            if scheme.group is not None and None in scheme.group and not whole:
                groups.append(scheme.group)
        cut_rows, cut_cols = slabs[0].r1 < rows, slabs[0].c1 < cols
        cut = [g for g in groups if (g[0] is None and cut_rows) or (g[1] is None and cut_cols)]
        return cls(rows, cols, {g: np.zeros(_grid(rows, cols, g), np.float32) for g in cut})

    def add(self, slab: Slab, x: npt.NDArray[np.floating]) -> None:
        """Take in the values of a slab."""
        for group, total in self.found.items():
            rows, cols = x.shape
            here = _grid(rows, cols, group)
            amax = np.empty(here[0] * here[1], np.float32)
            layout = (1, rows, cols, group[0] or rows, group[1] or cols)
            _core.amax((x.reshape(-1), x.dtype.name), layout, amax)
            part = total[_region(slab, group)]
            np.maximum(part, amax.reshape(here), out=part)

    def of(self, slab: Slab, group: Group | None) -> Floats | None:
        """Return the magnitudes of a slab's groups, in the shape of its scales; None where it needs none."""
        total = self.found.get(group) if group is not None else None
        return None if total is None else np.ascontiguousarray(total[_region(slab, group or WHOLE)])

    def tensor(self) -> float | None:
        """Return the largest magnitude of the tensor; None where it was not asked for."""
        total = self.found.get(WHOLE)
        return None if total is None else float(total[0, 0])


def _grid(rows: int, cols: int, group: Group) -> tuple[int, int]:
    return -(-rows // (group[0] or rows)), -(-cols // (group[1] or cols))


def _region(slab: Slab, group: Group) -> tuple[slice, slice]:
    def cut(start: int, stop: int, size: int | None) -> slice:
        return slice(0, 1) if size is None else slice(start // size, -(-stop // size))

    return cut(slab.r0, slab.r1, group[0]), cut(slab.c0, slab.c1, group[1])
