"""Which tensors a checkpoint holds: every header read and held against the index, no value touched.

Lives here: `scan`, which collects what is wrong instead of stopping at it, so that `reader` can refuse at the
first problem and `inspect` can list them all; and `TensorTable`, which holds what a header says in little
more memory than the header takes.
"""

from __future__ import annotations

import os
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, ValuesView
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .. import _core
from .._regular import ensure_regular
from .dtypes import DTYPES, Dtype
from .index import CheckpointFiles, kind_of, shown
from .readers import CheckpointError, readable

SCALE_SUFFIX = "_scale_inv"
_DAMAGED = "damaged, unfinished or no safetensors file: download or save it again"
# Tensors that are kept as objects; DeepSeek-V3 has 91 991. Beyond, each is made again when it is asked for.
_MOST_MADE = 1 << 18


class TensorInfo(NamedTuple):
    """Where a tensor is, and what.

    Attributes
    ----------
    name : str
    dtype : str
        As safetensors spells it, ``"F8_E4M3"``.
    shape : tuple of int
        In elements, also where they are packed.
    file : str
        Relative to the checkpoint's folder.
    begin, end : int
        Its first byte in the file, and the byte after its last.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.begin

    @property
    def row(self) -> Dtype:
        """Its line in the table of dtypes."""
        return DTYPES[self.dtype]

    @property
    def packed(self) -> bool:
        """True: elements share bytes (F4, F6): then the array is one of bytes."""
        return self.row.packed

    @property
    def size(self) -> int:
        """Elements."""
        return 8 * self.nbytes // self.row.bits


class FileFingerprint(NamedTuple):
    """By what a file is known to be the one whose header was read."""

    size: int
    modified: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileFingerprint:
        """Return the fingerprint in what ``os.stat`` says."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


@dataclass(frozen=True)
class Problem:
    """Something that contradicts something else.

    Attributes
    ----------
    kind : str
        A few words, the same for all of its kind.
    text : str
        The whole story, with the file's name in front.
    note : bool
        True: it does no harm to who reads the tensors.
    tensors : tuple of str
        Names that cannot be read because of it.
    """

    kind: str
    text: str
    note: bool = False
    tensors: tuple[str, ...] = ()


class TensorTable(Mapping[str, TensorInfo]):
    """Tensors by name, in the order of the files and of the data in them; made when they are asked for."""

    def __init__(self) -> None:
        self._headers = _core.TensorTable()
        self._files: list[str] = []
        self._starts: list[int] = []
        self._rows = array("I")
        self._unlisted = array("I")
        self._made: dict[str, TensorInfo] = {}

    def read(self, path: Path, file: str) -> range:
        """Read a file's header: its rows, which are not known by their names yet."""
        first, stop = self._headers.read(str(path))
        self._files.append(file)
        self._starts.append(first)
        return range(first, stop)

    def metadata(self, file: str) -> dict[str, str]:
        """Return a file's own metadata."""
        return self._headers.metadata(self._files.index(file))

    def metadata_values(self, key: str) -> dict[str, str]:
        """Return what the files that have such a key in their metadata say."""
        found = {file: self._headers.metadata_value(i, key) for i, file in enumerate(self._files)}
        return {file: text for file, text in found.items() if text is not None}

    def take(self, row: int) -> TensorInfo | None:
        """Make a row known by its name; the tensor of the same name that is known already, and stays so."""
        earlier = self._headers.take(row)
        if earlier is not None:
            return self.info(earlier)
        self._rows.append(row)
        return None

    def leave(self, row: int) -> None:
        """Note a row that the index does not list."""
        self._unlisted.append(row)

    def name(self, row: int) -> str:
        """Return the name of a row."""
        return self._headers.name(row)

    def info(self, row: int) -> TensorInfo:
        """Return a row."""
        name, dtype, shape, begin, end = self._headers.row(row)
        file = self._files[bisect_right(self._starts, row) - 1]
        return TensorInfo(name, sys.intern(dtype), tuple(shape), file, begin, end)

    @property
    def unlisted(self) -> tuple[TensorInfo, ...]:
        """Tensors that the index does not list where they are."""
        return tuple(map(self.info, self._unlisted))

    def quick(self) -> Mapping[str, TensorInfo]:
        """Return the same as a dict, which is looked up faster, unless it would be a very large one."""
        if len(self) > _MOST_MADE:
            return self
        if len(self._made) < len(self):
            self._made = {name: self[name] for name in self}
        return self._made

    def __getitem__(self, name: str) -> TensorInfo:
        info = self._made.get(name)
        if info is None:
            row = self._headers.find(name)
            if row is None:
                raise KeyError(name)
            info = self.info(row)
            if len(self._made) < _MOST_MADE:
                self._made[name] = info
        return info

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._headers.find(name) is not None

    def __iter__(self) -> Iterator[str]:
        return map(self._headers.name, self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def values(self) -> ValuesView[TensorInfo]:
        """All tensors."""
        return _Infos(self)


class _Infos(ValuesView[TensorInfo]):
    def __init__(self, table: TensorTable) -> None:
        super().__init__(table)
        self._table = table

    def __iter__(self) -> Iterator[TensorInfo]:
        table = self._table
        if len(table._made) == len(table):
            return map(table._made.__getitem__, table)
        return map(table.info, table._rows)


@dataclass
class Scan:
    """The headers of a checkpoint.

    Attributes
    ----------
    tensors : TensorTable
        And each file's own metadata.
    fingerprints : dict of str to FileFingerprint
    problems : list of Problem
        Files that are missing or lie, tensors that are missing or there twice.
    """

    tensors: TensorTable = field(default_factory=TensorTable)
    fingerprints: dict[str, FileFingerprint] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def raise_first(self) -> None:
        """Raise what is wrong, if anything is."""
        for problem in self.problems:
            raise CheckpointError(problem.text)


def scan(place: CheckpointFiles) -> Scan:
    """Read the headers of all files and hold them against the index and against each other."""
    found = Scan()
    wanted: dict[str, set[str]] = {file: set() for file in place.files}
    if place.index is not None:
        for name, file in place.index.weight_map.items():
            wanted[file].add(name)
    absent = [file for file in place.files if place.index is not None and not (place.folder / file).is_file()]
    for file in place.files:
        path = place.folder / file
        if file in absent:
            assert place.index is not None
            text = f"{place.index.path}: names {file}, which is not there"
            count = f"{len(absent)} of {len(place.files)} files are missing: finish the download"
            found.problems.append(Problem("file missing", f"{text} ({count})"))
            continue
        try:
            rows = _read(path, file, found)
        except CheckpointError as error:
            found.problems.append(Problem("file unreadable", str(error)))
            continue
        if place.index is None:
            _take_all(place, rows, found)
        else:
            _take_listed(path, rows, wanted[file], found)
    if place.missing:
        text = f"{place.folder}: {place.missing[0]} is not there"
        more = f" and {len(place.missing) - 1} more of its kind" if len(place.missing) > 1 else ""
        found.problems.append(Problem("file missing", f"{text}{more}; finish the download, or give one file"))
    return found


def _read(path: Path, file: str, found: Scan) -> range:
    with readable(path):
        ensure_regular(path)
        fingerprint = FileFingerprint.of(path.stat())
        try:
            rows = found.tensors.read(path, file)
        except ValueError as error:
            kind = kind_of(path)
            text = f"{error}; {_DAMAGED}" if kind is None else f"{path}: {kind}"
            raise CheckpointError(text) from error
    found.fingerprints[file] = fingerprint
    return rows


def _take_all(place: CheckpointFiles, rows: range, found: Scan) -> None:
    for row in rows:
        first = found.tensors.take(row)
        if first is not None:
            entry = found.tensors.info(row)
            text = f"both {first.file} and {entry.file} hold {shown(entry.name)}; give one file"
            found.problems.append(Problem("tensor twice", f"{place.folder}: {text}"))


def _take_listed(path: Path, rows: range, wanted: set[str], found: Scan) -> None:
    for row in rows:
        name = found.tensors.name(row)
        if name in wanted:
            wanted.remove(name)
            found.tensors.take(row)
        else:
            found.tensors.leave(row)
    for name in sorted(wanted):
        text = f"{path}: the index says it holds {shown(name)}, which it does not"
        found.problems.append(Problem("tensor missing", text))
