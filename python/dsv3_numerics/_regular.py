"""Regular files, opened without waiting; small ones read whole, within a bound.

Lives here: the one way in which the package opens what a user names: a pipe, a socket or a device would block
or have no end, and a file of any length would fill the memory.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

LARGEST = 64 << 20  # bytes of a small input: recipes, configs, indexes, token ids
_HEADER = 1 << 16  # bytes of a header of .npy; NumPy itself reads 10 000
_MAGIC = b"\x93NUMPY"
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def ensure_regular(path: str | os.PathLike[str], mode: int | None = None) -> None:
    """Refuse what is not a plain file: a pipe would block, a device has no end.

    Parameters
    ----------
    path : path
    mode : int, optional
        Of the file, where it is open already.

    Raises
    ------
    OSError
        There is no such file.
    ValueError
        Something else is there.
    """
    mode = os.stat(path).st_mode if mode is None else mode
    if not stat.S_ISREG(mode):
        kind = next((f" but {text}" for test, text in _KINDS if test(mode)), "")
        raise ValueError(f"{os.fspath(path)}: not a regular file{kind}")


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file for reading; nothing else is waited for.

    Raises
    ------
    OSError
        It cannot be opened.
    ValueError
        It is not a regular file.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    ensure_regular(path)  # before it is opened: opening a device may do something
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  (the caller's)
    try:
        ensure_regular(path, os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe may have taken the file's place


def read_small(path: str | os.PathLike[str], limit: int = LARGEST) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no regular file, or longer.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{os.fspath(path)}: longer than {limit} bytes, expected at most as many")
    return content


def parse_object(content: bytes | str, where: str) -> dict[str, Any]:
    """Return the object that JSON holds.

    Raises
    ------
    ValueError
        It holds something else, or is none; `where` says what it is of.
    """
    import json

    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where}: found {type(found).__name__}, expected an object")
    return found


def read_small_text(path: str | os.PathLike[str], limit: int = LARGEST) -> str:
    """Return the text of a regular file of at most `limit` bytes of UTF-8.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no regular file, longer, or not UTF-8.
    """
    content = read_small(path, limit)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)}: not UTF-8 ({error})") from None


class OtherVersion(ValueError):
    """An ``.npy`` of a version of the format that is not read here."""


class ArrayHeader(NamedTuple):
    """Contents of an ``.npy`` header, and where the numbers begin."""

    shape: tuple[int, ...]
    columns_first: bool
    dtype: np.dtype[Any]
    begin: int

    def ensure_fits(self, length: int) -> None:
        """Raise ValueError where a file of `length` bytes is too short for what the header says."""
        if self.begin + math.prod(self.shape) * self.dtype.itemsize > length:
            raise ValueError(f"said to have shape {self.shape}, for which {length} bytes are too few")


def read_array_header(file: IO[bytes], length: int) -> ArrayHeader:
    """Read the header of an ``.npy`` of `length` bytes, trusting no length in it.

    Raises
    ------
    ValueError
        It is unfinished, too long, or none; `OtherVersion` where only that is wrong.
    """
    import io

    from numpy.lib import format as npy

    start = file.read(8)
    if not start.startswith(_MAGIC) or len(start) < 8:
        raise ValueError("not an .npy file (its first bytes are others)")
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0)):
        raise OtherVersion(f"version {version[0]}.{version[1]} of the .npy format, expected 1.0 or 2.0")
    width = 2 if version == (1, 0) else 4
    told = file.read(width)
    size = int.from_bytes(told, "little")
    begin = len(start) + width + size
    if len(told) < width or begin > length:
        raise ValueError(f"a header of {size} bytes, but the file has {length}")
    if size > _HEADER:
        raise ValueError(f"a header of {size} bytes, expected at most {_HEADER}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, columns_first, dtype = read(io.BytesIO(told + file.read(size)))
    except Exception as error:  # a parser of Python's text, which fails in many ways
        raise ValueError(f"not a header of .npy ({_first_line(error)})") from None
    if not all(type(n) is int and n >= 0 for n in shape):  # NumPy takes True for a length
        raise ValueError(f"said to have shape {shape}, expected lengths of at least 0")
    return ArrayHeader(shape, columns_first, dtype, begin)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def path_of(source: str | os.PathLike[str], name: str) -> Path:
    """Return a path that a user gave; numbers, which `open` takes for descriptors, are none.

    Raises
    ------
    TypeError
        It is no path; `name` is the argument's.
    """
    if isinstance(source, (str, bytes, os.PathLike)):
        return Path(os.fsdecode(source))
    raise TypeError(f"{name}: found {type(source).__name__}, expected a path")
