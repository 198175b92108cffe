"""Vectors of block-scaled units and of CDNA3: not one bit differs, in steps and chains, at every level.

The folder is `vectors` beside this file, or the one that DSV3_VECTORS names: other vectors of the same form.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import _core, reference
from dsv3_numerics.reference.accumulators import step

FOLDER = Path(os.environ.get("DSV3_VECTORS") or Path(__file__).parent / "vectors")
FILES = {
    "mxf8f6f4": "blackwell_mxf8",
    "mxf4_block32_ue8m0": "blackwell_mxf4",
    "mxf4nvf4_block16_ue8m0": "blackwell_mxf4",
    "mxf4nvf4_block16_ue4m3": "blackwell_nvfp4",
    "cdna3_fp8": "cdna3_fp8",
}
TYPES = {
    "e4m3": "float8_e4m3fn",
    "e5m2": "float8_e5m2",
    "e3m2": "float6_e3m2fn",
    "e2m3": "float6_e2m3fn",
    "e2m1": "float4_e2m1fn",
    "fp8": "float8_e4m3fnuz",
    "bf8": "float8_e5m2fnuz",
}
Array = NDArray[Any]


class Tiles(NamedTuple):
    """Tiles of one unit and one pair of formats: codes, scales, accumulators and results."""

    formats: tuple[str, str]
    a: Array
    b: Array
    scales: tuple[Array, Array] | None
    c: Array
    d: Array


def tiles(name: str) -> Iterator[Tiles]:
    """The tiles of a file, those of a pair of formats and a length together."""
    with np.load(FOLDER / f"{name}.npz") as file:
        for prefix in ("", "chain_"):
            pairs = np.array(["|".join(line.split("|")[1:3]) for line in file[f"{prefix}meta"]])
            for pair in np.unique(pairs):
                a, b, c, d = (file[prefix + key][pairs == pair] for key in "abcd")
                scales = None
                if f"{prefix}sa" in file.files:
                    scales = file[f"{prefix}sa"][pairs == pair], file[f"{prefix}sb"][pairs == pair]
                left, right = (TYPES[kind] for kind in str(pair).split("|"))
                yield Tiles((left, right), a, b, scales, c.view(np.float32), d)


def differing(got: Array, want: Array, unit: str) -> int:
    """Results that are not the same bits; NaN of CDNA3 need only be NaN."""
    differ = got.view(np.uint32) != want
    if unit.startswith("cdna3"):
        differ &= ~(np.isnan(got) & np.isnan(want.view(np.float32)))
    return int(differ.sum())


def steps(module: Any, unit: str, t: Tiles) -> Array:
    """Each output of some tiles, step by step."""
    length, c = dn.accumulator_info(unit).products, t.c
    a, b = t.a.view(t.formats[0])[:, :, None], t.b.view(t.formats[1])[:, None]
    count = a.shape[-1] // length
    for i in range(count):
        part, scales = np.s_[..., i * length : (i + 1) * length], {}
        if t.scales is not None:
            each = t.scales[0].shape[-1] // count
            sa, sb = (x[..., i * each : (i + 1) * each] for x in t.scales)
            scales = {"a_scales": sa[:, :, None], "b_scales": sb[:, None]}
        c = module.mma_step(a[part], b[part], c, accumulator=unit, **scales)
    return c


def some(t: Tiles, every: int) -> Tiles:
    """Every so many tiles, and one at least."""
    scales = None if t.scales is None else (t.scales[0][::every], t.scales[1][::every])
    return Tiles(t.formats, t.a[::every], t.b[::every], scales, t.c[::every], t.d[::every])


@pytest.mark.parametrize("name", FILES)
def test_steps(name: str) -> None:
    found = list(tiles(name))
    assert sum(t.d.size for t in found)
    for t in found:
        assert differing(steps(dn, FILES[name], t), t.d, FILES[name]) == 0, t.formats


@pytest.mark.parametrize("name", FILES)
def test_products(name: str, product_level: str) -> None:
    """Whole tiles as products without promotion, at every level, with any codes of scales."""
    unit = FILES[name]
    for t in tiles(name):
        (count, m, k), n = t.a.shape, t.b.shape[1]
        for some_threads in (1, 2):
            before = dn.get_num_threads()
            dn.set_num_threads(some_threads)
            out = np.empty(t.c.size, np.float32)
            sides = []
            for i, (codes, rows) in enumerate([(t.a, m), (t.b, n)]):
                scales, block = None, (1, 1)
                if t.scales is not None:
                    scales, block = t.scales[i].reshape(-1), (1, k // t.scales[i].shape[-1])
                sides.append((codes.reshape(-1), t.formats[i], None, (rows, k), scales, block))
            start = np.ascontiguousarray(t.c).reshape(-1)
            _core.matmul_nt(sides[0], sides[1], (count, m, n, k), True, start, (unit, 0), (out, "float32"))
            dn.set_num_threads(before)
            assert differing(out.reshape(t.c.shape), t.d, unit) == 0, (t.formats, product_level)


@pytest.mark.parametrize("name", FILES)
def test_the_textbook(name: str) -> None:
    """The textbook on arrays, and the one on single outputs in Python's integers."""
    unit, length = FILES[name], dn.accumulator_info(FILES[name]).products
    for t in tiles(name):
        t = some(t, 5)
        assert differing(steps(reference, unit, t), t.d, unit) == 0, t.formats
        for place in [(0, 3, 5), (-1, 6, 2)]:
            q, i, j = place
            codes, value = (t.a[q, i].tolist(), t.b[q, j].tolist()), float(t.c[place])
            scales: list[list[int]] = []
            if t.scales is not None:
                scales = [t.scales[0][q, i].tolist(), t.scales[1][q, j].tolist()]
            count = len(codes[0]) // length
            for at in range(count):
                a, b = (x[at * length : (at + 1) * length] for x in codes)
                inside = [x[at * len(x) // count : (at + 1) * len(x) // count] for x in scales]
                value = step(a, t.formats[0], b, t.formats[1], value, unit, *inside)
            assert differing(np.float32([value]), t.d[place].reshape(1), unit) in (0, int(np.isnan(value)))


@pytest.mark.parametrize("name", FILES)
def test_products_of_quantized_operands(name: str) -> None:
    """The public product, on those tiles whose scales are all numbers without a sign."""
    unit = FILES[name]
    info = dn.accumulator_info(unit)
    for t in tiles(name):
        for q in range(len(t.a)):
            if t.scales is None:
                got = dn.matmul_nt(
                    t.a[q].view(t.formats[0]),
                    t.b[q].view(t.formats[1]),
                    c=t.c[q],
                    accumulator=unit,
                    promote_every=None,
                )
                assert differing(got, t.d[q], unit) == 0
                continue
            sides, kind = [], {"float8_e8m0fnu": "mx", "float8_e4m3fn": "nvfp4"}[str(info.scale)]
            for codes, fmt, scales in zip((t.a[q], t.b[q]), t.formats, t.scales, strict=True):
                block = codes.shape[-1] // scales.shape[-1]
                whole = np.float32(1) if kind == "nvfp4" else None
                sides.append(
                    dn.Quantized(
                        codes.view(fmt), scales[q].view(str(info.scale)), fmt, (block,), 1, kind, None, whole
                    )
                )
            bad = 255 if kind == "mx" else 0x7F
            if any((s[q] >= bad).any() for s in t.scales):
                with pytest.raises(ValueError, match="found byte"):
                    dn.matmul_nt(*sides, c=t.c[q], accumulator=unit, promote_every=None)
                continue
            if kind == "nvfp4":  # promoted by its global scale of 1, which begins at c only where c is zero
                want = dn.matmul_nt(*sides, accumulator=unit, promote_every=None)
                if not t.c[q].any():
                    assert differing(want, t.d[q], unit) == 0
                continue
            got = dn.matmul_nt(*sides, c=t.c[q], accumulator=unit, promote_every=None)
            assert differing(got, t.d[q], unit) == 0, (t.formats, q)
