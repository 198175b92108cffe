"""Codes that act as the array of numbers that they mean: what `Quantized` and `LogFmt` have in common.

Lives here: NumPy's view of codes, how an index picks whole groups, their files, and the table that notebooks
show.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from ._archive import read_archive, write_archive
from ._arrays import Array, brief
from ._html import facts

Index = tuple[Any, ...]


class CodedArray(ABC):
    """Codes with what their groups share; to NumPy an array of float32 numbers."""

    codes: Array
    _CONTENT: ClassVar[tuple[str, ...]] = ()
    "The attributes that decide what the codes mean."
    _KIND: ClassVar[str]
    "Name of such files."
    _ARRAYS: ClassVar[tuple[str, ...]]
    "The arrays in them."

    @abstractmethod
    def dequantize(self, dtype: DTypeLike = np.float32, *, out: Array | None = None) -> Array:
        """Return the numbers."""

    @property
    @abstractmethod
    def _groups(self) -> tuple[int, ...]:
        """Elements of each axis that share what `_shared` holds; 1 where an axis has no groups."""

    @property
    @abstractmethod
    def _group_axes(self) -> tuple[int, ...]:
        """The axes that have groups, counted from the front."""

    @abstractmethod
    def _facts(self) -> dict[str, str]:
        """Row of a table."""

    @abstractmethod
    def _picked(self, index: Index, groups: Index) -> Any:
        """Return the same container of some codes, and of their groups."""

    @abstractmethod
    def _stored(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Facts and arrays, as a file holds them."""

    @classmethod
    @abstractmethod
    def _made_of(cls, meta: dict[str, Any], arrays: dict[str, Array]) -> Self:
        """Return the container of the facts and arrays of a file, which may be any."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.codes.shape

    @property
    def ndim(self) -> int:
        """Axes of the tensor."""
        return self.codes.ndim

    @property
    def size(self) -> int:
        """Elements of the tensor."""
        return self.codes.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the numbers, float32; that of the codes is ``codes.dtype``."""
        found: np.dtype[Any] = np.dtype(np.float32)
        return found

    def __len__(self) -> int:
        return len(self.codes)

    def __bool__(self) -> bool:
        return True  # as other objects: a length does not make an empty tensor false

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Return the numbers, as NumPy asks for them; always a new array."""
        if copy is False:
            raise ValueError(f"copy: found False, but the numbers of a {type(self).__name__} are made anew")
        wanted = np.dtype(np.float32 if dtype is None else dtype)
        if wanted in (np.float32, np.float64):
            return self.dequantize(wanted)
        return self.dequantize().astype(wanted)

    def equals(self, other: Any) -> bool:
        """Return True where another container holds the same codes and scales, bit for bit.

        Parameters
        ----------
        other : object
            Anything else than a container of this kind is not equal.
        """
        if type(other) is not type(self):
            return False
        return all(_same(getattr(self, name), getattr(other, name)) for name in self._CONTENT)

    def __getitem__(self, index: Any) -> Any:
        """Part of the tensor, in whole groups.

        Parameters
        ----------
        index : int, slice, array of int, Ellipsis, or a tuple of them
            On an axis with groups a slice from the border of one to the border of another, or to the end; on
            other axes anything that NumPy takes (of arrays, one).

        Raises
        ------
        ValueError
            A slice that cuts a group.
        IndexError
            Out of range, or too many.
        """
        given = _every_axis(index, self.ndim)
        for axis in self._group_axes:
            if not isinstance(given[axis], slice) and not np.ndim(given[axis]):
                raise ValueError(
                    f"index: found {given[axis]!r} on axis {axis}, which has groups; expected a slice"
                )
        groups = tuple(
            part if size == 1 else _whole_groups(part, size, length, axis)
            for axis, (part, size, length) in enumerate(zip(given, self._groups, self.shape, strict=True))
        )
        return self._picked(given, groups)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that `load` reads back bit for bit: NumPy's .npz, with all arrays as integers.

        The file appears under its name only when complete; an older one of that name stays until then.

        Raises
        ------
        OSError
            Where the folder is missing or cannot be written.
        """
        write_archive(path, self._KIND, *self._stored())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        OSError
            Where the file cannot be opened.
        ValueError
            Where it is not such a file: truncated, damaged, or with parts that do not fit together.
        """
        return read_archive(path, cls._KIND, cls._ARRAYS, cls._made_of)

    def _repr_html_(self) -> str:
        return facts(type(self).__name__, self._facts())


def _same(a: Any, b: Any) -> bool:
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return type(a) is type(b) and bool(a == b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    raw = f"u{a.dtype.itemsize}"
    return bool(np.array_equal(np.ascontiguousarray(a).view(raw), np.ascontiguousarray(b).view(raw)))


def _every_axis(index: Any, ndim: int) -> Index:
    """Return an index with one part for each axis."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(part is None or isinstance(part, bool | np.bool_) for part in parts):
        raise IndexError(
            f"index: found {brief(index)}, expected integers, slices, an array of integers, or ..."
        )
    holes = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(holes) > 1 or len(parts) - len(holes) > ndim:
        raise IndexError(f"index: found {len(parts)} parts for {ndim} axes")
    place = holes[0] if holes else len(parts)
    missing = (slice(None),) * (ndim - len(parts) + len(holes))
    full = (*parts[:place], *missing, *parts[place + len(holes) :])
    arrays = [np.asarray(part) for part in full if not isinstance(part, slice) and np.ndim(part)]
    plain = len(arrays) + sum(isinstance(part, slice) for part in full) == ndim
    if len(arrays) > 1 or any(a.ndim != 1 or a.dtype.kind not in "iub" for a in arrays):
        raise IndexError("index: found arrays, expected at most one, of integers or booleans with one axis")
    if arrays and not plain:
        raise IndexError("index: found integers beside an array, expected slices beside it")
    return full


def _whole_groups(part: Any, size: int, length: int, axis: int) -> slice:
    """Return the groups that a slice of elements covers, which must be whole."""
    if not isinstance(part, slice):
        raise ValueError(
            f"index: found {brief(part)} on axis {axis}, whose elements share scales by {size}; expected a "
            "slice of whole groups"
        )
    start, stop, step = part.indices(length)
    stop = max(stop, start)
    if step != 1 or start % size or (stop % size and stop != length and stop != start):
        raise ValueError(
            f"index: found {part} on axis {axis}, expected a step of 1 from a multiple of {size} to a "
            f"multiple of {size} or the end, {length}: groups of {size} share a scale"
        )
    return slice(start // size, start // size if stop == start else -(-stop // size))


def axis_after(index: Index, axis: int) -> int:
    """Where an axis is when integers of an index have taken others away."""
    return axis - sum(1 for part in index[:axis] if not isinstance(part, slice) and np.ndim(part) == 0)


def repeated(groups: Array, sizes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Repeat each group's value for each of its elements."""
    for axis, size in enumerate(sizes):
        if size != 1:
            length = shape[axis]
            groups = np.repeat(groups, min(size, max(length, 1)), axis=axis).take(
                np.arange(length), axis=axis
            )
    return groups
