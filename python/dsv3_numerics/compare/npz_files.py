"""Archives of NumPy's: arrays that are not compressed are mapped, others are read when asked for.

Lives here: `NpzFile`, which trusts no length in the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np

from .._arrays import Array
from .._regular import ArrayHeader, open_regular, read_array_header
from .zip_entries import ensure_bounded, entries_of, place_of


class NpzFile(Mapping[str, Array]):
    """Arrays of a ``.npz`` by name.

    Parameters
    ----------
    path : path

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no archive of NumPy's, or is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = open_regular(self.path)
        try:
            self._length = os.fstat(self._file.fileno()).st_size
            self._archive = ZipFile(self._file)
            self._entries: dict[str, ZipInfo] = {}
            for name, info in entries_of(self._archive).items():
                if not name.endswith(".npy"):
                    raise ValueError(f"found {name}, expected arrays only")
                ensure_bounded(info, self._length)
                self._entries[name.removesuffix(".npy")] = info
        except (ValueError, BadZipFile, EOFError, OSError, NotImplementedError) as error:
            self._file.close()
            raise ValueError(f"{self.path}: no archive of NumPy's ({error})") from error

    def close(self) -> None:
        """Close the file; arrays that were mapped stay."""
        self._file.close()

    def nbytes(self, name: str) -> int:
        """Bytes of an array as it is unpacked, with its header."""
        return self._entries[name].file_size

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, name: str) -> Array:
        info = self._entries[name]
        try:
            return self._mapped(info) if info.compress_type == ZIP_STORED else self._unpacked(info)
        except KeyError:
            raise
        except Exception as error:  # zip and npy parsers fail in many ways
            raise ValueError(f"{self.path}: {name} is no array of NumPy's ({error})") from error

    def _mapped(self, info: ZipInfo) -> Array:
        begin, size = place_of(self._file, info, self._length)
        self._file.seek(begin)
        header = read_array_header(self._file, size)
        header.ensure_fits(size)
        _ensure_plain(header.dtype)
        if 0 in header.shape:
            return np.zeros(header.shape, header.dtype)
        return mapped(self.path, header, begin)

    def _unpacked(self, info: ZipInfo) -> Array:
        with self._archive.open(info) as member:
            header = read_array_header(member, info.file_size)
            header.ensure_fits(info.file_size)
            _ensure_plain(header.dtype)
            data = member.read(info.file_size - header.begin + 1)
        count = int(np.prod(header.shape, dtype=object))
        flat = np.frombuffer(data, header.dtype, count)
        return flat.reshape(header.shape, order="F" if header.columns_first else "C")


def mapped(path: Path, header: ArrayHeader, begin: int = 0) -> Array:
    """Map the numbers that a header at `begin` tells of."""
    order: Literal["C", "F"] = "F" if header.columns_first else "C"
    found: Array = np.memmap(path, header.dtype, "r", begin + header.begin, header.shape, order)
    return found


def _ensure_plain(dtype: np.dtype[np.generic]) -> None:
    if dtype.hasobject:
        raise ValueError("found objects, expected numbers")
