"""Casts both ways: float32 and bfloat16 to FP8, FP8 back to float32 and bfloat16."""

from __future__ import annotations

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


def expected_codes(x: Array, target: str) -> Array:
    """Clip, then cast: what a saturating cast is, by ml_dtypes."""
    top = float(ml_dtypes.finfo(target).max)
    return np.clip(x.astype(np.float32), -top, top).astype(target)


def encoding(source: str, target: str) -> Kernel:
    """The kernel that encodes arrays of dtype `source` as `target`."""

    def prepare(shape: tuple[int, ...], magnitude: float) -> Work:
        x = numbers(shape, magnitude).astype(source)
        out = np.zeros(shape, target)
        return Work(
            x.size,
            lambda: d3.encode(x, target, out=out),
            lambda: d3.encode(x, target),
            lambda: [out],
            lambda: [expected_codes(x, target)],
            peers.casts(x, target),
        )

    gates, peer_gates = GATES[source, target]
    name = f"{SHORT[source]}->{SHORT[target]}"
    return Kernel(name, prepare, SIZES, QUICK, gates, peer_gates, from_float32=source == "float32")


def decoding(source: str, target: str) -> Kernel:
    """The kernel that decodes `source` codes to arrays of dtype `target`."""

    def prepare(shape: tuple[int, ...], magnitude: float) -> Work:
        codes = numbers(shape, magnitude).astype(source)
        out = np.zeros(shape, target)
        return Work(
            codes.size,
            lambda: d3.decode(codes, dtype=target, out=out),
            lambda: d3.decode(codes, dtype=target),
            lambda: [out],
            lambda: [codes.astype(target)],
            peers.casts(codes, target),
        )

    gates, peer_gates = GATES[source, target]
    return Kernel(f"{SHORT[source]}->{SHORT[target]}", prepare, SIZES, QUICK, gates, peer_gates)


SHORT = {"float32": "f32", "bfloat16": "bf16", "float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2"}

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
    encoding("float32", "float8_e4m3fn"),
    encoding("float32", "float8_e5m2"),
    encoding("bfloat16", "float8_e4m3fn"),
    decoding("float8_e4m3fn", "float32"),
    decoding("float8_e4m3fn", "bfloat16"),
)


def empty_call() -> object:
    """Encode one number: what a call costs before any work is done."""
    return d3.encode(_ONE, "float8_e4m3fn", out=_ONE_CODE)


_ONE = np.ones(1, np.float32)
_ONE_CODE = np.zeros(1, ml_dtypes.float8_e4m3fn)
