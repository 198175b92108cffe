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
    all_coded = not kept.packed or kept.layout.codes_rotary
    rows = x if all_coded else x[:, :512]
    np.testing.assert_array_equal(read[:, : rows.shape[1]], scheme.read_back(rows))
    if not all_coded:
        np.testing.assert_array_equal(read[:, 512:], bfloat16(x[:, 512:]))
    bits = scheme.bits(1, rows.shape[1])
    if kept.packed and not word.startswith(("fp8_static", "nvfp4=")):  # a static scale lies elsewhere
        assert 8 * (kept.width - (0 if all_coded else 2 * 64)) == bits


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


def _latents(n: int, channels: int, seed: int) -> np.ndarray:
    """Numbers of bfloat16 of many sizes, some tiles zero or tiny."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, channels)) * np.ldexp(1.0, rng.integers(-20, 12, (n, 1)))
    x[1, :200], x[2, 64:128] = 0, 2.0**-60
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def _power_at_or_above(s: np.ndarray) -> np.ndarray:
    """Exponents as FlashMLA's tests write them: 2 to the ceil of a float32 log2, of at least 1e-4."""
    return np.ceil(np.log2(np.maximum(s, np.float32(1e-4)).astype(np.float64)).astype(np.float32)).astype(int)


@pytest.mark.parametrize("tokens", [64, 3])
def test_model1_is_what_flashmla_writes(tokens: int) -> None:
    """A page: 448 codes and 64 keys of each token, then 7 scales and a zero of each, padded to 576 bytes."""
    n = 2 * tokens
    x = _latents(n, 512, 1)
    found = CacheFormat.of("model1", 448, 64)
    records = found.write(x)
    assert found.width == 584
    pages = found.to_pages(records, tokens)
    stride = -(-tokens * 584 // 576) * 576
    expected = np.zeros((2, stride), np.uint8)
    for i in range(n):
        page, slot = divmod(i, tokens)
        for t in range(7):
            tile = x[i, 64 * t : 64 * t + 64]
            e = _power_at_or_above(np.abs(tile).max() / np.float32(448))
            codes = (tile / np.float32(2.0**e)).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
            expected[page, slot * 576 + 64 * t : slot * 576 + 64 * t + 64] = codes
            expected[page, tokens * 576 + slot * 8 + t] = e + 127
        key = x[i, 448:].astype(ml_dtypes.bfloat16).view(np.uint8)
        expected[page, slot * 576 + 448 : slot * 576 + 576] = key
    np.testing.assert_array_equal(pages, expected)
    np.testing.assert_array_equal(found.from_pages(pages, tokens), records)
    read = found.read(records, np.dtype(np.float32))
    np.testing.assert_array_equal(read[:, 448:], x[:, 448:])
    np.testing.assert_array_equal(read[1, :192], 0)


def test_v41_caches_are_what_flashmla_writes() -> None:
    """All 512 channels in codes: E4M3 with a power of two for 32, or E2M1 with an E4M3 scale for 16."""
    x = _latents(40, 512, 2)
    eight = CacheFormat.of("flashmla_v41", 448, 64)
    records = eight.write(x)
    assert eight.width == 528
    tiles = x.reshape(40, 16, 32)
    e = _power_at_or_above(np.abs(tiles).max(axis=2) / np.float32(448))
    codes = (tiles / np.ldexp(np.float32(1), e)[..., None]).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(records[:, :512], codes.reshape(40, 512).view(np.uint8))
    np.testing.assert_array_equal(records[:, 512:], e + 127)
    back = codes.astype(np.float32) * np.ldexp(np.float32(1), e)[..., None]
    np.testing.assert_array_equal(eight.read(records, np.dtype(np.float32)), back.reshape(40, 512))

    four = CacheFormat.of("flashmla_v41_fp4", 448, 64)
    records = four.write(x)
    assert four.width == 288
    tiles = x.reshape(40, 32, 16)
    scales = np.clip(np.abs(tiles).max(axis=2) / np.float32(6), 2.0**-9, 448).astype(ml_dtypes.float8_e4m3fn)
    codes = (tiles / scales.astype(np.float32)[..., None]).astype(ml_dtypes.float4_e2m1fn)
    flat = codes.reshape(40, 512).view(np.uint8) & 15
    np.testing.assert_array_equal(records[:, :256], flat[:, ::2] | flat[:, 1::2] << 4)
    np.testing.assert_array_equal(records[:, 256:], scales.view(np.uint8))
    back = codes.astype(np.float32) * scales.astype(np.float32)[..., None]
    np.testing.assert_array_equal(four.read(records, np.dtype(np.float32)), back.reshape(40, 512))


@pytest.mark.parametrize("scale", [1, 0.05])
def test_a_static_fp8_cache_is_what_vllm_writes(scale: float) -> None:
    """``concat_and_cache_mla`` with k_scale: all 576 channels as E4M3 of x / scale, saturated."""
    x = _latents(30, 576, 3)
    found = CacheFormat.of("fp8_static" if scale == 1 else f"fp8_static={scale}", 512, 64)
    records = found.write(x)
    assert records.shape == (30, 576)
    codes = np.clip(x / np.float32(scale), -448, 448).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(records, codes.view(np.uint8))
    read = found.read(records, np.dtype(np.float32))
    np.testing.assert_array_equal(read, codes.astype(np.float32) * np.float32(scale))
    np.testing.assert_array_equal(found.write(x[3:4]), records[3:4])


def test_mxfp8_and_nvfp4_records() -> None:
    """Codes, scales, keys: bytes from a writing of its own."""
    x = _latents(20, 576, 4)
    key = x[:, 512:].astype(ml_dtypes.bfloat16).view(np.uint8)
    tiles = x[:, :512].reshape(20, 16, 32)
    amax = np.abs(tiles).max(axis=2)
    e = np.where(amax > 0, np.frexp(np.where(amax > 0, amax, 1))[1] - 1 - 8, -127)
    codes = np.clip(tiles * np.ldexp(1.0, -e)[..., None], -448, 448).astype(np.float32)
    codes = codes.astype(ml_dtypes.float8_e4m3fn).reshape(20, 512).view(np.uint8)
    records = CacheFormat.of("mxfp8", 512, 64).write(x)
    np.testing.assert_array_equal(records, np.concatenate([codes, (e + 127).astype(np.uint8), key], axis=1))

    static = np.float32(0.25)
    tiles = x[:, :512].reshape(20, 32, 16)
    scales = np.minimum(np.abs(tiles).max(axis=2) / np.float32(6) * np.float32(4), 448)
    scales = scales.astype(ml_dtypes.float8_e4m3fn)
    with np.errstate(divide="ignore", over="ignore"):
        by = np.minimum(np.float32(1) / (scales.astype(np.float32) * static), np.finfo(np.float32).max)
        quotient = np.clip(tiles * by[..., None], -6, 6)
    four = quotient.astype(ml_dtypes.float4_e2m1fn).reshape(20, 512).view(np.uint8) & 15
    found = CacheFormat.of("nvfp4=0.25", 512, 64)
    records = found.write(x)
    parts = [four[:, ::2] | four[:, 1::2] << 4, scales.view(np.uint8), key]
    np.testing.assert_array_equal(records, np.concatenate(parts, axis=1))
    values = (four & 15).view(ml_dtypes.float4_e2m1fn).astype(np.float32).reshape(20, 32, 16)
    back = (values * (scales.astype(np.float32) * static)[..., None]).reshape(20, 512)
    np.testing.assert_array_equal(found.read(records, np.dtype(np.float32))[:, :512], back)


REFUSED = {
    "nvfp4": "its scale of scales is found in the numbers.*nvfp4:none",
    "nvfp4:row": "its scale of scales is found in the numbers",
    "e4m3:tensor:f32": "one scale for all tokens.*f32=0.05",
    "fp8_static=0": "found static scale '0', expected a finite number above 0",
    "fp8_static=": "found static scale ''",
    "fp8_static=nan": "found static scale 'nan'",
    "fp8_static:row": "unknown rule 'row'",
    "nvfp4=1:none": "found a scale of scales beside 'none'",
    "e4m3:1x64:mx:flashmla": "keeps f32 or ue8m0 scales",
    "mxfp8=3": "expected powers of two",
}


@pytest.mark.parametrize(("word", "message"), REFUSED.items())
def test_caches_that_cannot_be_are_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CacheFormat.of(word, 512, 64)


def test_pages_are_of_bytes() -> None:
    found = CacheFormat.of("model1", 448, 64)
    with pytest.raises(ValueError, match=r"records: found shape \(2, 583\), expected \(n, 584\)"):
        found.to_pages(np.zeros((2, 583), np.uint8), 64)
    with pytest.raises(TypeError, match="records: found dtype float32"):
        found.to_pages(np.zeros((2, 584), np.float32), 64)
    with pytest.raises(ValueError, match="tokens: found 0"):
        found.page_bytes(0)
    with pytest.raises(ValueError, match="whose tokens are numbers"):
        CacheFormat.of("bf16", 448, 64).page_bytes(64)
    assert found.to_pages(np.zeros((0, 584), np.uint8), 64).shape == (0, 37440)
