"""Block-scaled units, tf32 and matrix cores: worked steps, equalities between units, and refusals by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as dn
from dsv3_numerics import reference
from operands import SCALED_UNITS, bits, codes, side, twin

f32 = np.float32
E2M1, E8M0, E4M3 = ml_dtypes.float4_e2m1fn, ml_dtypes.float8_e8m0fnu, ml_dtypes.float8_e4m3fn
RNG = np.random.default_rng(11)


def four(values: list[float]) -> Any:
    """E2M1 codes of a step."""
    x = np.zeros(64, f32)
    x[: len(values)] = values
    return x.astype(E2M1)


def nv(a: list[float], b: list[float], sa: list[float], sb: list[float], c: float = 0.0) -> Any:
    """One step of NVFP4 on numbers."""
    scales = {"a_scales": f32(sa).astype(E4M3), "b_scales": f32(sb).astype(E4M3)}
    return dn.mma_step(four(a), four(b), f32(c), accumulator="blackwell_nvfp4", **scales)


def test_groups_are_exact_and_scales_align_them() -> None:
    ones = [1.0, 1.0, 1.0, 1.0]
    assert nv([6.0], [6.0], ones, ones) == 36
    assert nv([6.0] * 64, [6.0] * 64, [448.0] * 4, [448.0] * 4) == 64 * 36 * 448.0**2
    # a group that cancels still counts, and pushes a small accumulator out; one of zeros does not
    small = 2.0**-40
    assert nv([1, -1], [1, 1], [256.0, 1, 1, 1], [256.0, 1, 1, 1], small) == 0
    assert nv([0, 0], [1, 1], [256.0, 1, 1, 1], [256.0, 1, 1, 1], small) == f32(small)
    assert nv([1, -1], [1, 1], [0.0, 1, 1, 1], [256.0, 1, 1, 1], small) == f32(small)


def test_the_sign_of_a_scale_is_ignored_and_nan_is_not() -> None:
    a, b = four([1.0]), four([3.0])
    for byte, want in [(0x38, 3.0), (0xB8, 3.0), (0x00, 0.0), (0x80, 0.0), (0x7F, np.nan), (0xFF, np.nan)]:
        scales = np.full(4, byte, np.uint8)
        one = np.full(4, 0x38, np.uint8)
        got = dn.mma_step(a, b, accumulator="blackwell_nvfp4", a_scales=scales, b_scales=one)
        np.testing.assert_equal(float(got), want)
        assert not np.isnan(got) or bits(got) == 0x7FFFFFFF


def test_a_scale_moves_products_and_not_infinity() -> None:
    a, b = np.zeros((2, 32), ml_dtypes.float8_e5m2)
    a[0], b[0] = np.inf, 1
    options: dict[str, Any] = {"accumulator": "blackwell_mxf8"}
    scales = [np.uint8([0]), np.uint8([254])]
    assert dn.mma_step(a, b, a_scales=scales[0], b_scales=scales[0], **options) == np.inf
    a[0] = 1
    assert dn.mma_step(a, b, a_scales=scales[1], b_scales=scales[0], **options) == 1
    assert dn.mma_step(a, b, a_scales=scales[1], b_scales=scales[1], **options) == np.inf
    assert dn.mma_step(a, b, a_scales=scales[0], b_scales=scales[0], **options) == 0


@pytest.mark.parametrize("unit", ["blackwell_mxf8", "rtx_blackwell_mxf8"])
def test_scales_of_one_are_the_plain_unit(unit: str, product_level: str) -> None:
    a, b = codes(RNG, "float8_e4m3fn", (9, 160), "special"), codes(RNG, "float6_e2m3fn", (20, 160), "bits")
    one = [dn.Quantized(x, np.ones((len(x), 5), E8M0), str(x.dtype), (32,), 1, "mx") for x in (a, b)]
    for every in (None, 96):
        want = dn.matmul_nt(a, b, accumulator="blackwell_fp8", promote_every=every)
        got = dn.matmul_nt(*one, accumulator=unit, promote_every=every)
        np.testing.assert_array_equal(bits(got), bits(want))


def test_mx_on_16_bit_scales_is_mx_on_32(product_level: str) -> None:
    """A scale for 32 is the same scale twice for 16, and one for 128 four times one for 32."""
    q = dn.quantize_tiles(RNG.standard_normal((6, 256)).astype(f32), fmt=E2M1, scale="mx", tile=32)
    fine = replace(q, scales=np.repeat(q.scales, 2, axis=1), block=(16,))
    for every in (None, 64):
        options: dict[str, Any] = {"accumulator": "blackwell_mxf4", "promote_every": every}
        want = dn.matmul_nt(q, q, **options)
        np.testing.assert_array_equal(dn.matmul_nt(fine, q, **options), want)
    wide = dn.quantize_tiles(RNG.standard_normal((6, 256)).astype(f32), scale="ue8m0", tile=128)
    narrow = replace(wide, scales=np.repeat(wide.scales, 4, axis=1), block=(32,))
    options = {"accumulator": "blackwell_mxf8", "promote_every": None}
    np.testing.assert_array_equal(
        dn.matmul_nt(wide, wide, **options), dn.matmul_nt(narrow, narrow, **options)
    )


@pytest.mark.parametrize("unit", SCALED_UNITS)
def test_wide_products(unit: str, product_level: str) -> None:
    """More rows and columns than tiles have, extreme rows among ordinary ones, by samples of the textbook."""
    info = dn.accumulator_info(unit)
    rng = np.random.default_rng(5)
    a, b = (side(rng, unit, info.inputs[-1], (m, 328), "plain") for m in (70, 150))
    for q in (a, b):
        ends = np.uint8([0, 1, 253, 254]) if info.scale == "float8_e8m0fnu" else np.uint8([0, 1, 0x7D, 0x7E])
        q.scales.view(np.uint8)[::7] = rng.choice(ends, q.scales[::7].shape)
    c = rng.standard_normal((70, 150)).astype(f32)
    for every, start in [(None, None), (None, c), (128, c)]:
        options: dict[str, Any] = {"accumulator": unit, "promote_every": every}
        got = dn.matmul_nt(a, b, c=start, **options)
        rows, cols = slice(None, None, 23), slice(None, None, 31)
        parts = [replace(q, codes=q.codes[s], scales=q.scales[s]) for q, s in ((a, rows), (b, cols))]
        cut = None if start is None else start[rows, cols]
        want = reference.matmul_nt(twin(parts[0]), twin(parts[1]), c=cut, **options)
        np.testing.assert_array_equal(bits(got[rows, cols]), bits(want))


def test_blocks_of_rows_share_scales_of_the_unit(product_level: str) -> None:
    """Weights in blocks of 16 x 16, as NVFP4 is trained, and a stack with one matrix for all."""
    x, w = RNG.standard_normal((2, 5, 80)).astype(f32), RNG.standard_normal((20, 80)).astype(f32)
    a = dn.quantize_tiles(x, fmt=E2M1, scale="nvfp4", tile=16)
    b = dn.quantize_blocks(w, fmt=E2M1, scale="nvfp4", block=(16, 16))
    rows = np.repeat(b.scales, 16, axis=0)[:20]
    same = dn.Quantized(b.codes, rows, b.format, (16,), 1, "nvfp4", None, b.global_scale)
    for every in (None, 64):
        options: dict[str, Any] = {"accumulator": "blackwell_nvfp4", "promote_every": every}
        want = dn.matmul_nt(a, same, **options)
        np.testing.assert_array_equal(bits(dn.matmul_nt(a, b, **options)), bits(want))
        got = dn.matmul_grouped_nt(
            replace(a, codes=a.codes.reshape(10, 80), scales=a.scales.reshape(10, 5), axis=1),
            replace(b, codes=b.codes[None], scales=b.scales[None]),
            [0, 10],
            **options,
        )
        np.testing.assert_array_equal(bits(got.reshape(2, 5, 20)), bits(want))


def test_tf32_cuts_operands() -> None:
    a, b = np.zeros((2, 8), f32)
    a[0], b[0] = 1 + 2.0**-10 + 2.0**-11, 1
    assert dn.mma_step(a, b, accumulator="hopper_tf32") == 1 + 2.0**-10
    a[0] = 2.0**-140
    assert dn.mma_step(a, b, accumulator="hopper_tf32") == 0
    payload = np.uint32(0x7F800001).view(f32)
    a[0] = payload
    assert np.isnan(dn.mma_step(a, b, accumulator="hopper_tf32"))


def test_matrix_cores_round_to_nearest_and_cut_toward_minus_infinity() -> None:
    a, b = np.zeros((2, 16), "float8_e4m3fnuz")
    a[0], b[0] = 1, 1
    ulp = 2.0**-23
    assert dn.mma_step(a, b, f32(2.0**-24), accumulator="cdna3_fp8") == 1
    assert dn.mma_step(a, b, f32(1.5 * 2.0**-24 + 2.0**-30), accumulator="cdna3_fp8") == 1
    a[1], b[1] = 2.0**-8, 2.0**-8
    for sign in (1, -1):
        x = a.copy()
        x[:2] = sign * 1.0, -sign * 2.0**-8
        got = dn.mma_step(x, b, accumulator="cdna3_fp8")
        assert got == sign * (1 - 2.0**-16)
    a, b = np.zeros((2, 8), ml_dtypes.bfloat16)
    a[:2], b[:2] = (2.0**100, -(2.0**100)), (2.0**28, 2.0**20)
    assert dn.mma_step(a, b, accumulator="cdna3_bf16") == np.inf
    assert ulp > 0


# ---- refusals: each names what was found and what is possible


def test_bytes_that_are_no_scales() -> None:
    q = dn.quantize_tiles(np.ones((3, 64), f32), scale="mx", tile=32)
    broken = q.scales.copy()
    broken.view(np.uint8)[1, 1] = 255
    with pytest.raises(ValueError, match=r"b: found byte 255, NaN, .* at \(1, 1\), expected 0 to 254"):
        dn.matmul_nt(q, replace(q, scales=broken), accumulator="blackwell_mxf8")
    q = dn.quantize_tiles(np.ones((3, 64), f32), fmt=E2M1, scale="nvfp4", tile=16)
    for byte, text in [(0x7F, "NaN"), (0xFF, "NaN"), (0x80, "a negative scale"), (0xB8, "a negative scale")]:
        broken = q.scales.copy()
        broken.view(np.uint8)[2, 0] = byte
        with pytest.raises(
            ValueError, match=rf"a: found byte {hex(byte)}, {text}, .* at \(2, 0\), expected 0x00"
        ):
            dn.matmul_nt(replace(q, scales=broken), q, accumulator="blackwell_nvfp4")


def test_pairs_and_scales_that_a_unit_does_not_take() -> None:
    x = np.ones((2, 128), f32)
    fp8, mx = dn.quantize_tiles(x), dn.quantize_tiles(x, scale="mx", tile=32)
    four_mx = dn.quantize_tiles(x, fmt=E2M1, scale="mx", tile=32)
    nvfp4 = dn.quantize_tiles(x, fmt=E2M1, scale="nvfp4", tile=16)
    for a, b, unit, error, text in [
        (fp8, mx, "blackwell_mxf8", ValueError, "a: found float32 scales of float32, expected .* 32 along k"),
        (mx, fp8.codes, "blackwell_mxf8", ValueError, "b: found codes without scales, expected"),
        (nvfp4, nvfp4, "blackwell_mxf4", ValueError, "scales of float8_e4m3fn, expected .*float8_e8m0fnu"),
        (four_mx, nvfp4, "blackwell_nvfp4", ValueError, "a: found mx scales of float8_e8m0fnu"),
        (mx, mx, "blackwell_mxf4", TypeError, "'blackwell_mxf4' takes float4_e2m1fn"),
        (fp8, fp8, "cdna3_fp8", TypeError, "'cdna3_fp8' takes float8_e4m3fnuz, float8_e5m2fnuz"),
        (fp8, fp8, "hopper_tf32", TypeError, "'hopper_tf32' takes tf32, as float32 arrays"),
        (x, x, "hopper_fp8", TypeError, "found dtype float32, expected codes"),
        (dn.quantize_tiles(x, scale="mx", tile=48), mx, "blackwell_mxf8", ValueError, "a scale for 1x48"),
        (dn.quantize_tiles(x, fmt=E2M1, scale="mx", tile=8), four_mx, "blackwell_mxf4", ValueError, "1x8"),
    ]:
        with pytest.raises(error, match=text):
            dn.matmul_nt(a, b, accumulator=unit)
    with pytest.raises(ValueError, match="promote_every: found 32, expected None or a multiple of 64"):
        dn.matmul_nt(nvfp4, nvfp4, accumulator="blackwell_nvfp4", promote_every=32)
    with pytest.raises(
        ValueError, match="promote_every: found 8, expected None or a multiple of 16, half a step"
    ):
        dn.matmul_nt(fp8, fp8, accumulator="exact", promote_every=8)


def test_scales_of_steps() -> None:
    a = np.zeros(64, E2M1)
    good = np.full(4, 0x38, np.uint8)
    for options, error, text in [
        (
            {"accumulator": "blackwell_nvfp4"},
            ValueError,
            r"a_scales: found None, expected scales of shape \(..., 4\)",
        ),
        (
            {"accumulator": "blackwell_nvfp4", "a_scales": good, "b_scales": good[:3]},
            ValueError,
            r"b_scales: found shape \(3,\), expected \(..., 4\)",
        ),
        (
            {"accumulator": "blackwell_mxf4", "a_scales": good[:2], "b_scales": good.astype(f32)},
            TypeError,
            "b_scales: found dtype float32, expected float8_e8m0fnu, or its codes as uint8",
        ),
    ]:
        with pytest.raises(error, match=text):
            dn.mma_step(a, a, **options)
    eight = np.zeros(32, "float8_e4m3fn")
    with pytest.raises(ValueError, match="a_scales: found scales, expected none: 'hopper_fp8'"):
        dn.mma_step(eight, eight, accumulator="hopper_fp8", a_scales=good)


@pytest.mark.parametrize("unit", ["blackwell_nvfp4", "blackwell_mxf4", "blackwell_mxf8"])
def test_no_rows_give_no_rows(unit: str) -> None:
    """Core and textbook agree on an empty product of a unit with scales."""
    scheme = {"blackwell_nvfp4": "nvfp4", "blackwell_mxf4": "mxfp4", "blackwell_mxf8": "mxfp8"}[unit]
    a = dn.quantize(np.zeros((0, 128), np.float32), scheme)
    b = dn.quantize(np.ones((3, 128), np.float32), scheme)
    found = dn.matmul_nt(a, b, accumulator=unit)
    assert found.shape == (0, 3)
    kind = {"scale": a.scale_kind, "fmt": a.format, "tile": a.block[-1]}
    left, right = (reference.quantize_tiles(x.dequantize(), **kind) for x in (a, b))
    np.testing.assert_array_equal(reference.matmul_nt(left, right, accumulator=unit), found)
