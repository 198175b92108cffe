"""Tensors that are read in pieces: from a file, from a member of a zip archive, or from an array in memory.

Reads are `seek` and `readinto`, never a mapping: mapped pages count as the process's memory, plain reads do
not. Which tensors there are is found out in `sources`.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt

_BITS = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16}
Floating = npt.NDArray[np.floating]


class CheckpointError(ValueError):
    """A checkpoint that cannot be read: missing, truncated, or saying things that are not so."""


class Rows(Protocol):
    """An open tensor: call it for rows [r0, r1) and columns [c0, c1), float32 or (if stored so) float64."""

    def __call__(self, r0: int, r1: int, c0: int, c1: int) -> Floating: ...


@dataclass(frozen=True)
class Tensor(ABC):
    """A tensor of a checkpoint, seen as a matrix: the last axis is the columns, the others are rows.

    Attributes
    ----------
    name : str
    shape : tuple of int
        As stored.
    dtype : str
        float64, float32, float16 or bfloat16.
    origin : str
        The file it is in, or "memory".
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    origin: str

    @property
    def cols(self) -> int:
        """Length of the last axis."""
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """Product of the other axes; 1 for a vector."""
        return math.prod(self.shape[:-1])

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def stored_as(self) -> str:
        """Format of its elements in the file."""
        return self.dtype

    @property
    def stored_bits(self) -> int:
        """Bits that it takes in the files, with scales and whatever else belongs to it."""
        return _BITS[self.dtype] * self.size

    @abstractmethod
    def open(self) -> AbstractContextManager[Rows]:
        """Open it for reading: ``with tensor.open() as rows: x = rows(0, 128, 0, tensor.cols)``."""


@dataclass(frozen=True)
class ArrayTensor(Tensor):
    """A tensor that is in memory already."""

    array: npt.NDArray[np.generic]

    @contextmanager
    def _rows(self) -> Iterator[Rows]:
        matrix = self.array.reshape(self.rows, self.cols)

        def rows(r0: int, r1: int, c0: int, c1: int) -> Floating:
            wide = np.float64 if self.dtype == "float64" else np.float32
            return np.ascontiguousarray(matrix[r0:r1, c0:c1], dtype=wide)

        yield rows

    def open(self) -> AbstractContextManager[Rows]:
        return self._rows()


@dataclass(frozen=True)
class StoredTensor(Tensor):
    """A tensor at an offset of a file, or of a member of a zip archive.

    Attributes
    ----------
    path : Path
        The file.
    offset : int
        Where its values begin, in the file or in the unpacked member.
    item : str
        NumPy's name of the stored elements, with their byte order; ``"<u2"`` for bfloat16.
    columns_first : bool
        Whether consecutive values go down a column (Fortran order).
    member : str or None
        The member of the archive.
    """

    path: Path
    offset: int
    item: str
    columns_first: bool = False
    member: str | None = None

    @contextmanager
    def _rows(self) -> Iterator[Rows]:
        with readable(self.path), _stream(self.path, self.member) as stream:

            def rows(r0: int, r1: int, c0: int, c1: int) -> Floating:
                if self.columns_first:
                    return self._widen(self._matrix(stream, self.rows, c0, c1, r0, r1).T)
                return self._widen(self._matrix(stream, self.cols, r0, r1, c0, c1))

            yield rows

    def open(self) -> AbstractContextManager[Rows]:
        return self._rows()

    def _matrix(
        self, stream: IO[bytes], width: int, r0: int, r1: int, c0: int, c1: int
    ) -> npt.NDArray[np.generic]:
        """Rows [r0, r1), columns [c0, c1) of a matrix of this width: one read, or one for each cut row."""
        item = np.dtype(self.item)
        out = np.empty((r1 - r0, c1 - c0), item)
        flat = memoryview(out.reshape(-1).view(np.uint8).data)
        whole = c1 - c0 == width
        piece = len(flat) if whole else (c1 - c0) * item.itemsize
        for k in range(1 if whole else r1 - r0):
            stream.seek(self.offset + ((r0 + k) * width + c0) * item.itemsize)
            fill(stream, flat[k * piece : (k + 1) * piece], f"{self.path}: ends inside tensor {self.name!r}")
        return out

    def _widen(self, x: npt.NDArray[np.generic]) -> Floating:
        if self.dtype == "bfloat16":
            return (x.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(x, dtype=np.float64 if self.dtype == "float64" else np.float32)


def fill(stream: IO[bytes], buffer: memoryview, short: str) -> None:
    """Read until the buffer is full; an earlier end is a CheckpointError that begins with `short`."""
    while buffer:
        got = stream.readinto(buffer)  # type: ignore[attr-defined]
        if not got:
            raise CheckpointError(f"{short}, {len(buffer)} bytes are missing")
        buffer = buffer[got:]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into a CheckpointError that names it."""
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        named = reason if reason.startswith(f"{path}: ") else f"{path}: {reason}"
        raise CheckpointError(named) from error


@contextmanager
def _stream(path: Path, member: str | None) -> Iterator[IO[bytes]]:
    if member is None:
        with open(path, "rb", buffering=0) as file:
            yield file
    else:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            yield file
