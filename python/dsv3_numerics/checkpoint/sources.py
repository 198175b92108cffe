"""Sources: which tensors a file, a folder or an array holds, found without reading their values.

All headers and indexes are checked (see `scan`) before the first value is read. Low-precision weights are
the numbers that their codes mean; tensors that hold no numbers of their own (integers, scales, codes that no
dialect explains) are listed as skipped, each with its reason.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from .._arrays import is_masked
from .._regular import OtherVersion, open_regular, read_array_header
from .chunks import Chunk, WorkerContext
from .dequantize import decode_region
from .index import SUFFIX, kind_of
from .reader import Checkpoint
from .reader import open as open_checkpoint
from .readers import ArrayTensor, CheckpointError, Floating, Rows, StoredTensor, Tensor, readable
from .scan import TensorInfo
from .stored import StoredWeight

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


def open_source(path: str | Path, *, missing_scale: float | None = None) -> Source:
    """List the tensors of a ``.safetensors``, ``.npy`` or ``.npz`` file, or of a checkpoint folder.

    A folder is read by its ``model.safetensors.index.json`` if it has one. Links are followed (model caches
    are made of them); an index may only name files below its folder.

    Parameters
    ----------
    path : str or Path
    missing_scale : 1, optional
        Take FP8 codes without any scale for the numbers themselves, as `open` does.

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
        if kind not in _ARRAYS or not path.is_file():
            if path.is_file() and kind not in (SUFFIX, ".json") and kind_of(path) is None:
                expected = f"{', '.join(_KINDS)} or a folder"
                raise CheckpointError(f"{path}: unknown kind of file; expected {expected}")
            return checkpoint_source(open_checkpoint(path, missing_scale=missing_scale))
        source = Source()
        for entry in _ARRAYS[kind](path):
            source.take(entry)
        return source


def array_tensor(name: str, array: npt.ArrayLike) -> Tensor | Skipped:
    """Return a tensor out of an array in memory, or the reason why it is left out.

    Raises
    ------
    TypeError
        A masked array (its mask would be dropped), or an object array.
    """
    if is_masked(array):
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


def checkpoint_source(ckpt: Checkpoint) -> Source:
    """List the tensors of an open checkpoint, low-precision weights as the numbers that they mean.

    Parameters
    ----------
    ckpt : Checkpoint
        Must stay open while tensors are read.
    """
    source, contents = Source(), ckpt.contents
    for info in ckpt.infos():
        owner = contents.owner.get(info.name)
        if owner is None:
            source.take(_entry(ckpt, info))
            continue
        weight = contents.weights[owner]
        if weight.codes != info:
            source.take(Skipped(info.name, f"the scales of {owner}", info.size, "scales of a weight"))
        elif reason := _no_numbers(weight.shape):
            source.take(Skipped(owner, reason, weight.size))
        elif contents.undeclared is not None:
            source.take(Skipped(owner, contents.undeclared.text, weight.size, "declared, and not understood"))
        else:
            source.take(WeightTensor(owner, weight.plain_shape, "float32", info.file, ckpt, weight))
    for info in ckpt.unlisted:
        reason, group = f"in {info.file}, but the index does not list it there", "not in the index"
        source.take(Skipped(info.name, reason, math.prod(info.shape), group))
    return source


def _entry(ckpt: Checkpoint, info: TensorInfo) -> Tensor | Skipped:
    problem = ckpt.contents.problem_of.get(info.name)
    if problem is not None:
        return Skipped(info.name, problem.text, info.size, f"{info.dtype}: {problem.kind}")
    reason = _no_numbers(info.shape)
    if reason is None and info.dtype not in _SAFETENSORS:
        reason = _not_float(info.dtype)
    if reason is not None:
        return Skipped(info.name, reason, math.prod(info.shape))
    dtype, item = _SAFETENSORS[info.dtype]
    path = ckpt.folder / info.file
    return StoredTensor(info.name, info.shape, dtype, path.name, path, info.begin, item)


@dataclass(frozen=True)
class WeightTensor(Tensor):
    """Low-precision weight of a checkpoint, read as the numbers that its codes mean."""

    ckpt: Checkpoint
    weight: StoredWeight

    @property
    def stored_as(self) -> str:
        return self.weight.format

    @property
    def stored_bits(self) -> int:
        return 8 * self.weight.nbytes

    @contextmanager
    def _rows(self) -> Iterator[Rows]:
        context, grid = WorkerContext(self.ckpt), self.weight.grid
        transposed = self.weight.dialect.transposed
        high = grid.cols if transposed else grid.rows

        def rows(r0: int, r1: int, c0: int, c1: int) -> Floating:
            out = np.empty((r1 - r0, c1 - c0), np.float32)
            at = r0
            while at < r1:
                place, first = divmod(at, high)
                last = min(first + r1 - at, high)
                part = out[at - r0 : at - r0 + last - first]
                if transposed:
                    decode_region(context, self.weight, Chunk(place, c0, c1, first, last), part.T)
                else:
                    decode_region(context, self.weight, Chunk(place, first, last, c0, c1), part)
                at += last - first
            return out

        try:
            yield rows
        finally:
            context.close()

    def open(self) -> AbstractContextManager[Rows]:
        return self._rows()


def _npy(path: Path) -> Iterator[Tensor | Skipped]:
    with open_regular(path) as file:
        yield _npy_entry(path.stem, path, file, path.stat().st_size, None)


def _npz(path: Path) -> Iterator[Tensor | Skipped]:
    with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                yield Skipped(info.filename, "not an .npy member")
                continue
            with archive.open(info) as file:
                name = info.filename.removesuffix(".npy")
                yield _npy_entry(name, path, file, info.file_size, info.filename)


def _npy_entry(name: str, path: Path, file: IO[bytes], length: int, member: str | None) -> Tensor | Skipped:
    try:
        header = read_array_header(file, length)
    except OtherVersion as error:
        return Skipped(name, str(error))
    except ValueError as error:
        raise CheckpointError(f"{path}: {name!r}: {error}") from None
    shape, columns_first, dtype, begin = header
    kind = dtype.newbyteorder("=").name
    if dtype.kind == "V" and dtype.names is None:
        kind += " (NumPy does not keep the type of ml_dtypes arrays in .npy files)"
    reason = _no_numbers(shape) or (None if kind in _FLOATS else _not_float(kind))
    if reason is None and columns_first and len(shape) > 2:
        reason = "in Fortran order with more than two axes: save np.ascontiguousarray of it"
    if reason is not None:
        return Skipped(name, reason, math.prod(shape))
    try:
        header.ensure_fits(length)
    except ValueError as error:
        raise CheckpointError(f"{path}: {name!r} is {error}") from None
    transposed = columns_first and len(shape) == 2
    return StoredTensor(name, shape, kind, path.name, path, begin, dtype.str, transposed, member)


_ARRAYS: dict[str, Callable[[Path], Iterator[Tensor | Skipped]]] = {".npy": _npy, ".npz": _npz}
_KINDS = (SUFFIX, *_ARRAYS)
