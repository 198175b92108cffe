"""Grouped products as kernels call them, each row and each part against a dense product of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics.grouped import matmul_contiguous_nt, matmul_k_grouped_nt, matmul_masked_nt
from operands import bits

f32 = np.float32
RNG = np.random.default_rng(7)
# accumulator, format and scales of a and b, products between promotions
CASES: list[tuple[str, dict[str, Any], dict[str, Any], int | None]] = [
    ("hopper_fp8", {}, {}, 128),
    ("float32", {"scale": "ue8m0"}, {"fmt": "float8_e5m2"}, 128),
    (
        "blackwell_mxf8",
        {"scale": "mx", "tile": 32},
        {"scale": "mx", "tile": 32, "fmt": "float4_e2m1fn"},
        None,
    ),
    ("blackwell_mxf8", {"scale": "ue8m0", "tile": 128}, {"scale": "mx", "tile": 32}, 128),
    ("blackwell_nvfp4", {"scale": "nvfp4"}, {"scale": "nvfp4"}, 64),
    ("exact", {"scale": "nvfp4"}, {"scale": "nvfp4"}, 16),
]
IDS = [f"{case[0]}-{case[3]}" for case in CASES]


def tiles(x: NDArray[Any], options: dict[str, Any]) -> dn.Quantized:
    """A tensor as an accumulator takes it."""
    fixed = {"fmt": "float4_e2m1fn", "tile": 16} if options.get("scale") == "nvfp4" else {}
    return dn.quantize_tiles(x, **{**fixed, **options})


def operands(case: Any, m: tuple[int, ...], experts: int) -> tuple[Any, Any, dict[str, Any]]:
    """Rows, one matrix for each expert, and options."""
    accumulator, left, right, every = case
    x = RNG.standard_normal((*m, 256)).astype(f32)
    w = RNG.standard_normal((experts, 5, 256)).astype(f32)
    return tiles(x, left), tiles(w, right), {"accumulator": accumulator, "promote_every": every}


def row(q: dn.Quantized, *place: int) -> dn.Quantized:
    """One row as a matrix, or one matrix of a stack."""
    codes, scales = q.codes[place], q.scales[place]
    if codes.ndim == 1:
        codes, scales = codes[None], scales[None]
    return replace(q, codes=codes, scales=scales, axis=1)


def same(got: Any, want: Any) -> None:
    np.testing.assert_array_equal(bits(got), bits(want))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_rows_with_an_expert_each(case: Any) -> None:
    a, b, options = operands(case, (9,), 3)
    indices = np.array([2, 0, -1, 0, 2, 2, -1, 0, 2])
    poisoned = a.scales.copy()
    poisoned.view(f"u{poisoned.dtype.itemsize}")[indices < 0] = np.iinfo(f"u{poisoned.dtype.itemsize}").max
    a = replace(a, scales=poisoned)
    c = RNG.standard_normal((9, 5)).astype(f32)
    for start in (None, c):
        got = matmul_contiguous_nt(a, b, indices, c=start, **options)
        for i, expert in enumerate(indices.tolist()):
            if expert < 0:
                same(got[i], np.zeros(5, f32) if start is None else start[i])
                continue
            dense = {} if start is None else {"c": start[i : i + 1]}
            same(got[i : i + 1], dn.matmul_nt(row(a, i), row(b, expert), **dense, **options))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_masked_buffers(case: Any) -> None:
    a, b, options = operands(case, (4, 3), 4)
    counts = np.array([2, 0, 3, 1], np.int32)
    poisoned, codes = a.scales.copy(), a.codes.copy()
    for e, count in enumerate(counts):
        poisoned.view(f"u{poisoned.dtype.itemsize}")[e, count:] = np.iinfo(f"u{poisoned.dtype.itemsize}").max
        codes.view(np.uint8)[e, count:] = 0x7F
    a = replace(a, scales=poisoned, codes=codes)
    out = np.full((4, 3, 5), np.nan, f32)
    got = matmul_masked_nt(a, b, counts, out=out, **options)
    assert got is out
    for e, i in np.ndindex(4, 3):
        if i < counts[e]:
            same(got[e, i : i + 1], dn.matmul_nt(row(a, e, i), row(b, e), **options))
        else:
            assert not bits(got[e, i]).any()


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_parts_of_k(case: Any) -> None:
    accumulator, left, right, every = case
    x, y = RNG.standard_normal((2, 6, 512)).astype(f32)
    a, b = tiles(x, left), tiles(y[:4], right)
    parts, c = [128, 0, 256, 128], RNG.standard_normal((4, 6, 4)).astype(f32)
    options: dict[str, Any] = {"accumulator": accumulator, "promote_every": every}
    got = matmul_k_grouped_nt(a, b, parts, c=c, **options)
    begin = 0
    for e, part in enumerate(parts):
        if part == 0:
            same(got[e], c[e])
        else:
            length = (a.block[0], b.block[0])
            cut = [
                replace(
                    q,
                    codes=np.ascontiguousarray(q.codes[:, begin : begin + part]),
                    scales=np.ascontiguousarray(q.scales[:, begin // n : (begin + part) // n]),
                )
                for q, n in zip((a, b), length, strict=True)
            ]
            for i in range(6):
                same(got[e, i : i + 1], dn.matmul_nt(row(cut[0], i), cut[1], c=c[e, i : i + 1], **options))
        begin += part


def test_plain_codes_and_bfloat16() -> None:
    a = RNG.integers(0, 0x70, (6, 64)).astype(np.uint8).view("float8_e4m3fn")
    b = RNG.integers(0, 0x70, (2, 3, 64)).astype(np.uint8).view("float8_e4m3fn")
    got = matmul_contiguous_nt(a, b, [1, 1, 0, -1, 0, 1], promote_every=64, dtype=ml_dtypes.bfloat16)
    for i, expert in enumerate([1, 1, 0, -1, 0, 1]):
        want = dn.matmul_nt(a[i : i + 1], b[expert], promote_every=64, dtype=ml_dtypes.bfloat16)
        same(got[i : i + 1], want if expert >= 0 else np.zeros_like(want))
    assert matmul_contiguous_nt(a[:0], b, np.zeros(0, int)).shape == (0, 3)
    assert matmul_k_grouped_nt(a, b[0], []).shape == (0, 6, 3) if a.shape[1] == 0 else True


def test_scales_for_each_token_and_each_channel() -> None:
    """One scale a row on both sides, W8A8 as served: row by row the dense product."""
    x, w = RNG.standard_normal((5, 300)).astype(f32), RNG.standard_normal((7, 300)).astype(f32)
    for dtype, unit in [("int8", "exact"), ("int8", "float32"), ("float8_e4m3fn", "hopper_fp8")]:
        a, b = dn.quantize_tiles(x, fmt=dtype, tile=None), dn.quantize_tiles(w, fmt=dtype, tile=None)
        got = dn.matmul_nt(a, b, accumulator=unit, promote_every=None)
        for i, j in np.ndindex(5, 7):
            chain = dn.matmul_nt(a.codes[i : i + 1], b.codes[j : j + 1], accumulator=unit, promote_every=None)
            want = chain[0, 0] * (a.scales[i, 0] * b.scales[j, 0])
            assert abs(float(got[i, j]) - float(want)) <= abs(float(np.spacing(want)))


def test_mixes_of_four_bit_weights() -> None:
    """W4A8 on codes, W4A16 with weights widened exactly to bfloat16 or kept as codes: row by row."""
    x, w = RNG.standard_normal((4, 256)).astype(f32), RNG.standard_normal((6, 256)).astype(f32)
    int4 = dn.quantize_tiles(w, fmt="int4", tile=128)
    fp4 = dn.quantize_tiles(w, fmt="float4_e2m1fn", tile=128)
    a8, half = dn.quantize_tiles(x, tile=128), x.astype(ml_dtypes.bfloat16)
    a_int8 = dn.quantize_tiles(x, fmt="int8", tile=128)
    mixes = [
        (a8, fp4, "blackwell_fp8", 128),
        (a8, int4, "float32", 128),
        (a_int8, int4, "exact", 128),
        (half, int4, "exact", 128),
        (half, int4.dequantize(ml_dtypes.bfloat16), "hopper_bf16", None),
    ]
    for a, b, unit, every in mixes:
        got = dn.matmul_nt(a, b, accumulator=unit, promote_every=every)
        left = row(a, 0) if isinstance(a, dn.Quantized) else a[:1]
        same(got[:1], dn.matmul_nt(left, b, accumulator=unit, promote_every=every))
        assert np.abs(got - x @ w.T).max() < 0.2 * np.abs(x @ w.T).max()


def test_bad_groups() -> None:
    a, b, options = operands(CASES[0], (4,), 2)
    for indices, text in [
        ([0, 1, 2, 0], "m_indices: found 2 at 2, expected -1 to 1"),
        ([0, 1, -2, 0], "found -2 at 2"),
        ([0, 1], r"found shape \(2,\), expected \(4,\)"),
    ]:
        with pytest.raises(ValueError, match=text):
            matmul_contiguous_nt(a, b, indices, **options)
    with pytest.raises(TypeError, match="m_indices: found dtype float64"):
        matmul_contiguous_nt(a, b, [0.0, 1.0, 0.0, 1.0], **options)
    blocks = dn.quantize_blocks(RNG.standard_normal((4, 256)).astype(f32))
    with pytest.raises(ValueError, match="expected tiles along the last axis, or blocks of one row"):
        matmul_contiguous_nt(blocks, b, [0, 0, 1, 1], **options)
    buffers, _, _ = operands(CASES[0], (2, 3), 2)
    with pytest.raises(ValueError, match="masked_m: found 4 at 1, expected 0 to 3"):
        matmul_masked_nt(buffers, b, [0, 4], **options)
    with pytest.raises(ValueError, match="found 2 buffers and 1 matrices"):
        matmul_masked_nt(buffers, replace(b, codes=b.codes[:1], scales=b.scales[:1]), [0], **options)
    with pytest.raises(ValueError, match="ks: found part 1 begins at 64, inside a scale of a"):
        matmul_k_grouped_nt(a, a, [64, 192], **options)
    with pytest.raises(ValueError, match="ks: found parts of 128 in all, expected 256"):
        matmul_k_grouped_nt(a, a, [128], **options)
    with pytest.raises(ValueError, match=r"found shapes \(4, 256\) and \(4, 256\), expected"):
        matmul_masked_nt(a, a, [1], **options)
