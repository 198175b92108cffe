"""Files of torch.save, read without torch and without running what they say.

Lives here: the archive, the few pickle operations and names that tensors need, and views of their storages.
Everything else in such a file is refused by name. Tensors are mapped, not read.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import ml_dtypes
import numpy as np

from .._arrays import Array
from .._regular import open_regular
from .zip_entries import entries_of, place_of

_PICKLE = 64 << 20  # bytes of data.pkl that are read
_DEPTH = 16  # of containers in one another

_DTYPES: dict[str, Any] = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8, "uint8": np.uint8,
    "bool": np.bool_, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz, "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu, "float4_e2m1fn_x2": np.uint8,
}  # fmt: skip
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16",
    "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
}  # fmt: skip

_OPCODES = frozenset(
    name
    for line in (
        "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT LONG BININT BININT1 BININT2 LONG1 FLOAT BINFLOAT",
        "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE SHORT_BINBYTES BINBYTES",
        "EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM",
        "SETITEMS EMPTY_SET ADDITEMS POP POP_MARK DUP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET",
        "GLOBAL STACK_GLOBAL REDUCE BINPERSID BUILD",
    )
    for name in line.split()
)


class _Name(NamedTuple):
    """Name out of a pickle that stands for a dtype or a kind of storage."""

    name: str


class _Storage(NamedTuple):
    """Bytes of one storage: where they are in the file, and their dtype."""

    offset: int
    size: int
    dtype: str


class TorchFile(Mapping[str, Array]):
    """Tensors of a file by name; names of containers in one another are joined by dots.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    left_out : list of str
        Names of values that are no tensors and no numbers, as text and None.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no archive of torch.save, is damaged, or names anything but tensors and containers.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.left_out: list[str] = []
        with open_regular(self.path) as file:
            length = os.fstat(file.fileno()).st_size
            try:
                content = self._read(file, length)
            except ValueError as error:
                raise ValueError(f"{self.path}: {error}") from None
            except (BadZipFile, OSError, NotImplementedError, EOFError, RuntimeError) as error:
                raise ValueError(f"{self.path}: no archive of torch.save ({error})") from None
            self._map = np.memmap(file, np.uint8, "r") if length else np.zeros(0, np.uint8)
        self._tensors: dict[str, Array] = {}
        try:
            self._collect("", content, _DEPTH)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def __getitem__(self, name: str) -> Array:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    # --- The archive ----------------------------------------------------------------------------------------

    def _read(self, file: Any, length: int) -> Any:
        if file.read(4) != b"PK\x03\x04":
            raise ValueError("found no zip archive, which torch.save writes (older files are not read)")
        with ZipFile(file) as archive:
            entries = entries_of(archive)
            pickles = [name for name in entries if name.split("/")[-1] == "data.pkl"]
            if len(pickles) != 1:
                raise ValueError(f"found {len(pickles)} entries data.pkl, expected one")
            root = pickles[0][: -len("data.pkl")]
            order = entries.get(f"{root}byteorder")
            if order is not None and self._small(archive, order, length) != b"little":
                raise ValueError("found big-endian numbers, expected little-endian ones")
            told = self._small(archive, entries[pickles[0]], length)
            storages = {
                name[len(root) + 5 :]: info
                for name, info in entries.items()
                if name.startswith(f"{root}data/")
            }
            return _Unpickler(told, storages, file, length).load()

    def _small(self, archive: ZipFile, info: ZipInfo, length: int) -> bytes:
        if info.compress_type != ZIP_STORED or info.file_size > min(length, _PICKLE):
            raise ValueError(f"found {info.filename} compressed or longer than the file")
        return archive.read(info)

    # --- Tensors --------------------------------------------------------------------------------------------

    def _collect(self, name: str, value: Any, depth: int) -> None:
        if depth == 0:
            raise ValueError(f"found containers more than {_DEPTH} deep")
        if isinstance(value, Mapping):
            for key, item in value.items():
                self._collect(f"{name}.{key}" if name else str(key), item, depth - 1)
        elif isinstance(value, (list, tuple)) and not isinstance(value, (_Name, _Storage, _Tensor)):
            for key, item in enumerate(value):
                self._collect(f"{name}.{key}" if name else str(key), item, depth - 1)
        elif isinstance(value, _Tensor):
            if name in self._tensors:
                raise ValueError(f"found two tensors {name!r}")
            self._tensors[name or "array"] = self._view(value)
        elif isinstance(value, (bool, int, float)) and abs(value) < 2**63:
            self._tensors[name] = np.asarray(value)
        else:
            self.left_out.append(name)

    def _view(self, tensor: _Tensor) -> Array:
        dtype = np.dtype(_DTYPES[tensor.dtype])
        held = self._map[tensor.storage.offset : tensor.storage.offset + tensor.storage.size]
        whole = held[: held.size // dtype.itemsize * dtype.itemsize].view(dtype)
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, dtype)
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
        if tensor.offset < 0 or min(tensor.stride, default=0) < 0 or last >= whole.size:
            raise ValueError(f"found a tensor of shape {tensor.shape} beyond its storage of {whole.size}")
        if math.prod(tensor.shape) > whole.size and len(set(tensor.stride)) > 1 and 0 not in tensor.stride:
            raise ValueError(f"found a tensor of shape {tensor.shape} whose elements overlap")
        if math.prod(tensor.shape) > max(whole.size, 1) * 4096:
            raise ValueError(f"found a tensor of shape {tensor.shape} out of {whole.size} numbers")
        found: Array = np.lib.stride_tricks.as_strided(
            whole[tensor.offset :],
            tensor.shape,
            tuple(s * dtype.itemsize for s in tensor.stride),
            writeable=False,
        )
        return found


class _Tensor(NamedTuple):
    """Record of a tensor."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str


def _lengths(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > 64 or not all(type(n) is int for n in value):
        raise ValueError("found a tensor whose shape is none")
    if any(not -(2**62) < n < 2**62 for n in value):
        raise ValueError(f"found a tensor of shape {value}")
    return value


def _rebuild(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> _Tensor:
    if not isinstance(storage, _Storage) or type(offset) is not int:
        raise ValueError("found a tensor without a storage")
    sizes, steps = _lengths(shape), _lengths(stride)
    if len(sizes) != len(steps) or min(sizes, default=0) < 0:
        raise ValueError(f"found a tensor of shape {sizes} with strides {steps}")
    return _Tensor(storage, offset, sizes, steps, storage.dtype)


def _rebuild_typed(
    storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> _Tensor:
    if not isinstance(dtype, _Name) or dtype.name not in _DTYPES:
        raise ValueError(f"found a tensor of dtype {dtype}")
    return _rebuild(storage, offset, shape, stride)._replace(dtype=dtype.name)


def _parameter(data: Any, *rest: Any) -> Any:
    if not isinstance(data, _Tensor):
        raise ValueError("found a parameter without a tensor")
    return data


_CALLS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_typed,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("builtins", "set"): list,
    ("__builtin__", "set"): list,
}


def _ensure_known(module: str, name: str) -> None:
    """Refuse every name but those that tensors need."""
    known = (module, name) in _CALLS or (module == "torch" and name in _DTYPES)
    if not known and not (module in ("torch", "torch.storage") and name in _STORAGES):
        raise ValueError(f"found {module}.{name} in the pickle, which is refused: only tensors are read")


class _Unpickler(pickle.Unpickler):
    """Unpickler that knows records of tensors and nothing else."""

    def __init__(self, content: bytes, storages: dict[str, ZipInfo], file: Any, length: int) -> None:
        _check_opcodes(content)
        super().__init__(io.BytesIO(content))
        self.storages, self.file, self.length = storages, file, length
        self.known: dict[str, tuple[int, int]] = {}

    def load(self) -> Any:
        """Return the content."""
        try:
            return super().load()
        except ValueError:
            raise
        except Exception as error:  # unfinished or senseless pickles fail in many ways
            raise ValueError(f"found a damaged pickle ({type(error).__name__}: {error})") from None

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for, of those that tensors need."""
        _ensure_known(module, name)
        if (module, name) in _CALLS:
            return _CALLS[module, name]
        return _Name(_STORAGES.get(name, name))

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the place of a storage."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _Name):
            raise ValueError("found a record that is no storage")
        key = str(pid[2])
        if key not in self.storages:
            raise ValueError(f"found no storage {key!r} in the archive")
        if key not in self.known:
            self.known[key] = place_of(self.file, self.storages[key], self.length)
        return _Storage(*self.known[key], pid[1].name)


def _check_opcodes(content: bytes) -> None:
    """Refuse pickles with operations that tensors do not need, or memo places that they cannot have."""
    count = 0
    try:
        for opcode, argument, _ in pickletools.genops(content):
            count += 1
            if opcode.name in ("GLOBAL", "INST"):
                _ensure_known(*str(argument).split(" ", 1))
            if opcode.name not in _OPCODES:
                raise ValueError(f"found the pickle operation {opcode.name}, which is refused")
            if opcode.name.endswith("PUT") and not 0 <= int(str(argument)) <= count:
                raise ValueError(f"found a pickle that remembers place {argument} after {count} operations")
    except ValueError:
        raise
    except Exception as error:  # a parser of bytes that anybody may have written
        raise ValueError(f"found a damaged pickle ({type(error).__name__}: {error})") from None
