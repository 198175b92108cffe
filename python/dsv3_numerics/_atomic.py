"""Whole files or none: written under a temporary name, synced, and only then renamed.

Lives here: the one writer of files in the package. A file is complete under its name or not there; a killed
writer leaves a name of its own kind behind, which `is_temporary` knows, and which the next writer in the
folder removes: a writer at work holds a lock on its file, which the system takes from a killed one. Locks may
not reach other machines that share a file system, so what those have left stays for a day.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

_UNITS = ("kB", "MB", "GB")
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk, or of a user's share of it, that is full."""
_FOREIGN = 86400.0
"""Seconds that a file of another machine must be untouched to count as left."""
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.partial")


class PartialFile:
    """A file in the making, written at any offset by any thread; see `replacing`.

    Attributes
    ----------
    path : Path
        Its temporary name, to be opened by writers that want a stream or a path of their own.
    """

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self.path = path
        self._stream = stream
        # Two writers at one file wait for each other in the kernel, spinning; here they sleep.
        self._lock = threading.Lock()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put bytes at an offset."""
        rest = memoryview(data)
        with self._lock:
            self._stream.seek(offset)
            while rest:
                rest = rest[self._stream.write(rest) :]

    def sync(self) -> None:
        """Wait until the disk has it all."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close it, unsynced."""
        self._stream.close()


def begin(target: Path, size: int = 0) -> PartialFile:
    """Begin a file of `size` bytes beside `target`, under a temporary name.

    Raises
    ------
    OSError
        It cannot be made.
    """
    remove_leftovers(target.parent)
    stream, temporary = _own(target)
    try:
        stream.truncate(size)
    except BaseException:
        stream.close()
        temporary.unlink(missing_ok=True)
        raise
    return PartialFile(stream, temporary)


def _own(target: Path) -> tuple[IO[bytes], Path]:
    """Make an empty file beside `target` and lock it, as long as it is open."""
    while True:
        temporary = target.with_name(f".{target.name[:50]}.{host_tag()}{os.urandom(4).hex()}.partial")
        stream = open(temporary, "xb", buffering=0)  # noqa: SIM115  (closed by `publish` and `discard`)
        if _lock(stream.fileno()) is not False and os.path.lexists(temporary):
            return stream, temporary
        stream.close()  # another process took it for a leftover before it was locked


def host_tag() -> str:
    """Return four digits that tell this machine from most others, as temporary names have them."""
    import zlib

    node = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return f"{zlib.crc32(node.encode()) & 0xFFFF:04x}"


def _lock(handle: int) -> bool | None:
    """Lock a file for its writer; False where somebody else does, None where the system has no such locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder; files of writers at work stay."""
    try:
        names = [name for name in os.listdir(folder) if is_temporary(name)]
    except OSError:  # what is wrong with the folder, its user will say
        return
    for name in names:
        with suppress(OSError):
            _remove_if_left(folder / name)


def _remove_if_left(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        return
    ours = path.name.split(".")[-2].startswith(host_tag())
    if not ours and abs(time.time() - status.st_mtime) < _FOREIGN:
        return
    if sys.platform == "win32":
        path.unlink()  # refused by the system while it is open
        return
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if _lock(handle):
            path.unlink()
    finally:
        os.close(handle)


def publish(file: PartialFile, target: Path) -> None:
    """Give a synced file its name, for good."""
    if os.name == "nt":  # where open files cannot be renamed
        file.close()
        os.replace(file.path, target)
    else:
        os.replace(file.path, target)  # while it is locked: nobody takes it for a leftover
        file.close()
    sync_folder(target.parent)


def discard(file: PartialFile) -> None:
    """Remove a file that will not be finished."""
    file.close()
    file.path.unlink(missing_ok=True)


@contextmanager
def replacing(target: Path, size: int = 0) -> Iterator[PartialFile]:
    """Begin a file that becomes `target`, synced, if the block ends well, and is removed if not.

    Raises
    ------
    OSError
        The folder is missing, or cannot be written.
    """
    file = begin(target, size)
    try:
        with naming(target):
            yield file
            file.sync()
        publish(file, target)
    except BaseException:
        discard(file)
        raise


@contextmanager
def naming(target: Path) -> Iterator[None]:
    """Name the file where a disk is full, which the system does not, and say what to do.

    Raises
    ------
    OSError
        The system's, with the name.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            raise
        raise OSError(error.errno, f"{error.strerror}: make space, and run it again", str(target)) from error


def is_temporary(name: str) -> bool:
    """Tell whether a file's name is one that only an unfinished file of ours has."""
    return _TEMPORARY.fullmatch(name) is not None


def sync_folder(folder: Path) -> None:
    """Wait until the disk knows the names in a folder, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


RESERVE = 16 << 20
"""Bytes left free on a disk for an index, a configuration and the folder itself."""


def ensure_space(folder: Path, needed: int) -> None:
    """Check that a disk has room for so many bytes, and some more; the folder need not be there.

    Raises
    ------
    OSError
        It has not; both sizes are told.
    """
    import shutil  # which loads its compressors

    place = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(place).free
    if needed and needed + RESERVE > free:
        told = f"{size_text(needed)} are needed, {size_text(free)} are free ({size_text(RESERVE)} stay so)"
        raise OSError(errno.ENOSPC, told, str(place))


def size_text(size: int) -> str:
    """Write a number of bytes in the largest unit, up to GB, of which it is a tenth or more.

    Examples
    --------
    >>> size_text(0), size_text(16 << 20), size_text(685_000_000_000)
    ('0 bytes', '16.78 MB', '685.00 GB')
    """
    if size < 1000:
        return f"{size} bytes"
    power = min(len(str(size)) // 3, len(_UNITS))
    return f"{size / 1000**power:.2f} {_UNITS[power - 1]}"


def ensure_writable(folder: Path) -> None:
    """Make a folder if need be, and check that a file can be written in it.

    Raises
    ------
    OSError
        It cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    _probe(folder)


def ensure_makeable(folder: Path) -> None:
    """Check that a folder can be made and written into, and make nothing.

    Raises
    ------
    OSError
        It cannot.
    """
    place = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    _probe(place)


def _probe(folder: Path) -> None:
    import tempfile  # which loads a dozen modules

    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"x")
