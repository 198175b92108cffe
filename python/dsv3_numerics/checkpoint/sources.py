"""Sources: which tensors a file, a folder or an array holds, found without reading their values.

All headers and indexes are checked (see `scan`) before the first value is read. Tensors that hold no real
numbers of their own (integers, FP8 codes, scales) are listed as skipped, each with its reason.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from .dtypes import SCALED
from .index import SUFFIX, locate
from .readers import ArrayTensor, CheckpointError, StoredTensor, Tensor, readable
from .scan import SCALE_SUFFIX, Scan, TensorInfo, scan

# safetensors' name: ours, the item in the file
_SAFETENSORS = {
    "F64": ("float64", "<f8"),
    "F32": ("float32", "<f4"),
    "F16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"),
}


@dataclass(frozen=True)
class Skipped:
    """Tensor that is left out, and why.

    Attributes
    ----------
    name, reason : str
    elements : int
    group : str
        Reason without what is of this tensor alone, for counting; empty: `reason` is it.
    """

    name: str
    reason: str
    elements: int = 0
    group: str = ""


@dataclass
class Source:
    """The tensors of one input, in the order in which they are stored."""

    tensors: list[Tensor] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def take(self, entry: Tensor | Skipped) -> None:
        """Add a tensor or a reason."""
        if isinstance(entry, Skipped):
            self.skipped.append(entry)
        else:
            self.tensors.append(entry)


def open_source(path: str | Path) -> Source:
    """List the tensors of a ``.safetensors``, ``.npy`` or ``.npz`` file, or of a checkpoint folder.

    A folder is read by its ``model.safetensors.index.json`` if it has one. Links are followed (model caches
    are made of them); an index may only name files below its folder.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Source
        Tensors and skipped tensors, in the order of the files.

    Raises
    ------
    CheckpointError
        The path is missing, of an unknown kind, truncated, or inconsistent.
    """
    path = Path(path)
    with readable(path):
        kind = path.suffix.lower()
        if path.is_dir() or kind == SUFFIX:
            return _checkpoint(path)
        if not path.exists():
            raise CheckpointError(f"{path}: no such file or folder")
        if kind not in _ARRAYS:
            raise CheckpointError(f"{path}: unknown kind of file; expected {', '.join(_KINDS)} or a folder")
        source = Source()
        for entry in _ARRAYS[kind](path):
            source.take(entry)
        return source


def array_tensor(name: str, array: npt.ArrayLike) -> Tensor | Skipped:
    """A tensor out of an array in memory, or the reason why it is left out.

    Raises
    ------
    TypeError
        A masked array (its mask would be dropped), or an object array.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name}: found a masked array; expected a plain one (fill it, or compress it)")
    array = np.asarray(array)
    if array.dtype.hasobject:
        raise TypeError(f"{name}: found an array of Python objects; expected floating-point numbers")
    kind = array.dtype.newbyteorder("=").name
    reason = _no_numbers(array.shape) or (None if kind in _FLOATS else _not_float(kind))
    if reason:
        return Skipped(name, reason, array.size)
    return ArrayTensor(name, array.shape, kind, "memory", array)


_FLOATS = ("float64", "float32", "float16", "bfloat16")


def _not_float(kind: str) -> str:
    if "float8" in kind.lower() or kind.startswith("F8"):
        return f"{kind}: quantized already"
    return f"{kind}: not a float64, float32, float16 or bfloat16 tensor"


def _no_numbers(shape: tuple[int, ...]) -> str | None:
    if not shape:
        return "a single number (0-d)"
    return "empty" if 0 in shape else None


def _checkpoint(path: Path) -> Source:
    """A file or a folder, all headers checked before the first tensor is listed."""
    place = locate(path)
    found = scan(place)
    found.raise_first()
    source = Source()
    for info in found.tensors.values():
        source.take(_entry(place.folder / info.file, info, found))
    for info in found.unlisted:
        reason, group = f"in {info.file}, but the index does not list it there", "not in the index"
        source.take(Skipped(info.name, reason, math.prod(info.shape), group))
    return source


def _entry(path: Path, info: TensorInfo, found: Scan) -> Tensor | Skipped:
    reason = _no_numbers(info.shape) or _quantized(info, found)
    if reason is None and info.dtype not in _SAFETENSORS:
        reason = _not_float(info.dtype)
    if reason is not None:
        return Skipped(info.name, reason, math.prod(info.shape), _group(reason))
    dtype, item = _SAFETENSORS[info.dtype]
    return StoredTensor(info.name, info.shape, dtype, path.name, path, info.begin, item)


def _group(reason: str) -> str:
    """Cut the name of another tensor off a reason."""
    return re.sub(r" (with scales) in .*: |^(the scales) of .*", lambda m: m[2] or f" {m[1]}: ", reason)


def _quantized(info: TensorInfo, found: Scan) -> str | None:
    """Why a tensor of a quantized checkpoint has no numbers of its own: FP8 codes, or the scales of such."""
    if info.dtype in SCALED and info.name + SCALE_SUFFIX in found.tensors:
        return f"{info.dtype} with scales in {info.name + SCALE_SUFFIX}: quantized already"
    if info.name.endswith(SCALE_SUFFIX):
        return f"the scales of {info.name.removesuffix(SCALE_SUFFIX)}"
    return None


def _npy(path: Path) -> Iterator[Tensor | Skipped]:
    with open(path, "rb") as file:
        yield _npy_entry(path.stem, path, file, path.stat().st_size, None)


def _npz(path: Path) -> Iterator[Tensor | Skipped]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                yield Skipped(info.filename, "not an .npy member")
                continue
            with archive.open(info) as file:
                name = info.filename.removesuffix(".npy")
                yield _npy_entry(name, path, file, info.file_size, info.filename)


def _npy_entry(name: str, path: Path, file: IO[bytes], length: int, member: str | None) -> Tensor | Skipped:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
        version
    )
    if read is None:
        return Skipped(name, f"version {version[0]}.{version[1]} of the .npy format")
    shape, columns_first, dtype = read(file)
    kind = dtype.newbyteorder("=").name
    if dtype.kind == "V" and dtype.names is None:
        kind += " (NumPy does not keep the type of ml_dtypes arrays in .npy files)"
    reason = _no_numbers(shape) or (None if kind in _FLOATS else _not_float(kind))
    if reason is None and columns_first and len(shape) > 2:
        reason = "in Fortran order with more than two axes: save np.ascontiguousarray of it"
    if reason is not None:
        return Skipped(name, reason, math.prod(shape))
    if min(shape) < 0 or file.tell() + math.prod(shape) * dtype.itemsize > length:
        raise CheckpointError(
            f"{path}: {name!r} is said to have shape {shape}, for which {length} bytes are too few"
        )
    transposed = columns_first and len(shape) == 2
    return StoredTensor(name, shape, kind, path.name, path, file.tell(), dtype.str, transposed, member)


_ARRAYS: dict[str, Callable[[Path], Iterator[Tensor | Skipped]]] = {".npy": _npy, ".npz": _npz}
_KINDS = (SUFFIX, *_ARRAYS)
