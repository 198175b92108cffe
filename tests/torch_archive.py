"""Archives as torch.save writes them, put together by hand: no test needs torch."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STORAGES = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage", "uint8": "ByteStorage",
    "bfloat16": "BFloat16Storage", "bool": "BoolStorage",
}  # fmt: skip


def text(value: str) -> bytes:
    octets = value.encode()
    return b"X" + struct.pack("<I", len(octets)) + octets


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def several(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def tensor(key: str, array: NDArray[Any], shape: Any = None, stride: Any = None, offset: int = 0) -> bytes:
    """Record of a tensor in a storage of its own."""
    shape = array.shape if shape is None else shape
    if stride is None:
        stride = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    storage = several(
        text("storage"),
        b"ctorch\n" + STORAGES[array.dtype.name].encode() + b"\n",
        text(key),
        text("cpu"),
        number(array.size),
    )
    sizes, steps = (several(*map(number, lengths)) for lengths in (shape, stride))
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n"
        + several(storage + b"Q", number(offset), sizes, steps, b"\x89", hooks)
        + b"R"
    )


def mapping(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def write(path: Path, content: bytes, storages: dict[str, bytes], packed: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive around a pickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", packed) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return path


def save(path: Path, tensors: dict[str, NDArray[Any]]) -> Path:
    """Write tensors by name."""
    records = {name: tensor(str(i), array) for i, (name, array) in enumerate(tensors.items())}
    return write(
        path, mapping(records), {str(i): array.tobytes() for i, array in enumerate(tensors.values())}
    )
