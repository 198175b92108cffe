"""Bad input of every kind: an error that names the argument, what was found and what was expected."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as dn
from dsv3_numerics import _core
from samples import SCALES, tensor

E4M3 = ml_dtypes.float8_e4m3fn
X = np.ones((4, 256), np.float32)
CALLS: dict[str, Any] = {
    "encode": lambda x: dn.encode(x, "float8_e4m3fn"),
    "quantize_tiles": dn.quantize_tiles,
    "quantize_blocks": dn.quantize_blocks,
}
WRONG_KINDS: dict[str, tuple[Any, str]] = {
    "int64": (np.ones((2, 2), np.int64), "int64"),
    "list of int": ([[1, 2], [3, 4]], "int64"),
    "uint8": (np.ones((2, 2), np.uint8), "uint8"),
    "bool": (np.ones((2, 2), bool), "bool"),
    "complex": (np.ones((2, 2), np.complex64), "complex64"),
    "object": (np.ones((2, 2), object), "object"),
    "strings": (np.array([["1.0"]]), "<U3"),
    "None": (None, "object"),
    "dates": (np.zeros((2, 2), "M8[s]"), "datetime64"),
    "long double": (np.ones((2, 2), np.longdouble), "float128|longdouble|float96"),
    "structured": (np.zeros((2, 2), [("a", "f4")]), "'a'"),
    "codes": (np.ones((2, 2), E4M3), "float8_e4m3fn"),
    "masked": (np.ma.masked_array(np.ones((2, 2), np.float32), True), "masked array"),
}


@pytest.mark.parametrize("kind", WRONG_KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_wrong_kinds_of_numbers(call: str, kind: str) -> None:
    value, found = WRONG_KINDS[kind]
    with pytest.raises(TypeError, match=rf"^[xw]: found .*({found}).*, expected") as caught:
        CALLS[call](value)
    assert "float32" in str(caught.value) or "mask" in str(caught.value)


@pytest.mark.parametrize("call", CALLS)
def test_ragged_lists(call: str) -> None:
    with pytest.raises(ValueError, match=r"^[xw]: "):
        CALLS[call]([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 130, 1023])
@pytest.mark.parametrize("scale", SCALES)
def test_nonfinite_numbers_raise(scale: Any, place: int, value: float, simd_level: str) -> None:
    for source in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
        x = tensor((4, 256)).astype(source)
        x.reshape(-1)[place] = value
        for call in (dn.quantize_tiles, dn.quantize_blocks):
            with pytest.raises(ValueError, match=r"(?i)nan|inf"):
                call(x, scale=scale)
            with pytest.raises(ValueError, match=r"(?i)nan|inf"):
                call(x, scale=scale, amax=np.ones_like(call(X, scale=scale).scales, np.float32))


def test_float64_beyond_float32_is_infinite_to_quantizers() -> None:
    with pytest.raises(ValueError, match=r"(?i)inf"):
        dn.quantize_tiles(np.array([1e300]))


@pytest.mark.parametrize("name", ["int8", "int4", "float4_e2m1fn", "float6_e2m3fn"])
def test_nan_without_a_code(name: str, simd_level: str) -> None:
    for n in (1, 100, 5000):
        x = np.ones(n, np.float32)
        x[-1] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            dn.encode(x, name)
        with pytest.raises(ValueError, match="NaN"):
            dn.encode(x, "float8_e4m3fn", nan="raise")
    assert dn.encode(np.float32([np.inf]), name).astype(float) == dn.format_info(name).max


@pytest.mark.parametrize("name", ["int8", "int4", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"])
def test_finite_formats_cannot_overflow_to_a_code(name: str) -> None:
    with pytest.raises(ValueError, match="overflow"):
        dn.encode(X, name, overflow="nonfinite")
    with pytest.raises(ValueError, match="propagate"):
        dn.quantize_tiles(X, fmt=name, nonfinite="propagate")


@pytest.mark.parametrize("option", ["rounding", "overflow", "nan"])
def test_unknown_modes_of_encode(option: str) -> None:
    with pytest.raises(ValueError, match="sideways") as caught:
        dn.encode(X, "float8_e4m3fn", **{option: "sideways"})  # type: ignore[arg-type]
    assert option in str(caught.value)


@pytest.mark.parametrize("option", ["scale", "rule", "nonfinite"])
def test_unknown_modes_of_quantizers(option: str) -> None:
    for call in (dn.quantize_tiles, dn.quantize_blocks):
        with pytest.raises(ValueError, match=f"{option}: found 'sideways', expected one of"):
            call(X, **{option: "sideways"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "error"),
    [
        ("float9", ValueError),
        ("", ValueError),
        (np.float32, TypeError),
        (np.uint16, TypeError),
        (3, TypeError),
        (None, TypeError),
    ],
)
def test_unknown_formats(dtype: Any, error: type[Exception]) -> None:
    for call in (dn.format_info, lambda d: dn.encode(X, d), lambda d: dn.quantize_tiles(X, fmt=d)):
        with pytest.raises(error, match="fmt: found"):
            call(dtype)


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (2**64, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_bad_seeds(seed: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="seed"):
        dn.encode(X, "float8_e4m3fn", rounding="stochastic", seed=seed)


@pytest.mark.parametrize(
    ("tile", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (True, TypeError),
        (128.0, TypeError),
        ("128", TypeError),
        ((1, 2), TypeError),
    ],
)
def test_bad_tiles(tile: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="tile: found"):
        dn.quantize_tiles(X, tile=tile)
    with pytest.raises(error, match="block: found"):
        dn.quantize_blocks(X, block=(tile, 128))


@pytest.mark.parametrize("block", [128, (128,), (1, 2, 3), "ab", ()])
def test_bad_blocks(block: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="block: found"):
        dn.quantize_blocks(X, block=block)


def test_huge_tiles_are_the_whole_axis() -> None:
    assert dn.quantize_tiles(X, tile=2**70).scales.shape == (4, 1)
    np.testing.assert_array_equal(dn.quantize_tiles(X, tile=2**70).dequantize(), X)


@pytest.mark.parametrize("axis", [2, -3, 2**70])
def test_axis_out_of_range(axis: int) -> None:
    with pytest.raises((np.exceptions.AxisError, OverflowError)):
        dn.quantize_tiles(X, axis=axis)


@pytest.mark.parametrize("axis", [1.0, "0", None, True])
def test_axis_of_another_kind(axis: Any) -> None:
    dn.quantize_blocks(X)  # a call that is remembered: blocks have no axis
    with pytest.raises(TypeError, match="axis"):
        dn.quantize_tiles(X, axis=axis)


def test_too_few_axes() -> None:
    with pytest.raises(ValueError, match="x: found no axis"):
        dn.quantize_tiles(np.float32(1))
    for shape in ((), (4,)):
        with pytest.raises(ValueError, match="w: found shape"):
            dn.quantize_blocks(np.ones(shape, np.float32))
    with pytest.raises(ValueError, match="codes: found no axis"):
        dn.pack(np.uint8(1), fmt="int4")


@pytest.mark.parametrize("floor", [-1.0, np.nan, np.inf, 1e39, "1", True, [1.0]])
def test_bad_floors(floor: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="floor: found"):
        dn.quantize_tiles(X, floor=floor)


def test_bad_tensor_amax() -> None:
    for value in (-1.0, np.nan, np.inf, "1", True, [1.0]):
        with pytest.raises((ValueError, TypeError), match="tensor_amax: found"):
            dn.quantize_tiles(X, scale="nvfp4", tensor_amax=value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tensor_amax: found 1\.0, but only"):
        dn.quantize_tiles(X, tensor_amax=1.0)


def test_bad_amax() -> None:
    for amax, message in [
        (np.ones((4, 3), np.float32), r"found shape \(4, 3\), expected \(4, 2\)"),
        (np.ones(8, np.float32), "found shape"),
        (np.full((4, 2), -1, np.float32), "negative"),
        (np.full((4, 2), np.nan, np.float32), "NaN"),
        (np.full((4, 2), np.inf, np.float32), "infinity"),
    ]:
        with pytest.raises(ValueError, match=f"amax: .*{message}"):
            dn.quantize_tiles(X, amax=amax)
    for wrong in (np.ones((4, 2)), np.ones((4, 2), int), [[1, 1]] * 4):
        with pytest.raises(TypeError, match="amax: found dtype"):
            dn.quantize_tiles(X, amax=wrong)


def test_rules_belong_to_their_scales() -> None:
    for scale in ("mx", "nvfp4"):
        with pytest.raises(ValueError, match="rule: found one"):
            dn.quantize_tiles(X, scale=scale, rule="vllm")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="floor: found 0"):
            dn.quantize_tiles(X, scale=scale, floor=0)  # type: ignore[arg-type]
    for name in ("float8_e8m0fnu", "bfloat16"):
        for scale in SCALES:
            with pytest.raises(ValueError, match=f"fmt: found {name}"):
                dn.quantize_tiles(X, fmt=name, scale=scale)  # type: ignore[arg-type]


BAD_OUT: dict[str, tuple[Any, type[Exception], str]] = {
    "list": ([0.0], TypeError, "found list"),
    "dtype": (np.empty((4, 256), np.uint8), TypeError, "found dtype"),
    "wider": (np.empty((4, 256), np.float32), TypeError, "found dtype"),
    "masked": (np.ma.masked_array(np.empty((4, 256), E4M3)), TypeError, "MaskedArray"),
    "shape": (np.empty((256, 4), E4M3), ValueError, "found shape"),
    "broadcastable": (np.empty((1, 4, 256), E4M3), ValueError, "found shape"),
}


@pytest.mark.parametrize("kind", BAD_OUT)
def test_bad_out(kind: str) -> None:
    out, error, message = BAD_OUT[kind]
    with pytest.raises(error, match=f"^out: .*{message}.*, expected"):
        dn.encode(X, "float8_e4m3fn", out=out)
    with pytest.raises(error, match=rf"^out\[0\]: .*{message}.*, expected"):
        dn.quantize_tiles(X, out=(out, None))


def test_read_only_and_swapped_out() -> None:
    codes = np.ones((4, 256), E4M3)
    out = np.empty((4, 256), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out: found a read-only array"):
        dn.decode(codes, out=out)
    with pytest.raises(TypeError, match="out: found dtype >f4"):
        dn.decode(codes, out=np.empty((4, 256), ">f4"))
    with pytest.raises(ValueError, match="out: found a read-only array"):
        dn.quantize_tiles(X).dequantize(out=out)


def test_bad_out_of_quantizers() -> None:
    q = dn.quantize_tiles(X)
    for wrong in (q.codes, [q.codes, q.scales], (q.codes,), q):
        with pytest.raises(TypeError, match=r"out: found .*, expected a tuple of two"):
            dn.quantize_tiles(X, out=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"out\[1\]: found dtype"):
        dn.quantize_tiles(X, scale="ue8m0", out=(q.codes, q.scales))
    with pytest.raises(ValueError, match=r"out\[1\]: found shape"):
        dn.quantize_tiles(X, tile=64, out=(q.codes, q.scales))
    memory = np.empty(4096, np.uint8)
    both = memory[:1024].view(E4M3).reshape(4, 256), memory[1000:1032].view(np.float32).reshape(4, 2)
    with pytest.raises(ValueError, match="same memory"):
        dn.quantize_tiles(X, out=both)


def test_bad_codes() -> None:
    with pytest.raises(ValueError, match="fmt: found None"):
        dn.decode(np.zeros(3, np.uint8))
    with pytest.raises(TypeError, match="codes: found dtype uint8, expected uint16"):
        dn.decode(np.zeros(3, np.uint8), fmt="e5m6")
    with pytest.raises(TypeError, match="codes: found dtype uint16, expected uint8"):
        dn.decode(np.zeros(3, np.uint16), fmt="float8_e4m3fn")
    with pytest.raises(ValueError, match="fmt: found float8_e5m2, expected float8_e4m3fn"):
        dn.decode(np.zeros(3, E4M3), fmt="float8_e5m2")
    for wrong in (
        np.zeros(3, np.float32),
        np.zeros(3, np.int64),
        [1, 2],
        np.zeros(3, object),
        np.zeros(3, bool),
    ):
        with pytest.raises(TypeError, match="codes: found dtype"):
            dn.decode(wrong, fmt="float8_e4m3fn")
    with pytest.raises(TypeError, match="codes: found a masked array"):
        dn.decode(np.ma.masked_array(np.zeros(3, np.uint8)), fmt="float8_e4m3fn")
    for dtype in (np.int32, E4M3, np.longdouble):
        with pytest.raises(TypeError, match="dtype: found"):
            dn.decode(np.zeros(3, E4M3), dtype=dtype)


def test_bad_packing() -> None:
    with pytest.raises(ValueError, match="codes: found no axis"):
        dn.pack(np.zeros((), E4M3))
    with pytest.raises(TypeError, match="packed: found dtype"):
        dn.unpack(np.zeros(3, np.uint8), fmt="e5m6", size=8)
    with pytest.raises(TypeError, match="packed: found dtype"):
        dn.unpack(np.zeros(3, np.uint32), fmt="int4", size=6)
    for size in (7, 3, -1, 0, 2**70):
        with pytest.raises(ValueError, match="size: found"):
            dn.unpack(np.zeros(3, np.uint8), fmt="int4", size=size)
    with pytest.raises(TypeError, match="size: found"):
        dn.unpack(np.zeros(3, np.uint8), fmt="int4", size=6.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size: found"):
        dn.unpack(np.zeros(4, np.uint8), fmt="float6_e2m3fn")


def test_parts_that_do_not_fit() -> None:
    codes, scales = np.zeros((576, 7168), E4M3), np.ones((5, 56), np.float32)
    assert dn.Quantized.from_weight_scale_inv(codes, scales).scales.shape == (5, 56)
    for shape in ((4, 56), (56, 5), (5, 57), (5,), (1, 5, 56)):
        with pytest.raises(ValueError, match=r"scales: found shape .*, expected \(5, 56\)"):
            dn.Quantized.from_weight_scale_inv(codes, np.ones(shape, np.float32))
    with pytest.raises(TypeError, match="scale_inv: found dtype float64"):
        dn.Quantized.from_weight_scale_inv(codes, scales.astype(float))
    with pytest.raises(TypeError, match="codes: found"):
        dn.Quantized(scales, scales, "float8_e4m3fn", (128, 128))
    with pytest.raises(ValueError, match="scale_kind"):
        dn.Quantized(codes, scales, "float8_e4m3fn", (128, 128), scale_kind="other")
    with pytest.raises(ValueError, match="block"):
        dn.Quantized(codes, scales, "float8_e4m3fn", (0, 128))
    with pytest.raises(ValueError, match="block"):
        dn.Quantized(codes, scales, "float8_e4m3fn", (128,))
    with pytest.raises(ValueError, match="axis"):
        dn.Quantized(codes, scales, "float8_e4m3fn", (128,), axis=2)
    with pytest.raises(ValueError, match="global_scale"):
        dn.Quantized(codes, scales, "float8_e4m3fn", (128, 128), global_scale=np.float32(1))


@pytest.mark.parametrize(
    ("n", "error"),
    [(0, ValueError), (-1, ValueError), (2**70, ValueError), (1.0, TypeError), (True, TypeError)],
)
def test_bad_numbers_of_threads(n: Any, error: type[Exception]) -> None:
    before = dn.get_num_threads()
    with pytest.raises(error, match="n: found"):
        dn.set_num_threads(n)
    assert dn.get_num_threads() == before


def test_unknown_simd_level() -> None:
    before = dn.simd_level()
    with pytest.raises(ValueError, match="sideways"):
        _core.set_simd_level("sideways")
    assert dn.simd_level() == before


@pytest.mark.exhaustive
def test_more_than_two_to_the_31_elements() -> None:
    """4 GiB of unwritten zeros cost no memory to read; the codes take 2 GiB. Half a minute."""
    x = np.zeros(2**31 + 129, np.float16)
    x[-3:] = [1, -2, 448]
    q = dn.quantize_tiles(x)
    assert q.scales.shape == (2**24 + 2,)
    assert q.scales[-2:].tolist() == [np.float32(2) / np.float32(448), 1]
    assert q.codes[-4:].astype(float).tolist() == [0, 224, -448, 448]
    assert dn.encode(x, "float8_e4m3fn", out=q.codes)[-4:].astype(float).tolist() == [0, 1, -2, 448]


WRONG_SETTINGS: dict[str, tuple[Any, type[Exception], str]] = {
    "a path that is a number": (lambda x: dn.Quantized.load(True), TypeError, "path: found bool"),
    "an array to regroup": (lambda x: dn.requantize_tiles(x, axis=0), TypeError, "q: found ndarray"),
    "an integer beyond float64": (
        lambda x: dn.quantize_tiles(x, floor=10**400),
        ValueError,
        "floor: found 1",
    ),
    "one beyond its digits": (lambda x: dn.quantize_tiles(x, floor=10**9000), ValueError, "29898 bits"),
    "a complex number": (lambda x: dn.quantize_tiles(x, floor=1j), TypeError, "floor: found 1j"),
    "a dtype as a scale": (lambda x: dn.quantize_tiles(x, scale=np.dtype("f4")), ValueError, "scale: found"),
    "a list as a scale": (lambda x: dn.quantize_blocks(x, scale=[1]), ValueError, r"scale: found \[1\]"),
    "an empty scale": (
        lambda x: dn.requantize_tiles(dn.quantize_tiles(x), axis=0, scale={}),
        ValueError,
        "scale: found {}",
    ),
    "a number as rounding": (lambda x: dn.quantize_tiles(x, rounding=5), ValueError, "rounding: found 5"),
    "encode's rounding": (lambda x: dn.encode(x, "e4m3", rounding=5), ValueError, "rounding: found 5"),
    "encode's overflow": (lambda x: dn.encode(x, "e4m3", overflow=[]), ValueError, r"overflow: found \[\]"),
    "a megabyte": (lambda x: dn.encode(x, "y" * 10**6), ValueError, "1000002 signs"),
    "a megabyte of a word": (lambda x: dn.Recipe.preset("y" * 10**6), ValueError, "1000002 signs"),
}


@pytest.mark.parametrize(("run", "error", "message"), WRONG_SETTINGS.values(), ids=WRONG_SETTINGS)
def test_settings_of_other_kinds(run: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        run(np.ones((4, 128), np.float32))
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("kind", [int, np.uint8, np.int8, np.uint16, np.int64])
def test_bits_are_any_kind_of_integer(kind: type) -> None:
    x = np.linspace(-3, 5, 64, dtype=np.float32)
    q = dn.logfmt_encode(x, bits=kind(8))
    packed = dn.logfmt_pack(q.codes, bits=kind(8))
    assert np.array_equal(dn.logfmt_unpack(packed, bits=kind(8), size=64), q.codes)
