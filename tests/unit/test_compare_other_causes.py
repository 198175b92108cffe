"""Causes as strangers may plant them: floors, orders, padding, biases, clamps, chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from dsv3_numerics import encode, matmul_nt, quantize_blocks, quantize_tiles
from dsv3_numerics.compare import explain_product, explain_quantization
from samples import explains

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]
f32 = np.float32
BF16 = np.dtype(ml_dtypes.bfloat16)
RNG = np.random.default_rng(5)


def numbers(rows: int, k: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, k)) * np.exp2(rng.integers(-3, 4, (rows, k)))).astype(f32)


X = numbers(8, 512, 0) * f32(1.375)
SMALL = X.copy()
SMALL[3, :128] *= f32(1e-7)
SMALL[4, 128:256] *= f32(1e-12)
SMALL[5, 256:384] = 0


def spread(s: Floats) -> Floats:
    return np.repeat(s, 128, axis=1)


def amax(x: Floats) -> Floats:
    found: Floats = np.abs(x).reshape(len(x), -1, 128).max(axis=2)
    return found


def cast(q: Floats, fmt: str = "float8_e4m3fn", **options: Any) -> Codes:
    return encode(q.astype(f32), fmt, **options).view(np.uint8)


def by(x: Floats, s: Floats, stored: Any = None) -> tuple[Floats, Any, Any]:
    with np.errstate(all="ignore"):
        return x, cast(x / spread(s)), s if stored is None else stored


def v3() -> tuple[Codes, Floats]:
    q = quantize_tiles(X)
    return q.codes.view(np.uint8).copy(), q.scales.copy()


def changed(change: Callable[[Codes, Floats], Any], x: Floats = X) -> tuple[Floats, Any, Any]:
    q = quantize_tiles(x)
    codes, scales = q.codes.view(np.uint8).copy(), q.scales.copy()
    out = change(codes, scales)
    return (x, *out) if isinstance(out, tuple) else (x, codes, scales)


PADDED = X.copy()
PADDED[6:] = 0
DEALT = [0, 4, 1, 5, 2, 6, 3, 7]
EXPERTS = [4, 5, 6, 7, 0, 1, 2, 3]
A = amax(SMALL)
SCALE = (A / f32(448)).astype(f32)


def zeros_of(code: int) -> tuple[Floats, Any, Any]:
    """Scale zero tiles by zero, and give them one code."""
    codes = cast(SMALL / spread(np.where(SCALE == 0, f32(1), SCALE)))
    return SMALL, np.where(spread(SCALE) == 0, np.uint8(code), codes).astype(np.uint8), SCALE


QUANTIZED: dict[str, tuple[str, str, Callable[[], tuple[Floats, Any, Any]]]] = {
    "amax at least 1e-12": ("rule", "floor 1e-12", lambda: by(SMALL, np.maximum(A, f32(1e-12)) / f32(448))),
    "scale at least 1e-12": ("rule", "at least 1e-12", lambda: by(SMALL, np.maximum(SCALE, f32(1e-12)))),
    "scale at least 1e-10": ("rule", "at least 1e-10", lambda: by(SMALL, np.maximum(SCALE, f32(1e-10)))),
    "1e-8 added to the scale": ("rule", "1e-08 added to it", lambda: by(SMALL, SCALE + f32(1e-8))),
    "1e-6 added to amax": ("rule", "1e-6 added", lambda: by(SMALL, (A + f32(1e-6)) / f32(448))),
    "zero tiles scaled by 0": ("quotient", "0 where s is 0", lambda: zeros_of(0)),
    "zero tiles are NaN": ("rounding", "NaN without sign", lambda: zeros_of(0x7F)),
    "scales in the other byte order": (
        "scale dtype", "bytes reversed", lambda: changed(lambda c, s: (c, s.byteswap())),
    ),
    "inverse UE8M0": (
        "rule", "inverse",
        lambda: (X, quantize_tiles(X, scale="ue8m0").codes.view(np.uint8),
                 (254 - quantize_tiles(X, scale="ue8m0").scales.view(np.uint8)).astype(np.uint8)),
    ),
    "int8 read as E4M3": (
        "codes", "int8, read as float8_e4m3fn",
        lambda: (X, cast(X / spread(amax(X) / f32(127)), "int8"), (amax(X) / f32(127)).astype(f32)),
    ),
    "clipped at 0.95 of amax": (
        "cause", "amax / max times one factor", lambda: by(X, (amax(X) * f32(0.95) / f32(448)).astype(f32)),
    ),
    "a static scale": ("cause", "one scale everywhere", lambda: by(X, np.full((8, 4), f32(0.0123)))),
    "scales of rows dealt out": (
        "scale layout", "halves of rows by turns", lambda: changed(lambda c, s: (c, s[DEALT])),
    ),
    "scales of even rows first": (
        "scale layout", "even rows first", lambda: changed(lambda c, s: (c, s[[0, 2, 4, 6, 1, 3, 5, 7]])),
    ),
    "codes of rows dealt out": (
        "code layout", "halves of rows by turns", lambda: changed(lambda c, s: (c[DEALT], s)),
    ),
    "scales shuffled": (
        "cause", "in another order",
        lambda: changed(lambda c, s: (c, RNG.permutation(s.reshape(-1)).reshape(s.shape))),
    ),
    "experts in another order": (
        "order", "rows in another order, and their scales",
        lambda: changed(lambda c, s: (c[EXPERTS], s[EXPERTS])),
    ),
    "experts in another order, not their scales": (
        "order", "but not their scales", lambda: changed(lambda c, s: (c[EXPERTS], s)),
    ),
    "padding is garbage": (
        "class", "padding that was not written",
        lambda: changed(lambda c, s: c.__setitem__(slice(6, 8), RNG.integers(1, 120, (2, 512))), PADDED),
    ),
    "the last tile of k is garbage": (
        "class", "tiles that do not follow their input",
        lambda: changed(
            lambda c, s: c.__setitem__((slice(None), slice(384, 512)), RNG.integers(0, 120, (8, 128)))
        ),
    ),
    "negated": ("code layout", "sign bits inverted", lambda: changed(lambda c, s: (c ^ 0x80, s))),
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTIZED)
def test_causes_of_codes(name: str) -> None:
    column, words, make = QUANTIZED[name]
    found = explain_quantization(*make(), fmt="float8_e4m3fn")
    assert explains(found, column, words), found.lines()
    assert found.cause != "equal"


def test_blocks_of_experts_in_another_order() -> None:
    w = numbers(512, 256, 6)
    q = quantize_blocks(w)
    order = np.r_[256:384, 0:128, 128:256, 384:512]
    found = explain_quantization(w, q.codes[order], q.scales[[2, 0, 1, 3]])
    assert "blocks of 128 rows in another order, and their scales" in found.column("order")[0]


def test_pieces_are_counted_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large inputs are confirmed and classified some rows at a time."""
    from dsv3_numerics.compare import cases

    monkeypatch.setattr(cases.Cases.pieces, "__defaults__", (1 << 10,))
    x = numbers(64, 512, 7)
    q = quantize_tiles(x)
    assert explain_quantization(x, q).cause == "equal"
    late = explain_quantization(x, q.codes, np.roll(q.scales, 1, 0))
    assert late.column("scale layout") == ["off by one row (one late)"]
    codes = q.codes.view(np.uint8).copy()
    codes[[3, 60], [4, 5]] ^= 0x40
    found = explain_quantization(x, codes, q.scales, fmt="float8_e4m3fn")
    assert (found.cause, found.classes) == ("flipped bits", {"flipped bits": 2})
    whole = np.abs(x).max() / f32(448)
    tensor = explain_quantization(x, cast(x / whole), np.full((64, 4), whole), fmt="float8_e4m3fn")
    assert tensor.column("amax") == ["of the whole tensor"]


LEFT, RIGHT = numbers(24, 512, 3), numbers(40, 512, 4)
QA, QB = quantize_tiles(LEFT), quantize_tiles(RIGHT)
QT, QTB = quantize_tiles(LEFT, tile=512), quantize_tiles(RIGHT, tile=512)
BLOCKS, WIDE = quantize_blocks(numbers(512, 512, 8)), quantize_tiles(numbers(16, 512, 9))
SHORT = quantize_tiles(LEFT[:, :448].copy()), quantize_tiles(RIGHT[:, :448].copy())
D = matmul_nt(QA, QB)


def stochastic() -> Any:
    bits = D.view(np.uint32) + RNG.integers(0, 1 << 16, D.shape, np.uint32)
    return (bits >> 16).astype(np.uint16).view(BF16)


def shares_in_bfloat16() -> Any:
    total = np.zeros(D.shape, f32)
    for i in (0, 256):
        share = np.zeros(D.shape, f32)
        for g in (i // 128, i // 128 + 1):
            part = slice(128 * g, 128 * g + 128)
            p = matmul_nt(QA.codes[:, part].copy(), QB.codes[:, part].copy(), promote_every=None)
            share = share + p * (QA.scales[:, g, None] * QB.scales[None, :, g])
        total = total + share.astype(BF16).astype(f32)
    return total.astype(BF16)


def blocks(scales: Floats) -> tuple[Any, Any, Any]:
    return WIDE, BLOCKS, matmul_nt(WIDE, replace(BLOCKS, scales=np.ascontiguousarray(scales)))


def with_codes(codes: Any) -> tuple[Any, Any, Any]:
    return QA, QB, matmul_nt(QA, replace(QB, codes=np.ascontiguousarray(codes)))


def without_last(codes: Any) -> Any:
    """The codes with zeros for the last k."""
    kept = codes.copy()
    kept[:, -1] = 0
    return kept


PRODUCTS: dict[str, tuple[str, str, Callable[[], tuple[Any, Any, Any]]]] = {
    "scales of blocks transposed": (
        "operands", "scales of blocks of b transposed", lambda: blocks(BLOCKS.scales.T),
    ),
    "scales of blocks of the row before": (
        "operands", "scales of blocks of b off by one row (one late)",
        lambda: blocks(np.roll(BLOCKS.scales, 1, 0)),
    ),
    "column-major weights": (
        "operands", "transposed memory", lambda: with_codes(QB.codes.reshape(512, 40).T),
    ),
    "k is one short": (
        "sums", "the last 1 of k left out",
        lambda: (QA, QB, matmul_nt(replace(QA, codes=without_last(QA.codes)), QB)),
    ),
    "the last short part of k is missing": (
        "sums", "behind the last whole 128 left out",
        lambda: (*SHORT, matmul_nt(SHORT[0][:, :384], SHORT[1][:, :384])),
    ),
    "split-K in bfloat16": (
        "sums", "split-K by 2, shares rounded to bfloat16", lambda: (QA, QB, shares_in_bfloat16()),
    ),
    "rounded before it was scaled": (
        "sums", "rounded to bfloat16, then scaled",
        lambda: (QT, QTB, (matmul_nt(QT.codes, QTB.codes, promote_every=None).astype(BF16).astype(f32)
                           * (QT.scales * QTB.scales.T)).astype(BF16)),
    ),
    "an FP8 output": (
        "output", "float8_e4m3fn, held as bfloat16",
        lambda: (QA, QB, np.clip(D, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(BF16)),
    ),
    "stochastic rounding of the output": ("cause", "stochastic rounding", lambda: (QA, QB, stochastic())),
    "columns swapped": (
        "class", "swapped columns", lambda: (QA, QB, D[:, np.r_[1, 0, 2:38, 39, 38]].copy()),
    ),
    "columns in reverse": ("output layout", "columns in reverse", lambda: (QA, QB, D[:, ::-1].copy())),
    "the other byte order": (
        "output layout", "bytes reversed",
        lambda: (QA, QB, D.astype(BF16).view(np.uint16).byteswap().view(BF16)),
    ),
    "column-major output": ("output layout", "transposed memory", lambda: (QA, QB, D.T.reshape(D.shape))),
    "padding is garbage": (
        "cause", "rows that are no sums",
        lambda: (
            QA, QB, np.where(np.arange(24)[:, None] < 20, D, RNG.standard_normal(D.shape) * 50).astype(f32)
        ),
    ),
    "ReLU": ("cause", "negative sums are zero", lambda: (QA, QB, np.maximum(D, f32(0)))),
    "clamped": ("cause", "clamped", lambda: (QA, QB, np.clip(D, -100, 100))),
    "a bias": (
        "class", "a bias of columns added", lambda: (QA, QB, D + RNG.standard_normal(40).astype(f32) * 100),
    ),
    "scales of another tensor": (
        "class", "other scales of a",
        lambda: (QA, QB, matmul_nt(replace(QA, scales=quantize_tiles(numbers(24, 512, 99)).scales), QB)),
    ),
    "a factor": (
        "cause", "all outputs off by one factor", lambda: (QA, QB, (D * f32(192**-0.5)).astype(f32)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_causes_of_products(name: str) -> None:
    column, words, make = PRODUCTS[name]
    found = explain_product(*make())
    assert explains(found, column, words), found.lines()
    assert found.cause != "equal"


def test_noise_is_no_chance_of_rounding() -> None:
    noisy = (D * (1 + RNG.standard_normal(D.shape) * 1e-2)).astype(BF16)
    found = explain_product(QA, QB, noisy)
    assert not any(name.startswith(("stochastic", "a bias", "other scales")) for name in found.classes)
    assert found.classes["unexplained"] > 0
