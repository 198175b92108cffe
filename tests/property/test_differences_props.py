"""Counts of differences beside a plain NumPy twin, of every dtype, level and number of threads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dsv3_numerics import formats, set_num_threads
from dsv3_numerics.compare import ArrayComparison, compare_arrays
from dsv3_numerics.compare.kinds import as_codes, kind_of

PLAIN = [
    np.dtype(name) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "bool")
]
KINDS: list[tuple[np.dtype[Any], str | None]] = [
    *((dtype, None) for dtype in PLAIN),
    (np.dtype(ml_dtypes.bfloat16), None),
    *((info.dtype, info.name if info.dtype.kind == "u" else None) for info in formats()),
]


def textbook(a: NDArray[Any], b: NDArray[Any], fmt: str | None, tile: int) -> dict[str, Any]:
    """Count everything on whole arrays."""
    kind = kind_of(a.dtype, fmt)
    u, v = as_codes(a), as_codes(b)
    other = u != v
    x, y = kind.values(u), kind.values(v)
    nan_x, nan_y = np.isnan(x), np.isnan(y)
    if u.dtype == np.uint64 and not kind.integer:
        places = [[-(int(c) & (2**63 - 1)) if int(c) >> 63 else int(c) for c in codes] for codes in (u, v)]
    elif kind.integer:
        places = [[int(n) for n in codes.view(kind.name)] for codes in (u, v)]
    else:
        places = [kind.line(codes).tolist() for codes in (u, v)]
    gaps = [abs(p - q) for p, q in zip(*places, strict=True)]
    distance: dict[str, int] = {}
    for i in np.flatnonzero(other & ~nan_x & ~nan_y):
        n = (gaps[i] - 1).bit_length()
        name = str(gaps[i]) if gaps[i] <= 2 else f"{2 ** (n - 1) + 1}-{2**n}"
        distance[name] = distance.get(name, 0) + 1
    most = math.nan
    if not kind.integer:
        values = kind.table if kind.table is not None else np.array([np.finfo(kind.name).max], np.float64)
        most = np.abs(values[np.isfinite(values)]).max()
    cols = a.shape[-1] if a.ndim and a.shape[-1] > 1 else max(a.size, 1)
    rows = a.size // cols
    wide = -(-cols // tile)
    row, column = np.divmod(np.flatnonzero(other), cols)
    finite = np.isfinite(x) & np.isfinite(y)
    with np.errstate(all="ignore"):
        error = np.abs(y - x)[finite]
        relative = np.where(error > 0, error / np.abs(x[finite]), 0)
        if kind.numbers:
            shown = np.where(finite, np.abs(y - x), np.where(other & ~(nan_x & nan_y), np.inf, 0))
        else:
            shown = np.where(nan_x != nan_y, np.inf, np.array(gaps, np.float64))
    shown = np.where(other, shown, 0)
    per_row = [
        (r, int(other.reshape(rows, cols)[r].sum()), float(shown.reshape(rows, cols)[r].max()))
        for r in range(rows)
    ]
    worst = sorted((one for one in per_row if one[1]), key=lambda one: (-one[2], -one[1], one[0]))[:5]
    with np.errstate(over="ignore"):
        signal, noise = float((x[np.isfinite(x)] ** 2).sum()), float((error**2).sum())
    bits = np.bincount(np.bitwise_count(u ^ v)[other], minlength=1)
    return {
        "differing": int(other.sum()),
        "bits": {int(n): int(bits[n]) for n in np.flatnonzero(bits)},
        "distance": distance,
        "zeros": int((other & (x == 0) & (y == 0)).sum()),
        "nan_a": int((other & nan_x & ~nan_y).sum()),
        "nan_b": int((other & nan_y & ~nan_x).sum()),
        "nan_payloads": int((other & nan_x & nan_y).sum()),
        "saturated_a": int((other & (np.abs(x) == most)).sum()),
        "saturated_b": int((other & (np.abs(y) == most)).sum()),
        "first": None if not other.any() else tuple(int(i) for i in np.argwhere(other.reshape(a.shape))[0]),
        "rows": len(set(row.tolist())),
        "tiles": len(set((row * wide + column // tile).tolist())),
        "blocks": len(set((row // tile * wide + column // tile).tolist())),
        "worst_rows": worst,
        "max_abs": float(error.max(initial=0)) if kind.numbers else None,
        "max_rel": float(relative.max(initial=0)) if kind.numbers else None,
        "signal_and_noise": (signal, noise) if kind.numbers else None,
    }


def held(found: ArrayComparison, expected: dict[str, Any]) -> None:
    sums = expected.pop("signal_and_noise")
    assert {name: getattr(found, name) for name in expected} == expected
    assert sum(map(sum, found.tile_map)) == found.differing
    if sums is None:
        assert found.sqnr_db is None
    elif sums[1] > 0 and sums[0] > 0 and math.isfinite(sums[0]) and math.isfinite(sums[1]):
        # Another order of sums: 12 digits of a sum of squares, in decibels.
        assert found.sqnr_db == pytest.approx(10 * math.log10(sums[0] / sums[1]), abs=1e-9)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[NDArray[Any], NDArray[Any], str | None, int]:
    """Arrays of any kind, shape and strides that differ in some places; specials among them."""
    dtype, fmt = draw(st.sampled_from(KINDS))
    shape = draw(
        st.one_of(
            st.tuples(st.integers(0, 700)),
            st.tuples(st.integers(1, 9), st.integers(1, 300)),
            st.tuples(st.integers(1, 400), st.integers(1, 4)),
            st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(0, 70)),
            st.just(()),
        )
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    width = dtype.itemsize
    size = math.prod(shape)
    u = (
        rng.integers(0, 2 ** (8 * width), size, f"u{width}", endpoint=False)
        if width < 8
        else rng.integers(0, 2**63, size, np.uint64) << np.uint64(draw(st.integers(0, 1)))
    )
    if dtype.kind == "f" or dtype.name == "bfloat16":  # numbers that are near each other, and specials
        special = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1, 1e-300], np.float64)
        with np.errstate(all="ignore"):
            some = special.astype(dtype).view(u.dtype)
        u = np.where(rng.random(size) < 0.2, rng.choice(some, size), u)
    if dtype.kind == "b":
        u &= np.uint8(1)
    share = draw(st.sampled_from([0.0, 0.01, 0.3, 1.0]))
    flips = rng.integers(0, 256 if dtype.kind != "b" else 2, size).astype(u.dtype)
    if draw(st.booleans()):
        flips <<= u.dtype.type(8 * width - 8 if dtype.kind != "b" else 0)
    v = np.where(rng.random(size) < share, u ^ flips, u)
    a, b = (np.ascontiguousarray(bits).view(dtype).reshape(shape) for bits in (u, v))
    if draw(st.booleans()) and a.ndim:
        order = draw(st.permutations(range(a.ndim)))
        a = a.transpose(order).copy().transpose(np.argsort(order))
    if draw(st.booleans()) and width in (2, 4, 8) and dtype.kind in "fiu" and fmt is None:
        b = b.astype(b.dtype.newbyteorder())
    return a, b, fmt, draw(st.sampled_from([1, 2, 16, 63, 128, 1000]))


@pytest.mark.usefixtures("simd_level")
class TestCounts:
    """One class, so that each SIMD level is set once for all examples."""

    @settings(deadline=None)
    @given(pairs())
    def test_are_the_textbook_s(self, pair: tuple[NDArray[Any], NDArray[Any], str | None, int]) -> None:
        a, b, fmt, tile = pair
        held(compare_arrays(a, b, fmt=fmt, tile=tile), textbook(a, b, fmt, tile))


@pytest.mark.parametrize("shape", [(600, 513), (1, 300001), (150000, 2), (300001,)])
@pytest.mark.parametrize("share", [0.001, 1.0])
def test_any_number_of_threads_gives_the_same_bits(
    shape: tuple[int, ...], share: float, threads: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal(shape).astype(np.float32)
    b = np.where(rng.random(shape) < share, a + rng.standard_normal(shape).astype(np.float32), a)
    a.reshape(-1)[7] = np.nan
    found = compare_arrays(a, b)
    held(found, textbook(a, b, None, 128))
    np.save(tmp_path / "a.npy", np.asfortranarray(a))
    set_num_threads(1)
    strided = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert compare_arrays(strided, b).to_dict() == found.to_dict()
