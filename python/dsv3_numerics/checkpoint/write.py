"""Writing safetensors files: the layout of a file, and `save`.

The file itself, complete under its name or not there, is `_atomic`'s; it takes pieces in any order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import Array, as_array
from .._atomic import replacing
from ..quantized import Quantized
from .dtypes import DTYPES, of_numpy

_ALIGNMENT = 8
# The longest header that readers take: the format's own limit.
_MAX_HEADER = 100_000_000
_METADATA = "__metadata__"
_CHUNK = 8 << 20  # bytes of a large array that are written at a time


class Entry(NamedTuple):
    """A tensor to be written: its name, its dtype as safetensors spells it, its shape in elements."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return DTYPES[self.dtype].nbytes(self.shape)


class Layout(NamedTuple):
    """Where everything in a file goes.

    Attributes
    ----------
    header : bytes
        The file's beginning, up to the first tensor.
    begins : dict of str to int
        Each tensor's first byte in the file.
    size : int
        Bytes of the file.
    """

    header: bytes
    begins: dict[str, int]
    size: int


def layout(entries: Sequence[Entry], metadata: Mapping[str, str]) -> Layout:
    """Lay a file out: wide elements first, so that every tensor begins aligned, else in the order given.

    Raises
    ------
    ValueError
        A name twice or ``__metadata__``, text that is not Unicode, or so much of it that no reader takes it.
    """
    ordered = sorted(entries, key=lambda entry: -DTYPES[entry.dtype].bits)
    table: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    begins: dict[str, int] = {}
    at = 0
    for entry in ordered:
        if entry.name in begins or entry.name == _METADATA:
            raise ValueError(
                f"tensors: found the name {entry.name!r}, expected each once, and not {_METADATA}"
            )
        begins[entry.name] = at
        offsets = [at, at + entry.nbytes]
        table[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
        at += entry.nbytes
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > _MAX_HEADER:
        raise ValueError(
            f"tensors: their names and shapes take {len(text)} bytes, expected at most {_MAX_HEADER}"
        )
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, {name: len(header) + begin for name, begin in begins.items()}, len(header) + at)


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, ArrayLike | Quantized],
    *,
    metadata: Mapping[str, str] | None = None,
    dialect: str | None = None,
) -> None:
    """Write a safetensors file, of any dtype that the format has.

    The file appears under its name only when complete and synced; an older one stays until then.

    Parameters
    ----------
    path : path
    tensors : mapping of str to array_like or Quantized
        Arrays of NumPy's and ml_dtypes' dtypes: FP8, BF16, F32 and so on. Strided ones are copied. A
        `Quantized` is written as codes and scales.
    metadata : mapping of str to str, optional
        The file's own ``__metadata__``; ``{"format": "pt"}`` is what PyTorch's users expect.
    dialect : str, optional
        Whose layout a `Quantized` gets, see `convert`; by default the first that holds such codes.

    Raises
    ------
    TypeError
        A dtype that the format does not have or that it packs (formats of 4 and 6 bits), an array on a GPU,
        or names and metadata that are not text.
    ValueError
        A name that the format keeps for itself, or more names than a reader takes; a `Quantized` that no
        dialect holds.
    OSError
        The file cannot be written; nothing of it is left.

    Examples
    --------
    >>> import ml_dtypes, numpy as np
    >>> from dsv3_numerics import checkpoint
    >>> save("small.safetensors", {"w": np.ones((2, 3), ml_dtypes.float8_e4m3fn)})
    >>> with checkpoint.open("small.safetensors") as ckpt:
    ...     ckpt["w"].dtype, ckpt["w"].shape
    (dtype(float8_e4m3fn), (2, 3))
    """
    parts: dict[Entry, Array] = {}
    for name, value in tensors.items():
        _text(name, "tensors")
        if isinstance(value, Quantized):
            from .conversion.targets import lay_out

            parts |= lay_out(name, value, dialect)
        else:
            array = _writable(name, value)
            parts[Entry(name, of_numpy(array.dtype).name, array.shape)] = array
    about = {_text(k, "metadata"): _text(v, "metadata") for k, v in (metadata or {}).items()}
    plan = layout(list(parts), about)
    with replacing(Path(path), plan.size) as file:
        file.write(0, plan.header)
        for entry, array in parts.items():
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            for start in range(0, len(data), _CHUNK):
                file.write(plan.begins[entry.name] + start, data[start : start + _CHUNK])


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what}: found {value!r}, expected text")
    return value


def _writable(name: str, value: ArrayLike) -> Array:
    """Return the array, little-endian as the format wants it."""
    array = as_array(value, name)
    row = of_numpy(array.dtype)
    if row.packed:
        raise TypeError(
            f"{name}: found {array.dtype}, which the format packs; expected a dtype of whole bytes"
        )
    return np.asarray(array, array.dtype.newbyteorder("<"))
