"""Asking the system to read parts of a file before they are touched.

A mapped file is brought in where it is touched, some pages at a time. Several threads that begin at different
places of a tensor look like random reads, which no system reads ahead of: from a cold disk that is six times
slower than one run of reads. Lives here: the hint that makes it one run. Nothing waits for it or fails by it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

LEAST = 1 << 20  # bytes of a tensor that it is worth asking for
_PIECE = 1 << 20  # systems take no more than this of one request


def ask(path: Path, ranges: Iterable[tuple[int, int]]) -> None:
    """Ask for ranges of bytes, each from its first byte to the one after its last."""
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for begin, end in ranges:
            if not is_there(handle, begin, end):
                for at in range(begin, end, _PIECE):
                    os.posix_fadvise(handle, at, min(_PIECE, end - at), os.POSIX_FADV_WILLNEED)
    except OSError:
        pass  # a hint
    finally:
        os.close(handle)


def is_there(handle: int, begin: int, end: int) -> bool:
    """Tell whether a range is in memory, by its two ends and its middle; True where nobody knows."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    try:
        for at in (begin, (begin + end) // 2, end - 1):
            os.preadv(handle, [bytearray(1)], at, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # a file system that has no such reads is in memory itself
        return True
    return True
