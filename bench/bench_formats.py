"""Casts both ways: float32 and bfloat16 to FP8, FP8 back to float32 and bfloat16."""

from __future__ import annotations

from functools import partial

import ml_dtypes
import numpy as np

import dsv3_numerics as d3
import peers
from harness import Gate
from suite import Array, Kernel, Size, Work

SIZES = (Size("64Mi", (64 << 20,)), Size("64Ki", (64 << 10,), streaming=False))
QUICK = ((0,), (1,), (63,), (4099,))


def numbers(shape: tuple[int, ...], magnitude: float) -> Array:
    """Seeded Gaussian float32 numbers; a long array repeats four million of them."""
    size = int(np.prod(shape))
    sample = np.random.default_rng(8).standard_normal(min(size, 4 << 20), dtype=np.float32)
    return np.resize(sample * np.float32(magnitude), shape)


def expected(x: Array, target: str) -> Array:
    """Clip, then cast: what a saturating cast is, by ml_dtypes."""
    top = float(ml_dtypes.finfo(target).max)
    return np.clip(x.astype(np.float32), -top, top).astype(target)


def sliced(x: Array) -> Array:
    """The same numbers beside a quarter as many others: rows that lie apart."""
    return np.concatenate([x, x[:, : x.shape[1] // 4 + 1]], axis=1)[:, : x.shape[1]]


def transposed(x: Array) -> Array:
    """The same numbers, rows of which are columns of memory."""
    return np.ascontiguousarray(x.T).T


# How arrays may lie, and how fast we have to be beside a contiguous one.
LAYOUTS = {"sliced": (sliced, 0.9), "transposed": (transposed, 0.6)}
MATRICES = (Size("64Mi", (8192, 8192)),)
QUICK_MATRICES = ((0, 128), (1, 1), (3, 130), (70, 1100))


def casting_from(layout: str) -> Kernel:
    """The kernel that casts float32 in some layout to FP8."""
    lay, bar = LAYOUTS[layout]

    def prepare(shape: tuple[int, ...], magnitude: float) -> Work:
        x = numbers(shape, magnitude)
        laid, out = lay(x), np.zeros(shape, "float8_e4m3fn")
        run = partial(d3.encode, laid, "float8_e4m3fn")
        return Work(
            x.size,
            partial(run, out=out),
            run,
            lambda: [out],
            lambda: [expected(x, "float8_e4m3fn")],
            {"contiguous": partial(d3.encode, x, "float8_e4m3fn", out=out)},
        )

    return Kernel(f"f32->e4m3 {layout}", prepare, MATRICES, QUICK_MATRICES, {}, {"contiguous": bar})


def casting(source: str, target: str) -> Kernel:
    """The kernel that casts arrays of dtype `source` to `target`, one of which is FP8."""

    def prepare(shape: tuple[int, ...], magnitude: float) -> Work:
        x = numbers(shape, magnitude).astype(source)
        out = np.zeros(shape, target)
        run = partial(d3.encode, x, target) if source in WIDE else partial(d3.decode, x, dtype=target)
        return Work(
            x.size,
            partial(run, out=out),
            run,
            lambda: [out],
            lambda: [expected(x, target)],
            peers.casts(x, target),
        )

    gates, peer_gates = GATES[source, target]
    name = f"{SHORT[source]}->{SHORT[target]}"
    return Kernel(name, prepare, SIZES, QUICK, gates, peer_gates, from_float32=source == "float32")


WIDE = ("float32", "bfloat16", "float16")
SHORT = {
    "float32": "f32",
    "bfloat16": "bf16",
    "float16": "f16",
    "float8_e4m3fn": "e4m3",
    "float8_e5m2": "e5m2",
}

IN_CACHE = Gate(0.55, 0.25, 0.17, compute_bound=True)
GATES: dict[tuple[str, str], tuple[dict[str, Gate], dict[str, float]]] = {
    ("float32", "float8_e4m3fn"): (
        {"64Mi": Gate(1.0, 0.6, 0.4), "64Ki": IN_CACHE},
        {"ml_dtypes": 30},
    ),
    ("float32", "float8_e5m2"): ({"64Mi": Gate(1.0, 0.6, 0.4)}, {"ml_dtypes": 30}),
    ("bfloat16", "float8_e4m3fn"): ({"64Mi": Gate(1.4, 0.7)}, {}),
    ("float8_e4m3fn", "float32"): ({"64Mi": Gate(1.4, 1.2, 0.4)}, {}),
    ("float8_e4m3fn", "bfloat16"): ({"64Mi": Gate(2.4, 1.8)}, {}),
}

KERNELS = (
    *(casting(source, target) for source, target in GATES),
    *(casting_from(layout) for layout in LAYOUTS),
)


def empty_call() -> object:
    """Encode one number: what a call costs before any work is done."""
    return d3.encode(_ONE, "float8_e4m3fn", out=_ONE_CODE)


_ONE = np.ones(1, np.float32)
_ONE_CODE = np.zeros(1, ml_dtypes.float8_e4m3fn)
