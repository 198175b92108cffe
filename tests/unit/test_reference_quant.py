"""The textbook's quantizers against cases worked out by hand and against exact arithmetic."""

from __future__ import annotations

import decimal
import math

import ml_dtypes
import numpy as np
import pytest

from dsv3_numerics.reference import decode, dequantize, quantize_blocks, quantize_tiles, requantize_tiles
from dsv3_numerics.reference.quant import _ceil_exponent, block_amax, expand
from samples import RULES, SCALES, raw, tensor

f32 = np.float32


def test_the_recipe_by_hand() -> None:
    x = f32([[1.0, -2.0, 3.5, 0.0], [448.0, 0.5, -1.0, 100.0]])
    q = quantize_tiles(x, tile=4)
    assert q.scales.tolist() == [[float(f32(3.5) / f32(448))], [1.0]]  # 3.5 / 448 = 2^-7 exactly
    assert decode(q.codes).tolist() == [[128.0, -256.0, 448.0, 0.0], [448.0, 0.5, -1.0, 96.0]]
    assert dequantize(q).tolist() == [[1.0, -2.0, 3.5, 0.0], [448.0, 0.5, -1.0, 96.0]]


def test_rules_differ_where_their_projects_do() -> None:
    """Amax 3: the four ways of writing 3 / 448 and x / s, each rounded to float32 operation by operation."""
    x = f32([[3.0, 1.1]])
    amax = f32(3)
    divided, multiplied = amax / f32(448), amax * (f32(1) / f32(448))
    got = {rule: quantize_tiles(x, tile=2, rule=rule).scales.item() for rule in RULES}
    assert got == dict.fromkeys(RULES, divided) | {"deepep": multiplied}


@pytest.mark.parametrize("rule", RULES)
def test_floor_of_a_zero_tile(rule: str) -> None:
    q = quantize_tiles(np.zeros((1, 4), f32), tile=4, rule=rule)
    assert math.isclose(q.scales.item(), {"vllm": 2.2e-13}.get(rule, 2.232e-7), rel_tol=0.02)
    assert not raw(q.codes).any()
    assert not dequantize(q).any()
    powers = quantize_tiles(np.zeros((1, 4), f32), tile=4, rule=rule, scale="ue8m0")
    assert decode(powers.scales).item() == {"vllm": 2.0**-33}.get(rule, 2.0**-22)


def test_floor_is_an_argument_and_the_scale_stays_normal() -> None:
    x = f32([[1e-6, 0]])
    assert quantize_tiles(x, tile=2, floor=0).scales.item() == f32(1e-6) / f32(448)
    assert quantize_tiles(np.zeros((1, 2), f32), tile=2, floor=0).scales.item() == 2.0**-126


@pytest.mark.parametrize("amax", [448, 449, 896, 1, 3.5, 447.99997])
def test_power_of_two_is_the_next_above(amax: float) -> None:
    q = quantize_tiles(f32([[amax, 1]]), tile=2, scale="ue8m0")
    scale = decode(q.scales).item()
    assert scale / 2 < f32(amax) / f32(448) <= scale
    assert math.frexp(scale)[0] == 0.5


def test_float_log2_rule_is_the_correctly_rounded_one() -> None:
    """Scales a few units above each power of two, against 60 digits: is float32(log2 s) the integer?"""
    decimal.getcontext().prec = 60
    two = decimal.Decimal(2).ln()
    for k in range(-40, 60):
        exponents = []
        steps = np.array([0, 1, 2, 3, 5, 8, 12, 16, 20, 24, 40, 64])
        s = np.ldexp(f32(1) + steps.astype(f32) * f32(2.0**-23), k).astype(f32)
        for value in s:
            log = decimal.Decimal(float(value)).ln() / two
            half = (decimal.Decimal(float(np.nextafter(f32(k), f32(np.inf)))) - k) / 2
            exponents.append(k if log - k <= half else k + 1)
        assert _ceil_exponent(s, "float_log2").tolist() == exponents, k


def test_bit_rule_and_float_log2_disagree_just_above_a_power() -> None:
    amax = f32([[np.nextafter(f32(448 * 64), f32(np.inf))]])
    bit = quantize_tiles(amax, tile=1, scale="ue8m0")
    log = quantize_tiles(amax, tile=1, scale="ue8m0", rule="vllm")
    assert (decode(bit.scales).item(), decode(log.scales).item()) == (128, 64)


def test_mx_by_hand() -> None:
    """OCP MX 1.0: shared exponent floor(log2 amax) - emax, so E4M3 elements up to 511 saturate at 448."""
    x = f32([[500.0, 256.0, -1.0, 0.001]])
    q = quantize_tiles(x, tile=4, scale="mx")
    assert decode(q.scales).item() == 1.0
    assert decode(q.codes).tolist() == [[448.0, 256.0, -1.0, 2.0**-9]]
    four = quantize_tiles(f32([[7.0, 4.0, 1.0, 0.3]]), fmt="float4_e2m1fn", tile=4, scale="mx")
    assert decode(four.scales).item() == 1.0
    assert decode(four.codes).tolist() == [[6.0, 4.0, 1.0, 0.5]]
    zero = quantize_tiles(np.zeros((1, 4), f32), tile=4, scale="mx")
    assert zero.scales.view(np.uint8).item() == 0


def test_nvfp4_by_hand() -> None:
    """Amax 2688 = 448 * 6 makes the global scale 1; then a block with amax 6 has scale 1, with 3 0.5."""
    x = f32([[2688.0, 448.0, 6.0, 1.0, 3.0, -0.25]])
    q = quantize_tiles(x, fmt="float4_e2m1fn", tile=2, scale="nvfp4")
    assert q.global_scale == 1
    assert decode(q.scales).tolist() == [[448.0, 1.0, 0.5]]
    assert decode(q.codes).tolist() == [[6.0, 1.0, 6.0, 1.0, 6.0, -0.5]]
    zero = quantize_tiles(np.zeros((1, 2), f32), fmt="float4_e2m1fn", tile=2, scale="nvfp4")
    assert (zero.global_scale, decode(zero.scales).item()) == (1, 0)


def test_symmetric_integers() -> None:
    q = quantize_tiles(f32([[-127.0, 63.5, 1.5, 2.5]]), fmt="int8", tile=4)
    assert q.codes.tolist() == [[-127, 64, 2, 2]]
    assert q.codes.dtype == np.int8
    four = quantize_tiles(f32([[-7.0, 3.5, 1.0]]), fmt="int4", tile=4)
    assert four.codes.astype(int).tolist() == [[-7, 4, 1]]


def test_ragged_edges_have_their_own_scale() -> None:
    x = f32([[1, 2, 3, 4, 5]])
    assert block_amax(x, (2,)).tolist() == [[2, 4, 5]]
    assert block_amax(np.arange(12, dtype=f32).reshape(3, 4), (2, 3)).tolist() == [[6, 7], [10, 11]]
    assert expand(f32([[1, 2]]), (1, 3), (2,)).tolist() == [[1, 1, 2]]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_an_axis_is_the_last_axis_moved(axis: int, scale: str) -> None:
    x = tensor((5, 7, 9))
    q = quantize_tiles(x, tile=4, axis=axis, scale=scale)
    last = quantize_tiles(np.moveaxis(x, axis, -1), tile=4, scale=scale)
    np.testing.assert_array_equal(raw(np.moveaxis(q.codes, axis, -1)), raw(last.codes))
    np.testing.assert_array_equal(dequantize(q), np.moveaxis(dequantize(last), -1, axis))


def test_blocks_are_tiles_when_flat() -> None:
    x = tensor((6, 300))
    tiles, blocks = quantize_tiles(x, tile=128), quantize_blocks(x, block=(1, 128))
    np.testing.assert_array_equal(raw(tiles.codes), raw(blocks.codes))
    np.testing.assert_array_equal(tiles.scales, blocks.scales)


def test_block_none_is_the_whole_matrix() -> None:
    x = tensor((2, 6, 10))
    assert quantize_blocks(x, block=None).scales.shape == (2, 1, 1)
    assert quantize_blocks(x, block=(None, 4)).scales.shape == (2, 1, 3)
    assert quantize_tiles(x, tile=None).scales.shape == (2, 6, 1)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 5)])
def test_empty(shape: tuple[int, ...]) -> None:
    q = quantize_tiles(np.zeros(shape, f32), tile=2)
    assert q.codes.shape == shape
    assert q.scales.shape == (*shape[:-1], -(-shape[-1] // 2))
    assert dequantize(q).shape == shape


def test_regrouping_with_powers_of_two_changes_nothing() -> None:
    """1x128 to 128x1 and the specification's claim: exact while nothing enters the subnormal range."""
    rng = np.random.default_rng(0)
    x = (rng.uniform(1, 2, (256, 256)) * rng.choice([-1, 1], (256, 256)) * 100).astype(f32)
    q = quantize_tiles(x, scale="ue8m0")
    again = requantize_tiles(q, axis=0)
    np.testing.assert_array_equal(dequantize(q), dequantize(again))
    free = requantize_tiles(quantize_tiles(x), axis=0)
    assert (dequantize(free) != dequantize(quantize_tiles(x))).any()


def test_float64_is_rounded_to_float32_first() -> None:
    x = tensor((4, 32), "float64")
    narrow = quantize_tiles(x.astype(np.float32), tile=8)
    np.testing.assert_array_equal(raw(quantize_tiles(x, tile=8).codes), raw(narrow.codes))
    with pytest.raises(ValueError, match="infinity"):
        quantize_tiles(np.array([1e300]))


def test_nonfinite() -> None:
    x = f32([[1, np.nan], [2, -np.inf], [3, 1]])
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize_tiles(x, tile=2)
    q = quantize_tiles(x, tile=2, nonfinite="propagate")
    assert raw(q.codes).tolist() == [[0x7F, 0x7F], [0x00, 0xFF], [0x7E, raw(q.codes)[2, 1]]]
    assert np.isnan(q.scales[0, 0])
    assert np.isinf(q.scales[1, 0])
    for scale in ("ue8m0", "mx"):
        p = quantize_tiles(x, tile=2, nonfinite="propagate", scale=scale)
        assert np.isnan(decode(p.scales)[:, 0]).tolist() == [True, True, False]
        assert np.isnan(decode(p.codes)).tolist() == [[True] * 2, [True] * 2, [False] * 2]
    with pytest.raises(ValueError, match="propagate"):
        quantize_tiles(f32([[1]]), fmt="int8", nonfinite="propagate")


def test_given_amax_is_used() -> None:
    x = f32([[1, 2, 3, 4]])
    q = quantize_tiles(x, tile=2, amax=f32([[448, 896]]))
    assert q.scales.tolist() == [[1, 2]]
    np.testing.assert_array_equal(
        quantize_tiles(x, tile=2, amax=block_amax(x, (2,))).scales, quantize_tiles(x, tile=2).scales
    )


def test_output_types_round_once_more() -> None:
    q = quantize_tiles(tensor((4, 64)), tile=16)
    product = dequantize(q)
    np.testing.assert_array_equal(dequantize(q, np.float64), product.astype(np.float64))
    np.testing.assert_array_equal(
        raw(dequantize(q, ml_dtypes.bfloat16)), raw(product.astype(ml_dtypes.bfloat16))
    )
    np.testing.assert_array_equal(dequantize(q, np.float16), product.astype(np.float16))
