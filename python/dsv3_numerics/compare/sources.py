"""Files and folders that hold tensors, opened with distrust.

Lives here: which reader takes what. Archives are read by `npz_files` and `torch_files`, folders with a
manifest by `manifest`; names of dumps are changed by `dumps`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import checkpoint
from .._arrays import Array
from .._regular import ensure_regular, open_regular, read_array_header
from .dumps import named
from .manifest import MANIFEST, open_manifest
from .npz_files import NpzFile, mapped
from .saved_files import opened_value
from .torch_files import TorchFile

_TORCH = (".pt", ".pth", ".bin")
_SUFFIXES = (".npy", ".npz", ".safetensors", ".pt", ".pth")
_MOST = 1 << 16  # files of a folder


@dataclass
class Tensors(Mapping[str, Array]):
    """Tensors by name, read when they are asked for.

    Attributes
    ----------
    held : mapping of str to array
    notes : list of str
        What was done to names and shards, and what was left out.
    """

    held: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Array:
        found: Array = self.held[name]
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


@contextmanager
def opened(source: Any, name: str) -> Iterator[Tensors]:
    """Open anything that holds tensors.

    Raises
    ------
    OSError
        It is missing or cannot be read.
    ValueError
        It is not understood.
    """
    if isinstance(source, Mapping):
        yield Tensors(source)
        return
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(2, "No such file or folder", str(path))
    if path.is_dir():
        with _folder(path) as found:
            yield found
        return
    ensure_regular(path)
    suffix = path.suffix
    if suffix == ".safetensors":
        with checkpoint.open(path) as held:
            yield Tensors(held)
    elif suffix == ".npy":
        yield Tensors({"array": _loaded(path)})
    elif suffix == ".npz":
        archive = NpzFile(path)
        try:
            yield Tensors(*opened_value(path, archive))
        finally:
            archive.close()
    elif suffix in _TORCH:
        yield _torch(path)
    else:
        raise ValueError(
            f"{name}: found {path}, expected {', '.join(_SUFFIXES)}, or a folder with {MANIFEST} or those"
        )


def _torch(path: Path) -> Tensors:
    found = TorchFile(path)
    return Tensors(found, _left_out({path.name: found.left_out}))


def _left_out(values: dict[str, list[str]]) -> list[str]:
    """Note values of torch's files that are no tensors."""
    names = [f"{file}: {name}" for file, held in values.items() for name in held]
    if not names:
        return []
    return [f"{len(names)} values are no tensors and are left out ({', '.join(names[:3])})"]


def _loaded(path: Path) -> Any:
    """Map an array of NumPy's."""
    try:
        with open_regular(path) as file:
            length = os.fstat(file.fileno()).st_size
            header = read_array_header(file, length)
            header.ensure_fits(length)
        if header.dtype.hasobject:
            raise ValueError("found objects, expected numbers")
        if 0 in header.shape:
            return np.zeros(header.shape, header.dtype)
        return mapped(path, header)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: no array of NumPy's ({error})") from error


@contextmanager
def _folder(path: Path) -> Iterator[Tensors]:
    """Open a folder: ours by its manifest, a checkpoint, a dump, or any files that can be read."""
    if (path / MANIFEST).exists():
        yield Tensors(open_manifest(path))
        return
    files = []
    for file in sorted(path.rglob("*")):
        if file.suffix in _SUFFIXES and not file.is_dir():
            files.append(file)
        if len(files) > _MOST:
            raise ValueError(f"{path}: found more than {_MOST} files")
    if not files:
        raise ValueError(f"{path}: found no {MANIFEST} and no file of {', '.join(_SUFFIXES)}")
    if all(f.suffix == ".safetensors" and f.parent == path for f in files):
        with checkpoint.open(path) as held:
            yield Tensors(held)
        return
    arrays: dict[str, Array] = {}
    notes: list[str] = []
    left_out: dict[str, list[str]] = {}
    archives = []
    try:
        for file in files:
            ensure_regular(file)
            stem = file.relative_to(path).with_suffix("").as_posix().replace("/", ".")
            if file.suffix == ".npy":
                arrays[stem] = _loaded(file)
                continue
            if file.suffix == ".npz":
                archive = NpzFile(file)
                archives.append(archive)
                inside: Mapping[str, Any]
                inside, told = opened_value(file, archive)
                notes += told
            elif file.suffix == ".safetensors":
                with checkpoint.open(file) as held:
                    inside = {key: held[key] for key in held}
            else:
                one = TorchFile(file)
                inside = one
                left_out[file.name] = one.left_out
            alone = len(inside) == 1 and next(iter(inside)) in ("array", "value")
            for key in inside:
                arrays[stem if alone else f"{stem}.{key}"] = inside[key]
        dump = named(arrays)
        yield Tensors(dump.tensors, _left_out(left_out) + dump.notes + notes)
    finally:
        for archive in archives:
            archive.close()
