"""Saving arrays and quantized values: whole safetensors files, a `Quantized` in the layout of a dialect."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import Array, as_array
from .._atomic import replacing
from ..logfmt_result import LogFmt
from ..quantized import Quantized
from .conversion.targets import lay_out
from .dtypes import of_numpy
from .write import Entry, layout

_CHUNK = 8 << 20  # bytes of a large array that are written at a time


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
        a `LogFmt`, which no dialect holds, or names and metadata that are not text.
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
            parts |= lay_out(name, value, dialect)
        elif isinstance(value, LogFmt):  # which an array could be made of, silently
            raise TypeError(
                f"tensors: {name!r} is {value!r}, whose codes no dialect holds; its own save keeps them, "
                "and dequantize() gives numbers"
            )
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
