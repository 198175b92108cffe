"""Differences counted a band of rows at a time, by the core.

Lives here: pieces of arrays that need not be contiguous, and the counts of rows, tiles and blocks over bands.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array
from .kinds import Kind, as_codes

if TYPE_CHECKING:
    from .arrays import ArrayComparison

MAX_EDGE = 1 << 16
_BAND = 1 << 25  # bytes
_COPIED = 1 << 20
_WORST = 5
_CELLS = 48
_COUNTS = ("zeros", "nan_a", "nan_b", "nan_payloads", "saturated_a", "saturated_b")


class Pieces:
    """An array in C order, a few elements at a time.

    Parameters
    ----------
    array : ndarray
        Of any strides and byte order.
    dtype : numpy.dtype
        Dtype that elements are read as, in native byte order.
    """

    def __init__(self, array: Array, dtype: Any) -> None:
        whole = array.flags.c_contiguous
        self.flat: Any = array.reshape(-1) if whole else array.flat
        self.dtype = np.dtype(dtype).newbyteorder("=")
        self.size = array.size
        self.copied = not (whole and array.flags.aligned and array.dtype == self.dtype)

    def piece(self, start: int, stop: int) -> Array:
        """Return elements as unsigned integers, contiguous and aligned."""
        return self._codes(self.flat[start:stop])

    def at(self, places: NDArray[np.int64]) -> Array:
        """Return elements of some places."""
        return self._codes(self.flat[places])

    def _codes(self, part: Any) -> Array:
        codes = as_codes(np.asarray(part).astype(self.dtype, copy=False))
        return codes if codes.flags.aligned else codes.copy()


def same_bits(a: Pieces, b: Pieces) -> bool:
    """Tell whether all bits are equal."""
    return a.size == b.size and all(
        bool((a.piece(i, i + _COPIED) == b.piece(i, i + _COPIED)).all()) for i in range(0, a.size, _COPIED)
    )


def count_differences(
    result: ArrayComparison, kind: Kind, pair: tuple[Pieces, Pieces], shape: tuple[int, ...], edge: int
) -> None:
    """Count the differences of two arrays of one kind and size, and put them into a result."""
    size = pair[0].size
    cols = shape[-1] if shape and shape[-1] > 1 else max(size, 1)
    tally = _Tally(kind, size, cols, edge)
    most = _COPIED if pair[0].copied or pair[1].copied else _BAND // pair[0].dtype.itemsize
    high = max(1, most // (cols * edge)) * edge
    for top in range(0, tally.rows, high):
        tally.band(pair, top, min(high, tally.rows - top), max(1, most // min(edge, cols)))
    tally.finish(result, shape)


class _Tally:
    """Counts, added up over bands of whole blocks."""

    def __init__(self, kind: Kind, size: int, cols: int, edge: int) -> None:
        self.kind, self.cols, self.edge = kind, cols, edge
        self.rows, self.wide = -(-size // cols), -(-cols // edge)
        self.table = kind.code_table()
        self.bits: NDArray[np.int64] = np.zeros(65, np.int64)
        self.distances: NDArray[np.int64] = np.zeros(66, np.int64)
        self.counts = dict.fromkeys(_COUNTS, 0)
        self.touched = {"rows": 0, "tiles": 0, "blocks": 0}
        self.worst: list[tuple[int, int, float]] = []
        self.first: int | None = None
        self.max_abs = self.max_rel = self.signal = self.noise = 0.0
        self.steps = -(-max(self.rows, 1) // _CELLS), -(-self.wide // _CELLS)
        cells = -(-self.rows // self.steps[0]), -(-self.wide // self.steps[1])
        self.map: NDArray[np.int64] = np.zeros(cells, np.int64)

    def band(self, pair: tuple[Pieces, Pieces], top: int, rows: int, most: int) -> None:
        """Count rows, `most` tiles at a time."""
        counts: NDArray[np.uint32] = np.zeros(rows * self.wide, np.uint32)
        worst: NDArray[np.float64] = np.zeros(rows * self.wide)
        for tile in range(0, counts.size, most):
            end = min(tile + most, counts.size)
            start, stop = (self._begin(top * self.wide + t) for t in (tile, end))
            found = _core.differences(
                pair[0].piece(start, stop),
                pair[1].piece(start, stop),
                self.kind.meaning,
                self.table,
                (self.cols, self.edge, top * self.wide + tile),
                counts[tile:end],
                worst[tile:end],
            )
            self._add(found, start)
        if counts.any():
            self._places(counts.reshape(rows, self.wide), worst.reshape(rows, self.wide), top)

    def _begin(self, tile: int) -> int:
        row, column = divmod(tile, self.wide)
        return row * self.cols + column * self.edge

    def _add(self, found: dict[str, Any], start: int) -> None:
        self.signal += found["signal"]
        if found["first"] is None:
            return
        if self.first is None:
            self.first = start + found["first"]
        self.bits += np.asarray(found["bits"], np.int64)
        self.distances += np.asarray(found["distances"], np.int64)
        for name in _COUNTS:
            self.counts[name] += found[name]
        self.max_abs, self.max_rel = max(self.max_abs, found["max_abs"]), max(self.max_rel, found["max_rel"])
        self.noise += found["noise"]

    def _places(self, tiles: NDArray[np.uint32], worst: NDArray[np.float64], top: int) -> None:
        """Count rows, tiles and blocks that are touched, and keep the worst rows."""
        per_row, errors = tiles.sum(axis=1, dtype=np.int64), worst.max(axis=1)
        blocks = np.add.reduceat(tiles, np.arange(0, len(tiles), self.edge), axis=0, dtype=np.int64)
        for name, counted in (("rows", per_row), ("tiles", tiles), ("blocks", blocks)):
            self.touched[name] += int(np.count_nonzero(counted))
        rows = np.flatnonzero(per_row)
        rows = rows[np.lexsort((rows, -per_row[rows], -errors[rows]))[:_WORST]]
        self.worst += [(top + int(i), int(per_row[i]), float(errors[i])) for i in rows]
        self.worst = sorted(self.worst, key=lambda one: (-one[2], -one[1], one[0]))[:_WORST]
        across = np.add.reduceat(tiles, np.arange(0, self.wide, self.steps[1]), axis=1, dtype=np.int64)
        places = (top + np.arange(len(tiles))) // self.steps[0]
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        self.map[places[starts]] += np.add.reduceat(across, starts, axis=0)

    def finish(self, result: ArrayComparison, shape: tuple[int, ...]) -> None:
        """Put the counts into a result."""
        result.differing = int(self.bits.sum())
        result.bits = {int(n): int(self.bits[n]) for n in np.flatnonzero(self.bits)}
        result.distance = {_bin(int(n)): int(self.distances[n]) for n in np.flatnonzero(self.distances)}
        for name, count in {**self.counts, **self.touched}.items():
            setattr(result, name, count)
        if self.first is not None:
            result.first = tuple(int(i) for i in np.unravel_index(self.first, shape))
            result.tile_map = self.map.tolist()
        result.row_count, result.tile_count = self.rows, self.rows * self.wide
        result.block_count = -(-self.rows // self.edge) * self.wide
        result.worst_rows = self.worst
        if not self.kind.numbers:
            return
        result.max_abs, result.max_rel, result.sqnr_db = self.max_abs, self.max_rel, math.inf
        if self.noise > 0:
            ratio = self.signal / self.noise
            result.sqnr_db = -math.inf if ratio == 0 else 10 * math.log10(ratio)


def _bin(place: int) -> str:
    """Name a power of two's range of distances."""
    if place <= 2:
        return str(place)
    return f"{2 ** (place - 2) + 1}-{2 ** (place - 1)}"
