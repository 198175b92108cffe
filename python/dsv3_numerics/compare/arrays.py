"""Two arrays of one shape: differing bits, distances, errors and places, in one pass.

Lives here: `compare_arrays` and its result. Files and names are in `files`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._arrays import Array, as_array, positive
from .kinds import Kind, as_codes, kind_of

_CHUNK = 1 << 16  # elements
_WORST = 5
_CELLS = 48
_SAMPLED = 1200
_TILE = 128


@dataclass
class ArrayComparison:
    """Differences between two arrays.

    Attributes
    ----------
    name : str
    a, b : str
        Dtype and shape of each.
    equal : bool
        True: the same shape, and the same bits everywhere. Never anything else.
    note : str
        Reason why elements were not compared, or how dtypes were; may be empty.
    elements, differing : int
    bits : dict of int to int
        Elements by how many of their bits differ.
    distance : dict of str to int
        Differing elements by distance on the line of codes (ULP, for floats): "0" is zeros of unlike sign,
        "3-4" is two bounds. NaN are not in it.
    zeros, nan_a, nan_b, nan_payloads : int
        Zeros of unlike sign; NaN in one side only; NaN of unlike bits on both.
    saturated_a, saturated_b : int
        Differing elements that are the largest finite number.
    first : tuple of int or None
        Place of the first difference.
    rows, tiles, blocks : int
        Rows, 1x128 tiles and 128x128 blocks with a difference, of `row_count`, `tile_count`, `block_count`.
    worst_rows : list of (row, differing elements)
    max_abs, max_rel, sqnr_db : float or None
        Largest absolute and relative error, and signal to noise of all finite elements, with A as the signal;
        None for codes that mean nothing without scales.
    tile_map : list of list of int
        Differing elements over rows and columns, in at most 48 x 48 cells.
    sample : list of (a, b)
        At most 1200 elements of both sides, as numbers, for a picture; not in JSON.
    """

    name: str
    a: str
    b: str
    equal: bool
    note: str = ""
    elements: int = 0
    differing: int = 0
    bits: dict[int, int] = field(default_factory=dict)
    distance: dict[str, int] = field(default_factory=dict)
    zeros: int = 0
    nan_a: int = 0
    nan_b: int = 0
    nan_payloads: int = 0
    saturated_a: int = 0
    saturated_b: int = 0
    first: tuple[int, ...] | None = None
    rows: int = 0
    row_count: int = 0
    tiles: int = 0
    tile_count: int = 0
    blocks: int = 0
    block_count: int = 0
    worst_rows: list[tuple[int, int]] = field(default_factory=list)
    max_abs: float | None = None
    max_rel: float | None = None
    sqnr_db: float | None = None
    tile_map: list[list[int]] = field(default_factory=list, repr=False)
    sample: list[tuple[float, float]] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, as JSON has it."""
        told = {name: value for name, value in vars(self).items() if name != "sample"}
        return {**told, "bits": {str(k): v for k, v in self.bits.items()}}

    def to_facts(self) -> dict[str, Any]:
        """Return everything that `from_facts` makes it of again, as JSON has it."""
        pairs = {"bits": [*self.bits.items()], "distance": [*self.distance.items()]}  # in their order
        return {**vars(self), **pairs, "sample": [[float(a), float(b)] for a, b in self.sample]}

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> ArrayComparison:
        """Make it of what `to_facts` returned."""
        first = facts["first"]
        return cls(
            **{
                **facts,
                "bits": dict(facts["bits"]),
                "distance": dict(facts["distance"]),
                "first": None if first is None else tuple(first),
                "worst_rows": [(row, count) for row, count in facts["worst_rows"]],
                "sample": [(a, b) for a, b in facts["sample"]],
            }
        )


def compare_arrays(
    a: ArrayLike, b: ArrayLike, *, name: str = "", fmt: str | None = None, tile: int = _TILE
) -> ArrayComparison:
    """Compare two arrays bit for bit.

    Parameters
    ----------
    a, b : array_like
        Codes of a format, floats or integers. Memory-mapped arrays are read once, a piece at a time.
    name : str
        Copied into the result.
    fmt : str, optional
        Format of codes that are held as plain unsigned integers.
    tile : int
        Edge of tiles and blocks that are counted.

    Returns
    -------
    ArrayComparison
        Unsigned integers beside a format of the same width are taken for its codes, with a note. Other unlike
        dtypes are compared as float64 numbers, and are never equal.

    Raises
    ------
    TypeError, ValueError
        Complex numbers, text and objects; `fmt` of another width.

    Examples
    --------
    >>> import numpy as np
    >>> found = compare_arrays(np.float32([1, 2, 3]), np.float32([1, 2, 3.0000002]))
    >>> found.equal, found.differing, found.distance, found.first
    (False, 1, {'1': 1}, (2,))
    """
    left, right = as_array(a, "a"), as_array(b, "b")
    edge = positive(tile, "tile")
    result = ArrayComparison(name, _facts(left), _facts(right), False, elements=left.size)
    spread = left.shape != right.shape and _squeezed(left.shape) == _squeezed(right.shape)
    if spread:
        right = right.reshape(left.shape)
    if left.shape != right.shape:
        result.note = f"shapes differ: {left.shape} and {right.shape}"
        if left.shape == right.shape[::-1] and left.dtype == right.dtype and left.ndim > 1:
            same = bool((as_codes(left) == as_codes(right.T)).all())
            result.note += "; B is A transposed, bit for bit" if same else ""
        return result
    kind, left, right, result.note = _one_kind(left, right, fmt)
    if spread:
        result.note = "; ".join(filter(None, ("shapes differ by axes of length 1", result.note)))
    u, v = as_codes(left), as_codes(right)
    cols = left.shape[-1] if left.ndim and left.shape[-1] > 1 else max(left.size, 1)
    tally = _Tally(kind, u.size, max(cols, 1), edge)
    for start in range(0, u.size, _CHUNK):
        tally.add(start, u[start : start + _CHUNK], v[start : start + _CHUNK], u)
    tally.finish(result, left.shape)
    if result.differing:
        at = np.unique(np.linspace(0, u.size - 1, min(u.size, _SAMPLED)).astype(np.int64))
        pair = (kind.values(np.ascontiguousarray(x[at])).tolist() for x in (u, v))
        result.sample = list(zip(*pair, strict=True))
    result.equal = result.differing == 0 and not spread and "dtypes differ" not in result.note
    return result


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _facts(array: Array) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _one_kind(left: Array, right: Array, fmt: str | None) -> tuple[Kind, Array, Array, str]:
    """Bring both sides to one kind of bits."""
    dtypes = left.dtype.newbyteorder("="), right.dtype.newbyteorder("=")
    if dtypes[0] == dtypes[1]:
        return kind_of(dtypes[0], fmt), left, right, ""
    plain = [d.kind == "u" for d in dtypes]
    if dtypes[0].itemsize == dtypes[1].itemsize and plain[0] != plain[1]:
        named = dtypes[plain[0]]
        if named.kind not in "i":
            note = f"unsigned integers taken for codes of {named}"
            return kind_of(named), left, right, note
    note = f"dtypes differ: {dtypes[0]} and {dtypes[1]}, compared as float64 numbers"
    for dtype in dtypes:
        kind_of(dtype)  # refuse what is no number
    wide = kind_of(np.float64)
    return wide, left.astype(np.float64), right.astype(np.float64), note


def _same(u: Array, v: Array) -> bool:
    """Tell whether all bits are equal, eight bytes at a time where they can be."""
    if u.nbytes % 8 == 0 and u.ctypes.data % 8 == 0 and v.ctypes.data % 8 == 0:
        u, v = u.view(np.uint64), v.view(np.uint64)
    return bool((u == v).all())


class _Tally:
    """Counts over differing elements, a piece at a time, as long as it is in the cache."""

    def __init__(self, kind: Kind, size: int, cols: int, edge: int) -> None:
        self.kind, self.cols, self.edge = kind, cols, edge
        self.rows, self.wide = -(-size // cols) if size else 0, -(-cols // edge)
        self.per_tile: NDArray[np.int64] = np.zeros(self.rows * self.wide, np.int64)
        self.bits: NDArray[np.int64] = np.zeros(65, np.int64)
        self.far: NDArray[np.int64] = np.zeros(66, np.int64)
        self.counts = dict.fromkeys(
            ("zeros", "nan_a", "nan_b", "nan_payloads", "saturated_a", "saturated_b"), 0
        )
        self.held: list[tuple[NDArray[np.int64], Array, Array]] = []
        self.waiting = 0
        self.first: int | None = None
        self.max_abs = self.max_rel = self.signal = self.noise = 0.0

    def add(self, start: int, u: Array, v: Array, whole: Array) -> None:
        """Count a piece; squares of A are summed once there is a difference, with those before it."""
        if _same(u, v):
            if self.first is not None:
                self._square(u)
            return
        at = np.flatnonzero(u != v)
        if self.first is None:
            self.first = start + int(at[0])
            for before in range(0, start, _CHUNK):
                self._square(whole[before : before + _CHUNK])
        self._square(u)
        self.held.append((start + at, u[at], v[at]))
        self.waiting += at.size
        if self.waiting >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Count the elements that wait."""
        if not self.held:
            return
        tiles, u, v = (np.concatenate(parts) for parts in zip(*self.held, strict=True))
        self.held, self.waiting = [], 0
        self.bits += np.bincount(np.bitwise_count(u ^ v), minlength=65)
        self._measure(u, v)
        if self.rows > 1:
            row = tiles // self.cols
            tiles = row * self.wide + (tiles - row * self.cols) // self.edge
        else:
            tiles //= self.edge
        least = int(tiles[0])
        counted = np.bincount(tiles - least)
        self.per_tile[least : least + counted.size] += counted

    def _measure(self, u: Array, v: Array) -> None:
        """Count distances and specials of elements that differ, and their errors."""
        kind = self.kind
        x, y = kind.values(u), kind.values(v)
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            nan_a, nan_b = np.isnan(x), np.isnan(y)
            self.counts["nan_a"] += int((nan_a & ~nan_b).sum())
            self.counts["nan_b"] += int((nan_b & ~nan_a).sum())
            self.counts["nan_payloads"] += int((nan_a & nan_b).sum())
            numbers = ~(nan_a | nan_b)
            gap = _gap(kind, u[numbers], v[numbers])
        else:
            gap = _gap(kind, u, v)
        self.far += np.bincount(_bins(gap), minlength=66)
        self.counts["zeros"] += int(((x == 0) & (y == 0)).sum())
        self.counts["saturated_a"] += int((np.abs(x) == kind.most).sum())
        self.counts["saturated_b"] += int((np.abs(y) == kind.most).sum())
        if not kind.numbers:
            return
        if not finite.all():
            x, y = x[finite], y[finite]
        error = np.abs(np.subtract(y, x, out=y), out=y)
        if not error.size:
            return
        with np.errstate(all="ignore"):
            self.noise += float(np.dot(error, error))
            self.max_abs = max(self.max_abs, float(error.max()))
            relative = np.divide(error, np.abs(x), where=error > 0, out=np.zeros_like(error))
            self.max_rel = max(self.max_rel, float(relative.max()))

    def _square(self, u: Array) -> None:
        """Add squares of finite numbers."""
        if not self.kind.numbers:
            return
        with np.errstate(all="ignore"):
            x = u.view(np.float32) if self.kind.name == "float32" else self.kind.values(u)
            total = float(np.dot(x, x))
            if not math.isfinite(total):
                x = x.astype(np.float64)
                x = x[np.isfinite(x)]
                total = float(np.dot(x, x))
        self.signal += total

    def finish(self, result: ArrayComparison, shape: tuple[int, ...]) -> None:
        """Put the counts into a result."""
        self.flush()
        result.differing = int(self.bits.sum())
        result.bits = {int(n): int(self.bits[n]) for n in np.flatnonzero(self.bits)}
        result.distance = {_bin(int(n)): int(self.far[n]) for n in np.flatnonzero(self.far)}
        for name, count in self.counts.items():
            setattr(result, name, count)
        if self.kind.numbers:
            result.max_abs, result.max_rel, result.sqnr_db = self.max_abs, self.max_rel, math.inf
            if self.noise > 0:
                level = math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf
                result.sqnr_db = 10 * level
        if self.first is not None:
            result.first = tuple(int(i) for i in np.unravel_index(self.first, shape))
        tiles = self.per_tile.reshape(self.rows, self.wide)
        per_row = tiles.sum(axis=1)
        result.rows, result.row_count = int((per_row > 0).sum()), self.rows
        result.tiles, result.tile_count = int((tiles > 0).sum()), tiles.size
        if self.rows:
            blocks = np.add.reduceat(tiles, np.arange(0, self.rows, self.edge), axis=0)
            result.blocks, result.block_count = int((blocks > 0).sum()), blocks.size
        if result.differing:
            result.tile_map = _cells(_cells(tiles, 0), 1).tolist()
        order = np.argsort(-per_row, kind="stable")[:_WORST]
        result.worst_rows = [(int(row), int(per_row[row])) for row in order if per_row[row]]


def _cells(counts: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """Add up neighbours until an axis has few cells."""
    step = -(-counts.shape[axis] // _CELLS)
    found: NDArray[np.int64] = np.add.reduceat(counts, np.arange(0, counts.shape[axis], step), axis=axis)
    return found


def _gap(kind: Kind, u: Array, v: Array) -> NDArray[np.float64]:
    """Return distances on the line of codes."""
    distance: NDArray[np.float64]
    if kind.bits < 64:
        distance = np.abs(kind.line(v) - kind.line(u)).astype(np.float64)
        return distance
    return np.abs(kind.line(v).astype(np.float64) - kind.line(u).astype(np.float64))


def _bins(gap: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bins of distances: 0, 1, 2, up to 4, up to 8, and so on."""
    exponent = ((2 * gap - 1).view(np.int64) >> 52) - 1022
    return np.where(gap > 0, exponent, 0)


def _bin(place: int) -> str:
    """Name a power of two's range of distances."""
    if place <= 2:
        return str(place)
    return f"{2 ** (place - 2) + 1}-{2 ** (place - 1)}"
