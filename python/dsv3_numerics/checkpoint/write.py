"""Writing safetensors files: under a temporary name, synced, and only then renamed.

Lives here: the layout of a file, the writer that takes tensors in pieces and in any order, and `save`. A file
is complete under its name or not there; what a killed writer leaves behind has a name of its own kind, which
`is_temporary` knows. What the pieces are is up to the caller.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import Array, as_array
from .dtypes import DTYPES, of_numpy

_ALIGNMENT = 8
# The longest header that readers take: the format's own limit.
_MAX_HEADER = 100_000_000
_METADATA = "__metadata__"
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.partial")
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
    tensors: Mapping[str, ArrayLike],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, of any dtype that the format has.

    The file appears under its name only when complete and synced; an older one stays until then.

    Parameters
    ----------
    path : path
    tensors : mapping of str to array_like
        Arrays of NumPy's and ml_dtypes' dtypes: FP8, BF16, F32 and so on. Strided ones are copied.
    metadata : mapping of str to str, optional
        The file's own ``__metadata__``; ``{"format": "pt"}`` is what PyTorch's users expect.

    Raises
    ------
    TypeError
        A dtype that the format does not have or that it packs (formats of 4 and 6 bits), an array on a GPU,
        or names and metadata that are not text.
    ValueError
        A name that the format keeps for itself, or more names than a reader takes.
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
    arrays = {_text(name, "tensors"): _writable(name, value) for name, value in tensors.items()}
    about = {_text(k, "metadata"): _text(v, "metadata") for k, v in (metadata or {}).items()}
    entries = [Entry(name, of_numpy(array.dtype).name, array.shape) for name, array in arrays.items()]
    plan = layout(entries, about)
    with replacing(Path(path), plan.size) as file:
        file.write(0, plan.header)
        for name, array in arrays.items():
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            for start in range(0, len(data), _CHUNK):
                file.write(plan.begins[name] + start, data[start : start + _CHUNK])


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what}: found {value!r}, expected text")
    return value


def _writable(name: str, value: ArrayLike) -> Array:
    """The array, little-endian as the format wants it."""
    array = as_array(value, name)
    row = of_numpy(array.dtype)
    if row.packed:
        raise TypeError(
            f"{name}: found {array.dtype}, which the format packs; expected a dtype of whole bytes"
        )
    return np.asarray(array, array.dtype.newbyteorder("<"))


class PartialFile:
    """A file in the making, written at any offset by any thread; see `replacing`."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self.path = path
        self._stream = stream
        # Two writers at one file wait for each other in the kernel, spinning; here they sleep.
        self._lock = threading.Lock()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put bytes at an offset."""
        rest = memoryview(data)
        with self._lock:
            self._stream.seek(offset)
            while rest:
                rest = rest[self._stream.write(rest) :]

    def sync(self) -> None:
        """Wait until the disk has it all."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close it, unsynced."""
        self._stream.close()


def begin(target: Path, size: int) -> PartialFile:
    """Begin a file of `size` bytes beside `target`, under a temporary name.

    Raises
    ------
    OSError
        It cannot be made.
    """
    temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(6)}.partial")
    stream = open(temporary, "xb", buffering=0)  # noqa: SIM115  (closed by `publish` and `discard`)
    try:
        stream.truncate(size)
    except BaseException:
        stream.close()
        temporary.unlink(missing_ok=True)
        raise
    return PartialFile(stream, temporary)


def publish(file: PartialFile, target: Path) -> None:
    """Give a synced file its name, for good."""
    file.close()
    os.replace(file.path, target)
    sync_folder(target.parent)


@contextmanager
def replacing(target: Path, size: int) -> Iterator[PartialFile]:
    """A file that becomes `target`, synced, if the block ends well, and is removed if not."""
    file = begin(target, size)
    try:
        yield file
        file.sync()
        publish(file, target)
    except BaseException:
        discard(file)
        raise


def discard(file: PartialFile) -> None:
    """Remove a file that will not be finished."""
    file.close()
    file.path.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that only an unfinished file of ours has."""
    return _TEMPORARY.fullmatch(name) is not None


def sync_folder(folder: Path) -> None:
    """Wait until the disk knows the names in a folder, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
