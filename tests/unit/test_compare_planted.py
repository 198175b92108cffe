"""Planted causes: each is named, by the columns of the fits or by the class of what remains."""

# ruff: noqa: E501

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from dsv3_numerics import encode, layouts, matmul_nt, pack, quantize_tiles
from dsv3_numerics.compare import explain_product, explain_quantization
from samples import explains

Floats = NDArray[np.float32]
f32 = np.float32
BF16 = np.dtype(ml_dtypes.bfloat16)
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)


def numbers(rows: int, k: int, seed: int = 0) -> Floats:
    """Numbers of many magnitudes, with ties under scales that are powers of two."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((rows, k)) * np.exp2(rng.integers(-3, 4, (rows, k)))).astype(f32)
    x[1, :128] = np.tile(f32([448, 17, 19, 21, 23, -17, 1.0625, 2.125]), 16)
    return x


X = numbers(8, 512) * f32(1.375)
W = numbers(128, 512, 1)


def bits(codes: Any) -> NDArray[np.uint8]:
    return np.asarray(codes).view(np.uint8).copy()


def spread(s: Floats, x: Floats = X) -> Floats:
    return np.repeat(s, x.shape[1] // s.shape[1], axis=1)


def amax(x: Floats = X, tile: int = 128) -> Floats:
    return np.abs(x).reshape(len(x), -1, tile).max(axis=2)


def cast(q: Floats, fmt: str = "float8_e4m3fn", **options: Any) -> NDArray[np.uint8]:
    return bits(encode(q.astype(f32), fmt, **options))


def power(s: Floats, up: bool = True) -> Floats:
    m, e = np.frexp(s)
    return np.ldexp(f32(1), e - (m == 0.5) if up else e - 1).astype(f32)


def by(s: Floats, stored: Any = None, **options: Any) -> dict[str, Any]:
    return {"codes": cast(X / spread(s), **options), "scales": s if stored is None else stored}


def v3(**more: Any) -> dict[str, Any]:
    q = quantize_tiles(X)
    return {"codes": bits(q.codes), "scales": q.scales.copy()} | more


def mx(rule: str = "floor", fmt: str = "float8_e4m3fn", x: Floats = X) -> Any:
    return quantize_tiles(x, tile=32, scale="mx", rule=rule, fmt=fmt)


def nvfp4(x: Floats = X, **options: Any) -> Any:
    return quantize_tiles(x, tile=16, scale="nvfp4", rule="nvfp4", fmt="float4_e2m1fn", **options)


def changed(change: Callable[[NDArray[np.uint8], Floats], None]) -> dict[str, Any]:
    made = v3()
    change(made["codes"], made["scales"])
    return made


def asymmetric() -> dict[str, Any]:
    high, low = (f(X.reshape(8, -1, 128), axis=2) for f in (np.max, np.min))
    s = ((high - low) / f32(2) / f32(127)).astype(f32)
    zero = np.rint((high + low) / 2 / s)
    return {"codes": cast(np.rint(X / spread(s)) - spread(zero), "int8"), "scales": s, "fmt": "int8"}


INT8 = (amax() / f32(127)).astype(f32)
S = (amax() / f32(448)).astype(f32)
NV = nvfp4()

# name: (column or "cause" or "class", words that are found in it, what is planted)
Planted = tuple[str, str, Callable[[], dict[str, Any]]]
QUANTIZED: dict[str, Planted] = {
    "ties toward zero": (
        "rule", "deepgemm_fp4",
        lambda: by(S, rounding="nearest_toward_zero"),
    ),
    "away from zero": (
        "rounding", "away from zero",
        lambda: {"codes": np.where(X < 0, cast(X / spread(S), rounding="down"), cast(X / spread(S), rounding="up")),
                 "scales": S},
    ),
    "subnormals flushed": (
        "rounding", "subnormals flushed",
        lambda: v3(codes=np.where((v3()["codes"] & 0x78) == 0, v3()["codes"] & 0x80, v3()["codes"])),
    ),
    "scale rounded to bfloat16 after": (
        "codes by", "before it was rounded", lambda: by(S, S.astype(BF16)),
    ),
    "scale rounded to bfloat16 before": (
        "rule", "rounded to bfloat16", lambda: by(S.astype(BF16).astype(f32), S.astype(BF16)),
    ),
    "scale stored as float16": ("rule", "rounded to float16", lambda: by(S.astype(np.float16).astype(f32))),
    "powers of two rounded down overflow": (
        "rounding", "not saturated",
        lambda: by(power(S, up=False), overflow="nonfinite"),
    ),
    "powers of two rounded down saturate": ("rule", "at or below", lambda: by(power(S, up=False))),
    "amax in bfloat16": (
        "amax", "rounded to bfloat16", lambda: by((amax().astype(BF16).astype(f32) / f32(448)).astype(f32)),
    ),
    "abs forgotten": (
        "amax", "abs forgotten", lambda: by((X.reshape(8, -1, 128).max(axis=2) / f32(448)).astype(f32)),
    ),
    "amax of the group before": ("amax", "group before", lambda: by(np.roll(S, 1, 1))),
    "amax of the row": (
        "amax", "whole row", lambda: by(np.repeat(S.max(axis=1, keepdims=True), 4, axis=1)),
    ),
    "amax of the tensor": ("amax", "whole tensor", lambda: by(np.full_like(S, S.max()))),
    "240 instead of 448": ("max", "240", lambda: by((amax() / f32(240)).astype(f32))),
    "448 and clipping of 512": ("max", "512", lambda: by((amax() / f32(512)).astype(f32))),
    "E5M2 read as E4M3": (
        "codes", "float8_e5m2, read as float8_e4m3fn",
        lambda: {"codes": bits(quantize_tiles(X, fmt="e5m2").codes), "scales": quantize_tiles(X, fmt="e5m2").scales},
    ),
    "E4M3 read as E5M2": (
        "codes", "float8_e4m3fn, read as float8_e5m2", lambda: v3(fmt="float8_e5m2"),
    ),
    "FNUZ read as FN": (
        "codes", "float8_e4m3fnuz, read as float8_e4m3fn",
        lambda: {"codes": bits(quantize_tiles(X, fmt="float8_e4m3fnuz").codes),
                 "scales": quantize_tiles(X, fmt="float8_e4m3fnuz").scales},
    ),
    "int8 wraps around": (
        "rounding", "wrapped",
        lambda: {"codes": np.rint(X / spread(INT8 * f32(0.9))).astype(np.int64).astype(np.int8),
                 "scales": (INT8 * f32(0.9)).astype(f32)},
    ),
    "int8 with 128": ("max", "128", lambda: by((amax() / f32(128)).astype(f32), fmt="int8") | {"fmt": "int8"}),
    "zero-point": ("code layout", "zero-point 5 added", lambda: {"codes": (cast(X / spread(INT8), "int8").view(np.int8).clip(-120, 120) + 5).astype(np.int8), "scales": INT8}),
    "unsigned codes": (
        "code layout", "sign bits inverted",
        lambda: {"codes": cast(X / spread(INT8), "int8") ^ 0x80, "scales": INT8, "fmt": "int8"},
    ),
    "asymmetric": ("amax", "asymmetric", asymmetric),
    "asymmetric, its zero-points": ("code layout", "zero-points of groups", asymmetric),
    "nibbles swapped": (
        "code layout", "nibbles",
        lambda: {"codes": np.asarray(pack(mx(fmt="float4_e2m1fn").codes, fmt="float4_e2m1fn")) >> 4
                 | np.asarray(pack(mx(fmt="float4_e2m1fn").codes, fmt="float4_e2m1fn")) << 4,
                 "scales": mx(fmt="float4_e2m1fn").scales, "fmt": "float4_e2m1fn"},
    ),
    "halves of rows in nibbles": (
        "code layout", "first half",
        lambda: {"codes": bits(mx(fmt="float4_e2m1fn").codes).reshape(8, 2, 256).transpose(0, 2, 1).reshape(8, 512),
                 "scales": mx(fmt="float4_e2m1fn").scales, "fmt": "float4_e2m1fn"},
    ),
    "MX ceil": ("rule", "ceil", lambda: {"codes": mx("ceil").codes, "scales": mx("ceil").scales}),
    "MX even": ("rule", "even", lambda: {"codes": mx("even").codes, "scales": mx("even").scales}),
    "MX rceil": ("rule", "rceil", lambda: {"codes": mx("rceil").codes, "scales": mx("rceil").scales}),
    "E8M0 bias off by one": (
        "rule", "floor",
        lambda: {"codes": mx().codes, "scales": (bits(mx().scales) + 1)},
    ),
    "global scale applied twice": (
        "global scale", "twice",
        lambda: {"codes": NV.codes, "scales": NV.weight_scale_inv(), "global_scale": NV.global_scale},
    ),
    "global scale inverted": (
        "global scale", "inverted",
        lambda: {"codes": NV.codes, "scales": NV.scales, "global_scale": 1 / NV.global_scale},
    ),
    "global scale left out": (
        "global scale", "left out", lambda: {"codes": NV.codes, "scales": NV.scales},
    ),
    "global scale of another tensor": (
        "global scale", "another tensor",
        lambda: {"codes": NV.codes, "scales": NV.scales, "global_scale": NV.global_scale * f32(1.7)},
    ),
    "E4M3 scales read as E8M0": (
        "scale dtype", "float8_e4m3fn, read as float8_e8m0fnu",
        lambda: {"codes": NV.codes, "scales": NV.scales.view(ml_dtypes.float8_e8m0fnu), "global_scale": NV.global_scale},
    ),
    "scales of another tensor": (
        "cause", "another tensor", lambda: v3(scales=quantize_tiles(numbers(8, 512, 9)).scales),
    ),
    "scales of another tensor, used": (
        "cause", "unknown making", lambda: by(quantize_tiles(numbers(8, 512, 9)).scales),
    ),
    "inverse stored": ("rule", "inverse", lambda: v3(scales=f32(1) / v3()["scales"])),
    "scale multiplied": ("quotient", "multiplied instead", lambda: v3(codes=cast(X * spread(v3()["scales"])))),
    "not divided": ("codes by", "not divided", lambda: v3(codes=cast(X))),
    "two scales off": (
        "cause", "scales off by a power of two",
        lambda: changed(lambda c, s: s.__setitem__((slice(2, 4), 1), s[2:4, 1] * f32(4))),
    ),
    "one scale's bit": (
        "cause", "flipped bits of scales",
        lambda: changed(lambda c, s: s.view(np.uint32).__setitem__((3, 2), s.view(np.uint32)[3, 2] ^ (1 << 20))),
    ),
    "all scales times 1.1": (
        "cause", "one factor", lambda: v3(scales=(v3()["scales"] * f32(1.1)).astype(f32)),
    ),
    "swapped rows": (
        "cause", "swapped rows",
        lambda: changed(lambda c, s: c.__setitem__([2, 5], c[[5, 2]])),
    ),
    "shifted tile": (
        "class", "tiles of another place",
        lambda: changed(lambda c, s: c.__setitem__((5, slice(128, 256)), c[5, 0:128])),
    ),
    "a tile of one code": (
        "cause", "one code", lambda: changed(lambda c, s: c.__setitem__((5, slice(128, 256)), 0x38)),
    ),
    "a stuck bit": ("class", "bit 6 stuck at 0", lambda: changed(lambda c, s: np.bitwise_and(c, 0xBF, out=c))),
    "three flipped bits": (
        "cause", "flipped bits",
        lambda: changed(lambda c, s: c.__setitem__(([1, 2, 3], [7, 8, 9]), c[[1, 2, 3], [7, 8, 9]] ^ 0x40)),
    ),
    "stochastic rounding": (
        "cause", "stochastic", lambda: v3(codes=cast(X / spread(S), rounding="stochastic", seed=3)),
    ),
    "columns in reverse": ("code layout", "columns in reverse", lambda: v3(codes=v3()["codes"][:, ::-1])),
    "shifted by one element": ("code layout", "one element", lambda: v3(codes=np.roll(v3()["codes"], 1, 1))),
    "packed words along k": (
        "scale layout", "row-major, packed",
        lambda: {"codes": quantize_tiles(X, scale="ue8m0").codes,
                 "scales": bits(quantize_tiles(X, scale="ue8m0").scales).view(np.int32)},
    ),
    "tiles along the rows": (
        "groups", "8x1",
        lambda: {"codes": quantize_tiles(X, tile=8, axis=0).codes, "scales": quantize_tiles(X, tile=8, axis=0).scales},
    ),
    "quantized before": (
        "input", "quantized to E4M3", lambda: {"codes": mx("rceil", x=quantize_tiles(X).dequantize()).codes,
                                               "scales": mx("rceil", x=quantize_tiles(X).dequantize()).scales},
    ),
    "a cast": ("rule", "cast", lambda: {"codes": cast(X)}),
    "a cast toward zero": ("rounding", "toward zero", lambda: {"codes": cast(X, rounding="toward_zero")}),
    "codes without their scales": ("rule", "deepseek_v3", lambda: {"codes": v3()["codes"], "fmt": "float8_e4m3fn"}),
    # two at once
    "bfloat16 input, late scales": (
        "scale layout", "one late",
        lambda: {"codes": quantize_tiles(X.astype(BF16)).codes, "scales": np.roll(quantize_tiles(X.astype(BF16)).scales, 1, 1)},
    ),
    "toward zero, transposed scales": (
        "scale layout", "transposed", lambda: by(S, np.ascontiguousarray(S.T), rounding="toward_zero"),
    ),
    "toward zero, one flipped bit": (
        "cause", "one flipped bit",
        lambda: by(S) | {"codes": np.bitwise_xor(cast(X / spread(S), rounding="toward_zero"),
                                                 np.where(np.arange(4096).reshape(8, 512) == 700, 64, 0).astype(np.uint8))},
    ),
    "ties away, swapped tiles": (
        "cause", "swapped tiles",
        lambda: by(S) | {"codes": swapped(cast(X / spread(S), rounding="up"))},
    ),
}  # fmt: skip


def swapped(c: NDArray[np.uint8]) -> NDArray[np.uint8]:
    c[2, :128], c[6, 128:256] = c[6, 128:256].copy(), c[2, :128].copy()
    return c


@pytest.mark.parametrize("name", QUANTIZED)
def test_causes_of_codes(name: str) -> None:
    column, words, make = QUANTIZED[name]
    planted = {"fmt": "float8_e4m3fn"} | make()
    if planted["codes"].dtype != np.uint8:
        planted.pop("fmt")
    found = explain_quantization(X, **planted)
    assert explains(found, column, words), found.lines()
    assert found.cause != "equal" or column in ("rule", "groups")


def test_swizzled_scales_are_named() -> None:
    w = W[:, :256]
    q = quantize_tiles(w, tile=32, scale="mx")
    stored = layouts.to_128x4(q.scales)
    assert explain_quantization(w, q.codes, stored.reshape(q.scales.shape)).column("scale layout") == [
        "128x4 swizzled"
    ]
    twice = layouts.to_128x4(stored.reshape(q.scales.shape))
    assert "twice" in explain_quantization(w, q.codes, twice).column("scale layout")[0]


A, B = numbers(24, 512, 3), numbers(40, 512, 4)
QA, QB = quantize_tiles(A), quantize_tiles(B)
EB = quantize_tiles(B, fmt="float8_e5m2")
MA, MB = (quantize_tiles(x, tile=32, scale="mx") for x in (A, B))
PA, PB = A.astype(BF16), B.astype(BF16)
HA, HB = (x / f32(64) for x in (A, B))


def parts(count: int = 4) -> list[Floats]:
    size = 512 // count
    out = []
    for i in range(count):
        part = slice(size * i, size * (i + 1))
        group = size * i // 128
        p = matmul_nt(QA.codes[:, part].copy(), QB.codes[:, part].copy(), promote_every=None)
        out.append(p * (QA.scales[:, group, None] * QB.scales[None, :, group]))
    return out


def kahan() -> Floats:
    total, lost = np.zeros((24, 40), f32), np.zeros((24, 40), f32)
    for part in parts():
        y = part - lost
        t = total + y
        lost = (t - total) - y
        total = t
    return total


def chain(narrow: Any = None, step: int = 1, order: int = 1) -> Floats:
    a, b, total = PA.astype(f32), PB.astype(f32), np.zeros((24, 40), f32)
    for i in range(512)[::order]:
        total = total + a[:, i, None] * b[None, :, i]
        if narrow is not None:
            total = total.astype(narrow).astype(f32)
    return total


def forgotten() -> Floats:
    whole = matmul_nt(QA.codes, QB.codes, promote_every=None)
    return whole * (QA.scales[:, -1, None] * QB.scales[None, :, -1])


def moved(side: str, **fields: Any) -> Floats:
    a = replace(QA, **fields) if side == "a" else QA
    return matmul_nt(a, replace(QB, **fields) if side == "b" else QB)


def touched(change: Callable[[Floats], None]) -> Floats:
    d = matmul_nt(QA, QB)
    change(d)
    return d


PRODUCTS: dict[str, tuple[str, str, Callable[[], tuple[Any, Any, Any]]]] = {
    "kahan": ("sums", "Kahan", lambda: (QA, QB, kahan())),
    "reversed parts": ("sums", "in reverse", lambda: (QA, QB, sum(parts()[::-1][1:], parts()[3]))),
    "split-K": ("sums", "split-K by 2", lambda: (QA, QB, (parts()[0] + parts()[1]) + (parts()[2] + parts()[3]))),
    "promotion forgotten": ("sums", "promotion forgotten", lambda: (QA, QB, forgotten())),
    "float16 sums": ("sums", "held in float16", lambda: (replace(QA, scales=QA.scales * f32(2**-6)), QB, in_float16())),
    "last part missing": ("sums", "last part", lambda: (QA, QB, parts()[0] + parts()[1] + parts()[2])),
    "overwritten": ("sums", "overwritten", lambda: (QA, QB, parts()[3])),
    "float64": ("unit", "float64", lambda: (QA, QB, (QA.dequantize(np.float64) @ QB.dequantize(np.float64).T).astype(f32))),
    "in order of k": ("sums", "in the order of k", lambda: (PA, PB, chain())),
    "against the order of k": ("sums", "against the order of k", lambda: (PA, PB, chain(order=-1))),
    "bfloat16 chain": ("sums", "held in bfloat16", lambda: (PA, PB, chain(BF16))),
    "float16 chain": ("sums", "held in float16", lambda: (HA.astype(BF16), HB.astype(BF16), half_chain())),
    "early scales of b": ("operands", "scales of b off by one group (one early)", lambda: (QA, QB, moved("b", scales=np.roll(QB.scales, -1, 1)))),
    "transposed scales": ("operands", "scales of b transposed", lambda: (QA, QB, moved("b", scales=QB.scales.reshape(4, 40).T.copy()))),
    "scales left out": ("operands", "scales of a left out", lambda: (QA, QB, moved("a", scales=np.ones_like(QA.scales)))),
    "scales twice": ("operands", "scales of a applied twice", lambda: (QA, QB, moved("a", scales=QA.scales**2))),
    "scales to powers of two": ("operands", "rounded up to a power of two", lambda: (QA, QB, moved("a", scales=power(QA.scales)))),
    "bfloat16 scales": ("operands", "scales of a rounded to bfloat16", lambda: (QA, QB, moved("a", scales=QA.scales.astype(BF16).astype(f32)))),
    "E5M2 read as E4M3": ("operands", "codes of b read as float8_e4m3fn", lambda: (QA, EB, matmul_nt(QA, replace(EB, codes=EB.codes.view(E4M3), format="float8_e4m3fn")))),
    "both sides late": ("operands", "one late", lambda: (QA, QB, matmul_nt(replace(QA, scales=np.roll(QA.scales, 1, 1)), replace(QB, scales=np.roll(QB.scales, 1, 0))))),
    "MX unit": ("unit", "blackwell_mxf8", lambda: (MA, MB, matmul_nt(MA, MB, accumulator="blackwell_mxf8", promote_every=None))),
    "MX bias": ("operands", "bias off by one", lambda: (MA, MB, matmul_nt(replace(MA, scales=(bits(MA.scales) + 1).view(MA.scales.dtype)), MB, accumulator="blackwell_mxf8", promote_every=None))),
    "bfloat16 unit": ("unit", "hopper_bf16", lambda: (PA, PB, matmul_nt(PA, PB, accumulator="hopper_bf16", promote_every=None))),
    "float16 overflow": ("output", "float16", lambda: (QA, QB, matmul_nt(QA, QB).clip(-65504, 65504).astype(np.float16))),
    "late scales and bfloat16 sums": ("sums", "held in bfloat16", lambda: (replace(QA, scales=QA.scales * f32(2**-6)), QB, in_float16(BF16, np.roll(QA.scales, 1, 1)))),
    "late scales and an output cut": ("output", "cut", lambda: (QA, QB, (moved("a", scales=np.roll(QA.scales, 1, 1)).view(np.uint32) >> 16).astype(np.uint16).view(BF16))),
    "one row by a factor": ("cause", "rows off by one factor", lambda: (QA, QB, touched(lambda d: d.__setitem__(5, d[5] * f32(1.3))))),
    "a column doubled": ("cause", "power of two", lambda: (QA, QB, touched(lambda d: d.__setitem__((slice(None), 7), d[:, 7] * f32(2))))),
    "rows shifted": ("output layout", "one row", lambda: (QA, QB, np.roll(matmul_nt(QA, QB), 1, 0))),
    "zeros in a tile": ("cause", "zeros", lambda: (QA, QB, touched(lambda d: d.__setitem__((slice(0, 8), slice(0, 8)), 0)))),
}  # fmt: skip


def in_float16(narrow: Any = np.float16, scales: Any = None) -> Floats:
    scales = QA.scales if scales is None else scales
    scales = scales * f32(2**-6)
    total = np.zeros((24, 40), f32)
    for i in range(4):
        part = slice(128 * i, 128 * i + 128)
        p = matmul_nt(QA.codes[:, part].copy(), QB.codes[:, part].copy(), promote_every=None)
        total = (total + p * (scales[:, i, None] * QB.scales[None, :, i])).astype(narrow).astype(f32)
    return total


def half_chain() -> Floats:
    a, b, total = HA.astype(BF16).astype(f32), HB.astype(BF16).astype(f32), np.zeros((24, 40), f32)
    for i in range(512):
        total = (total + a[:, i, None] * b[None, :, i]).astype(np.float16).astype(f32)
    return total


@pytest.mark.parametrize("name", PRODUCTS)
def test_causes_of_products(name: str) -> None:
    column, words, make = PRODUCTS[name]
    a, b, d = make()
    found = explain_product(a, b, d)
    assert explains(found, column, words), found.lines()
    assert found.cause != "equal" or column in ("unit", "output")
