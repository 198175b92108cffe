"""Which tensors a checkpoint holds: every header read and held against the index, no value touched.

Lives here: `scan`, which collects what is wrong instead of stopping at it, so that `reader` can refuse at the
first problem and `inspect` can list them all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .. import _core
from .._regular import ensure_regular
from .dtypes import DTYPES, Dtype
from .index import CheckpointFiles, kind_of, shown
from .readers import CheckpointError, readable

SCALE_SUFFIX = "_scale_inv"


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


@dataclass
class Scan:
    """The headers of a checkpoint.

    Attributes
    ----------
    tensors : dict of str to TensorInfo
        In the order of the files and of the data in them.
    unlisted : list of TensorInfo
        Tensors that the index does not list where they are.
    metadata : dict of str to dict
        Each file's own metadata.
    fingerprints : dict of str to FileFingerprint
    problems : list of Problem
        Files that are missing or lie, tensors that are missing or there twice.
    """

    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    unlisted: list[TensorInfo] = field(default_factory=list)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
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
    if place.missing:
        text = f"{place.folder}: {place.missing[0]} is not there"
        more = f" and {len(place.missing) - 1} more of its kind" if len(place.missing) > 1 else ""
        found.problems.append(Problem("file missing", f"{text}{more}; finish the download, or give one file"))
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
            entries = _read(path, file, found)
        except CheckpointError as error:
            found.problems.append(Problem("file unreadable", str(error)))
            continue
        if place.index is None:
            _take_all(place, entries, found)
        else:
            _take_listed(path, entries, wanted[file], found)
    return found


def _read(path: Path, file: str, found: Scan) -> list[TensorInfo]:
    with readable(path):
        ensure_regular(path)
        fingerprint = FileFingerprint.of(path.stat())
        try:
            rows, metadata = _core.safetensors_header(str(path))
        except ValueError as error:
            kind = kind_of(path)
            if kind is None:
                raise
            raise CheckpointError(f"{path}: {kind}") from error
    found.fingerprints[file] = fingerprint
    found.metadata[file] = metadata
    return [
        TensorInfo(name, dtype, tuple(shape), file, begin, end) for name, dtype, shape, begin, end in rows
    ]


def _take_all(place: CheckpointFiles, entries: list[TensorInfo], found: Scan) -> None:
    for entry in entries:
        first = found.tensors.setdefault(entry.name, entry)
        if first is not entry:
            text = f"both {first.file} and {entry.file} hold {shown(entry.name)}; give one file"
            found.problems.append(Problem("tensor twice", f"{place.folder}: {text}"))


def _take_listed(path: Path, entries: list[TensorInfo], wanted: set[str], found: Scan) -> None:
    for entry in entries:
        if entry.name in wanted:
            wanted.remove(entry.name)
            found.tensors[entry.name] = entry
        else:
            found.unlisted.append(entry)
    for name in sorted(wanted):
        text = f"{path}: the index says it holds {shown(name)}, which it does not"
        found.problems.append(Problem("tensor missing", text))
