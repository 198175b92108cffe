"""How others do the same: NumPy with ml_dtypes, and NumKong and torch, skipped visibly where absent."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from harness import Call

try:
    import numkong
except ImportError:
    numkong = None

try:
    import torch
except ImportError:
    torch = None

Array = NDArray[Any]

ABSENT = [name for name, found in (("numkong", numkong), ("torch", torch)) if found is None]

# NumKong's own names; the bytes are the same.
NUMKONG = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "float8_e4m3fn": "e4m3",
    "float8_e5m2": "e5m2",
}


def casts(x: Array, target: str) -> dict[str, Call]:
    """`x` cast to `target` by every peer, into preallocated output where the peer offers it."""
    found: dict[str, Call] = {}
    dtype = np.dtype(target)
    out = np.zeros(x.shape, dtype)
    found["ml_dtypes"] = lambda: np.copyto(out, x, casting="unsafe")
    found["ml_dtypes fresh"] = lambda: x.astype(dtype)
    if numkong is not None:
        source = numkong.astype(x if x.dtype == np.float32 else x.astype(np.float32), NUMKONG[x.dtype.name])
        target_tensor = numkong.zeros(x.shape, dtype=NUMKONG[target])
        found["numkong"] = lambda: numkong.astype(source, NUMKONG[target], out=target_tensor)
        found["numkong fresh"] = lambda: numkong.astype(source, NUMKONG[target])
    return found


def casts_into(x: Array, target: str) -> dict[str, Call]:
    """`x` cast to `target` by every peer, torch among them, into preallocated output, on one thread."""
    found = {name: call for name, call in casts(x, target).items() if not name.endswith(" fresh")}
    if torch is not None:
        torch.set_num_threads(1)
        words = torch.from_numpy(x.view(f"u{x.itemsize}") if x.itemsize < 4 else x)
        source = words.view(getattr(torch, x.dtype.name))
        out = torch.zeros(x.shape, dtype=getattr(torch, target))
        found["torch"] = lambda: out.copy_(source)
    return found


def quantize_tiles(x: Array, tile: int = 128) -> tuple[Array, Array]:
    """1xN tiles as a NumPy user writes them."""
    tiles = x.reshape(x.shape[0], -1, tile)
    scales = np.maximum(np.abs(tiles).max(axis=-1, keepdims=True), np.float32(1e-4)) / np.float32(448)
    return (tiles / scales).astype(ml_dtypes.float8_e4m3fn).reshape(x.shape), scales[..., 0]


def quantize_blocks(x: Array, block: int = 128) -> tuple[Array, Array]:
    """NxN blocks as a NumPy user writes them."""
    rows, cols = x.shape
    blocks = x.reshape(rows // block, block, cols // block, block)
    amax = np.abs(blocks).max(axis=(1, 3), keepdims=True)
    scales = np.maximum(amax, np.float32(1e-4)) / np.float32(448)
    return (blocks / scales).astype(ml_dtypes.float8_e4m3fn).reshape(x.shape), scales[:, 0, :, 0]


def dequantize_tiles(codes: Array, scales: Array, dtype: str, tile: int = 128) -> Array:
    """Back from 1xN tiles as a NumPy user writes it."""
    values = codes.astype(np.float32).reshape(codes.shape[0], -1, tile) * scales[..., None]
    return values.reshape(codes.shape).astype(dtype, copy=False)


def dequantize_blocks(codes: Array, scales: Array, dtype: str, block: int = 128) -> Array:
    """Back from NxN blocks as a NumPy user writes it."""
    rows, cols = codes.shape
    values = (
        codes.astype(np.float32).reshape(rows // block, block, cols // block, block)
        * scales[:, None, :, None]
    )
    return values.reshape(codes.shape).astype(dtype, copy=False)
