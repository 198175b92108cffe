"""Sources: which tensors a file, a folder or an array holds, found without reading their values.

Headers and indexes are checked here, all of them before the first value is read. Tensors that hold no real
numbers of their own (integers, FP8 codes, scales) are listed as skipped, each with its reason.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import numpy.typing as npt

from .. import _core
from .readers import ArrayTensor, CheckpointError, StoredTensor, Tensor, readable

INDEX_NAME = "model.safetensors.index.json"
_INDEX_LIMIT = 256 << 20  # bytes; the index of DeepSeek-V3, with 91 991 entries, has 9 MB
_SCALE_SUFFIX = "_scale_inv"

# safetensors' name: ours, the item in the file
_SAFETENSORS = {
    "F64": ("float64", "<f8"),
    "F32": ("float32", "<f4"),
    "F16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"),
}


@dataclass(frozen=True)
class Skipped:
    """A tensor that is left out, and why."""

    name: str
    reason: str


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
        if path.is_dir():
            return _folder(path)
        if not path.exists():
            raise CheckpointError(f"{path}: no such file or folder")
        kind = _KINDS.get(path.suffix.lower())
        if kind is None:
            raise CheckpointError(f"{path}: unknown kind of file; expected {', '.join(_KINDS)} or a folder")
        source = Source()
        for entry in kind(path):
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
    return Skipped(name, reason) if reason else ArrayTensor(name, array.shape, kind, "memory", array)


_FLOATS = ("float64", "float32", "float16", "bfloat16")


def _not_float(kind: str) -> str:
    if "float8" in kind.lower() or kind.startswith("F8"):
        return f"{kind}: quantized already"
    return f"{kind}: not a float64, float32, float16 or bfloat16 tensor"


def _no_numbers(shape: tuple[int, ...]) -> str | None:
    if not shape:
        return "a single number (0-d)"
    return "empty" if 0 in shape else None


def _safetensors(path: Path) -> Iterator[Tensor | Skipped]:
    entries, _ = _core.safetensors_header(str(path))
    kinds = {name: kind for name, kind, *_ in entries}
    for name, kind, dims, begin, end in sorted(entries, key=lambda entry: (entry[3], entry[0])):
        shape = tuple(dims)
        reason = _no_numbers(shape) or _quantized(name, kinds)
        if reason is None and kind not in _SAFETENSORS:
            reason = _not_float(kind)
        if reason is not None:
            yield Skipped(name, reason)
            continue
        dtype, item = _SAFETENSORS[kind]
        size = math.prod(shape) * np.dtype(item).itemsize
        if end - begin != size:
            raise CheckpointError(f"{path}: tensor {name!r} has {end - begin} bytes, its shape says {size}")
        yield StoredTensor(name, shape, dtype, path.name, path, begin, item)


def _quantized(name: str, kinds: dict[str, str]) -> str | None:
    """Why a tensor of a quantized checkpoint has no numbers of its own: FP8 codes, or the scales of such."""
    if kinds[name].startswith("F8") and name + _SCALE_SUFFIX in kinds:
        return f"{kinds[name]} with scales in {name + _SCALE_SUFFIX}: quantized already"
    if name.endswith(_SCALE_SUFFIX):
        return f"the scales of {name.removesuffix(_SCALE_SUFFIX)}"
    return None


def _folder(path: Path) -> Source:
    if (path / INDEX_NAME).exists():
        return _sharded(path, _read_index(path / INDEX_NAME))
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{path}: no .safetensors file in this folder")
    source, seen = Source(), dict[str, str]()
    for file in files:
        with readable(file):
            for entry in _safetensors(file):
                if entry.name in seen:
                    raise CheckpointError(
                        f"{path}: both {seen[entry.name]} and {file.name} hold {entry.name!r}; give one file"
                    )
                seen[entry.name] = file.name
                source.take(entry)
    return source


def _sharded(path: Path, index: dict[str, str]) -> Source:
    source = Source()
    wanted: dict[str, set[str]] = {}
    for name, file in index.items():
        wanted.setdefault(file, set()).add(name)
    for file in sorted(wanted):
        missing = wanted[file]
        with readable(path / file):
            if not (path / file).is_file():
                raise CheckpointError(f"{path / INDEX_NAME}: names {file}, which is not there")
            for entry in _safetensors(path / file):
                if entry.name in missing:
                    missing.remove(entry.name)
                    source.take(entry)
                else:
                    source.take(Skipped(entry.name, f"in {file}, but the index does not list it there"))
        if missing:
            raise CheckpointError(
                f"{path / file}: the index says it holds {min(missing)!r}, which it does not"
            )
    return source


def _read_index(path: Path) -> dict[str, str]:
    if path.stat().st_size > _INDEX_LIMIT:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes; expected at most {_INDEX_LIMIT}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    index = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(index, dict) or not index:
        raise CheckpointError(f"{path}: no weight_map")
    for name, file in index.items():
        if not isinstance(file, str) or not _is_below(file):
            raise CheckpointError(
                f"{path}: {name!r} is said to be in {file!r}; expected a file below this folder"
            )
    return index


def _is_below(file: str) -> bool:
    """Whether a name in an index stays in its folder on every system."""
    parts = PurePosixPath(file).parts
    odd = not file or "\\" in file or ":" in file or "\0" in file
    return not odd and not file.startswith("/") and ".." not in parts and file.endswith(".safetensors")


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
        return Skipped(name, reason)
    if min(shape) < 0 or file.tell() + math.prod(shape) * dtype.itemsize > length:
        raise CheckpointError(
            f"{path}: {name!r} is said to have shape {shape}, for which {length} bytes are too few"
        )
    transposed = columns_first and len(shape) == 2
    return StoredTensor(name, shape, kind, path.name, path, file.tell(), dtype.str, transposed, member)


_KINDS: dict[str, Callable[[Path], Iterator[Tensor | Skipped]]] = {
    ".safetensors": _safetensors,
    ".npy": _npy,
    ".npz": _npz,
}
