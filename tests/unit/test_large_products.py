"""Products past what a level keeps in its caches and registers at a time: the same bytes at every level."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import _core

FEW = (1, 3, 16, 17, 32)
MANY = (33, 40, 48, 49, 64, 65, 96, 130, 200)
PAST = (520, 600)
DEPTHS = (0, 1, 31, 64, 130, 1000, 1024, 1056, 2100, 3000)
INTERVALS = (32, 96, 128, 128, 256, 1056, 2048, None)


def draw(seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Both sides and all options, drawn together."""
    rng = np.random.default_rng(seed)
    m, n = (int(rng.choice([*FEW, *MANY, *MANY])) for _ in range(2))
    if seed % 4 == 0:
        m = int(rng.choice(PAST))
    if seed % 4 == 1:
        n = int(rng.choice(PAST))
    k, every = int(rng.choice(DEPTHS)), INTERVALS[rng.integers(len(INTERVALS))]
    batch = (2,) if seed % 7 == 0 else ()
    x, w = (rng.standard_normal((*batch, rows, k)).astype(np.float32) for rows in (m, n))
    a: Any
    b: Any
    if every in (128, 256) and k and rng.random() < 0.7:
        a, b = dn.quantize_tiles(x), dn.quantize_blocks(w)
    else:
        a, b = dn.encode(x * 16, "float8_e4m3fn"), dn.encode(w, "float8_e5m2")
    c = None
    if rng.random() < 0.5:
        c = rng.standard_normal((*batch, m, n)).astype(np.float32)
        c[..., 0, :] = 1e-40
        c[..., -1, -1] = np.nan
    dtype = ml_dtypes.bfloat16 if rng.random() < 0.5 else np.float32
    return a, b, {"c": c, "promote_every": every, "dtype": dtype}


@pytest.mark.parametrize("seed", range(40))
def test_every_level_and_thread_count_gives_the_bytes_of_the_first(seed: int) -> None:
    a, b, options = draw(seed)
    level, threads = _core.simd_level(), _core.get_num_threads()
    results: list[NDArray[Any]] = []
    try:
        for at in _core.simd_levels():
            for count in (1, 2):
                _core.set_simd_level(at)
                _core.set_num_threads(count)
                results.append(dn.matmul_nt(a, b, accumulator="float32", **options).view(np.uint8))
    finally:
        _core.set_simd_level(level)
        _core.set_num_threads(threads)
    for found in results[1:]:
        np.testing.assert_array_equal(found, results[0])
