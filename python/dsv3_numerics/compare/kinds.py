"""Bits of an array as numbers on a line: one view for codes of small formats, floats and integers.

Lives here: `Kind`, which knows for a dtype where its NaN, zeros and largest numbers are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from ..number_formats import decode, format_info

_FLOATS = {np.dtype(np.float32): (23, 32), np.dtype(np.float64): (52, 64)}
_WIDE = 16  # codes of so many bits or fewer are looked up


@dataclass(frozen=True)
class Kind:
    """Meaning of an array's bits.

    Attributes
    ----------
    name : str
        A format's name, or the dtype's.
    bits : int
        Width of a code.
    numbers : bool
        True: elements are numbers of their own (16 bits and more), so that errors make sense. Codes of small
        formats mean nothing without their scales.
    table : ndarray of float64 or None
        Number of each code, for formats.
    """

    name: str
    bits: int
    numbers: bool
    table: NDArray[np.float64] | None = None
    integer: bool = False

    def values(self, codes: Array) -> Array:
        """Return numbers as float64."""
        if self.table is not None:
            return self.table[codes]
        with np.errstate(invalid="ignore"):  # NaN that signal
            return codes.view(self.name).astype(np.float64)

    @property
    def meaning(self) -> str:
        """Word that the core has for this kind."""
        if self.table is None or self.name in ("bfloat16", "float16"):
            return self.name
        return "bytes" if self.table.size == 256 else "words"

    def code_table(self) -> tuple[NDArray[np.float64], NDArray[np.int32], bool] | None:
        """Return number and place of every code, and `numbers`; None for kinds that the core knows."""
        if self.table is None or self.meaning == self.name:
            return None
        codes = np.arange(self.table.size, dtype=np.uint8 if self.meaning == "bytes" else np.uint16)
        return self.table, self.line(codes).astype(np.int32), self.numbers

    def line(self, codes: Array) -> NDArray[np.int64]:
        """Return places on the line of codes: neighbours differ by one, both zeros are at 0."""
        if self.integer:
            return codes.view(self.name).astype(np.int64)
        wide = codes.astype(np.uint64).view(np.int64)
        if self.bits < 64:
            wide &= np.int64((1 << self.bits) - 1)
        if self.name.endswith("e8m0fnu"):
            return wide
        if self.table is not None and format_info(self.name).is_integer:
            half = 1 << (self.bits - 1)
            return ((wide & (2 * half - 1)) ^ half) - half
        top = np.int64(1) << np.int64(self.bits - 1) if self.bits < 64 else np.int64(-(2**63))
        return np.where(wide & top, -(wide & ~top), wide)


@lru_cache
def _of_format(name: str) -> Kind:
    info = format_info(name)
    codes = np.arange(info.n_codes, dtype=f"u{info.dtype.itemsize}")
    table = decode(codes.view(info.dtype) if info.dtype.kind != "u" else codes, dtype=np.float64, fmt=name)
    if info.dtype.itemsize == 1 and info.bits < 8:  # bits beyond a code are not read
        table = np.tile(table, 256 // info.n_codes)
    if info.dtype.itemsize == 2 and info.bits < _WIDE:
        table = np.tile(table, 65536 // info.n_codes)
    return Kind(info.name, info.bits, info.bits == _WIDE, table)


def kind_of(dtype: Any, fmt: str | None = None) -> Kind:
    """Return the kind of a dtype; `fmt` names the format of plain unsigned integers.

    Raises
    ------
    TypeError
        A dtype whose bits mean nothing here (complex, text, objects).
    ValueError
        `fmt` is no format, or of another width.
    """
    plain = np.dtype(dtype).newbyteorder("=")
    if fmt is not None:
        info = format_info(fmt)
        if info.dtype.itemsize != plain.itemsize:
            raise ValueError(f"fmt: found {fmt} of {info.dtype.itemsize} bytes, expected {plain.itemsize}")
        return _of_format(info.name)
    if plain in _FLOATS:
        return Kind(plain.name, _FLOATS[plain][1], True)
    if plain.kind in "iub":
        name = "uint8" if plain.kind == "b" else plain.name
        return Kind(name, 8 * plain.itemsize, True, integer=True)
    if plain in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)) or plain.kind in "Vf":
        try:
            return _of_format(format_info(plain).name)
        except TypeError:
            pass
    lost = ""
    if plain.kind == "V":
        lost = (
            "; NumPy's files do not keep the dtypes of ml_dtypes: save unsigned integers, and name the format"
        )
    raise TypeError(f"dtype: found {plain}, expected codes of a format, floats or integers{lost}")


def as_codes(array: Array) -> Array:
    """View an array's bits as unsigned integers, C-contiguous and flat; a copy only of strided arrays."""
    native = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(native).reshape(-1).view(f"u{array.dtype.itemsize}")
