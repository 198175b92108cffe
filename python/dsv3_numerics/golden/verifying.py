"""Check of a folder of golden vectors: hashes, files, and the same answers made again."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from .._arrays import brief
from .._atomic import is_temporary
from .._progress import Meter, Progress
from ..compare.manifest import MANIFEST, read_manifest
from ..compare.manifest import verify as verify_tensors
from .building import Request, build
from .writing import digest, file_digest, storable


class Verified(NamedTuple):
    """Outcome of `verify`.

    Attributes
    ----------
    tensors : int
        Whose SHA-256 is that of the manifest.
    files : int
        Likewise.
    recomputed : int
        Tensors that were made again, and are the same bits.
    unlisted : tuple of str
        Files in the folder that no manifest names.
    """

    tensors: int
    files: int
    recomputed: int
    unlisted: tuple[str, ...]


def verify(
    folder: str | os.PathLike[str], *, recompute: bool = False, progress: Progress | None = None
) -> Verified:
    """Check every tensor and file of a folder that `write` or `write_suite` wrote.

    Parameters
    ----------
    folder : path
    recompute : bool
        Whether every answer is made again too, from the operation, arguments and seed in the manifest.
    progress : callable, optional

    Raises
    ------
    ValueError
        The first tensor or file that is not what the manifest says, or is not when it is made again; a
        manifest that is not understood.
    OSError
        A file is missing or cannot be read.

    Examples
    --------
    >>> from dsv3_numerics import golden
    >>> _ = golden.write("cast", "casts", cases=["ties"])
    >>> golden.verify("casts", recompute=True)
    Verified(tensors=2, files=1, recomputed=2, unlisted=())
    """
    place = Path(folder)
    manifest = read_manifest(place)
    parts = [place / part for part in manifest.get("parts", [])]
    meter = Meter(progress, float(1 + len(parts)))
    meter.advance("hashes")
    tensors = verify_tensors(place)
    files, recomputed, listed = 0, 0, {place / MANIFEST}
    meter.advance("hashes", 1)
    for one in [place, *parts]:
        held = read_manifest(one)
        listed.add(one / MANIFEST)
        for name, row in held.get("files", {}).items():
            path = one / name
            found = file_digest(path)
            if found != row["sha256"]:
                raise ValueError(f"{path}: found SHA-256 {found}, expected {row['sha256']}")
            listed.add(path)
            files += 1
        if recompute and "operation" in held:
            recomputed += _recomputed(one, progress)
        if one != place:
            meter.advance(one.name, 1)
    there = (path for path in sorted(place.rglob("*")) if path.is_file() and not is_temporary(path.name))
    unlisted = tuple(path.relative_to(place).as_posix() for path in there if path not in listed)
    return Verified(tensors, files, recomputed, unlisted)


_SMALL = 1 << 16  # sizes that need no tensor of their own: positions, intervals


def _ensure_own_size(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse to make what is larger than all that the folder holds."""
    most = max(_SMALL, sum(math.prod(row["shape"]) for row in manifest["tensors"]))
    arguments = manifest.get("arguments")
    for name, value in arguments.items() if isinstance(arguments, dict) else ():
        for number in value if isinstance(value, list) else [value]:
            if type(number) is int and abs(number) > most:
                told = f"{name}: found {brief(number)}, but its tensors have {most} elements"
                raise ValueError(f"{folder / MANIFEST}: {told}")


def _recomputed(folder: Path, progress: Progress | None) -> int:
    """Make the answers of a folder again, and hold them against its hashes."""
    manifest = read_manifest(folder)
    _ensure_own_size(folder, manifest)
    try:
        built = build(Request.from_manifest(manifest))
    except TypeError as error:  # arguments of other kinds
        raise ValueError(f"{folder / MANIFEST}: {error}") from error
    sums = {row["name"]: row.get("sha256") for row in manifest["tensors"]}
    if sums.keys() != built.tensors.keys():
        unlike = sorted(sums.keys() ^ built.tensors.keys())
        raise ValueError(f"{folder}: made again it has other tensors: {', '.join(unlike[:4])}")
    for name, tensor in built.tensors.items():
        if digest(storable(tensor.array)) != sums[name]:
            version = manifest.get("dsv3_numerics")
            raise ValueError(f"{folder}: {name} comes out otherwise when made again (written by {version})")
    return len(sums)
