"""Files of containers: arrays and facts in NumPy's .npz, written whole or not at all, read with distrust.

Lives here: what every container's ``save`` and ``load`` need. What the arrays mean, and whether they fit
together, is the container's to know. Modules that only files need are imported in the functions: containers
are made more often than saved.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ._arrays import Array
from ._regular import open_regular, path_of

if TYPE_CHECKING:
    from zipfile import ZipFile

Container = TypeVar("Container")
Meta = dict[str, Any]
KINDS = ("Quantized", "LogFmt")
"""Kinds of values that are saved so."""
_MAGIC = "dsv3_numerics."


def write_archive(
    path: str | os.PathLike[str], kind: str, meta: Mapping[str, Any], arrays: Mapping[str, Array]
) -> None:
    """Write a file that `read_archive` reads back bit for bit; arrays are held as unsigned integers.

    The file appears under its name only when complete; an older one of that name stays until then.

    Raises
    ------
    OSError
        Where the folder is missing or cannot be written.
    """
    import json

    facts = json.dumps({"magic": _magic(kind), **meta}).encode()
    members = {name: _integers(array) for name, array in arrays.items()}
    write_npz(path, {"meta": np.frombuffer(facts, np.uint8), **members})


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Array], *, comment: bytes = b"") -> None:
    """NumPy's .npz, which appears under its name only when complete; `comment` is that of the ZIP archive.

    Raises
    ------
    OSError
        Where the folder is missing or cannot be written.
    """
    from pathlib import Path
    from zipfile import ZipFile

    from ._atomic import replacing

    with replacing(Path(path)) as file, ZipFile(file.path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.comment = comment


def read_archive(
    path: str | os.PathLike[str],
    kind: str,
    names: tuple[str, ...],
    make: Callable[[Meta, dict[str, Array]], Container],
) -> Container:
    """Return what `make` makes of the facts and the arrays of these names, all unsigned integers.

    Raises
    ------
    OSError
        Where the file cannot be opened.
    ValueError
        Where it is not such a file, or `make` refuses what is in it.
    """
    with open_regular(path_of(path, "path")) as file:
        try:
            return make(*_read(file, kind, names))
        except (
            Exception
        ) as error:  # zip and npy parsers fail in many ways; all mean that the file is not ours
            raise ValueError(f"path: found {os.fspath(path)!r}, expected a saved {kind} ({error})") from error


def as_dtype(integers: Array, dtype: Any) -> Array:
    """View stored integers as what they stand for.

    Raises
    ------
    ValueError
        Integers of another width.
    """
    wanted = np.dtype(dtype)
    if integers.dtype != f"u{wanted.itemsize}":
        raise ValueError(f"stored as {integers.dtype}, expected uint{8 * wanted.itemsize}")
    return integers.view(wanted)


def kind_of(facts: bytes) -> str | None:
    """Name the kind of value whose facts these are, as a file holds them; None for other bytes.

    Raises
    ------
    ValueError
        A value of another version of this package.
    """
    import json

    try:
        meta = json.loads(facts)
    except ValueError:
        return None
    magic = meta.get("magic") if isinstance(meta, dict) else None
    if not isinstance(magic, str) or not magic.startswith(_MAGIC):
        return None
    kind = magic.removeprefix(_MAGIC).removesuffix("/1")
    if kind not in KINDS or magic != _magic(kind):
        raise ValueError(f"found a saved {magic}, expected {' or '.join(map(_magic, KINDS))}")
    return kind


def _magic(kind: str) -> str:
    return f"{_MAGIC}{kind}/1"


def _integers(array: Array) -> Array:
    """Return the array's bytes as unsigned integers: .npy knows no ml_dtypes."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").reshape(array.shape)


def _read(file: Any, kind: str, names: tuple[str, ...]) -> tuple[Meta, dict[str, Array]]:
    import json
    from zipfile import ZipFile

    size = os.fstat(file.fileno()).st_size
    with ZipFile(file) as archive:
        if sorted(archive.namelist()) != sorted(f"{name}.npy" for name in ("meta", *names)):
            raise ValueError(f"members {archive.namelist()}")
        facts = _read_array(archive, "meta.npy", size)
        arrays = {name: _read_array(archive, f"{name}.npy", size) for name in names}
    meta: Meta = json.loads(facts.tobytes())
    if meta.pop("magic") != _magic(kind):
        raise ValueError("another kind or version")
    return meta, arrays


def _read_array(archive: ZipFile, name: str, limit: int) -> Array:
    """One .npy of the archive, trusting no length that the file's own size does not bear out."""
    from zipfile import ZIP_STORED

    info = archive.getinfo(name)
    if info.compress_type != ZIP_STORED or info.file_size > limit:
        raise ValueError(f"{name} is compressed or longer than the file")
    with archive.open(info) as member:
        np.lib.format.read_magic(member)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        if dtype.kind != "u" or not dtype.isnative or fortran or min(shape, default=1) < 0:
            raise ValueError(f"{name} holds {dtype}, {shape}")
        data = member.read()  # to the end, where the checksum is compared
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {len(data)} bytes for shape {shape}")
    return np.frombuffer(bytearray(data), dtype).reshape(shape)
