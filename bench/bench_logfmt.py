"""LogFMT: tiles of codes evenly spaced in the logarithm, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import dsv3_numerics as d3
from bench_formats import numbers
from dsv3_numerics import reference
from harness import Call, Gate
from suite import Array, Kernel, Prepare, Size, Work

CACHED = Size("64Ki", (64, 1024), streaming=False)
SIZES = (Size("64Mi", (8192, 8192)), CACHED)
QUICK = ((0, 128), (1, 1), (3, 130), (16, 1024))

TEXTBOOK_ROWS = 16
"The textbook takes tiles one by one; so many rows of it are timed, and stand for all."


def e4m3(x: Array) -> Any:
    """Yardstick of LogFMT: E4M3 with a float32 scale for each tile."""
    q = d3.quantize_tiles(x, fmt="float8_e4m3fn", tile=128)
    return partial(d3.quantize_tiles, x, fmt="float8_e4m3fn", tile=128, out=(q.codes, q.scales)), q


def encoder(bits: int, peer: str, beside: Callable[[Array], Call]) -> Prepare:
    """Work of an encoder of float32, beside another one."""

    def prepare(shape: tuple[int, ...], magnitude: float) -> Work:
        x = numbers(shape, magnitude)
        q = d3.logfmt_encode(x, bits=bits)
        out = q.codes, q.amin, q.amax

        def expected() -> list[Array]:
            want = reference.logfmt_encode(x, bits=bits)
            return [want.codes, want.amin, want.amax]

        return Work(
            x.size,
            lambda: d3.logfmt_encode(x, bits=bits, out=out),
            lambda: d3.logfmt_encode(x, bits=bits),
            lambda: list(out),
            expected,
            {peer: beside(x)} if x.size else {},
        )

    return prepare


def encoding(name: str, bits: int, gates: Any, peer_gates: Any) -> Kernel:
    """The kernel that encodes float32."""
    prepare = encoder(bits, "e4m3 tiles", lambda x: e4m3(x)[0])
    return Kernel(name, prepare, SIZES, QUICK, gates, peer_gates, from_float32=True)


def textbook() -> Kernel:
    """The encoder beside the NumPy textbook, on as much as that can take."""
    prepare = encoder(8, "textbook", lambda x: partial(reference.logfmt_encode, x, bits=8))
    size = Size("128Ki", (TEXTBOOK_ROWS, 8192))
    return Kernel("logfmt8 encode, textbook", prepare, (size,), QUICK[:1], {}, {"textbook": 50})


def decoding(name: str, bits: int, dtype: str, precision: Any, gates: Any) -> Kernel:
    """The kernel that goes back to `dtype`."""

    def prepare(shape: tuple[int, ...], magnitude: float) -> Work:
        x = numbers(shape, magnitude)
        q = d3.logfmt_encode(x, bits=bits)
        out = np.zeros(shape, dtype)

        def expected() -> list[Array]:
            want = reference.logfmt_encode(x, bits=bits)
            return [reference.logfmt_decode(want, dtype=dtype, precision=precision)]

        def peers() -> dict[str, Any]:
            if not x.size:
                return {}
            other = e4m3(x)[1]
            return {"e4m3 tiles": partial(other.dequantize, dtype, out=np.zeros(shape, dtype))}

        return Work(
            q.codes.size,
            lambda: q.dequantize(dtype, precision=precision, out=out),
            lambda: q.dequantize(dtype, precision=precision),
            lambda: [out],
            expected,
            peers(),
        )

    return Kernel(name, prepare, SIZES, QUICK, gates)


KERNELS = (
    encoding("logfmt8 encode", 8, {"64Mi": Gate(0.6, 0.25, 0.1)}, {}),
    encoding("logfmt10 encode", 10, {}, {}),
    textbook(),
    decoding("logfmt8 -> f32", 8, "float32", "exact", {"64Mi": Gate(0.65, 0.25, 0.2)}),
    decoding("logfmt8 -> f32 quick", 8, "float32", "quick", {"64Mi": Gate(1.2, 0.25, 0.2)}),
    decoding("logfmt8 -> bf16", 8, "bfloat16", "exact", {}),
    decoding("logfmt10 -> f32", 10, "float32", "exact", {}),
)


def empty_call() -> object:
    """Encode one number: what a call costs before any work is done."""
    return d3.logfmt_encode(_ONE, out=_OUT)


_ONE = np.ones((1, 1), np.float32)
_Q = d3.logfmt_encode(_ONE)
_OUT = _Q.codes, _Q.amin, _Q.amax
