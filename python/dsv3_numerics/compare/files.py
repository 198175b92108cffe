"""Files and folders of tensors side by side, their names matched.

Lives here: what `compare` opens (npy, npz, safetensors, folders of ours with a manifest, folders of files),
and its result. Names that are spelled in another project's way are matched by `names`. Single arrays are
compared in `arrays`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike

from .. import checkpoint
from .._arrays import Array
from .._progress import Meter, Progress
from .._regular import open_regular, read_array_header
from .arrays import ArrayComparison, compare_arrays
from .manifest import MANIFEST, open_manifest
from .names import match_names

_PICKLES = (".pt", ".pth", ".bin", ".pkl")
_SUFFIXES = (".npy", ".npz", ".safetensors")


@dataclass
class Comparison:
    """Result of `compare`.

    Attributes
    ----------
    a, b : str
        Sources.
    tensors : list of ArrayComparison
        One for each name that both have; where names are spelled in two ways, ``"A's = B's"``.
    only_a, only_b : list of str
        Names that the other side does not have.
    equal : bool
        True: the same names, and all bits equal.
    """

    a: str
    b: str
    tensors: list[ArrayComparison] = field(default_factory=list)
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """True: the same names, and all bits equal."""
        return not self.only_a and not self.only_b and all(one.equal for one in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, as JSON has it."""
        return {
            "a": self.a,
            "b": self.b,
            "equal": self.equal,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "tensors": [one.to_dict() for one in self.tensors],
        }

    def lines(self) -> list[str]:
        """Return the comparison as text."""
        differing = [one for one in self.tensors if not one.equal]
        out = []
        for one in differing:
            out.append(f"{one.name or 'array'}: differs")
            out += [f"  {line}" for line in _told(one)]
        for side, names in (("A", self.only_a), ("B", self.only_b)):
            out += [f"only in {side}: {name}" for name in names]
        same = len(self.tensors) - len(differing)
        unmatched = len(self.only_a) + len(self.only_b)
        elements = sum(one.elements for one in self.tensors)
        out.append(
            f"{same} of {len(self.tensors)} tensors equal bit for bit, {len(differing)} differ, "
            f"{unmatched} without a partner ({elements} elements)"
        )
        return out


def _told(one: ArrayComparison) -> Iterator[str]:
    """Say in lines where and by how much."""
    yield f"A {one.a}; B {one.b}"
    if one.note:
        yield one.note
    if not one.differing:
        return
    yield f"{one.differing} of {one.elements} elements, first at {list(one.first or ())}"
    yield (
        f"in {one.rows} of {one.row_count} rows, {one.tiles} of {one.tile_count} tiles, "
        f"{one.blocks} of {one.block_count} blocks; worst rows {one.worst_rows}"
    )
    if one.distance:
        yield "distance in codes (ULP): " + ", ".join(f"{k}: {v}" for k, v in one.distance.items())
    yield "differing bits: " + ", ".join(f"{k}: {v}" for k, v in one.bits.items())
    special = {
        "zeros of unlike sign": one.zeros,
        "NaN only in A": one.nan_a,
        "NaN only in B": one.nan_b,
        "NaN of unlike bits": one.nan_payloads,
        "saturated in A": one.saturated_a,
        "saturated in B": one.saturated_b,
    }
    found = [f"{name} {count}" for name, count in special.items() if count]
    if found:
        yield ", ".join(found)
    if one.max_abs is not None and one.max_rel is not None and one.sqnr_db is not None:
        yield (
            f"largest error {one.max_abs:.4g} absolute, {one.max_rel:.4g} relative; SQNR {one.sqnr_db:.4g} dB"
        )


def compare(
    a: str | os.PathLike[str] | Mapping[str, ArrayLike],
    b: str | os.PathLike[str] | Mapping[str, ArrayLike],
    *,
    progress: Progress | None = None,
) -> Comparison:
    """Compare files, folders or mappings of arrays, tensor by tensor.

    Parameters
    ----------
    a, b : path or mapping of str to array
        A ``.npy``, ``.npz`` or ``.safetensors`` file, a checkpoint folder, a folder that `golden` wrote, or a
        folder of such files, whose names then begin with those of the files.
    progress : callable, optional

    Returns
    -------
    Comparison
        Tensors are matched by name; see `names` for spellings of other projects.

    Raises
    ------
    OSError
        Something is missing or cannot be read.
    ValueError
        Something is not understood: pickles, damaged files, no name in common.

    Examples
    --------
    >>> import numpy as np
    >>> found = compare({"x": np.float32([1, 2])}, {"x": np.float32([1, 2])})
    >>> found.equal
    True
    """
    with opened(a, "a") as left, opened(b, "b") as right:
        pairs, only_a, only_b = match_names(list(left), list(right))
        result = Comparison(_called(a), _called(b), only_a=only_a, only_b=only_b)
        if not pairs:
            raise ValueError(
                f"a and b: found no name in common: {_some(list(left))} and {_some(list(right))}"
            )
        meter = Meter(progress, float(len(pairs)))
        for name, other in pairs:
            meter.advance(name)
            shown = name if name == other else f"{name} = {other}"
            result.tensors.append(compare_arrays(left[name], right[other], name=shown))
            meter.advance(name, 1)
        return result


def _called(source: Any) -> str:
    return "arrays" if isinstance(source, Mapping) else os.fspath(source)


def _some(names: list[str]) -> str:
    return (
        ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"
    )


@contextmanager
def opened(source: Any, name: str) -> Iterator[Mapping[str, Array]]:
    """Open anything that holds tensors as a mapping; arrays are read when they are asked for."""
    if isinstance(source, Mapping):
        yield source
        return
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(2, "No such file or folder", str(path))
    if path.is_dir():
        with _folder(path) as found:
            yield found
        return
    suffix = path.suffix
    if suffix in _PICKLES:
        raise ValueError(
            f"{name}: found {path}, a pickle, which is not read: it may run code; save the tensors as "
            "safetensors or npz"
        )
    if suffix == ".safetensors":
        with checkpoint.open(path) as held:
            yield held
    elif suffix == ".npy":
        yield {"array": _loaded(path)}
    elif suffix == ".npz":
        with _archive(path) as archive:
            yield archive
    else:
        raise ValueError(
            f"{name}: found {path}, expected .npy, .npz, .safetensors, or a folder with {MANIFEST}"
        )


def _loaded(path: Path) -> Any:
    """Map an array of NumPy's."""
    try:
        with open_regular(path) as file:
            length = os.fstat(file.fileno()).st_size
            read_array_header(file, length).ensure_fits(length)
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: no array of NumPy's ({error})") from error


@contextmanager
def _archive(path: Path) -> Iterator[Any]:
    """Open an archive of NumPy's."""
    with open_regular(path) as stream:
        try:
            found = np.load(stream, allow_pickle=False)
        except (ValueError, BadZipFile, EOFError) as error:
            raise ValueError(f"{path}: no archive of NumPy's ({error})") from error
        if not isinstance(found, Mapping):
            raise ValueError(f"{path}: found one array, expected an archive of NumPy's")
        yield found


@contextmanager
def _folder(path: Path) -> Iterator[Mapping[str, Array]]:
    """Open a folder: ours by its manifest, a checkpoint, or any files that can be read."""
    if (path / MANIFEST).exists():
        yield open_manifest(path)
        return
    files = sorted(f for f in path.rglob("*") if f.suffix in _SUFFIXES and f.is_file())
    pickles = sorted(f for f in path.rglob("*") if f.suffix in _PICKLES and f.is_file())
    if pickles:
        raise ValueError(
            f"{path}: found {pickles[0].name} and {len(pickles) - 1} more pickles, which are not read"
        )
    if not files:
        raise ValueError(f"{path}: found no {MANIFEST} and no file of {', '.join(_SUFFIXES)}")
    if all(f.suffix == ".safetensors" and f.parent == path for f in files):
        with checkpoint.open(path) as held:
            yield held
        return
    arrays: dict[str, Array] = {}
    for file in files:
        stem = file.relative_to(path).with_suffix("").as_posix().replace("/", ".")
        if file.suffix == ".npy":
            arrays[stem] = _loaded(file)
            continue
        with opened(file, "folder") as inside:
            arrays.update({f"{stem}.{key}": inside[key] for key in inside})
    yield arrays
