"""Shared scales: quantization by 1x128 tiles and 128x128 blocks, and the way back."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import dsv3_numerics as d3
import peers
from bench_formats import LAYOUTS, QUICK_MATRICES, numbers
from dsv3_numerics import reference
from harness import Gate
from shapes import HIDDEN
from suite import Array, Kernel, Size, Work

CACHED = Size("64Ki", (64, 1024), streaming=False)
TILE_SIZES = (Size("64Mi", (8192, 8192)), CACHED)
# 7168 is the model's width; 8192 has the power-of-two row stride at which rows fight for the same cache sets.
BLOCK_SIZES = (
    Size("9216x7168", (9216, HIDDEN)),
    Size("8192x8192", (8192, 8192)),
    Size("64Ki", (128, 512), streaming=False),
)
QUICK = ((0, 128), (1, 1), (3, 130), (129, 257), (256, 384))

FORMAT = "float8_e4m3fn"


def tiles(module: Any, x: Array, scale: str, **options: Any) -> Any:
    """Tile quantization by the product or by the textbook."""
    return module.quantize_tiles(x, fmt=FORMAT, tile=128, scale=scale, **options)


def blocks(module: Any, x: Array, scale: str, **options: Any) -> Any:
    """Block quantization by the product or by the textbook."""
    return module.quantize_blocks(x, fmt=FORMAT, block=(128, 128), scale=scale, **options)


def quantizing(
    name: str, how: Any, scale: str, sizes: Any, gates: Any, peer_gates: Any, dtype: str = "float32"
) -> Kernel:
    """The kernel that quantizes `dtype` in the way `how`."""

    def prepare(shape: tuple[int, ...], magnitude: float) -> Work:
        x = numbers(shape, magnitude).astype(dtype, copy=False)
        q = how(d3, x, scale)
        out = q.codes, q.scales

        def expected() -> list[Array]:
            want = how(reference, x, scale)
            return [want.codes, want.scales]

        return Work(
            x.size,
            lambda: how(d3, x, scale, out=out),
            lambda: how(d3, x, scale),
            lambda: list(out),
            expected,
            quantizing_peers(how, x) if (scale, dtype) == ("float32", "float32") else {},
        )

    return Kernel(name, prepare, sizes, QUICK, gates, peer_gates, from_float32=dtype == "float32")


def quantizing_from(layout: str, name: str, how: Any, sizes: Any) -> Kernel:
    """The kernel that quantizes float32 in some layout."""
    lay, bar = LAYOUTS[layout]

    def prepare(shape: tuple[int, ...], magnitude: float) -> Work:
        x = numbers(shape, magnitude)
        laid, q = lay(x), how(d3, x, "float32")
        out = q.codes, q.scales

        def expected() -> list[Array]:
            want = how(reference, x, "float32")
            return [want.codes, want.scales]

        return Work(
            x.size,
            lambda: how(d3, laid, "float32", out=out),
            lambda: how(d3, laid, "float32"),
            lambda: list(out),
            expected,
            {"contiguous": lambda: how(d3, x, "float32", out=out)},
        )

    return Kernel(f"{name} {layout}", prepare, sizes, QUICK_MATRICES, {}, {"contiguous": bar})


def quantizing_peers(how: Any, x: Array) -> dict[str, Any]:
    """Whole tiles only: the way a NumPy user writes it knows no ragged edge."""
    if not whole(how, x.shape):
        return {}
    if how is tiles:
        return {"numpy+ml_dtypes": partial(peers.quantize_tiles, x)}
    return {"numpy+ml_dtypes": partial(peers.quantize_blocks, x)}


def dequantizing(name: str, how: Any, dtype: str, sizes: Any, gates: Any) -> Kernel:
    """The kernel that goes back to `dtype`."""

    def prepare(shape: tuple[int, ...], magnitude: float) -> Work:
        x = numbers(shape, magnitude)
        q = how(d3, x, "float32")
        out = np.zeros(shape, dtype)
        back = peers.dequantize_tiles if how is tiles else peers.dequantize_blocks
        return Work(
            q.codes.size,
            lambda: q.dequantize(dtype, out=out),
            lambda: q.dequantize(dtype),
            lambda: [out],
            lambda: [reference.dequantize(how(reference, x, "float32"), dtype)],
            {"numpy+ml_dtypes": partial(back, q.codes, q.scales, dtype)} if whole(how, shape) else {},
        )

    return Kernel(name, prepare, sizes, QUICK, gates)


def whole(how: Any, shape: tuple[int, ...]) -> bool:
    """The shape has no ragged tile or block, and is not empty."""
    return bool(np.prod(shape)) and not any(n % 128 for n in shape[-1 if how is tiles else 0 :])


QUANTIZE_TILES = {"64Mi": Gate(0.9, 0.6, 0.35), "64Ki": Gate(0.4, 0.18, 0.1, compute_bound=True)}
QUANTIZE_BLOCKS = {label: Gate(0.6, 0.45, 0.3) for label in ("9216x7168", "8192x8192")}
TO_FLOAT32 = Gate(1.4, 1.4, 0.4)
TO_BFLOAT16 = Gate(2.2)

KERNELS = (
    quantizing("quantize 1x128", tiles, "float32", TILE_SIZES, QUANTIZE_TILES, {"numpy+ml_dtypes": 40}),
    quantizing("quantize 1x128 ue8m0", tiles, "ue8m0", TILE_SIZES, QUANTIZE_TILES, {}),
    quantizing("quantize 1x128 from f64", tiles, "float32", TILE_SIZES[:1], {}, {}, "float64"),
    quantizing("quantize 128x128", blocks, "float32", BLOCK_SIZES, QUANTIZE_BLOCKS, {}),
    dequantizing("dequantize 1x128 -> f32", tiles, "float32", TILE_SIZES, {"64Mi": TO_FLOAT32}),
    dequantizing("dequantize 1x128 -> bf16", tiles, "bfloat16", TILE_SIZES, {"64Mi": TO_BFLOAT16}),
    dequantizing(
        "dequantize 128x128 -> bf16",
        blocks,
        "bfloat16",
        BLOCK_SIZES[1:],
        {"8192x8192": TO_BFLOAT16},
    ),
    *(quantizing_from(layout, "quantize 1x128", tiles, TILE_SIZES[:1]) for layout in LAYOUTS),
    *(quantizing_from(layout, "quantize 128x128", blocks, BLOCK_SIZES[:2]) for layout in LAYOUTS),
)


def empty_call() -> object:
    """Quantize one number: what a call costs before any work is done."""
    return tiles(d3, _ONE, "float32", out=_OUT)


_ONE = np.ones((1, 1), np.float32)
_Q = tiles(d3, _ONE, "float32")
_OUT = _Q.codes, _Q.scales
