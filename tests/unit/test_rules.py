"""Scale rules: the table twice, rows against their projects' arithmetic, given scales, NVFP4, random bits."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import reference
from dsv3_numerics.reference.quant import RULES as TABLE
from samples import AT_RANDOM, E2M1, SCALES, columns, raw, rules_of, same_quantized, tensor

f32 = np.float32
FLT_MAX = np.finfo(f32).max
E4M3 = ml_dtypes.float8_e4m3fn


def test_the_core_and_the_textbook_have_one_table() -> None:
    assert list(dn.rules()) == list(TABLE)
    for name, rule in dn.rules().items():
        assert columns(rule) == columns(TABLE[name]), name


@pytest.mark.parametrize("name", list(TABLE))
def test_names_and_columns_are_spelled_both_ways(name: str) -> None:
    rule = dn.Rule.parse(name)
    assert str(rule) == name
    other = rule.replace(amax_floor=0.25, negative_zero=not rule.negative_zero, candidates=(6, 5))
    assert dn.Rule.parse(str(other)) == other


def _amax_tiles(seed: int = 0, n: int = 4000) -> NDArray[np.float32]:
    """Tiles of eight whose amax is anything: small, at powers of two and beside them, zero, huge."""
    rng = np.random.default_rng(seed)
    top = np.exp2(rng.uniform(-60, 60, n)).astype(f32)
    powers = np.exp2(rng.integers(-60, 60, n // 4)).astype(f32) * f32(448)
    top[: n // 4] = powers
    top[n // 4 : n // 2] = np.nextafter(powers, f32(np.inf))
    top[-1], top[-2], top[-3] = 0, 1e-40, 3e38
    x = (top[:, None] * rng.uniform(-1, 1, (n, 8))).astype(f32)
    x[:, 3] = top
    return x


def _check(
    x: NDArray[np.float32], q: dn.Quantized, s: NDArray[np.float32], quotient: NDArray[np.float32]
) -> None:
    np.testing.assert_array_equal(q.weight_scale_inv()[:, 0], s)
    expected = reference.encode(np.clip(quotient, -448, 448), q.format)
    np.testing.assert_array_equal(raw(q.codes), raw(expected))


def _pow2(bits: Any) -> NDArray[np.float32]:
    return np.asarray(bits, np.uint32).view(f32)


PROJECTS: dict[str, Any] = {
    # name: (float32 scale of amax, quotient of x by scale and amax)
    "deepseek_v32_exp": lambda a, x: (np.maximum(a, f32(1e-4)) * (f32(1) / f32(448)), None),
    "vllm_triton": lambda a, x: (np.maximum(a, f32(1e-10)) * (f32(1) / f32(448)), None),
    "tilekernels": lambda a, x: (
        np.maximum(a, f32(1e-4)) / f32(448),
        x * (f32(448) / np.maximum(a, f32(1e-4)))[:, None],
    ),
    "torchao": lambda a, x: (
        f32(1) / (f32(448) / np.maximum(a, f32(1e-12))),
        x * (f32(448) / np.maximum(a, f32(1e-12)))[:, None],
    ),
    "sglang_cuda": lambda a, x: (
        np.maximum(a, f32(1e-10)) * (f32(1) / f32(448)),
        x * (f32(448) / np.maximum(a, f32(1e-10)))[:, None],
    ),
    "sglang_triton": lambda a, x: (
        np.maximum(a, f32(1e-10)) / f32(448),
        x * (f32(1) / (np.maximum(a, f32(1e-10)) / f32(448)))[:, None],
    ),
    "sglang_colmajor": lambda a, x: (np.maximum(a, f32(1e-10)) / f32(448), None),
    "vllm_per_token": lambda a, x: (np.maximum(a / f32(448), f32(1) / (f32(448) * f32(512))), None),
    "vllm_fp8_ds_mla": lambda a, x: (np.maximum(a / f32(448), f32(2.0**-126)), None),
}


@pytest.mark.parametrize("rule", PROJECTS)
def test_float32_rows_are_their_projects_arithmetic(rule: str, simd_level: str) -> None:
    x = _amax_tiles()
    a = np.abs(x).max(axis=1)
    s, quotient = PROJECTS[rule](a, x)
    _check(x, dn.quantize_tiles(x, tile=8, rule=rule), s, x / s[:, None] if quotient is None else quotient)


@pytest.mark.parametrize("scale", ["float32", "ue8m0"])
def test_transformer_engine_blocks(scale: Any, simd_level: str) -> None:
    """scale = 448 / amax, 1 for zeros, FLT_MAX for overflow; stored inverse; powers by cut mantissas."""
    x = _amax_tiles(1)
    a = np.abs(x).max(axis=1)
    with np.errstate(divide="ignore", over="ignore"):
        by = np.where(a == 0, f32(1), np.minimum(f32(448) / a, FLT_MAX))
    if scale == "ue8m0":
        by = _pow2(by.view(np.uint32) & np.uint32(0xFF800000))
    with np.errstate(over="ignore"):
        _check(
            x,
            dn.quantize_tiles(x, tile=8, rule="transformer_engine", scale=scale),
            f32(1) / by,
            x * by[:, None],
        )


def test_vllm_has_a_second_floor_before_powers_of_two(simd_level: str) -> None:
    x = _amax_tiles(2)
    a = np.maximum(np.abs(x).max(axis=1), f32(1e-10))
    s = np.maximum(a / f32(448), f32(1e-10))
    s = np.exp2(np.ceil(np.log2(s.astype(np.float64)).astype(f32))).astype(f32)
    _check(x, dn.quantize_tiles(x, tile=8, rule="vllm", scale="ue8m0"), s, x / s[:, None])


def test_v3_and_v32_round_powers_of_two_in_two_ways() -> None:
    """A few units above a power of two, the float32 logarithm is the power's own."""
    x = np.full((1, 4), np.nextafter(f32(448 * 2.0**20), f32(np.inf)), f32)
    by_bits = dn.quantize_tiles(x, tile=4, scale="ue8m0")
    by_log = dn.quantize_tiles(x, tile=4, scale="ue8m0", rule="deepseek_v3_log2")
    assert (by_bits.weight_scale_inv().item(), by_log.weight_scale_inv().item()) == (2.0**21, 2.0**20)


def test_deepgemm_fp4_ties_go_toward_zero_and_zero_has_no_sign(simd_level: str) -> None:
    x = f32([[6, 0.25, -0.25, 0.75, -1.25, 1.75, 2.5, 3.5, 5, -5, -0.1, 0.26]])
    q = dn.quantize_tiles(x, fmt=E2M1, tile=12, rule="deepgemm_fp4")
    expected = [6, 0, 0, 0.5, -1, 1.5, 2, 3, 4, -4, 0, 0.5]
    values = dn.decode(q.codes)[0]
    assert values.tolist() == expected
    assert not np.signbit(values[values == 0]).any()


def test_fnuz_224(simd_level: str) -> None:
    x = tensor((64, 256), seed=3)
    a = np.abs(x).reshape(64, 2, 128).max(-1)
    s = np.maximum(a, f32(1e-10)) / f32(224)
    q = dn.quantize_tiles(x, fmt="float8_e4m3fnuz", rule="fnuz_224")
    np.testing.assert_array_equal(q.scales, s)
    quotient = (x.reshape(64, 2, 128) / s[..., None]).reshape(x.shape)
    np.testing.assert_array_equal(raw(q.codes), raw(reference.encode(quotient, "float8_e4m3fnuz")))
    clipped = dn.quantize_tiles(x, fmt="float8_e4m3fnuz", rule="fnuz_224", scales=f32(1e-6))
    assert np.abs(dn.decode(clipped.codes)).max() == 224


def _mx_exponents(amax: float, name: str) -> dict[str, int]:
    """The four modes, by fractions."""
    info = dn.format_info(name)
    top, a = math.floor(math.log2(info.max)), Fraction(float(f32(amax)))

    def floor_of(r: Fraction) -> int:
        e = r.numerator.bit_length() - r.denominator.bit_length()
        return e if Fraction(2) ** e <= r else e - 1

    def ceil_of(r: Fraction) -> int:
        e = floor_of(r)
        return e + (Fraction(2) ** e != r)

    e = floor_of(a)
    even = a / Fraction(2) ** e >= 2 - Fraction(1, 2 ** (info.mantissa_bits + 1))
    found = {
        "floor": e - top,
        "ceil": ceil_of(a) - top,
        "even": e + even - top,
        "rceil": ceil_of(Fraction(float(f32(amax) / f32(info.max)))),
    }
    return {mode: min(max(e, -127), 127) for mode, e in found.items()}


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "float6_e2m3fn"])
def test_mx_modes(name: str, simd_level: str) -> None:
    tops = [150, 448, 449, 480, 7, 6, 5, 0.875, 1.75, 1.9, 2.0**-120, 2.0**-126, 1e-40, 3e38]
    for amax in [
        *tops,
        *np.nextafter(f32(tops), f32(0)),
        *np.exp2(np.random.default_rng(5).uniform(-100, 100, 60)),
    ]:
        x = np.zeros((1, 32), f32)
        x[0, 7] = -amax
        for mode, exponent in _mx_exponents(float(amax), name).items():
            q = dn.quantize_tiles(x, fmt=name, scale="mx", rule=mode)
            assert int(raw(q.scales).item()) - 127 == exponent, (amax, mode)


def test_mx_zeros_and_byte_0(simd_level: str) -> None:
    zero, tiny = np.zeros((1, 32), f32), np.full((1, 32), 2.0**-122, f32)
    for rule in rules_of("mx"):
        if rule == "transformer_engine":  # its zeros have scale 1
            continue
        assert raw(dn.quantize_tiles(zero, scale="mx", rule=rule).scales).item() == 0, rule
        q = dn.quantize_tiles(tiny, scale="mx", rule=rule)
        by = {"torchao_rceil": 1.0}.get(rule, 2.0**126 if rule.startswith("torchao") else 2.0**127)
        assert raw(q.scales).item() == 0, rule
        assert dn.decode(q.codes)[0, 0] == dn.decode(dn.encode(f32(2.0**-122 * by), q.format)), rule


def test_standards_choose_their_format_and_group() -> None:
    x = tensor((4, 256), seed=1)
    mx, nv = dn.quantize_tiles(x, scale="mx"), dn.quantize_blocks(x, scale="nvfp4")
    assert (mx.format, mx.block, mx.scales.shape) == ("float8_e4m3fn", (32,), (4, 8))
    assert (nv.format, nv.block, nv.scales.shape) == (E2M1, (1, 16), (4, 16))
    with pytest.raises(ValueError, match=r"^fmt: found float8_e4m3fn with scale='nvfp4'"):
        dn.quantize_tiles(x, fmt="e4m3", scale="nvfp4")


def _transformer_engine_nvfp4(x: NDArray[np.float32], amax: Any = None) -> tuple[Any, Any, Any]:
    """Codes, block scales and the inverse of the global scale, operation by operation."""
    blocks = x.reshape(x.shape[0], -1, 16)
    vec_max = np.abs(blocks).max(-1, keepdims=True)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        g = np.minimum(f32(448 * 6) / f32(np.abs(x).max() if amax is None else amax), FLT_MAX)
        g_inv = f32(1) / g
        scale = np.clip((vec_max / f32(6)) * g, -448, 448).astype(E4M3)
        by = np.minimum(f32(1) / (scale.astype(f32) * g_inv), FLT_MAX)
        codes = reference.encode(np.clip(blocks * by, -6, 6), E2M1).reshape(x.shape)
    return codes, scale[..., 0], g_inv


def test_nvfp4_is_transformer_engines(simd_level: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        x = (rng.standard_normal((64, 256)) * np.exp(3 * rng.normal(size=(64, 1)))).astype(ml_dtypes.bfloat16)
        x[rng.random(x.shape) < 0.3] = 0
        x[3] = 0
        q = dn.quantize_tiles(x.astype(f32), scale="nvfp4")
        codes, scales, g_inv = _transformer_engine_nvfp4(x.astype(f32))
        assert q.global_scale == g_inv
        np.testing.assert_array_equal(raw(q.scales), raw(scales))
        np.testing.assert_array_equal(raw(q.codes), raw(codes))
        assert (raw(q.scales)[3] == 0).all()


def test_nvfp4_block_scales_may_be_zero() -> None:
    x = np.zeros((1, 32), f32)
    x[0, :16], x[0, 16:] = 2688, 2.0**-12
    for rule, code in [("nvfp4", 6.0), ("nvfp4_vllm", 0.0)]:
        q = dn.quantize_tiles(x, scale="nvfp4", rule=rule)
        assert raw(q.scales)[0, 1] == 0
        assert (dn.decode(q.codes)[0, 16:] == code).all()
        assert not q.dequantize()[0, 16:].any()


def test_nvfp4_global_scales(simd_level: str) -> None:
    x = tensor((6, 64), seed=2)
    rows = [dn.quantize_tiles(x[i : i + 1], scale="nvfp4") for i in range(6)]
    each = dn.quantize_tiles(x, scale="nvfp4", global_scale="row")
    assert np.shape(each.global_scale) == (6, 1)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(raw(each.codes)[i], raw(row.codes)[0])
        np.testing.assert_array_equal(raw(each.scales)[i], raw(row.scales)[0])
        np.testing.assert_array_equal(each.dequantize()[i], row.dequantize()[0])
    tops = np.abs(x).max(axis=1, keepdims=True)
    given = dn.quantize_tiles(x, scale="nvfp4", tensor_amax=tops)
    np.testing.assert_array_equal(raw(given.codes), raw(each.codes))
    none = dn.quantize_tiles(x, scale="nvfp4", global_scale=None)
    assert none.global_scale is None
    np.testing.assert_array_equal(none.weight_scale_inv(), dn.decode(none.scales))
    static = dn.quantize_tiles(x, scale="nvfp4", global_scale=0.125)
    assert static.global_scale == f32(0.125)


def test_a_global_scale_for_each_row_is_kept(tmp_path: Path) -> None:
    q = dn.quantize_tiles(tensor((4, 64), seed=4), scale="nvfp4", global_scale="row")
    q.save(tmp_path / "q.npz")
    back = dn.Quantized.load(tmp_path / "q.npz")
    np.testing.assert_array_equal(back.global_scale, q.global_scale)
    np.testing.assert_array_equal(back.dequantize(), q.dequantize())
    assert q.nbytes == q.codes.nbytes + q.scales.nbytes + 16
    for part in (np.s_[1:3], np.s_[2], np.s_[[3, 0]], np.s_[:, 16:48]):
        picked = q[part]
        np.testing.assert_array_equal(picked.dequantize(), q.dequantize()[part])
    assert np.shape(q[1:3, 16:48].global_scale) == (2, 1)
    np.testing.assert_array_equal(q.T.dequantize(), q.dequantize().T)
    for wrong in (np.ones(4, f32), f32(-1), f32(np.nan), np.ones((4, 3), f32)):
        with pytest.raises(ValueError, match=r"^global_scale: found"):
            dn.Quantized(q.codes, q.scales, q.format, q.block, q.axis, "nvfp4", None, wrong)


def test_candidates_never_lose(simd_level: str) -> None:
    """Four over six: of a block's two scales the one with the least squared error, under one global scale."""
    x = tensor((32, 256), seed=6)
    x[0] = 1
    options: Any = {"scale": "nvfp4", "rule": "nvfp4_four_over_six"}
    best = dn.quantize_tiles(x, **options)
    six, four = (
        dn.quantize_tiles(x, scale="nvfp4", rule=dn.rules()["nvfp4_four_over_six"].replace(candidates=(c,)))
        for c in (6.0, 4.0)
    )

    def errors(q: dn.Quantized) -> NDArray[np.float64]:
        return ((q.dequantize(np.float64) - x) ** 2).reshape(32, 16, 16).sum(-1)

    np.testing.assert_allclose(errors(best), np.minimum(errors(six), errors(four)), rtol=1e-12)
    assert (errors(best) < errors(six)).any()
    same_quantized(best, reference.quantize_tiles(x, fmt=E2M1, tile=16, **options))
    square = {**options, "block": (16, 16)}
    same_quantized(dn.quantize_blocks(x, **square), reference.quantize_blocks(x, fmt=E2M1, **square))


@pytest.mark.parametrize("scale", SCALES)
def test_given_scales_are_kept(scale: Any, simd_level: str) -> None:
    x, rng = tensor((6, 96), seed=8), np.random.default_rng(1)
    fmt = E2M1 if scale == "nvfp4" else "float8_e4m3fn"
    powers = np.exp2(rng.integers(-8, 8, (6, 3))).astype(f32)
    given = powers * f32(1.37) if scale == "float32" else powers
    for rule in rules_of(scale):
        if scale == "float32" and dn.rules()[rule].apply_op == "multiply_ratio":
            with pytest.raises(ValueError, match=rf"^rule: found '{rule}', which multiplies by max / amax"):
                dn.quantize_tiles(x, tile=32, scale=scale, rule=rule, scales=given)
            continue
        options: Any = {"fmt": fmt, "tile": 32, "scale": scale, "rule": rule}
        q = dn.quantize_tiles(x, **options, scales=given)
        stored = given if scale == "float32" else dn.encode(given, q.scales.dtype)
        np.testing.assert_array_equal(raw(q.scales), raw(stored))
        same_quantized(q, reference.quantize_tiles(x, **options, scales=stored))
        again = dn.quantize_tiles(x, **options, scales=stored)
        np.testing.assert_array_equal(raw(again.codes), raw(q.codes))
        one = dn.quantize_blocks(x, fmt=fmt, block=None, scale=scale, rule=rule, scales=0.5)
        assert one.scales.shape == (1, 1)


def test_a_static_scale_is_reached_exactly() -> None:
    s = np.exp(np.random.default_rng(0).normal(size=5000) - 5).astype(f32)[:, None]
    q = dn.quantize_tiles(np.ones((5000, 1), f32), tile=1, scales=s, rule="vllm_static")
    np.testing.assert_array_equal(q.scales, s)
    np.testing.assert_array_equal(raw(q.codes), raw(reference.encode(f32(1) / s, "float8_e4m3fn")))


def test_given_amax_and_scales_leave_nan_to_its_own_element(simd_level: str) -> None:
    x = np.full((2, 256), 1, f32)
    x[1, 200], x[0, 3] = np.nan, np.inf
    amax = np.ones((2, 2), f32)
    for given in (
        {"amax": amax},
        {"amax": amax, "rule": "deepep"},
        {"amax": amax, "scale": "ue8m0"},
        {"scales": amax},
    ):
        options: Any = {"nonfinite": "propagate", "tile": 128, **given}
        q = dn.quantize_tiles(x, **options)
        assert np.isfinite(q.weight_scale_inv()).all()
        assert np.argwhere(np.isnan(dn.decode(q.codes))).tolist() == [[1, 200]]
        assert dn.decode(q.codes)[0, 3] == 448
        same_quantized(q, reference.quantize_tiles(x, **options))


def test_rules_of_cuda_pass_over_nan(simd_level: str) -> None:
    x = tensor((3, 100), seed=9)
    x[1, 5] = np.nan
    for cut in ({"tile": 32}, {"tile": None}, {"tile": 7, "axis": 0}):
        options: Any = {"nonfinite": "propagate", "rule": "vllm", **cut}
        q = dn.quantize_tiles(x, **options)
        assert np.isfinite(q.scales).all()
        assert np.isnan(dn.decode(q.codes)).sum() == 1
        same_quantized(q, reference.quantize_tiles(x, **options))


BAD_SCALES: dict[str, Any] = {
    "turned": (np.ones((3, 6), f32), ValueError, r"found shape \(3, 6\) \(transposed\), expected .*\(6, 3\)"),
    "shape": (np.ones((6, 4), f32), ValueError, r"found shape \(6, 4\), expected one number or \(6, 3\)"),
    "zero": (np.zeros((6, 3), f32), ValueError, "found 0.0, expected numbers above 0"),
    "negative": (np.full((6, 3), -1, f32), ValueError, "found -1.0, expected numbers above 0"),
    "nan": (np.full((6, 3), np.nan, f32), ValueError, "found NaN or infinity"),
    "dtype": (np.ones((6, 3)), TypeError, "found dtype float64, expected float32"),
    "integers": (np.ones((6, 3), int), TypeError, "found dtype int64"),
}


@pytest.mark.parametrize("kind", BAD_SCALES)
def test_bad_scales(kind: str) -> None:
    scales, error, message = BAD_SCALES[kind]
    with pytest.raises(error, match=f"^scales: {message}"):
        dn.quantize_tiles(np.ones((6, 96), f32), tile=32, scales=scales)


def test_bad_scales_of_narrow_kinds() -> None:
    x = np.ones((6, 96), f32)
    with pytest.raises(ValueError, match=r"^scales: found NaN or infinity, such as byte 255,"):
        dn.quantize_tiles(x, scale="mx", scales=np.full((6, 3), 255, np.uint8).view(ml_dtypes.float8_e8m0fnu))
    with pytest.raises(ValueError, match=r"^scales: found 3, expected powers of two"):
        dn.quantize_tiles(x, scale="mx", scales=3.0)
    with pytest.raises(ValueError, match=r"^scales: found 1.03.*expected float8_e4m3fn numbers"):
        dn.quantize_tiles(x, scale="nvfp4", scales=1.03)
    with pytest.raises(ValueError, match=r"^scales: found -1.0, expected numbers above 0 or 0"):
        dn.quantize_tiles(x, scale="nvfp4", scales=-1.0)
    with pytest.raises(ValueError, match=r"^scales: found scales and amax"):
        dn.quantize_tiles(x, tile=32, scales=1.0, amax=np.ones((6, 3), f32))


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "powers only": ({"rule": "rceil"}, "least_exponent: found -127"),
    "no float32": ({"rule": "ceil"}, 'rule: found one whose scales are powers of two.*expected scale="mx"'),
    "no powers": ({"rule": "torchao", "scale": "ue8m0"}, "rule: found one without powers of two"),
    "not mx": ({"rule": "deepgemm", "scale": "mx"}, "rule: found one of another standard than MX"),
    "not nvfp4": ({"rule": "deepgemm", "scale": "nvfp4"}, "rule: found one with scales of its own"),
    "nvfp4 as powers": ({"rule": "nvfp4", "scale": "mx"}, "rule: found one without powers of two"),
    "another max": (
        {"rule": dn.Rule(pow2_op="floor", max=224), "scale": "mx"},
        'pow2_op: found "floor" with max=224',
    ),
    "beyond max": ({"rule": "fnuz_224", "fmt": "e2m1"}, "max: found 224, expected above 0 and at most 6"),
    "at random": (
        {"rounding": "stochastic"},
        "seed: found None, expected an integer or a numpy.random.Generator",
    ),
    "at random, 8 bits": (
        {"rounding": "stochastic8"},
        "seed: found None, expected an integer or a numpy.random.Generator",
    ),
    "mx floor": ({"scale": "mx", "floor": 0}, "floor: found 0"),
    "global": ({"global_scale": "row"}, "global_scale: found 'row', but only scale='nvfp4'"),
    "global twice": (
        {"scale": "nvfp4", "global_scale": 1.0, "tensor_amax": 1.0},
        "tensor_amax: found one beside",
    ),
    "global word": (
        {"scale": "nvfp4", "global_scale": "token"},
        "global_scale: found 'token', expected one of tensor, row",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_rules_that_cannot_be(case: str) -> None:
    options, message = IMPOSSIBLE[case]
    with pytest.raises(ValueError, match=f"^{message}"):
        dn.quantize_tiles(np.ones((2, 64), f32), **options)


@pytest.mark.parametrize(
    "spelling",
    [
        "deepgem",
        "deepgemm(",
        "deepgemm(floor=0)",
        "deepgemm(amax_floor=x)",
        "deepgemm(byte0=two)",
        "deepgemm()x",
    ],
)
def test_bad_spellings_of_rules(spelling: str) -> None:
    with pytest.raises(ValueError, match=r"found .*expected"):
        dn.Rule.parse(spelling)
    with pytest.raises(ValueError, match=r"found .*expected"):
        dn.quantize_tiles(np.ones((2, 64), f32), rule=spelling)


@pytest.mark.parametrize("rounding", AT_RANDOM)
def test_random_bits_come_from_the_callers_generator(rounding: Any, simd_level: str) -> None:
    x = np.full(4096, 1.0625, f32)
    rng = np.random.default_rng(3)
    one, two = (raw(dn.encode(x, "e4m3", rounding=rounding, seed=rng)) for _ in range(2))
    # Bits that are independent agree in half the places, give or take five standard deviations.
    assert abs((one == two).mean() - 0.5) < 5 * 0.5 / 64
    again = np.random.default_rng(3)
    np.testing.assert_array_equal(raw(dn.encode(x, "e4m3", rounding=rounding, seed=again)), one)
    with pytest.raises(ValueError, match=r"^seed: found None"):
        dn.encode(x, "e4m3", rounding=rounding)
    x = np.linspace(-1, 1, 4096, dtype=f32)
    for call in (dn.quantize_tiles, dn.quantize_blocks):
        options: Any = {"rounding": rounding, "scale": "float32"}
        a, b = (call(x.reshape(32, 128), seed=5, **options) for _ in range(2))
        np.testing.assert_array_equal(raw(a.codes), raw(b.codes))
        c = call(x.reshape(32, 128), seed=rng, **options)
        assert (raw(c.codes) != raw(a.codes)).any()


def test_stochastic_quantization_is_unbiased() -> None:
    x = np.linspace(-1, 1, 128, dtype=f32)[None].repeat(4000, 0)
    q = dn.quantize_tiles(x, fmt=E2M1, rounding="stochastic", seed=1)
    spread = q.dequantize(np.float64).std(axis=0) / np.sqrt(4000)
    assert (np.abs(q.dequantize(np.float64).mean(axis=0) - x[0]) <= 5 * spread + 1e-6).all()


def test_formats_made_at_run_time() -> None:
    own = dn.Format(exponent=4, mantissa=3, bias=7, top="nan_only")
    assert dn.format_info(own) is dn.format_info("e4m3")
    info = dn.format_info(dn.Format(exponent=5, mantissa=7))
    assert (info.bits, info.max, info.name, info.dtype) == (13, 65280.0, "e5m7b15_ieee", np.uint16)
    flush = dn.format_info(dn.Format(4, 3, top="none", subnormals=False))
    assert (flush.smallest_subnormal, flush.has_subnormals, flush.tiny) == (2.0**-6, False, 2.0**-6)
    assert dn.decode(dn.encode(f32([0.007, 0.008, -0.02]), flush), fmt=flush).tolist() == [
        0,
        2.0**-6,
        -0.01953125,
    ]
    q = dn.quantize_tiles(tensor((4, 256)), fmt=dn.Format(3, 3, top="none"), scale="mx")
    same_quantized(q, reference.quantize_tiles(tensor((4, 256)), fmt="e3m3b3_none", tile=32, scale="mx"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"exponent": 9, "mantissa": 2}, "exponent: found 9, expected 0 to 8 bits"),
        (
            {"exponent": 8, "mantissa": 8},
            "exponent and mantissa: found a sign, 8 exponent and 8 mantissa bits",
        ),
        ({"exponent": 5, "mantissa": 2, "bias": 300}, "bias: found 300, expected -96 to 127"),
        ({"exponent": 5, "mantissa": 2, "top": "inf"}, "top: found 'inf', expected one of ieee"),
        ({"exponent": 5, "mantissa": 0}, 'top: found "ieee"'),
        ({"exponent": 0, "mantissa": 3, "top": "none", "subnormals": False}, "subnormals: found false"),
        ({"exponent": 8, "mantissa": 3, "top": "none"}, "bias: found 127, expected no such top"),
        ({"exponent": -1, "mantissa": 3}, "exponent: found -1, expected at least 0"),
    ],
)
def test_formats_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        dn.Format(**fields)
