"""Manifests: folders of tensors that say what is in them, read with distrust.

Lives here: the name and version of the manifest, and reading; `golden` writes them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .. import checkpoint
from .._arrays import Array, brief
from .._regular import ensure_regular, read_small
from .npz_files import NpzFile

MANIFEST = "manifest.json"
FORMAT = "dsv3_numerics.golden/1"
_DEPTH = 4  # of folders in one another
_NUMBERS = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)) | {
    "bool", "float16", "float32", "float64",
}  # fmt: skip


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest; what this package reads of it is of the kind that it has to be.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is not JSON, of another kind or version, or not understood.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(read_small(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        kind = found.get("format") if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{path}: found format {brief(kind)}, expected {FORMAT!r}")
    try:
        rows = found["tensors"]
        names = {row["name"] for row in rows if isinstance(row["name"], str)}
        if not isinstance(rows, list) or len(names) != len(rows):
            raise ValueError("expected a list of tensors, each of another name")
        for row in rows:
            element(row["dtype"])
            _ensure_shape(row["shape"])
            _ensure_below(row["file"])
        for part in found.get("parts", []):
            _ensure_below(part)
            if not Path(part).parts:
                raise ValueError(f"found {part!r} among its own parts")
        for name, row in found.get("files", {}).items():
            _ensure_below(name)
            if type(row["bytes"]) is not int or not isinstance(row["sha256"], str):
                raise ValueError(f"found a file {name!r} without bytes and sha256")
        for name in ("cases", "left_out"):
            if not isinstance(found.get(name, {}), dict):
                raise ValueError(f"found no {name} by name")
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: not understood ({_told(error)})") from error
    return found


def _told(error: Exception) -> str:
    """Write an error of reading in one line: a missing key by its name."""
    return f"found no {error}" if isinstance(error, KeyError) else str(error)[:200]


def _ensure_below(name: Any) -> None:
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ValueError(f"found {brief(name)}, expected a name below the folder")


def _ensure_shape(shape: Any) -> None:
    if not isinstance(shape, list) or any(type(n) is not int or not 0 <= n < 2**48 for n in shape):
        raise ValueError(f"found shape {brief(shape)}, expected a list of lengths")
    if len(shape) > 32:
        raise ValueError(f"found {len(shape)} axes, expected at most 32")


def open_manifest(folder: Path, depth: int = _DEPTH) -> Mapping[str, Array]:
    """Open every tensor of a folder with a manifest; a folder of such folders is opened whole.

    Raises
    ------
    OSError
        A file cannot be read.
    ValueError
        A manifest that is not understood, or contradicts its files.
    """
    manifest = read_manifest(folder)
    out: dict[str, Array] = {}
    for part in _parts(folder, manifest, depth):
        out.update(
            {f"{part}/{name}": array for name, array in open_manifest(folder / part, depth - 1).items()}
        )
    out.update(_tensors(folder, manifest))
    return out


def _parts(folder: Path, manifest: dict[str, Any], depth: int) -> list[str]:
    parts: list[str] = manifest.get("parts", [])
    if parts and depth == 0:
        raise ValueError(f"{folder / MANIFEST}: found parts more than {_DEPTH} deep")
    return parts


def _tensors(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    held: dict[str, Any] = {}
    with ExitStack() as archives:
        for row in manifest["tensors"]:
            yield row["name"], _tensor(folder, row, held, archives)


def _tensor(folder: Path, row: dict[str, Any], held: dict[str, Any], archives: ExitStack) -> Array:
    """Open one tensor; files that hold several are kept in `held`."""
    name, dtype, shape, file = row["name"], element(row["dtype"]), tuple(row["shape"]), row["file"]
    path = folder / file
    ensure_regular(path)
    if path.suffix == ".bin":
        size = math.prod(shape) * dtype.itemsize
        if path.stat().st_size != size:
            raise ValueError(f"{path}: found {path.stat().st_size} bytes, expected {size}")
        raw = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
        return np.asarray(raw).view(dtype).reshape(shape)
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{folder / MANIFEST}: found {file!r}, expected .safetensors, .npz or .bin")
    if file not in held and path.suffix == ".safetensors":
        held[file] = checkpoint.open(path)
    elif file not in held:
        held[file] = archives.enter_context(closing(NpzFile(path)))
    try:
        array = held[file][name]
    except KeyError as error:
        raise ValueError(f"{path}: found no tensor {name!r}, which the manifest has") from error
    if array.shape != shape or array.dtype.itemsize != dtype.itemsize:
        raise ValueError(f"{path}: found {name} of {array.dtype} {array.shape}, expected {dtype} {shape}")
    return np.ascontiguousarray(array).reshape(-1).view(dtype).reshape(shape)


def element(name: Any) -> np.dtype[Any]:
    """Return the dtype of a manifest's name: NumPy's or ml_dtypes'.

    Raises
    ------
    ValueError
        It is no name of numbers.
    """
    found = getattr(ml_dtypes, name, name) if isinstance(name, str) else None
    if isinstance(found, type) and issubclass(found, np.generic):
        return np.dtype(found)
    if found not in _NUMBERS:
        raise ValueError(f"found dtype {brief(name)}, expected that of numbers")
    return np.dtype(found).newbyteorder("<")


def verify(folder: str | Path, depth: int = _DEPTH) -> int:
    """Check the SHA-256 of every tensor of a folder with a manifest.

    Returns
    -------
    int
        Number of tensors.

    Raises
    ------
    OSError
        A file cannot be read.
    ValueError
        The first tensor that is not what the manifest says; a manifest that is not understood.
    """
    place = Path(folder)
    manifest = read_manifest(place)
    count = sum(verify(place / part, depth - 1) for part in _parts(place, manifest, depth))
    sums = {row["name"]: row.get("sha256") for row in manifest["tensors"]}
    for name, array in _tensors(place, manifest):
        found = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).tobytes()).hexdigest()
        if found != sums[name]:
            raise ValueError(f"{place}: {name} has SHA-256 {found}, expected {brief(sums[name])}")
        count += 1
    return count
