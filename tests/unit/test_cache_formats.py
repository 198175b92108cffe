"""Records of the latent cache: the bytes of each scheme, and what is read back."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from dsv3_numerics import Scheme
from dsv3_numerics.model.cache_formats import CacheFormat
from scheme_words import CACHES
from steps import bfloat16


@pytest.mark.parametrize("word", [word for word in CACHES if word != "none"])
def test_a_cache_keeps_what_its_scheme_leaves(word: str) -> None:
    """Latents are those of the scheme, keys of bfloat16 where tokens are bytes; bytes are counted."""
    x = np.random.default_rng(0).standard_normal((7, 512 + 64)).astype(np.float32)
    kept = CacheFormat.of(word, 512, 64)
    records = kept.write(x)
    assert records.shape == (7, kept.width)
    read, scheme = kept.read(records, np.dtype(np.float32)), Scheme.parse(word)
    rows = x if not kept.packed else x[:, :512]
    np.testing.assert_array_equal(read[:, : rows.shape[1]], scheme.read_back(rows))
    if kept.packed:
        np.testing.assert_array_equal(read[:, 512:], bfloat16(x[:, 512:]))
        assert 8 * (kept.width - 2 * 64) == scheme.bits(1, 512)


def test_fp8_ds_mla_is_what_vllm_writes() -> None:
    """Codes of x / max(amax / 448, FLT_MIN), four such scales in float32, the key in bfloat16."""
    rng = np.random.default_rng(5)
    powers = np.ldexp(1.0, rng.integers(-140, 60, (40, 1)))
    x = (rng.standard_normal((40, 576)) * powers).astype(ml_dtypes.bfloat16).astype(np.float32)
    x[3, :128], x[4, 128:256] = 0, np.float32(2.0**-130)
    found = CacheFormat.of("fp8_ds_mla", 512, 64)
    records = found.write(x)
    assert records.shape == (40, 656)
    tiles = x[:, :512].reshape(40, 4, 128)
    amax = np.abs(tiles).max(axis=2)
    scales = np.maximum(amax / np.float32(448), np.finfo(np.float32).tiny)
    codes = np.clip(tiles / scales[..., None], -448, 448).astype(ml_dtypes.float8_e4m3fn)
    key = x[:, 512:].astype(ml_dtypes.bfloat16)
    parts = [codes.reshape(40, 512), scales, key]
    expected = np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in parts], axis=1)
    assert np.array_equal(records, expected)
    assert np.array_equal(found.read(records, np.dtype(np.float32))[:, 512:], x[:, 512:])
