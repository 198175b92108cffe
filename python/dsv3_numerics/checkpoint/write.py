"""Layout of a safetensors file: its header, and where every tensor begins.

The file itself, complete under its name or not there, is `_atomic`'s; it takes pieces in any order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .dtypes import DTYPES

_ALIGNMENT = 8
# The longest header that readers take: the format's own limit.
_MAX_HEADER = 100_000_000
_METADATA = "__metadata__"


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
    table: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    begins: dict[str, int] = {}
    at = 0
    for entry in ordered:
        if entry.name in begins or entry.name == _METADATA:
            raise ValueError(
                f"tensors: found the name {entry.name!r}, expected each once, and not {_METADATA}"
            )
        begins[entry.name], end = at, at + entry.nbytes
        table[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > _MAX_HEADER:
        raise ValueError(
            f"tensors: their names and shapes take {len(text)} bytes, expected at most {_MAX_HEADER}"
        )
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, {name: len(header) + begin for name, begin in begins.items()}, len(header) + at)
