"""The textbook's LogFMT against cases worked out by hand, the paper's words, and 50-digit arithmetic."""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from dsv3_numerics.reference import logfmt_decode, logfmt_encode, logfmt_pack, logfmt_unpack
from dsv3_numerics.reference.logfmt import exp2, log2, values
from samples import raw

f32 = np.float32
PRECISE = Context(prec=50)
LN2 = Decimal(2).ln(PRECISE)


def _one(*numbers: float, **options: Any) -> Any:
    return logfmt_encode(f32(numbers), **options)


def test_worked_vector() -> None:
    """Step = ln(8) / 6 = ln sqrt 2; 1.2 is below the midpoint 1.2071 but above the geometric one 1.1892."""
    q = _one(1, 2, 4, 8, 1.2, bits=4)
    assert q.codes.tolist() == [1, 3, 5, 7, 1]
    assert logfmt_decode(q).tolist() == [1, 2, 4, 8, 1]
    q = _one(1, 2, 4, 8, 1.2, bits=4, rounding="log")
    assert q.codes.tolist() == [1, 3, 5, 7, 2]
    np.testing.assert_allclose(logfmt_decode(q)[-1], math.sqrt(2), rtol=2**-24)


@pytest.mark.parametrize("bits", range(3, 17))
def test_ends_are_exact_and_k_is_full(bits: int) -> None:
    x = f32([0.3, -7.7, 1.1, 0.0, -0.0])
    q = logfmt_encode(x, bits=bits)
    y = logfmt_decode(q)
    assert y[:2].tolist() == x[:2].tolist()
    assert q.codes[0] == 1
    assert q.codes[1] == 2**bits - 1
    assert raw(y)[3:].tolist() == raw(x)[3:].tolist()
    assert q.codes.dtype == (np.uint8 if bits <= 8 else np.uint16)


def test_ties_go_up() -> None:
    """With n = 3 codes stand for 0, 1, 4 and 16: the midpoints 2.5 and 10 are float32 numbers."""
    down = [float(np.nextafter(f32(m), f32(0))) for m in (2.5, 10)]
    assert _one(1, 16, 2.5, 10, *down, bits=3).codes.tolist() == [1, 3, 2, 3, 1, 2]
    assert _one(1, 16, 2, 8, rounding="log", bits=3).codes.tolist() == [1, 3, 2, 3]


def test_no_non_zero() -> None:
    q = _one(0, -0.0, 0)
    assert (q.codes.tolist(), q.amin.tolist(), q.amax.tolist()) == ([0, 128, 0], [0], [0])
    assert raw(logfmt_decode(q)).tolist() == [0, 1 << 31, 0]


@pytest.mark.parametrize("rounding", ["linear", "log", "stochastic"])
@pytest.mark.parametrize("value", [1.0, 3.3, 2.0**-149, 3.4028235e38])
def test_one_magnitude_is_code_one(value: float, rounding: str) -> None:
    q = _one(value, -value, 0, value, rounding=rounding)
    assert q.codes.tolist() == [1, 129, 0, 1]
    assert logfmt_decode(q).tolist() == [f32(value), -f32(value), 0, f32(value)]


def test_the_clip_and_the_threshold_below_it() -> None:
    """At n = 3 over 32 octaves a step is 16 of them: below 2^-32 comes 2^-48, and half way between is m."""
    m = 2.0**-33 + 2.0**-49
    below = float(np.nextafter(f32(m), f32(0)))
    q = _one(1, 2.0**-32, m, below, 2.0**-60, bits=3)
    assert q.amin == f32(2.0**-32)
    assert q.codes.tolist() == [3, 1, 1, 0, 0]
    q = _one(1, 2.0**-40, 2.0**-41, bits=3, rounding="log")
    assert q.codes.tolist() == [3, 1, 0]  # the geometric mean of 2^-32 and 2^-48 is a tie, and goes up


def test_clip_to_a_subnormal_rounds_to_float32() -> None:
    top = 1.5 * 2.0**-117
    q = _one(top, 2.0**-149, 2.0**-148)
    assert q.amin.item() == 2.0**-148  # 1.5 * 2^-149 to nearest even
    assert logfmt_decode(q).tolist() == [top, 0, 2.0**-148]
    tiny = _one(2.0**-130, 2.0**-149, 3 * 2.0**-149)
    assert tiny.amin.item() == 2.0**-149
    assert logfmt_decode(tiny)[0] == f32(2.0**-130)


def test_float64_is_rounded_to_float32_first() -> None:
    x = np.array([1.0, 2.0**-32 * (1 + 2.0**-40), 1 - 2.0**-30])
    assert logfmt_encode(x).amin.item() == 2.0**-32
    assert logfmt_encode(x).amax.item() == 1


def test_stochastic_draws() -> None:
    """n = 3: 3 is two thirds of the way from 1 to 4; below the clip, 2^-34 a quarter of the way from 0."""
    n = 40000
    q = _one(1, 16, *[3.0] * n, bits=3, rounding="stochastic", tile=None, seed=11)
    assert q.codes[:2].tolist() == [1, 3]
    assert abs((q.codes[2:] == 2).mean() - 2 / 3) < 5 * math.sqrt(2 / 9 / n)  # five standard deviations
    q = _one(1, *[2.0**-34] * n, bits=3, rounding="stochastic", tile=None)
    assert abs((q.codes[1:] == 1).mean() - 1 / 4) < 5 * math.sqrt(3 / 16 / n)


def test_nonfinite() -> None:
    x = np.ones((2, 256), f32)
    x[1, 130] = np.nan
    with pytest.raises(ValueError, match=r"found nan at \(1, 130\)"):
        logfmt_encode(x)
    x[0, 3] = -np.inf
    q = logfmt_encode(x, nonfinite="escape")
    assert q.escaped is not None
    assert q.escaped_values is not None
    assert q.escaped.tolist() == [[True, False], [False, True]]
    assert q.escaped_values.shape == (2, 128)
    y = logfmt_decode(q)
    np.testing.assert_array_equal(y, x)


def _deepep(x: NDArray[Any], **options: Any) -> Any:
    return logfmt_encode(x, bits=10, mode="deepep", **options)


def _noise(shape: tuple[int, ...] = (1, 1024), scale: float = 0.1) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(scale / 100, scale, shape).astype(f32)


def test_deepep_zeros_stretch_a_tile_to_32_octaves() -> None:
    x = _noise()
    assert _deepep(x).escaped is None
    x[0, 5] = 0
    q = _deepep(x)
    assert q.escaped is None
    assert q.amin[0, 0] == q.amax[0, 0] * f32(2.0**-32)
    assert q.amin[0, 1] > 1e-4
    assert logfmt_decode(q)[0, 5] == 0
    assert (logfmt_encode(x, bits=10).amin > 1e-4).all()


def test_deepep_one_magnitude_with_zeros_is_exact() -> None:
    x = np.where(np.arange(1024) % 3 == 0, f32(0.25), f32(0))[None]
    q = _deepep(x)
    assert set(q.codes.ravel().tolist()) == {0, 511}
    np.testing.assert_array_equal(logfmt_decode(q), x)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (slice(0, 1), 1.0),
        (slice(0, 1), -3.0),
        (slice(0, 128), 0.5),
        (slice(0, 128), 0.0),
        (slice(0, 1), np.inf),
    ],
    ids=["one", "above one", "one magnitude", "zeros", "inf"],
)
@pytest.mark.parametrize(("length", "chunk"), [(2048, 1024), (1536, 512)])
def test_deepep_falls_back_by_the_chunk(where: slice, value: float, length: int, chunk: int) -> None:
    x = _noise((2, length))
    x[1, chunk : chunk + 128][where] = value
    q = _deepep(x, nonfinite="escape")
    expected = np.zeros((2, length // 128), bool)
    expected[1, chunk // 128 : 2 * chunk // 128] = True
    np.testing.assert_array_equal(q.escaped, expected)
    wide = np.repeat(expected, 128, axis=1)
    np.testing.assert_array_equal(logfmt_decode(q)[wide], x.astype(ml_dtypes.bfloat16).astype(f32)[wide])
    assert not q.codes[wide].any()


def test_deepep_ignores_nan_as_the_kernel_does() -> None:
    x = _noise()
    x[0, 7] = np.nan
    with pytest.raises(ValueError, match=r"found nan at \(0, 7\)"):
        _deepep(x)
    q = _deepep(x, nonfinite="ignore")
    assert q.escaped is None
    assert q.amin[0, 0] > 1e-4
    assert logfmt_decode(q)[0, 7] == 0
    x[0, :128] = np.nan
    assert np.isnan(logfmt_decode(_deepep(x, nonfinite="ignore"))[0, :128]).all()


def test_deepep_rounds_to_bfloat16_first() -> None:
    x = _noise()
    same = x.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(_deepep(x).codes, _deepep(same).codes)
    np.testing.assert_array_equal(_deepep(x).amax.astype(ml_dtypes.bfloat16).astype(f32), _deepep(x).amax)


def test_deepep_tiny_tiles_without_a_range_fall_back() -> None:
    """2^-32 of 2^-120 is no float32: with a zero in the tile there is no least magnitude."""
    x = np.full((1, 512), 2.0**-120, f32)
    x[0, ::2] = 2.0**-121
    assert _deepep(x).escaped is None
    x[0, 0] = 0
    assert _deepep(x).escaped.all()
    np.testing.assert_array_equal(logfmt_decode(_deepep(x)), x)


@pytest.mark.parametrize("bits", [3, 4, 7, 8, 9, 10, 16])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 40])
def test_packing_by_hand(bits: int, size: int) -> None:
    """Against Python's whole numbers of any length."""
    codes = np.random.default_rng(size).integers(0, 2**bits, size)
    stream = sum(int(c) << i * bits for i, c in enumerate(codes))
    plain = stream.to_bytes(-(-size * bits // 8), "little")
    assert logfmt_pack(codes.astype(np.uint16), bits=bits).tobytes() == plain
    groups = b""
    for start in range(0, size, 16):
        group = [int(c) for c in codes[start : start + 16]]
        low = sum((c & (1 << bits - 1) - 1) << i * (bits - 1) for i, c in enumerate(group))
        sign = sum((c >> bits - 1) << i for i, c in enumerate(group))
        groups += low.to_bytes(2 * bits - 2, "little") + sign.to_bytes(2, "little")
    assert logfmt_pack(codes, bits=bits, layout="deepep").tobytes() == groups
    for layout in ("plain", "deepep"):
        packed = logfmt_pack(codes, bits=bits, layout=layout)
        assert logfmt_unpack(packed, bits=bits, size=size, layout=layout).tolist() == codes.tolist()


def test_deepep_row_has_the_size_that_the_kernel_sends() -> None:
    """7168 channels of 10 bits: 8960 bytes, 9184 with two bfloat16 for each of 56 tiles."""
    packed = logfmt_pack(np.zeros((1, 7168), np.uint16), bits=10, layout="deepep")
    assert packed.shape[1] + 56 * 4 == 9184


def _exact(x: float) -> Decimal:
    return Decimal(x)


def test_log2_and_exp2_against_50_digits() -> None:
    """Within 3 * 2^-52, relatively (the worst, 2.01, lies just above sqrt 2); whole results exactly."""
    rng = np.random.default_rng(3)
    x = np.concatenate(
        [np.exp2(rng.uniform(-40, 40, 2000)), 1 + rng.uniform(-1e-6, 1e-6, 500), rng.uniform(0.7, 1.44, 1500)]
    )
    with localcontext(PRECISE):
        exact = [_exact(v).ln() / LN2 for v in x]
        error = [abs((_exact(g) - e) / e) for g, e in zip(log2(x), exact, strict=True) if e]
        assert max(error) < 3 * Decimal(2) ** -52
        y = rng.uniform(-40, 40, 4000)
        exact = [(_exact(v) * LN2).exp() for v in y]
        error = [abs((_exact(g) - e) / e) for g, e in zip(exp2(y), exact, strict=True)]
        assert max(error) < 1 * Decimal(2) ** -52
    k = np.arange(-300, 301)
    assert (log2(np.ldexp(1.0, k)) == k).all()
    assert (exp2(k.astype(np.float64)) == np.ldexp(1.0, k)).all()
    assert math.copysign(1, float(log2(np.ones(1))[0])) == 1


TILES = {
    "normal": (0.003, 3.1),
    "32 octaves": (2.0**-31.2, 1.7),
    "one octave": (1.1, 2.3),
    "one percent": (1.0, 1.01),
    "neighbours": (1.0, float(np.nextafter(f32(1), f32(2)))),
    "subnormal": (2.0**-149, 2.0**-141),
    "huge": (2.0**100, 3.4028235e38),
}


def _exact_values(lo: float, hi: float, bits: int) -> list[Decimal]:
    """v[0] to v[T + 1], each within a few thousand units of the 50th digit."""
    steps = 2 ** (bits - 1) - 2
    ratio = ((Decimal(hi) / Decimal(lo)).ln() / steps).exp()
    v = [Decimal(lo) / ratio]
    for _ in range(steps + 1):
        v.append(v[-1] * ratio)
    return v


@pytest.mark.parametrize("bits", [3, 4, 8, 10, 13, 16])
@pytest.mark.parametrize("tile", TILES)
def test_codes_are_the_exact_nearest(tile: str, bits: int) -> None:
    """Float32 numbers on both sides of thresholds that 50 digits place have the codes that 50 digits give.

    A float32 would have to lie within about 2^-45 of a threshold, relatively, to be decided otherwise: one
    chance in millions for each, and ties of exact tables (powers of two), which are exact here too.
    """
    lo, hi = (float(f32(end)) for end in TILES[tile])
    rng = np.random.default_rng(bits)
    with localcontext(PRECISE):
        v = _exact_values(lo, hi, bits)
        for rounding in ("linear", "log"):
            pick = np.unique(np.r_[0, len(v) - 2, rng.integers(0, len(v) - 1, 60)])
            middle = {
                int(k): (v[k] + v[k + 1]) / 2 if rounding == "linear" else (v[k] * v[k + 1]).sqrt()
                for k in pick
            }
            near = f32([float(m) for m in middle.values()])
            x = np.concatenate([near, np.nextafter(near, f32(0)), np.nextafter(near, f32(np.inf))])
            x = x[(x > 0) & (x <= hi) & (x >= max(lo, hi * 2.0**-32))]
            q = logfmt_encode(np.concatenate([x, f32([lo, hi])]), bits=bits, tile=None, rounding=rounding)
            edges = list(middle.items())
            for number, code in zip(x.tolist(), q.codes.tolist(), strict=False):
                for k, m in edges:
                    assert (code > k) == (Decimal(number) >= m), (number, code, k)


@pytest.mark.parametrize("bits", [3, 8, 10, 16])
@pytest.mark.parametrize("tile", TILES)
def test_values_against_50_digits(tile: str, bits: int) -> None:
    """Off by ln 2 times the error of (K - 1) s, up to 33 octaves of 4 * 2^-52: relatively 2^-45.5."""
    lo, hi = (f32(end) for end in TILES[tile])
    found = values(np.asarray(lo), np.asarray(hi), bits)
    with localcontext(PRECISE):
        v = _exact_values(float(lo), float(hi), bits)
        k = np.unique(np.r_[0, 1, len(v) - 1, np.random.default_rng(0).integers(0, len(v), 200)])
        error = max(abs(_exact(found[i]) / v[i] - 1) for i in k)
        assert error < Decimal(2) ** -45
    assert found[1] == lo
    assert found[-1] == hi
    assert (np.diff(found) > 0).all()


def test_quick_is_within_two_units_of_the_last_place() -> None:
    rng = np.random.default_rng(0)
    for bits in range(3, 17):
        x = (rng.standard_normal((8, 64)) * np.exp2(rng.uniform(-30, 0, (8, 64)))).astype(f32)
        x[0] *= f32(2.0**-120)
        x[1, 0] = f32(3.4028235e38)
        x[2] = f32(1) + np.abs(x[2]) * f32(1e-4)
        q = logfmt_encode(x, bits=bits, tile=64)
        exact, quick = logfmt_decode(q), logfmt_decode(q, precision="quick")
        assert np.abs(raw(exact).astype(np.int64) - raw(quick)).max() <= 2
        top = np.abs(x) == np.abs(x).max(axis=1, keepdims=True)
        np.testing.assert_array_equal(quick[top], x[top])
