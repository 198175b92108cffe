"""Folders of golden vectors: tensors as safetensors, npz or raw files, and the manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import checkpoint
from .._archive import write_npz
from .._arrays import Array
from .._atomic import replacing
from .._core import __version__
from .._recipes import one_of
from ..checkpoint.dtypes import of_numpy
from ..compare.manifest import FORMAT, MANIFEST
from .inputs import CASES
from .operations import CHOICES, OPERATIONS, Tensor

FORMS = ("safetensors", "npz", "bin")


def write(
    operation: str,
    folder: str | os.PathLike[str],
    *,
    form: str = "safetensors",
    seed: int = 0,
    cases: Sequence[str] | None = None,
    **arguments: Any,
) -> Path:
    """Write inputs, scales, partial sums and outputs of an operation, for every kind of input.

    Parameters
    ----------
    operation : str
        One of `OPERATIONS`.
    folder : path
        Made if need be. Files of these names are replaced.
    form : {"safetensors", "npz", "bin"}
        One file of all tensors, or a raw little-endian file for each.
    seed : int
        Of the random numbers. The same call writes the same bytes everywhere.
    cases : sequence of str, optional
        Kinds of input; all that the operation has by default.
    **arguments
        Those of the operation, see ``OPERATIONS[operation].defaults``.

    Returns
    -------
    Path
        The manifest.

    Raises
    ------
    ValueError, TypeError
        An unknown word; arguments that do not go together.
    OSError
        The folder cannot be written.

    Examples
    --------
    >>> from dsv3_numerics import compare
    >>> path = write("quantize", "ours", rule="deepep", layout="mn_major", cases=["ties"])
    >>> _ = write("quantize", "theirs", rule="deepep", layout="mn_major", cases=["ties"], form="npz")
    >>> compare.compare("ours", "theirs").equal
    True
    """
    one_of(operation, "operation", OPERATIONS)
    one_of(form, "form", FORMS)
    row = OPERATIONS[operation]
    for name, value in arguments.items():
        one_of(name, f"argument of {operation}", row.defaults)
        if name in CHOICES:
            one_of(value, name, CHOICES[name])
    chosen = tuple(row.cases if cases is None else cases)
    for case in chosen:
        one_of(case, "cases", row.cases)
    full = {**row.defaults, **arguments}
    tensors: dict[str, Tensor] = {}
    left_out: dict[str, str] = {}
    for number, case in enumerate(chosen):
        try:
            made = row.make(full, case, seed + 16 * number)
        except ValueError as error:
            if CASES[case].finite:
                raise
            left_out[case] = str(error)  # such a format or rule does not take NaN and infinities
            continue
        tensors.update({f"{case}.{name}": tensor for name, tensor in made.items()})
    about = {
        "operation": operation,
        "arguments": full,
        "seed": seed,
        "cases": {case: CASES[case].catches for case in chosen if case not in left_out},
        "left_out": left_out,
    }
    return _write_folder(Path(folder), tensors, form, about)


def _write_folder(folder: Path, tensors: Mapping[str, Tensor], form: str, about: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: _storable(tensor.array) for name, tensor in tensors.items()}
    one = f"tensors.{form}"
    rows = [
        {
            "name": name,
            "file": f"{name}.bin" if form == "bin" else one,
            "dtype": arrays[name].dtype.name,
            "shape": list(arrays[name].shape),
            "format": tensors[name].format,
            "meaning": tensors[name].meaning,
            "sha256": hashlib.sha256(arrays[name].view(np.uint8).tobytes()).hexdigest(),
        }
        for name in arrays
    ]
    if form == "safetensors":
        checkpoint.save(folder / one, arrays, metadata={"format": FORMAT})
    elif form == "npz":
        write_npz(folder / one, {name: _plain(array) for name, array in arrays.items()})
    else:
        for name, array in arrays.items():
            write_bytes(folder / f"{name}.bin", array.view(np.uint8).tobytes())
    return write_manifest(folder, {**about, "tensors": rows})


def write_manifest(folder: Path, about: Mapping[str, Any]) -> Path:
    """Write a folder's manifest."""
    content = {"format": FORMAT, "dsv3_numerics": __version__, "byte_order": "little", **about}
    write_bytes(folder / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())
    return folder / MANIFEST


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file."""
    with replacing(path) as file:
        file.write(0, content)


def _storable(array: Array) -> Array:
    """Return an array that every form can hold: with an axis, in C order, little-endian."""
    held = np.ascontiguousarray(array)
    if held.dtype.byteorder == ">":
        held = held.astype(held.dtype.newbyteorder("<"))
    try:
        of_numpy(held.dtype)
    except TypeError:
        return held.view(f"u{held.dtype.itemsize}")
    return held


def _plain(array: Array) -> Array:
    """View what NumPy's files do not know as unsigned integers."""
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array
