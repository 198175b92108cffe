"""Quantizers: the core against the textbook, byte for byte, at every SIMD level."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import reference
from dsv3_numerics.reference import FORMATS
from samples import ALL_KINDS, E2M1, SCALES, SOURCES, raw, rules_of, said, same_quantized, tensor

NAMES = [name for name, row in FORMATS.items() if row.bits <= 12 and row.top != "scale"]
INTEGERS = [name for name in NAMES if FORMATS[name].top == "integer"]
KINDS = ALL_KINDS
# Name of the function, shape, and how it is cut: short and long tiles, every axis, ragged edges, stacks.
LAYOUTS: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("tiles", (3, 300), {}),
    ("tiles", (5, 70), {"tile": 16}),
    ("tiles", (130, 37), {"axis": 0}),
    ("tiles", (3, 50, 20), {"axis": 1, "tile": 32}),
    ("tiles", (77,), {"tile": 5}),
    ("tiles", (9, 65), {"tile": None}),
    ("tiles", (9, 65), {"tile": None, "axis": -2}),
    ("tiles", (4, 33), {"tile": 1}),
    ("tiles", (6, 1), {"tile": 4, "axis": 0}),
    ("blocks", (2, 150, 140), {}),
    ("blocks", (33, 70), {"block": (16, 8)}),
    ("blocks", (33, 70), {"block": (3, None)}),
    ("blocks", (33, 70), {"block": (None, 1)}),
    ("blocks", (2, 17, 19), {"block": None}),
]


def _call(module: Any, what: str, *args: Any, **options: Any) -> Any:
    call: Callable[..., Any] = getattr(module, f"quantize_{what}")
    usual: dict[str, Any] = {"tile": 128} if what == "tiles" else {"block": (128, 128)}
    return call(*args, **usual | said(options))


_same = same_quantized


@cache
def _expected(index: int, name: str, scale: str, rule: str | None, source: str) -> Any:
    what, shape, cut = LAYOUTS[index]
    return _call(reference, what, tensor(shape, source), fmt=name, scale=scale, rule=rule, **cut)


@pytest.mark.parametrize(("scale", "rule"), KINDS)
@pytest.mark.parametrize("index", range(len(LAYOUTS)), ids=lambda i: f"{LAYOUTS[i][0]}{i}")
def test_layouts(index: int, scale: str, rule: str, simd_level: str) -> None:
    what, shape, cut = LAYOUTS[index]
    names = (E2M1,) if scale == "nvfp4" else ("float8_e4m3fn", E2M1)
    for name in names if dn.rules()[rule].max is None else names[:1]:
        expected = _expected(index, name, scale, rule, "float32")
        got = _call(dn, what, tensor(shape), fmt=name, scale=scale, rule=rule, **cut)
        _same(got, expected)
        np.testing.assert_array_equal(raw(got.dequantize()), raw(reference.dequantize(expected)))


@pytest.mark.parametrize(("scale", "rule"), KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_formats(name: str, scale: str, rule: str, simd_level: str) -> None:
    max_given = dn.rules()[rule].max or 0
    refused = {
        "scale": name in INTEGERS and scale in ("mx", "nvfp4"),
        "fmt": name != E2M1 and scale == "nvfp4",
        "max": max_given > dn.format_info(name).max,
    }
    if any(refused.values()):
        words = "|".join(word for word, there in refused.items() if there)
        with pytest.raises(ValueError, match=f"^({words}): "):
            dn.quantize_tiles(tensor((2, 2)), fmt=name, scale=scale, rule=rule)  # type: ignore[arg-type]
        return
    for index, source in [(1, "float32"), (3, "float32"), (0, "bfloat16"), (10, "bfloat16")]:
        what, shape, cut = LAYOUTS[index]
        expected = _expected(index, name, scale, rule, source)
        got = _call(dn, what, tensor(shape, source), fmt=name, scale=scale, rule=rule, **cut)
        _same(got, expected)
        np.testing.assert_array_equal(raw(got.dequantize()), raw(reference.dequantize(expected)))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("scale", SCALES)
def test_sources(scale: str, source: str, simd_level: str) -> None:
    for index, (what, shape, cut) in enumerate(LAYOUTS):
        got = _call(dn, what, tensor(shape, source), scale=scale, **cut)
        _same(got, _expected(index, said({"scale": scale})["fmt"], scale, None, source))


@pytest.mark.parametrize("dtype", SOURCES)
@pytest.mark.parametrize("name", ["float8_e4m3fn", "e5m6", "int4"])
def test_dequantize_dtypes(name: str, dtype: str, simd_level: str) -> None:
    for index, (what, shape, cut) in enumerate(LAYOUTS):
        got = _call(dn, what, tensor(shape), fmt=name, **cut)
        expected = reference.dequantize(
            _expected(index, name, "float32", "deepseek_v3", "float32"), SOURCES[dtype]
        )
        np.testing.assert_array_equal(raw(got.dequantize(SOURCES[dtype])), raw(expected))
        out = np.empty(shape, SOURCES[dtype])
        assert got.dequantize(SOURCES[dtype], out=out) is out
        np.testing.assert_array_equal(raw(out), raw(expected))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("tile", [1, 7, 32, 64, 128])
def test_every_length(tile: int, scale: str, simd_level: str) -> None:
    """Every length and every misaligned start: the last n elements of an array."""
    x = tensor((3, 200), seed=8)[1]
    for n in range(201):
        _same(_call(dn, "tiles", x[200 - n :], tile=tile, scale=scale), _tail(n, tile, scale))


@cache
def _tail(n: int, tile: int, scale: str) -> Any:
    return _call(reference, "tiles", tensor((3, 200), seed=8)[1][200 - n :], tile=tile, scale=scale)


def _extremes() -> NDArray[np.float32]:
    """Rows whose amax is at every corner of float32: zero, subnormal, at floors, off powers of two, huge."""
    tops = [
        0,
        2.0**-149,
        2.0**-127,
        2.0**-126,
        1e-12,
        1e-10,
        9.99e-5,
        1e-4,
        1.0001e-4,
        448,
        3e38,
        3.4028235e38,
    ]
    near = [
        np.nextafter(np.float32(448 * 2.0**k), np.float32(d)) for k in range(-20, 21, 5) for d in (0, np.inf)
    ]
    amax = np.array([*tops, *near, *(448 * 2.0**k for k in range(-12, 12))], np.float32)
    rng = np.random.default_rng(4)
    x = (amax[:, None] * rng.uniform(-1, 1, (amax.size, 37))).astype(np.float32)
    x[:, 0] = amax
    x[:, 1] = -0.0
    x[:, 2] = np.minimum(np.float32(2.0**-149), amax)
    x[:, 3] = -amax / 2
    return x


@pytest.mark.parametrize("floor", [None, 0, 1e-30, 2.5])
@pytest.mark.parametrize(("scale", "rule"), KINDS)
def test_extreme_magnitudes_and_floors(scale: str, rule: str, floor: float | None, simd_level: str) -> None:
    x = _extremes()
    own_rule = scale in ("mx", "nvfp4")
    if own_rule and floor is not None:
        return
    options: Any = {"scale": scale, "rule": rule, "floor": floor}
    names = ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "e5m6", *([] if own_rule else ["int8"]))
    for name in (E2M1,) if scale == "nvfp4" else names:
        if (dn.rules()[rule].max or 0) > dn.format_info(name).max:
            continue
        for tile in (37, 5):
            got = dn.quantize_tiles(x, fmt=name, tile=tile, **options)
            expected = reference.quantize_tiles(x, fmt=name, tile=tile, **options)
            _same(got, expected)
            np.testing.assert_array_equal(raw(got.dequantize()), raw(reference.dequantize(expected)))


@pytest.mark.parametrize("scale", SCALES)
def test_given_amax(scale: str, simd_level: str) -> None:
    x = tensor((4, 300), seed=6)
    amax = np.abs(np.random.default_rng(0).standard_normal((4, 3))).astype(np.float32)
    amax[0, 0] = 0
    for rule in rules_of(scale):
        options: Any = said({"scale": scale, "rule": rule, "amax": amax, "tile": 128})
        _same(dn.quantize_tiles(x, **options), reference.quantize_tiles(x, **options))
    turned: Any = said({"scale": scale, "amax": amax.T, "axis": 0, "tile": 128})
    _same(dn.quantize_tiles(x.T, **turned), reference.quantize_tiles(x.T, **turned))
    blocks: Any = said({"scale": scale, "block": (2, 100), "amax": amax[:2]})
    _same(dn.quantize_blocks(x, **blocks), reference.quantize_blocks(x, **blocks))


def test_parts_of_a_tensor_share_its_global_scale(simd_level: str) -> None:
    x = tensor((8, 96), seed=6)
    options: Any = {"fmt": "float4_e2m1fn", "scale": "nvfp4", "block": (1, 16)}
    whole = dn.quantize_blocks(x, **options)
    parts = [dn.quantize_blocks(p, **options, tensor_amax=np.abs(x).max()) for p in (x[:3], x[3:])]
    for field in ("codes", "scales"):
        joined = np.concatenate([raw(getattr(part, field)) for part in parts])
        np.testing.assert_array_equal(joined, raw(getattr(whole, field)))
    assert {float(part.global_scale) for part in parts} == {float(whole.global_scale or 0)}
    for top in (0.0, 1e-3, 1e30, np.float32(7)):
        options["tensor_amax"] = top
        _same(dn.quantize_blocks(x, **options), reference.quantize_blocks(x, **options))
        options["amax"] = np.full((8, 6), 3, np.float32)
        _same(dn.quantize_blocks(x, **options), reference.quantize_blocks(x, **options))
        del options["amax"]


@pytest.mark.parametrize("apply_op", ["divide", "multiply_inverse", "multiply_ratio"])
def test_blocks_of_zeros_stay_zeros_under_a_scale_of_zero(apply_op: str, simd_level: str) -> None:
    """The least scale, 2^-126, times a largest number of 2^-24 is no float32: the scale of zeros is 0."""
    name, x = "e1m1b24_ieee", np.float32([0, -0.0, 0, -0.0] * 9)
    rule = dn.rules()["deepseek_v3"].replace(amax_floor=0, scale_floor=0, apply_op=apply_op)
    got = dn.quantize_tiles(x, fmt=name, tile=4, rule=rule)
    row = reference.quant.RULES["deepseek_v3"]._replace(**rule.columns())
    expected = reference.quantize_tiles(x, fmt=name, tile=4, rule=row)
    assert not got.scales.any()
    assert not got.dequantize().any()
    _same(got, expected)


@pytest.mark.parametrize(("scale", "rule"), KINDS)
@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2fnuz", "float8_e5m2", "e5m6"])
def test_nonfinite_propagates(name: str, scale: str, rule: str, simd_level: str) -> None:
    if scale == "nvfp4" or (dn.rules()[rule].max or 0) > dn.format_info(name).max:
        return  # E2M1 has no NaN
    x = tensor((12, 100), seed=7)
    x[1, 5] = np.nan
    x[2, 50] = -np.nan
    x[3, 0] = np.inf
    x[4, 99] = -np.inf
    x[5, [7, 8]] = [np.nan, np.inf]
    options: Any = {"fmt": name, "scale": scale, "rule": rule, "nonfinite": "propagate"}
    for cut in ({"tile": 32}, {"tile": None}, {"tile": 5, "axis": 0}):
        got, expected = dn.quantize_tiles(x, **options, **cut), reference.quantize_tiles(x, **options, **cut)
        _same(got, expected)
        np.testing.assert_array_equal(got.dequantize(), reference.dequantize(expected))


def test_nan_input_codes_keep_their_sign(simd_level: str) -> None:
    q = dn.quantize_tiles(np.float32([[np.nan, -np.nan, 1, -1]]), nonfinite="propagate")
    assert raw(q.codes).tolist() == [[0x7F, 0xFF, 0x7F, 0xFF]]


@pytest.mark.parametrize("what", ["tiles", "blocks", "columns"])
@pytest.mark.parametrize("scale", SCALES)
def test_threads_change_nothing(scale: str, what: str, threads: int) -> None:
    x, expected = _large(what, scale)
    _same(_quantize_large(dn, x, what, scale), expected)


def _quantize_large(module: Any, x: NDArray[Any], what: str, scale: str) -> Any:
    if what == "blocks":
        return _call(module, "blocks", x, scale=scale)
    return _call(module, "tiles", x, scale=scale, axis=0 if what == "columns" else -1)


@cache
def _large(what: str, scale: str) -> tuple[NDArray[Any], Any]:
    x = tensor((531, 1027), seed=9)
    return x, _quantize_large(reference, x, what, scale)


@pytest.mark.parametrize("scale", SCALES)
def test_views_give_the_same_as_copies(scale: Any, simd_level: str) -> None:
    x = tensor((6, 90, 70), seed=1)
    for view in (x.T, x[:, ::2], x[::-1, :, ::-3], np.moveaxis(x, 0, 1), x.astype(">f4")):
        copy = np.ascontiguousarray(view.astype(np.float32))
        for axis in range(3):
            got = dn.quantize_tiles(view, axis=axis, tile=32, scale=scale)
            same = dn.quantize_tiles(copy, axis=axis, tile=32, scale=scale)
            np.testing.assert_array_equal(raw(got.codes), raw(same.codes))
            np.testing.assert_array_equal(raw(got.scales), raw(same.scales))


@pytest.mark.parametrize("scale", SCALES)
def test_out_is_filled_and_returned(scale: Any) -> None:
    x = tensor((6, 300))
    plain = dn.quantize_tiles(x, scale=scale)
    codes, scales = np.empty_like(plain.codes), np.empty_like(plain.scales)
    q = dn.quantize_tiles(x, scale=scale, out=(codes, scales))
    assert q.codes is codes
    assert q.scales is scales
    np.testing.assert_array_equal(raw(codes), raw(plain.codes))
    np.testing.assert_array_equal(raw(scales), raw(plain.scales))
    again = dn.quantize_tiles(x[::-1], scale=scale, out=(codes[::-1], None))
    np.testing.assert_array_equal(raw(codes), raw(plain.codes))
    assert again.scales is not scales


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 5), (0, 4, 4)])
@pytest.mark.parametrize("scale", SCALES)
def test_empty(shape: tuple[int, ...], scale: Any, simd_level: str) -> None:
    x = np.zeros(shape, np.float32)
    for axis in range(len(shape)):
        for tile in (2, None):
            _same(
                _call(dn, "tiles", x, tile=tile, axis=axis, scale=scale),
                _call(reference, "tiles", x, tile=tile, axis=axis, scale=scale),
            )
    if len(shape) > 1:
        q = dn.quantize_blocks(x, block=(2, None), scale=scale)
        _same(q, _call(reference, "blocks", x, block=(2, None), scale=scale))
        assert q.dequantize().shape == shape
        assert np.isnan(q.bits_per_element)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["float8_e4m3fn", "float4_e2m1fn", "e5m6"])
def test_save_and_load_lose_nothing(name: str, scale: Any, tmp_path: Path) -> None:
    if scale == "nvfp4" and name != E2M1:
        return
    for q in (
        dn.quantize_tiles(tensor((5, 40)), fmt=name, scale=scale, tile=16, axis=0),
        dn.quantize_blocks(tensor((2, 9, 9)), fmt=name, scale=scale, block=(4, None)),
        dn.quantize_blocks(tensor((2, 0, 9)), fmt=name, scale=scale),
    ):
        q.save(tmp_path / "q.npz")
        back = dn.Quantized.load(tmp_path / "q.npz")
        for field in ("format", "block", "axis", "scale_kind", "rule", "global_scale"):
            assert getattr(back, field) == getattr(q, field)
        for a, b in [(q.codes, back.codes), (q.scales, back.scales)]:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(raw(a), raw(b))
        assert back.codes.flags.writeable
    assert [path.name for path in tmp_path.iterdir()] == ["q.npz"]


def test_sizes_and_repr() -> None:
    q = dn.quantize_tiles(tensor((4, 256)), fmt="float4_e2m1fn", tile=32, scale="mx")
    assert q.bits_per_element == 4.25
    assert q.nbytes == 1024 + 32
    assert q.shape == (4, 256)
    assert repr(q) == "Quantized((4, 256) float4_e2m1fn, 32 along axis 1, mx scales, 4.25 bits per element)"
    nv = dn.quantize_tiles(tensor((4, 256)), fmt="float4_e2m1fn", tile=16, scale="nvfp4")
    assert nv.bits_per_element == 4.5 + 32 / 1024
    assert "128x128" in repr(dn.quantize_blocks(tensor((4, 256))))


def test_weight_scale_inv_in_and_out() -> None:
    w = tensor((200, 300), "bfloat16")
    q = dn.quantize_blocks(w)
    back = dn.Quantized.from_weight_scale_inv(q.codes, q.weight_scale_inv())
    np.testing.assert_array_equal(back.dequantize(), q.dequantize())
    plain = dn.Quantized.from_weight_scale_inv(raw(q.codes), q.scales, fmt="float8_e4m3fn")
    np.testing.assert_array_equal(raw(plain.codes), raw(q.codes))
    assert (back.block, back.rule) == ((128, 128), None)
    for scale in SCALES:
        kind: Any = scale
        p = dn.quantize_blocks(w, scale=kind, block=(128, 128))
        factors = p.weight_scale_inv()
        assert factors.dtype == np.float32
        wide = np.repeat(np.repeat(factors, 128, 0), 128, 1)[:200, :300]
        np.testing.assert_array_equal(p.dequantize(), dn.decode(p.codes) * wide)


def test_regrouping() -> None:
    x = tensor((300, 260), "bfloat16")
    for scale in SCALES:
        q = _call(dn, "tiles", x, scale=scale)
        textbook = reference.requantize_tiles(_call(reference, "tiles", x, scale=scale), axis=0, tile=128)
        _same(dn.requantize_tiles(q, axis=0, tile=128), textbook)
    other = dn.requantize_tiles(dn.quantize_blocks(x), axis=1, tile=64, scale="ue8m0", rule="vllm")
    assert (other.rule, other.block, other.axis) == ("vllm", (64,), 1)


def test_regrouping_keeps_the_floor_that_tiles_were_made_with() -> None:
    """UE8M0 on both sides: nothing changes, below the rule's own floor too."""
    x = np.full((4, 4), 1e-9, np.float32)
    for scale in ("float32", "ue8m0"):
        q = dn.quantize_tiles(x, tile=2, scale=scale, floor=0)  # type: ignore[arg-type]
        assert q.rule == "deepseek_v3(amax_floor=0)"
        again = dn.requantize_tiles(q, axis=0, tile=2)
        assert again.rule == q.rule
        np.testing.assert_array_equal(again.dequantize(), q.dequantize())


def test_bfloat16_input_is_exact() -> None:
    x = tensor((5, 200), "bfloat16")
    assert x.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(
        raw(dn.quantize_tiles(x).codes), raw(dn.quantize_tiles(x.astype(np.float32)).codes)
    )


def test_names_of_standards_mean_the_standards() -> None:
    """Alone: format, tile and scale of NVFP4 and MXFP8."""
    x = tensor((4, 256))
    for module in (dn, reference):
        nv, mx, plain = (module.quantize_tiles(x, scale=scale) for scale in ("nvfp4", "mx", "float32"))
        assert (nv.format, nv.block) == ("float4_e2m1fn", (16,))
        assert (mx.format, mx.block) == ("float8_e4m3fn", (32,))
        assert (plain.format, plain.block) == ("float8_e4m3fn", (128,))
        assert module.quantize_tiles(x, fmt="float4_e2m1fn", scale="mx").block == (32,)
    same = dn.quantize(x, "nvfp4")
    np.testing.assert_array_equal(raw(same.codes), raw(dn.quantize_tiles(x, scale="nvfp4").codes))
    for word in ("mx", 0.5, "16"):
        with pytest.raises(TypeError, match="tile: found"):
            dn.quantize_tiles(x, tile=word)  # type: ignore[arg-type]
