"""Sums of errors: their one order of additions, at every level and with any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv3_numerics import Scheme, _core, set_num_threads
from dsv3_numerics.schemes import CodedSlab
from dsv3_numerics.study.metrics import FIELDS, sums_of

RUN, WIDE = 65536, 8
Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def state() -> Iterator[None]:
    """Put level and threads back."""
    level, threads = _core.simd_level(), _core.get_num_threads()
    yield
    _core.set_simd_level(level)
    set_num_threads(threads)


def total(terms: Array) -> float:
    """Sum in the order that is promised: lanes of a run, then runs."""
    result = 0.0
    for start in range(0, terms.size, RUN):
        run = terms[start : start + RUN]
        lanes = np.zeros(WIDE)
        for i in range(0, run.size, WIDE):
            part = run[i : i + WIDE]
            lanes[: part.size] += part
        inside = 0.0
        for lane in lanes:
            inside += lane
        result += inside
    return float(result)


def textbook(x: Array, y: Array) -> dict[str, Any]:
    """All figures by plain NumPy."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    e, some = y - x, x != 0
    relative = np.where(some, e / np.where(some, x, 1), 0)
    octave = (x.astype(np.float32).view(np.uint32) >> 23 & 0xFF).astype(int)
    histogram = np.zeros((256, 3))
    for o in np.unique(octave[some]):
        here = some & (octave == o)
        histogram[o] = here.sum(), total(np.where(here, relative**2, 0)), total(np.where(here, e * e, 0))
    return {
        "count": x.size,
        "sum_x2": total(x * x),
        "sum_e2": total(e * e),
        "sum_xy": total(x * y),
        "sum_y2": total(y * y),
        "sum_e": total(e),
        "sum_abs_x": total(np.abs(x)),
        "max_abs_error": float(np.abs(e).max(initial=0)),
        "max_rel_error": float(np.abs(relative).max(initial=0)),
        "underflows": int((some & (y == 0)).sum()),
        "histogram": histogram,
    }


def agree(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 63, 64, 65, 1000, RUN, RUN + 1, 2 * RUN + 77])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_sums_are_those_of_the_textbook(size: int, dtype: str) -> None:
    if size > RUN + 1 and dtype in ("float64", "float16"):
        pytest.skip("one order for all")
    rng = np.random.default_rng(size)
    x = (rng.normal(size=size) * np.exp2(rng.integers(-12, 4, size))).astype(dtype)
    x[rng.random(size) < 0.05] = 0
    y = x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    expected = textbook(x, y)
    raw = x if dtype in ("float32", "float64") else x.view(np.uint16)
    for level in _core.simd_levels():
        for threads in (1, 3):
            _core.set_simd_level(level)
            set_num_threads(threads)
            agree(_core.error_stats((raw, dtype), y), expected)


def test_numbers_that_are_none() -> None:
    x = np.float32([1, np.nan, np.inf, 0, -0.0, 1e-45, 3])
    y = np.float32([np.inf, 1, np.inf, 5, 0, 0, np.nan])
    for level in _core.simd_levels():
        _core.set_simd_level(level)
        found = _core.error_stats((x, "float32"), y)
        assert found["max_abs_error"] == found["max_rel_error"] == np.inf
        assert np.isnan(found["sum_e"])
        assert found["underflows"] == 1
        assert found["histogram"][:, 0].sum() == 5


SPELLINGS = {
    "e4m3": (448.0, 16.0),
    "e4m3:1x128:f32": (448.0, 16.0),
    "e4m3:col:f32": (448.0, 16.0),
    "e4m3:3x5:f32": (448.0, 16.0),
    "int8:1x16": (127.0, 0.5),
    "mxfp4": (6.0, 1.0),
    "e5m6:1x128:ue8m0": (65024.0, 256.0),
}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_clipped_elements_are_counted_in_the_same_pass(data: st.DataObject) -> None:
    spelling = data.draw(st.sampled_from(sorted(SPELLINGS)))
    rows, cols = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 300))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    x = rng.normal(size=(rows, cols)).astype(data.draw(st.sampled_from(["float32", "float64"])))
    if spelling == "e4m3":
        x *= 400
    if spelling == "mxfp4" and cols % 32:
        cols = max(cols // 32 * 32, 32)
        x = np.resize(x, (rows, cols))
    approximation = Scheme.parse(spelling).approximate(x)
    coded = approximation.saturated
    assert isinstance(coded, CodedSlab)
    # Scales that clip more: a fraction of what they were.
    coded = coded._replace(scales=coded.scales * np.float32(data.draw(st.sampled_from([1, 0.5, 0.03]))))
    raw, top, half = x.reshape(-1), *SPELLINGS[spelling]
    found = set()
    for level in _core.simd_levels():
        _core.set_simd_level(level)
        alone = _core.count_saturated((raw, x.dtype.name), coded)
        row, _ = sums_of(x, approximation.values, coded)
        assert row[FIELDS.index("saturated")] == alone
        found.add(alone)
    assert len(found) == 1
    codes_at_top = _tops(coded)
    wide = _each(coded)
    beyond = np.abs(x.astype(np.float32).astype(np.float64)) > (top + half) * wide
    assert found == {int((beyond & codes_at_top).sum())}


def _each(q: CodedSlab) -> Array:
    _, rows, cols, high, wide = q.layout
    scales = q.scales.reshape(-(-rows // high), -(-cols // wide)).astype(np.float64)
    return np.repeat(np.repeat(scales, high, 0), wide, 1)[:rows, :cols]


def _tops(q: CodedSlab) -> Array:
    """Elements whose code is the largest number of its sign."""
    from dsv3_numerics import decode, format_info

    info = format_info(q.format)
    values = decode(q.codes.view(info.dtype), fmt=q.format)
    return (np.abs(values) == info.max).reshape(q.layout[1:3])
