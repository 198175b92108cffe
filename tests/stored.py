"""Safetensors files made by hand: also such as no honest writer would write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dsv3_numerics.checkpoint.dtypes import of_numpy

INDEX = "model.safetensors.index.json"


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header, given as bytes or as JSON, and possibly a lie about its length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    """Header's entry of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def stored(tensors: Mapping[str, tuple[str, list[int], bytes]], metadata: Any = None) -> bytes:
    """A file of tensors given as dtype, shape and bytes; the bytes follow each other without any padding."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = entry(shape, at, at + len(content), dtype)
        at += len(content)
    return raw(header, b"".join(content for *_, content in tensors.values()))


def of_arrays(arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """A file of arrays."""
    return stored({k: (of_numpy(x.dtype).name, list(x.shape), x.tobytes()) for k, x in arrays.items()})


def shards(folder: Path, files: Mapping[str, Mapping[str, np.ndarray[Any, Any]]], config: Any = None) -> Path:
    """A folder of files with an index, and with a configuration if one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, str] = {}
    for file, arrays in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(of_arrays(arrays))
        weight_map |= dict.fromkeys(arrays, file)
    total = sum(x.nbytes for arrays in files.values() for x in arrays.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder
