"""Explanations of codes and scales: planted causes are named, and nothing unlike is called equal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from dsv3_numerics import encode, layouts, quantize_blocks, quantize_tiles, rules
from dsv3_numerics.compare import Explanation, explain_quantization

Floats = NDArray[np.float32]
f32 = np.float32
KINDS = ("float32", "ue8m0", "mx", "nvfp4")


def inputs(seed: int = 0, rows: int = 16, k: int = 512) -> Floats:
    """Numbers of many magnitudes, tiles below every floor, a zero tile, and ties."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((rows, k)) * np.exp2(rng.integers(-3, 4, (rows, k)))).astype(f32)
    x[1, :128] *= f32(1e-7)
    x[2, :128] *= f32(1e-12)
    x[3, :128] = 0
    x[4, :128] = np.tile(f32([448, 17, 19, 21, 23, -17, 1.0625, 2.125]), 16)
    return x


X = inputs()
CODES = {"fmt": "float8_e4m3fn"}


def planted(rule: str = "deepgemm", scale: str = "float32") -> tuple[NDArray[np.uint8], Floats]:
    q = quantize_tiles(X, rule=rule, scale=scale)  # type: ignore[arg-type]
    return q.codes.view(np.uint8).copy(), q.scales.copy()


def quotient(rule: str = "deepseek_v3") -> Floats:
    q = quantize_tiles(X, rule=rule)  # type: ignore[arg-type]
    return X / np.repeat(q.scales, 128, axis=1)


def cast(q: Floats, rounding: str = "nearest_even") -> NDArray[np.uint8]:
    return encode(q, "float8_e4m3fn", rounding=rounding).view(np.uint8)  # type: ignore[arg-type]


def every_rule() -> list[tuple[str, str]]:
    """Kinds of scale and the rules that go with them."""
    found = []
    for scale in KINDS:
        for rule in rules():
            with contextlib.suppress(ValueError):
                quantize_tiles(X[:1], rule=rule, scale=scale)  # type: ignore[arg-type]
                found.append((scale, rule))
    return found


@pytest.mark.parametrize(("scale", "rule"), every_rule())
def test_each_rule_is_named(rule: str, scale: str) -> None:
    q = quantize_tiles(X, rule=rule, scale=scale)  # type: ignore[arg-type]
    found = explain_quantization(X, q)
    assert found.cause == "equal", found.lines()
    assert rule in found.column("rule")
    for fit in found.plainest:  # all that are named do the same here
        if "scale" in fit.columns:
            kind: Any = fit.columns["scale"].split(",")[0]  # behind it: where NVFP4's scale of scales is from
            again = quantize_tiles(X, rule=fit.columns["rule"], scale=kind, tile=q.block[0])
            assert (again.codes.view(np.uint8) == q.codes.view(np.uint8)).all()


def test_blocks_are_named() -> None:
    found = explain_quantization(inputs(rows=256), quantize_blocks(inputs(rows=256)))
    assert found.cause == "equal"
    assert found.column("groups") == ["128x128"]


ROUNDINGS = {
    "nearest, ties away from zero": "nearest_away",
    "toward zero": "toward_zero",
    "up": "up",
    "down": "down",
}


@pytest.mark.parametrize("name", ROUNDINGS)
def test_rounding_is_named(name: str) -> None:
    _, scales = planted("deepseek_v3")
    found = explain_quantization(X, cast(quotient(), ROUNDINGS[name]), scales, **CODES)
    assert (found.cause, found.column("rounding")) == ("reproduced", [name])


@pytest.mark.parametrize(("name", "narrow"), [("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)])
def test_double_rounding_is_named(name: str, narrow: type) -> None:
    _, scales = planted("deepseek_v3")
    found = explain_quantization(X, cast(quotient().astype(narrow).astype(f32)), scales, **CODES)
    assert found.column("rounding") == [f"double rounding, by {name}"]


@pytest.mark.parametrize(("name", "narrow"), [("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)])
def test_input_rounded_before_is_named(name: str, narrow: type) -> None:
    q = quantize_tiles(X.astype(narrow).astype(f32))
    found = explain_quantization(X, q)
    assert (found.cause, found.column("input")) == ("reproduced", [f"rounded to {name} before"])


def test_scale_rounded_after_quantizing_is_named() -> None:
    codes, _ = planted("deepseek_v3")
    _, scales = planted("deepseek_v3", "ue8m0")
    found = explain_quantization(X, codes, scales, **CODES)
    assert found.cause == "reproduced"
    assert found.column("codes by") == ["scale before it was rounded (quantized, then the scale rounded)"]


def swizzled(s: Floats) -> NDArray[np.uint8]:
    return layouts.to_128x4(s.astype(ml_dtypes.float8_e8m0fnu).view(np.uint8))


LAYOUTS: dict[str, tuple[str, Callable[[Floats], NDArray[np.generic]]]] = {
    "transposed": ("float32", lambda s: np.ascontiguousarray(s.T)),
    "transposed memory under an untransposed shape": ("float32", lambda s: s.T.reshape(s.shape)),
    "MN-major, TMA-aligned": ("float32", lambda s: layouts.to_mn_major(s[:15])),
    "MN-major, packed UE8M0": ("ue8m0", layouts.to_packed_ue8m0),
    "MN-major, packed UE8M0, bytes of words reversed": (
        "ue8m0",
        lambda s: layouts.to_packed_ue8m0(s).byteswap(),
    ),
    "128x4 swizzled": ("ue8m0", swizzled),
    "off by one group (one late)": ("float32", lambda s: np.roll(s, 1, 1)),
    "off by one group (one early)": ("float32", lambda s: np.roll(s, -1, 1)),
    "off by one row (one late)": ("float32", lambda s: np.roll(s, 1, 0)),
    "off by one row (one early)": ("float32", lambda s: np.roll(s, -1, 0)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_of_scales_is_named(name: str) -> None:
    scale, change = LAYOUTS[name]
    codes, scales = planted("deepgemm", scale)
    rows = 15 if "TMA" in name else 16
    found = explain_quantization(X[:rows], codes[:rows], change(scales), **CODES)
    assert found.exact
    assert found.column("scale layout") == [name]
    assert "deepgemm" in found.column("rule")


def swap_tiles(codes: NDArray[np.uint8]) -> None:
    codes[5, 0:128], codes[9, 256:384] = codes[9, 256:384].copy(), codes[5, 0:128].copy()


def planted_ties() -> NDArray[np.uint8]:
    codes, away = cast(quotient()), cast(quotient(), "nearest_away")
    at = np.argwhere(codes != away)
    codes[tuple(at[0])] = away[tuple(at[0])]
    return codes


def changed(change: Callable[[NDArray[np.uint8], Floats], None]) -> tuple[NDArray[np.uint8], Floats]:
    codes, scales = planted("deepseek_v3")
    change(codes, scales)
    return codes, scales


def other_scale(codes: NDArray[np.uint8], scales: Floats, factor: float) -> None:
    scales[7, 2] *= f32(factor)
    codes[7, 256:384] = cast(X[7, 256:384] / scales[7, 2])


def flip(codes: NDArray[np.uint8], scales: Floats) -> None:
    codes[6, 77] ^= 0x20


def flip_to_nan(codes: NDArray[np.uint8], scales: Floats) -> None:
    row, column = np.argwhere(codes == 0x7E)[-1]
    codes[row, column] ^= 1


def nan_tile(codes: NDArray[np.uint8], scales: Floats) -> None:
    codes[6, 128:256] = 0x7F


def zero_tile(codes: NDArray[np.uint8], scales: Floats) -> None:
    codes[6, 128:256] = 0


def doubled(codes: NDArray[np.uint8], scales: Floats) -> None:
    scales[7, 2] *= f32(2)


def stale(codes: NDArray[np.uint8], scales: Floats) -> None:
    scales[7] = scales[8]


def stale_used(codes: NDArray[np.uint8], scales: Floats) -> None:
    codes[7, 128:256] = cast(X[7, 128:256] / scales[7, 0])


def truncated(codes: NDArray[np.uint8], scales: Floats) -> None:
    scales[8:] = 0


def half_stored(codes: NDArray[np.uint8], scales: Floats) -> None:
    scales.view(np.uint32)[13:] &= np.uint32(0xFFFF0000)


def signs(codes: NDArray[np.uint8], scales: Floats) -> None:
    codes[3, :128] = 0x80


LEFT: dict[str, Callable[[NDArray[np.uint8], Floats], None]] = {
    "one flipped bit": flip,
    "tiles of NaN": nan_tile,
    "tiles of zeros": zero_tile,
    "swapped tiles": lambda codes, scales: swap_tiles(codes),
    "scale off by a power of two, and its codes follow it": lambda c, s: other_scale(c, s, 4.0),
    "another scale, and its codes follow it": lambda c, s: other_scale(c, s, 1.3),
    "scales off by a power of two, their codes not": doubled,
    "stale or swapped scales (of another group)": stale,
    "codes by a stale scale (that of the group before)": stale_used,
    "scales missing (zero)": truncated,
    "scales truncated to bfloat16": half_stored,
    "signs of zero": signs,
    "ties only": lambda codes, scales: np.copyto(codes, planted_ties()),
}


@pytest.mark.parametrize("cause", LEFT)
def test_leftovers_are_classified(cause: str) -> None:
    codes, scales = changed(LEFT[cause])
    found = explain_quantization(X, codes, scales, **CODES)
    assert not found.exact
    assert found.cause == cause, found.lines()
    assert found.nearest is not None
    assert found.nearest.columns["rule"] == "deepseek_v3"
    total = found.nearest.elements - found.nearest.matching
    total += found.nearest.scales - found.nearest.scales_matching
    assert sum(found.classes.values()) == total  # each difference once


def test_a_flipped_bit_may_make_a_nan() -> None:
    codes, scales = changed(flip_to_nan)
    assert explain_quantization(X, codes, scales, **CODES).cause == "one flipped bit"


def test_shifted_codes_are_named() -> None:
    codes, scales = planted()
    found = explain_quantization(X, np.roll(codes, 128, 1), scales, **CODES)
    assert (found.cause, found.column("code layout")) == ("reproduced", ["shifted by one tile (one late)"])


def test_transposed_codes_are_named() -> None:
    codes, scales = planted()
    found = explain_quantization(X, np.ascontiguousarray(codes.T), scales, **CODES)
    assert found.column("code layout") == ["transposed"]


def test_garbage_is_garbage() -> None:
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 127, X.shape).astype(np.uint8)
    found = explain_quantization(X, codes, rng.random((16, 4)).astype(f32), **CODES)
    assert found.cause == "garbage"
    assert not found.exact


def test_codes_by_scales_of_unknown_making() -> None:
    scales = (np.random.default_rng(6).random((16, 4)) + 0.1).astype(f32) * f32(0.9)
    codes = cast(X / np.repeat(scales, 128, axis=1))
    found = explain_quantization(X, codes, scales, **CODES)
    assert found.cause == "scales of unknown making"
    assert found.nearest is not None
    assert found.nearest.matching == found.nearest.elements


@pytest.mark.parametrize("seed", range(3))
def test_equal_is_never_said_of_what_is_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes, scales = planted("vllm")
    row, column = rng.integers(0, 16), rng.integers(0, 512)
    codes[row, column] ^= 1 << rng.integers(0, 8)
    found: Explanation = explain_quantization(X, codes, scales, **CODES)
    assert not found.exact
    assert found.cause != "equal"
    assert sum(found.classes.values()) == 1


@pytest.mark.parametrize(
    ("codes", "scales", "message"),
    [
        (np.zeros((4, 256), np.uint8), np.ones((4, 3), f32), "scales: found shape"),
        (np.zeros((4, 100), np.uint8), np.ones((4, 2), f32), "codes: found shape"),
    ],
)
def test_what_does_not_fit_is_refused(codes: NDArray[np.uint8], scales: Floats, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain_quantization(np.ones((4, 256), f32), codes, scales, **CODES)
