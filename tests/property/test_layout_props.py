"""Arrays whose elements lie apart: the bytes of their contiguous copies, whatever the layout and the options.

Rows here are long enough for the ways that the core has for long ones; `test_all_options` draws layouts of
small arrays, against the textbook.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import _core
from samples import ROUNDINGS, SOURCES, raw, somewhere

FP8 = "float8_e4m3fn"
AMONG = settings(max_examples=40)


@st.composite
def large(draw: st.DrawFn, dirty: bool = False) -> NDArray[Any]:
    """Rows of more than a thousand numbers, or such columns, somewhere in memory."""
    shape = draw(st.sampled_from([(1,), (3,), (2, 9), (18,), (70,), (130,)]))
    width = draw(st.sampled_from([40, 1024, 1100, 2305]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = SOURCES[draw(st.sampled_from(list(SOURCES)))]
    x = rng.standard_normal((*shape, width)).astype(dtype)
    x[rng.random(x.shape) < 0.1] = 0
    if dirty:
        x.reshape(-1)[rng.integers(0, x.size, 3)] = draw(st.sampled_from([np.nan, np.inf, 1]))
    if draw(st.booleans()):
        x = np.ascontiguousarray(np.moveaxis(x, -1, 0))
    return draw(somewhere(x))


def same(function: Any, x: NDArray[Any], **options: Any) -> None:
    """Compare what a function makes of an array and of its contiguous copy: arrays, or the error."""
    got, expected = (outcome(function, each, options) for each in (x, np.ascontiguousarray(x)))
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        if isinstance(theirs, str):
            assert mine == theirs
        else:
            np.testing.assert_array_equal(raw(mine), raw(theirs))


def outcome(function: Any, x: NDArray[Any], options: dict[str, Any]) -> list[Any]:
    try:
        made = function(x, **options)
    except ValueError as error:
        return [str(error)]
    if isinstance(made, np.ndarray):
        return [made]
    names = ("codes", "scales") if isinstance(made, dn.Quantized) else ("codes", "amin", "amax")
    return [getattr(made, name) for name in names]


@pytest.mark.usefixtures("simd_level")
class TestLayouts:
    """One class, so that each SIMD level is set once for all examples."""

    @AMONG
    @given(
        large(dirty=True), st.sampled_from(ROUNDINGS), st.sampled_from([FP8, "bfloat16", "e5m6"]), st.data()
    )
    def test_encode(self, x: NDArray[Any], rounding: str, fmt: str, data: st.DataObject) -> None:
        nan = data.draw(st.sampled_from(["code", "raise", "max"]))
        same(dn.encode, x, fmt=fmt, rounding=rounding, nan=nan, seed=data.draw(st.integers(0, 2**64 - 1)))

    @AMONG
    @given(large(dirty=True), st.data())
    def test_quantize_tiles(self, x: NDArray[Any], data: st.DataObject) -> None:
        options = self.options(data)
        axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
        tile = data.draw(st.sampled_from([None, 1, 16, 100, 128]))
        same(dn.quantize_tiles, x, axis=axis, tile=tile, **options)
        shape = list(x.shape)
        shape[axis] = -(-shape[axis] // (tile or shape[axis]))
        name = data.draw(st.sampled_from(["amax", "scales"]))
        given = np.full(shape, 0.25, np.float32)
        if (name, options["scale"]) != ("scales", "float32") or "deepseek" in str(options["rule"]):
            same(dn.quantize_tiles, x, axis=axis, tile=tile, **options, **{name: given})

    @AMONG
    @given(large(dirty=True), st.data())
    def test_quantize_blocks(self, x: NDArray[Any], data: st.DataObject) -> None:
        block = data.draw(st.sampled_from([(128, 128), (1, 64), (7, 100), (64, 1), (None, 16), (None, None)]))
        if x.ndim > 1:
            same(dn.quantize_blocks, x, block=block, **self.options(data))

    @AMONG
    @given(
        large(dirty=True), st.sampled_from([3, 8, 10]), st.sampled_from(["linear", "stochastic"]), st.data()
    )
    def test_logfmt(self, x: NDArray[Any], bits: int, rounding: str, data: st.DataObject) -> None:
        axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
        tile = data.draw(st.sampled_from([None, 17, 128]))
        same(dn.logfmt_encode, x, bits=bits, axis=axis, tile=tile, rounding=rounding, seed=5)

    @staticmethod
    def options(data: st.DataObject) -> dict[str, Any]:
        scale = data.draw(st.sampled_from(["float32", "ue8m0", "mx", "nvfp4"]))
        rules: dict[str, list[Any]] = {
            "float32": [None, "deepgemm", "vllm", "deepseek_v3(amax_nan=skip)"],
            "nvfp4": [None, "nvfp4(candidates=(6.0, 4.0))"],
        }
        return {
            "scale": scale,
            "rule": data.draw(st.sampled_from(rules.get(scale, [None]))),
            "nonfinite": data.draw(st.sampled_from(["raise", "propagate"])) if scale != "nvfp4" else "raise",
            "rounding": data.draw(st.sampled_from([None, "stochastic", "up"])),
            "seed": 3,
        }


def test_out_inside_of_the_gaps() -> None:
    """Memory between the rows that are read may be what is written."""
    memory = np.zeros((70, 6000), np.float32)
    x = memory[:, :4000]
    x[...] = np.random.default_rng(0).standard_normal(x.shape)
    expected = dn.encode(x.copy(), FP8)
    row = memory[5, 4000:6000].view(ml_dtypes.float8_e4m3fn)
    assert dn.encode(x[:2], FP8, out=row.reshape(2, 4000)).base is not None
    np.testing.assert_array_equal(raw(row.reshape(2, 4000)), raw(expected[:2]))
    np.testing.assert_array_equal(raw(dn.encode(x, FP8)), raw(expected))


@pytest.mark.parametrize(
    ("start", "shape", "strides"),
    [
        (0, (3, 4), (4, 2)),
        (1, (3, 4), (4, 1)),
        (0, (3, 4), (-4, 1)),
        (12, (), ()),
        (0, (2, 2), (2**62, 2**62)),
        (2**63, (1,), (1,)),
        (0, (2**40, 2**40), (0, 0)),
        (0, (2,), (1, 1)),
    ],
)
def test_places_outside_of_the_memory_are_refused(start: int, shape: Any, strides: Any) -> None:
    memory, out = np.zeros(12, np.float32), np.zeros(12, np.uint8)
    with pytest.raises(ValueError, match=r"strides|shape"):
        _core.encode(
            (memory, "float32", (start, shape, strides)),
            out,
            FP8,
            "nearest_even",
            "saturate",
            "code",
            0,
        )
