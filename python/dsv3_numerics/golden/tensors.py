"""Tensors of golden vectors, and how codes and scales are written: densely packed, in a kernel's layout.

Lives here: `Tensor`, the table of layouts, and the tensors that an operand becomes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import layouts
from .._arrays import Array
from ..logfmt import LogFmt
from ..number_formats import format_info, pack
from ..quantized import Quantized


class Tensor(NamedTuple):
    """Array to be written: what it means, its format where it holds codes, its layout where it is scales."""

    array: Array
    meaning: str
    format: str = ""
    layout: str = ""


Tensors = dict[str, Tensor]

LAYOUTS: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "row-major": ("a scale for each row and group", lambda s: s),
    "mn_major": (
        "(groups, rows filled up to 16 bytes), as DeepGEMM reads float32 scales",
        layouts.to_mn_major,
    ),
    "packed_ue8m0": (
        "int32 words of four exponents along k, (words, rows filled up), as DeepGEMM on Blackwell reads them",
        layouts.to_packed_ue8m0,
    ),
    "128x4": ("tiles of 128 rows by 4 groups, as cuBLASLt, FlashInfer and vLLM store them", layouts.to_128x4),
}
"""Layouts of scales by name: what they are, and the function that lays them out."""

_OF_BLOCKS = ("row-major", "mn_major")  # layouts in which DeepGEMM's blocks of weights stay a plain grid


def coded(codes: Array, fmt: str, meaning: str) -> Tensor:
    """Write codes: 4-bit ones two to a byte, others without a dtype of safetensors as unsigned integers."""
    info = format_info(fmt)
    if info.bits == 4:
        return Tensor(pack(codes, fmt=fmt), f"{meaning}; two codes in a byte, the low one first", info.name)
    return Tensor(np.ascontiguousarray(codes), meaning, info.name)


def parts(q: Quantized, layout: str, prefix: str = "", meaning: str = "codes") -> Tensors:
    """Write codes and scales; the scales as a plain grid too, where the kernel's layout is another.

    Parameters
    ----------
    q : Quantized
        Tiles along the last axis, or blocks.
    layout : str
        One of `LAYOUTS`. Scales of blocks of several rows stay a grid where kernels read float32 scales; in
        layouts that have a scale for each row they are repeated.
    prefix, meaning : str
        Of the names, and of the codes.
    """
    told, lay = LAYOUTS[layout]
    high = 1 if q.axis is not None else q.block[0]
    scales = np.ascontiguousarray(q.scales)
    out = {f"{prefix}codes": coded(q.codes, q.format, meaning)}
    grid = f"a scale for each block of {high} x {q.block[-1]}" if high > 1 else LAYOUTS["row-major"][0]
    if layout == "row-major" or (high > 1 and layout in _OF_BLOCKS):
        out[f"{prefix}scales"] = Tensor(scales, f"scales; {grid}", layout="row-major")
    else:
        rows = np.repeat(scales, high, axis=-2)[..., : q.shape[-2], :]
        repeated = " (of its block)" if high > 1 else ""
        out[f"{prefix}scales"] = Tensor(lay(rows), f"scales of each row{repeated}; {told}", layout=layout)
        out[f"{prefix}scales_row_major"] = Tensor(scales, f"the same scales, {grid}", layout="row-major")
    if q.global_scale is not None:
        outer = np.ascontiguousarray(q.global_scale, np.float32)
        outer = outer.reshape(1) if outer.ndim == 0 else outer
        out[f"{prefix}global_scale"] = Tensor(outer, "scale of all scales")
    return out


def operand(x: Any, prefix: str, meaning: str) -> Tensors:
    """Write one side of a product, or what is sent: codes with scales, logarithmic codes, or numbers."""
    if isinstance(x, Quantized):
        return parts(x, kernel_layout(x), f"{prefix}_", f"codes of {meaning}")
    if isinstance(x, LogFmt):
        return {f"{prefix}_{name}": tensor for name, tensor in logarithmic(x).items()}
    return {prefix: Tensor(np.ascontiguousarray(x), meaning)}


def kernel_layout(q: Quantized) -> str:
    """Return the layout in which kernels take such scales: DeepGEMM's for groups of 128, else NVIDIA's.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import quantize_tiles
    >>> kernel_layout(quantize_tiles(np.ones((4, 256), np.float32)))
    'mn_major'
    """
    if q.scales.ndim < 2:
        return "row-major"
    if q.scale_kind == "float32":
        return "mn_major"
    return "packed_ue8m0" if q.scale_kind == "ue8m0" and q.block[-1] == 128 else "128x4"


def logarithmic(q: LogFmt) -> Tensors:
    """Write logarithmic codes, the range of each tile, and what they mean."""
    out = {
        "codes": Tensor(q.codes, f"codes of {q.bits} bits, sign first"),
        "amin": Tensor(q.amin, "least magnitude of each tile"),
        "amax": Tensor(q.amax, "largest magnitude of each tile"),
        "decoded": Tensor(q.dequantize(), "numbers that the codes mean"),
    }
    if q.escaped is not None and q.escaped_values is not None:
        out["escaped"] = Tensor(q.escaped.astype(np.uint8), "1: a tile that is kept in bfloat16")
        out["escaped_values"] = Tensor(q.escaped_values, "the numbers of those tiles")
    return out
