"""Manifests: folders of tensors that say what is in them, read with distrust.

Lives here: the name and version of the manifest, and reading; `golden` writes them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .. import checkpoint
from .._arrays import Array
from .._regular import ensure_regular, read_small

MANIFEST = "manifest.json"
FORMAT = "dsv3_numerics.golden/1"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest.

    Raises
    ------
    ValueError
        It is not JSON, or of another kind or version.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(read_small(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        kind = found.get("format") if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{path}: found format {kind!r}, expected {FORMAT!r}")
    if not isinstance(found.get("tensors"), list):
        raise ValueError(f"{path}: found no list of tensors")
    return found


def open_manifest(folder: Path) -> Mapping[str, Array]:
    """Open every tensor of a folder with a manifest; a folder of such folders is opened whole.

    Raises
    ------
    ValueError
        A manifest that contradicts its files.
    """
    manifest = read_manifest(folder)
    out: dict[str, Array] = {}
    for part in manifest.get("parts", []):
        inside = _inside(folder, part)
        out.update({f"{part}/{name}": array for name, array in open_manifest(inside).items()})
    out.update(_tensors(folder, manifest))
    return out


def _inside(folder: Path, name: Any) -> Path:
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{folder / MANIFEST}: found {name!r}, expected a name below the folder")
    return folder / name


def _tensors(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    held: dict[str, Any] = {}
    for row in manifest["tensors"]:
        try:
            name, dtype, shape = row["name"], element(row["dtype"]), tuple(row["shape"])
            size = math.prod(shape) * dtype.itemsize
            path = _inside(folder, row["file"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / MANIFEST}: a tensor's row is not understood ({error!r})") from error
        ensure_regular(path)
        if path.suffix == ".bin":
            if path.stat().st_size != size:
                raise ValueError(f"{path}: found {path.stat().st_size} bytes, expected {size}")
            raw = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
            yield name, np.asarray(raw).view(dtype).reshape(shape)
            continue
        if row["file"] not in held:
            held[row["file"]] = (
                checkpoint.open(path) if path.suffix == ".safetensors" else np.load(path, allow_pickle=False)
            )
        try:
            array = held[row["file"]][name]
        except KeyError as error:
            raise ValueError(f"{path}: found no tensor {name!r}, which the manifest has") from error
        if array.shape != shape or array.dtype.itemsize != dtype.itemsize:
            raise ValueError(f"{path}: found {name} of {array.dtype} {array.shape}, expected {dtype} {shape}")
        yield name, array.view(dtype)


def element(name: str) -> np.dtype[Any]:
    """Return the dtype of a manifest's name: NumPy's or ml_dtypes'."""
    found = getattr(ml_dtypes, name, None)
    return np.dtype(name if found is None else found).newbyteorder("<")


def verify(folder: str | Path) -> int:
    """Check the SHA-256 of every tensor of a folder with a manifest.

    Returns
    -------
    int
        Number of tensors.

    Raises
    ------
    ValueError
        The first tensor that is not what the manifest says.
    """
    place = Path(folder)
    manifest = read_manifest(place)
    count = sum(verify(_inside(place, part)) for part in manifest.get("parts", []))
    sums = {row.get("name"): row.get("sha256") for row in manifest["tensors"]}
    for name, array in _tensors(place, manifest):
        found = hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).tobytes()).hexdigest()
        if found != sums[name]:
            raise ValueError(f"{place}: {name} has SHA-256 {found}, expected {sums[name]}")
        count += 1
    return count
