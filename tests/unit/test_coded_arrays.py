"""`Quantized` and `LogFmt` as arrays: what NumPy makes of them, parts, equality, tables."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dsv3_numerics as d3
from dsv3_numerics import LogFmt, Quantized, quantize


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


KINDS = ["e4m3:1x128:f32", "e4m3:32x64:ue8m0", "mxfp4", "nvfp4", "int8:row", "e5m6:col:f32", "logfmt8:1x16"]


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_sees_the_numbers(kind: str) -> None:
    q, numbers = quantize(normal(70, 200), kind), quantize(normal(70, 200), kind).dequantize()
    np.testing.assert_array_equal(np.asarray(q), numbers)
    np.testing.assert_allclose(q, numbers)
    np.testing.assert_array_equal(np.asarray(q, np.float64), q.dequantize(np.float64))
    np.testing.assert_array_equal(np.array(q, np.float16), numbers.astype(np.float16))
    assert (q.shape, q.ndim, q.size, len(q), q.dtype) == ((70, 200), 2, 14000, 70, np.asarray(q).dtype)
    np.testing.assert_array_equal(np.ones((1, 70), np.float32) @ q, np.ones((1, 70), np.float32) @ numbers)
    with pytest.raises(ValueError, match="copy: found False"):
        np.asarray(q, copy=False)


@pytest.mark.parametrize("kind", KINDS)
def test_saving_by_numpy_keeps_the_numbers_and_pickles_nothing(kind: str) -> None:
    q, file = quantize(normal(6, 64), kind), io.BytesIO()
    np.save(file, q, allow_pickle=False)  # type: ignore[arg-type]
    file.seek(0)
    np.testing.assert_array_equal(np.load(file, allow_pickle=False), q.dequantize())


@pytest.mark.parametrize("kind", KINDS)
def test_equality_is_of_content(kind: str, tmp_path: Path) -> None:
    q, same = quantize(normal(6, 64), kind), quantize(normal(6, 64), kind)
    assert q.equals(q)
    assert q.equals(same)
    assert not q.equals(quantize(normal(6, 64) * 1.1, kind))
    assert not q.equals(q.dequantize())
    assert not q.equals(None)
    q.save(tmp_path / "q.npz")
    assert q.equals(type(q).load(tmp_path / "q.npz"))
    flipped = q.codes.copy()
    flipped.view(np.uint8).reshape(-1)[0] ^= 1
    assert not q.equals(replace(q, codes=flipped))


def test_scales_and_groups_count_for_equality() -> None:
    q = quantize(np.zeros((4, 64), np.float32), "e4m3:1x32:ue8m0")
    assert not q.equals(quantize(np.zeros((4, 64), np.float32), "mxfp8"))
    assert q.equals(replace(q, rule=None))  # who made the scales does not
    log = quantize(normal(2, 32), "logfmt8:1x16")
    assert not log.equals(quantize(normal(2, 32), "logfmt9:1x16"))
    assert log.equals(replace(log, rounding="log"))


@st.composite
def parts(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """A tensor in codes, its numbers, and an index that cuts no group."""
    kind = draw(
        st.sampled_from(["e4m3:1x16:f32", "mxfp4", "nvfp4", "logfmt8:1x16", "e4m3:8x16:ue8m0", "int4:16x1"])
    )
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=2, max_size=3)))
    q = quantize(normal(*shape), kind)
    index: list[Any] = []
    for size, length in zip(q._groups, shape, strict=True):
        grouped = size > 1 or kind in ("int4:16x1",)
        if grouped:
            start = draw(st.integers(0, length // size)) * size
            stop = draw(st.sampled_from([None, length, *range(start, length + 1, size)]))
            index.append(slice(start, stop))
        else:
            at = st.integers(-length, length - 1)
            cut = st.builds(slice, at, at, st.sampled_from([None, 1, 2, -1]))
            index.append(draw(st.one_of(at, cut)))
    if draw(st.booleans()):
        while index and index[-1] == slice(0, None):
            index.pop()
    return q, q.dequantize(), tuple(index)


@given(parts())
def test_a_part_means_what_the_part_of_the_numbers_is(drawn: tuple[Any, Any, Any]) -> None:
    q, numbers, index = drawn
    if q.axis is None and any(isinstance(part, int) for part in index[max(q.ndim - 2, 0) :]):
        with pytest.raises(ValueError, match="expected a slice"):
            q[index]
        return
    part = q[index]
    np.testing.assert_array_equal(part.dequantize(), numbers[index])
    np.testing.assert_array_equal(part.expanded_scales(), q.expanded_scales()[index])
    assert part.shape == numbers[index].shape


def test_rows_by_an_array() -> None:
    for kind in ("nvfp4", "logfmt8:1x16"):
        q = quantize(normal(6, 64), kind)
        np.testing.assert_array_equal(q[[4, 1, 1]].dequantize(), q.dequantize()[[4, 1, 1]])
        np.testing.assert_array_equal(q[np.arange(6) > 3].dequantize(), q.dequantize()[4:])
        np.testing.assert_array_equal(q[...].dequantize(), q.dequantize())
        assert [row.shape for row in q] == [(64,)] * 6


def test_parts_with_escaped_tiles() -> None:
    x = normal(6, 100)
    x[1, 20], x[4, 99], x[4, 3] = np.inf, np.nan, np.inf
    q = d3.logfmt_encode(x, tile=16, nonfinite="escape")
    for index in np.s_[:, 16:], np.s_[1], np.s_[2:4], np.s_[4:, 96:], np.s_[[4, 1]], np.s_[:0]:
        np.testing.assert_array_equal(q[index].dequantize(), q.dequantize()[index])
    assert q[2:4].escaped is None


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (np.s_[:, 5:], ValueError, "on axis 1, expected a step of 1 from a multiple of 16"),
        (np.s_[:, :24], ValueError, "multiple of 16 or the end, 60"),
        (np.s_[:, ::2], ValueError, "step of 1"),
        (np.s_[:, 3], ValueError, "found 3 on axis 1, which has groups; expected a slice"),
        (np.s_[:, [1, 2]], ValueError, "expected a slice of"),
        (6, IndexError, "out of bounds"),
        (np.s_[0, 0, 0], IndexError, "3 parts for 2 axes"),
        (np.s_[None], IndexError, "expected integers, slices"),
        (True, IndexError, "expected integers, slices"),
        (np.s_[..., ...], IndexError, "2 parts"),
        (np.s_[[[0]]], IndexError, "one axis"),
        (np.s_[0.5], (IndexError, TypeError), "indices|integer"),
    ],
)
@pytest.mark.parametrize("kind", ["e4m3:1x16:f32", "logfmt8:1x16"])
def test_parts_that_cut_groups(kind: str, index: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        quantize(normal(6, 60), kind)[index]


@pytest.mark.parametrize("kind", ["e4m3:1x16:f32", "e4m3:8x16:f32", "nvfp4"])
def test_the_transpose_is_the_same_numbers(kind: str) -> None:
    q = quantize(normal(6, 60), kind)
    np.testing.assert_array_equal(q.T.dequantize(), q.dequantize().T)
    assert q.T.T.equals(q)


def test_the_transpose_of_a_stack() -> None:
    tiles = d3.quantize_tiles(normal(2, 3, 32), tile=16)
    np.testing.assert_array_equal(tiles.T.dequantize(), tiles.dequantize().T)
    with pytest.raises(ValueError, match="T: found blocks"):
        _ = d3.quantize_blocks(normal(2, 3, 32)).T


@pytest.mark.parametrize("kind", KINDS)
def test_tables_for_notebooks(kind: str) -> None:
    table = quantize(normal(6, 64), kind)._repr_html_()
    assert table.startswith("<table><caption>")
    assert "(6, 64)" in table
    assert "<th>bits per element</th>" in table


@pytest.mark.parametrize("value", [np.float32([1, 2]), np.nan, np.inf, -1.0, 1e39, "1", True, [[1.0]]])
def test_a_global_scale_is_one_number(value: Any) -> None:
    q = quantize(normal(6, 64), "nvfp4")
    with pytest.raises((TypeError, ValueError), match="global_scale: found"):
        replace(q, global_scale=value)


def test_the_function_and_the_method_of_logfmt_agree() -> None:
    q = quantize(normal(6, 64), "logfmt8:1x16")
    for options in {"dtype": np.float64}, {"precision": "quick"}, {"out": np.empty((6, 64), np.float32)}:
        found, method = d3.logfmt_decode(q, **options), q.dequantize(**options)  # type: ignore[call-overload]
        np.testing.assert_array_equal(found, method)
    assert isinstance(q, LogFmt)
    assert isinstance(quantize(normal(6, 64), "mxfp4"), Quantized)
