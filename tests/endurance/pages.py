"""Pages that hold an array, between pages that nobody may touch."""

from __future__ import annotations

import ctypes
import mmap
import random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
PAGE = mmap.PAGESIZE
PATTERN = 0xA5
_NONE, _READ, _BOTH = 0, 1, 3
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Out(NamedTuple):
    """An array that the call writes, with what it holds before."""

    array: Array


class Slot:
    """Pages for one array, and a page without access on each side."""

    def __init__(self, size: int) -> None:
        self.size = -(-size // PAGE) * PAGE
        self._map = mmap.mmap(-1, self.size + 2 * PAGE)
        whole = (ctypes.c_uint8 * (self.size + 2 * PAGE)).from_buffer(self._map)
        self._begin = ctypes.addressof(whole) + PAGE
        self.bytes: Array = np.frombuffer(whole, np.uint8, self.size, PAGE)
        self._protect(self._begin - PAGE, PAGE, _NONE)
        self._protect(self._begin + self.size, PAGE, _NONE)

    def _protect(self, address: int, size: int, access: int) -> None:
        if _LIBC.mprotect(address, size, access):
            raise OSError(ctypes.get_errno(), "mprotect")

    def hold(self, array: Array, *, writable: bool, at_end: bool, shift: int) -> Array:
        """Copy an array to the end or the start of the pages, or `shift` elements from there."""
        self._protect(self._begin, self.size, _BOTH)
        wide = array.dtype.itemsize
        shift = min(shift * wide, (self.size - array.nbytes) // wide * wide)
        start = (self.size - array.nbytes - shift) // wide * wide if at_end else shift
        self.bytes[:] = PATTERN
        held = self.bytes[start : start + array.nbytes].view(array.dtype)
        held[:] = array
        self._before = self.bytes[:start], self.bytes[start + array.nbytes :]
        if not writable:
            self._protect(self._begin, self.size, _READ)
        return held

    def is_whole(self) -> bool:
        """Tell whether the bytes around the array are as they were."""
        return all(bool((part == PATTERN).all()) for part in self._before)


class Pages:
    """Slots of several sizes, used again for each call."""

    def __init__(self) -> None:
        self._free: dict[int, list[Slot]] = {}
        self._used: list[Slot] = []

    def hold(self, array: Array, rng: random.Random, *, writable: bool) -> Array:
        """Place an array."""
        size = max(PAGE, 1 << (max(array.nbytes, 1) - 1).bit_length())
        held = self._free.setdefault(size, [])
        slot = held.pop() if held else Slot(size)
        self._used.append(slot)
        shift = 0 if rng.random() < 0.8 else rng.randrange(64)
        return slot.hold(array, writable=writable, at_end=rng.random() < 0.75, shift=shift)

    def release(self) -> bool:
        """Take all slots back; tell whether the bytes around their arrays are as they were."""
        whole = all(slot.is_whole() for slot in self._used)
        for slot in self._used:
            self._free[slot.size].append(slot)
        self._used.clear()
        return whole
