"""Entries of zip archives that anybody may have written: their places in the file, and bounds.

Lives here: what `npz_files` and `torch_files` share.
"""

from __future__ import annotations

from typing import IO
from zipfile import ZIP_STORED, ZipFile, ZipInfo

_MOST = 1 << 20  # entries
_PLAIN = 64 << 20  # bytes that an entry may always have
_RATIO = 256  # and times its packed size beyond that


def entries_of(archive: ZipFile) -> dict[str, ZipInfo]:
    """Return the entries of an archive by name.

    Raises
    ------
    ValueError
        Too many, or two of one name.
    """
    infos = archive.infolist()
    found = {info.filename: info for info in infos}
    if len(infos) > _MOST or len(found) != len(infos):
        raise ValueError("found too many entries, or several of one name")
    return found


def place_of(file: IO[bytes], info: ZipInfo, length: int) -> tuple[int, int]:
    """Return where the bytes of an entry that is not compressed begin, and how many they are.

    Raises
    ------
    ValueError
        It is compressed, or the file has no such bytes.
    """
    if info.compress_type != ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"found {info.filename} compressed")
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ValueError(f"found no entry {info.filename} where the archive says")
    begin = info.header_offset + 30
    begin += int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if begin + info.file_size > length:
        raise ValueError(f"found {info.filename} of {info.file_size} bytes in a file of {length}")
    return begin, info.file_size


def ensure_bounded(info: ZipInfo, length: int) -> None:
    """Refuse an entry that unpacks to far more than the archive bears out.

    Raises
    ------
    ValueError
        It is larger than 64 MiB and than 256 times its packed size.
    """
    packed = min(info.compress_size, length)
    if info.file_size > max(_PLAIN, _RATIO * packed):
        raise ValueError(f"found {info.filename} of {info.file_size} bytes packed into {packed}")
