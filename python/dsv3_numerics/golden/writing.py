"""Folders of golden vectors: tensors as safetensors, npz or raw files, and the manifest, which comes last."""

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
from .._atomic import is_temporary, replacing
from .._core import __version__
from .._progress import Progress
from .._recipes import one_of
from ..checkpoint.dtypes import of_numpy
from ..compare.manifest import FORMAT, MANIFEST, read_manifest
from .building import Built, Request, build
from .held_models import to_config

FORMS = ("safetensors", "npz", "bin")
"""Kinds of files that golden vectors are written to."""
MODEL = "model"


def write(
    operation: str,
    folder: str | os.PathLike[str],
    *,
    form: str = "safetensors",
    seed: int = 0,
    cases: Sequence[str] | None = None,
    source: str | None = None,
    tensors: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
    **arguments: Any,
) -> Path:
    """Write inputs, scales, partial sums and outputs of an operation, for every kind of input.

    Parameters
    ----------
    operation : str
        One of `OPERATIONS`.
    folder : path
        Made if need be. The manifest is written last: a folder that has one is complete, and asked for again
        it is left as it is.
    form : {"safetensors", "npz", "bin"}
        One file of all tensors, or a raw little-endian file for each.
    seed : int
        Of the random numbers. The same call writes the same bytes everywhere.
    cases : sequence of str, optional
        Kinds of input; all that the operation has by default.
    source : str, optional
        Where numbers of the kind ``real`` come from: a checkpoint, or "demo".
    tensors : sequence of str
        Its tensors, or activations, see `real_matrix`: of the first input, and of the second.
    overwrite : bool
        Whether a folder that holds another set is written anew.
    progress : callable, optional
        Called as ``progress(case, done, total)``.
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
    FileExistsError
        The folder holds another set, or files that are not of any.
    OSError
        The folder cannot be written, or the source not be read.

    Examples
    --------
    >>> from dsv3_numerics import compare
    >>> path = write("quantize", "ours", rule="deepep", layout="mn_major", cases=["ties"])
    >>> _ = write("quantize", "theirs", rule="deepep", layout="mn_major", cases=["ties"], form="npz")
    >>> compare.compare("ours", "theirs").equal
    True
    """
    one_of(form, "form", FORMS)
    request = Request.of(operation, arguments, seed, cases, source, tensors)
    place = Path(folder)
    if not overwrite and is_complete(place, request, form):
        return place / MANIFEST
    ensure_free(place, overwrite=overwrite)
    return write_folder(place, build(request, progress), form)


def is_complete(folder: Path, request: Request, form: str) -> bool:
    """Tell whether a folder holds a request's answers, all files of them as long as they have to be.

    Raises
    ------
    ValueError
        A manifest that is none.
    """
    if not (folder / MANIFEST).is_file():
        return False
    manifest = read_manifest(folder)
    wanted = json.loads(json.dumps(request.about()))
    asked = {name: manifest.get(name) for name in wanted}
    cases = {*manifest.get("cases", {}), *manifest.get("left_out", {})}
    same = asked == wanted and cases == set(request.cases) and manifest.get("form") == form
    sizes = manifest.get("files", {})
    return (
        same
        and manifest.get("dsv3_numerics") == __version__
        and all((folder / name).is_file() for name in sizes)
        and all((folder / name).stat().st_size == row["bytes"] for name, row in sizes.items())
    )


def ensure_free(folder: Path, *, overwrite: bool) -> None:
    """Make way for a set: nothing of another may stay beside it.

    Raises
    ------
    FileExistsError
        The folder holds another set, and `overwrite` is false; it holds files that no set has.
    """
    if not folder.exists():
        return
    there = [path for path in sorted(folder.rglob("*")) if path.is_file() and not is_temporary(path.name)]
    old = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    if old is not None and not overwrite:
        told = old.get("suite") or old.get("operation")
        raise FileExistsError(
            f"{folder}: holds other golden vectors ({told}); name another folder, or overwrite"
        )
    known = {MANIFEST, "README.md", *(old or {}).get("files", {}), *(f"tensors.{form}" for form in FORMS)}
    strange = [path for path in there if old is None and path.relative_to(folder).as_posix() not in known]
    strange = [path for path in strange if path.suffix != ".bin" and path.parent.name != MODEL]
    if strange:
        raise FileExistsError(f"{folder}: holds {strange[0].name}, expected a new or empty folder")
    (folder / MANIFEST).unlink(missing_ok=True)  # from here on the folder is not complete
    for name in (old or {}).get("files", {}):
        path = folder / name
        if ".." not in Path(name).parts and not Path(name).is_absolute() and path.is_file():
            path.unlink()


def write_folder(folder: Path, built: Built, form: str) -> Path:
    """Write a set, the manifest last."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: storable(tensor.array) for name, tensor in built.tensors.items()}
    one = f"tensors.{form}"
    rows = [
        {
            "name": name,
            "file": f"{name}.bin" if form == "bin" else one,
            "dtype": arrays[name].dtype.name,
            "shape": list(arrays[name].shape),
            "format": built.tensors[name].format,
            "layout": built.tensors[name].layout,
            "meaning": built.tensors[name].meaning,
            "sha256": digest(arrays[name]),
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
    files = sorted({str(row["file"]) for row in rows})
    if built.config is not None:
        (folder / MODEL).mkdir(exist_ok=True)
        write_bytes(folder / MODEL / "config.json", to_config(built.config))
        checkpoint.save(folder / MODEL / "model.safetensors", built.checkpoint, metadata={"format": "pt"})
        files += [f"{MODEL}/config.json", f"{MODEL}/model.safetensors"]
    listed = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
        for name in files
    }
    return write_manifest(folder, {**built.about, "form": form, "files": listed, "tensors": rows})


def write_manifest(folder: Path, about: Mapping[str, Any]) -> Path:
    """Write a folder's manifest."""
    content = {"format": FORMAT, "dsv3_numerics": __version__, "byte_order": "little", **about}
    write_bytes(folder / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())
    return folder / MANIFEST


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file."""
    with replacing(path) as file:
        file.write(0, content)


def digest(array: Array) -> str:
    """Return the SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).tobytes()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def storable(array: Array) -> Array:
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
