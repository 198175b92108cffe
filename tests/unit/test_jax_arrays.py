"""Arrays of JAX go in and come out; skipped where jax is not installed (no test needs it)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dsv3_numerics as d3

jax: Any = pytest.importorskip("jax")
X = np.random.default_rng(0).normal(size=(4, 256)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_numbers_of_any_dtype_are_taken(dtype: str) -> None:
    given = jax.numpy.asarray(X).astype(dtype)
    assert d3.quantize_tiles(given).equals(d3.quantize_tiles(np.asarray(given)))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz"])
def test_codes_go_both_ways(name: str) -> None:
    codes = d3.encode(X, getattr(jax.numpy, name))
    theirs = jax.numpy.asarray(codes)
    assert theirs.dtype.name == name
    assert (np.asarray(theirs).view(np.uint8) == codes.view(np.uint8)).all()
    assert (d3.decode(theirs) == d3.decode(codes)).all()
    assert (np.asarray(theirs.astype("float32")) == d3.decode(codes, dtype="float32")).all()
