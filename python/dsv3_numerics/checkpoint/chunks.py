"""Chunks: how a large tensor is split, and what a worker reads them with.

Lives here: `Chunk` and `split`, a worker's context with its files and buffers, and the bytes of a chunk with
their places. What the bytes mean is known in `dequantize`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from .scan import TensorInfo
from .write import Entry

if TYPE_CHECKING:
    from .reader import Checkpoint

# A chunk of this many elements, input and output, stays in a core's second-level cache on its way from the
# file system's pages through the arithmetic back into pages.
_CHUNK_SIZE = 3 << 17
# Whole block rows may take more than that, but not more than this.
LARGEST_CHUNK = 1 << 22
_MOST_FILES = 8
_LINE = 64

Bytes = NDArray[np.uint8]


class Chunk(NamedTuple):
    """Rows [r0, r1), columns [c0, c1) of one of a stack of matrices."""

    place: int
    r0: int
    r1: int
    c0: int
    c1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.r1 - self.r0, self.c1 - self.c0


class WriteOp(NamedTuple):
    """Bytes for the file: of which tensor, and where in it."""

    name: str
    offset: int
    data: Bytes


@dataclass
class Stats:
    """Sums over the chunks of a file.

    Attributes
    ----------
    requantized : int
        Blocks that got new codes because their scale was no power of two.
    errors : dict of str to list of two float
        For each tensor that lost something: sums of squared errors and of squares, chunk by chunk.
    """

    requantized: int = 0
    errors: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def note(self, name: str, squared_error: float, squared: float) -> None:
        """Add sums over a part of a tensor."""
        self.errors.setdefault(name, []).append((squared_error, squared))

    def add(self, other: Stats) -> None:
        """Add those of other chunks."""
        self.requantized += other.requantized
        for name, sums in other.errors.items():
            self.errors.setdefault(name, []).extend(sums)

    def totals(self) -> dict[str, tuple[float, float]]:
        """Return the sums of each tensor, rounded once: they do not depend on the order of chunks."""
        return {
            name: (math.fsum(error for error, _ in sums), math.fsum(square for _, square in sums))
            for name, sums in self.errors.items()
        }


@dataclass
class WorkerContext:
    """Open files of one worker, and buffers that are used again for each chunk."""

    ckpt: Checkpoint
    stats: Stats = field(default_factory=Stats)
    numbers: dict[str, np.float32] = field(default_factory=dict)
    _files: dict[str, Any] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _buffers: dict[str, Bytes] = field(default_factory=dict)

    def buffer(self, slot: str, count: int, dtype: np.dtype[Any]) -> Array:
        """`count` elements whose content is undefined, good until the slot is asked for again."""
        size = count * dtype.itemsize
        if slot not in self._buffers or self._buffers[slot].size < size:
            self._buffers[slot] = aligned(size)
        return self._buffers[slot][:size].view(dtype)

    def read(self, info: TensorInfo, offset: int, out: Array) -> None:
        """Fill `out` from `offset` bytes into a tensor."""
        if info.file not in self._files:
            if len(self._files) == _MOST_FILES:
                self.close()
            self._files[info.file] = self._stack.enter_context(self.ckpt.reader(info.file))
        self._files[info.file](info.begin + offset, out)

    def matrix(
        self, slot: str, info: TensorInfo, chunk: Chunk, sides: tuple[int, int], dtype: np.dtype[Any]
    ) -> Array:
        """Read the elements of a chunk on one axis: one read, or one for each row that is not whole.

        Parameters
        ----------
        slot : str
            Buffer.
        info : TensorInfo
        chunk : Chunk
        sides : tuple of two int
            Rows and columns of each matrix in the file, in units of `dtype`.
        dtype : numpy.dtype
        """
        rows, cols = sides
        out = self.buffer(slot, math.prod(chunk.shape), dtype)
        start = (chunk.place * rows + chunk.r0) * cols + chunk.c0
        for k, part in enumerate(_rows(out, chunk, cols)):
            self.read(info, (start + k * cols) * dtype.itemsize, part)
        return out

    def close(self) -> None:
        """Close the files."""
        self._files.clear()
        self._stack.close()


def aligned(size: int) -> Bytes:
    """Bytes that begin on a cache line, where a vector of codes has one scale even in small groups."""
    room = np.empty(size + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + size]


def _rows(values: Array, chunk: Chunk, cols: int) -> Iterator[Array]:
    """Yield the parts of a chunk that lie side by side in a matrix of `cols` columns."""
    if chunk.shape[1] == cols:
        yield values
    else:
        yield from values.reshape(chunk.shape)


def split(
    shape: tuple[int, ...], block: tuple[int, int], *, whole: bool, size: int | None = None
) -> Iterator[Chunk]:
    """Yield chunks that hold whole blocks, or lie inside one block.

    Parameters
    ----------
    shape : tuple of int
        The last two axes are rows and columns.
    block : tuple of two int
    whole : bool
        True: blocks must not be split.
    size : int, optional
        Elements of a chunk, unless a block row has more.
    """
    if not math.prod(shape):
        return
    rows, cols = shape[-2:]
    high, wide = (min(side, max(length, 1)) for side, length in zip(block, (rows, cols), strict=True))
    least = high if whole else 1
    columns = (
        [(0, cols)] if cols * least <= LARGEST_CHUNK else list(_bands(cols, wide, LARGEST_CHUNK // least))
    )
    most = max(least, (size or _CHUNK_SIZE) // max(min(cols, columns[0][1]), 1))
    for place in range(math.prod(shape[:-2])):
        for r0, r1 in _bands(rows, high, most):
            for c0, c1 in columns:
                yield Chunk(place, r0, r1, c0, c1)


def _bands(length: int, block: int, most: int) -> Iterator[tuple[int, int]]:
    """Lengths of at most `most`: whole blocks, or parts of one block."""
    step = most // block * block
    if step:
        yield from ((start, min(start + step, length)) for start in range(0, length, step))
        return
    for begin in range(0, length, block):
        end = min(begin + block, length)
        yield from ((start, min(start + most, end)) for start in range(begin, end, most))


def write_ops(name: str, chunk: Chunk, sides: tuple[int, int], values: Array) -> Iterator[WriteOp]:
    """Yield a chunk's values as bytes, with their places in a tensor of matrices of these sides."""
    rows, cols = sides
    start = (chunk.place * rows + chunk.r0) * cols + chunk.c0
    for k, part in enumerate(_rows(values, chunk, cols)):
        yield WriteOp(name, (start + k * cols) * values.itemsize, part.view(np.uint8))


def sides_of(entry: Entry | TensorInfo) -> tuple[int, int]:
    """Rows and columns of the matrices in a tensor."""
    return (entry.shape[-2], entry.shape[-1]) if len(entry.shape) > 1 else (1, math.prod(entry.shape))
