"""The lightning indexer on codes: scores against a plain writing of them, caches, refusals."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as d3
from dsv3_numerics import Recipe
from dsv3_numerics.model import Config, Model, random_weights
from dsv3_numerics.model.index_codes import code_scores, spread
from dsv3_numerics.reference import gemm as textbook
from dsv3_numerics.rotation import hadamard

V32 = Recipe.preset("deepseek_v32")


def bf16(x: Any) -> Any:
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def matrix(size: int) -> Any:
    """The Hadamard matrix in Sylvester's order, from its definition."""
    i = np.arange(size)
    return np.array([[(-1.0) ** bin(a & b).count("1") for b in i] for a in i])


def act_quant(x: Any) -> tuple[Any, Any]:
    """V3.2's ``act_quant`` of one head: codes, and a power of two by the bits of the quotient."""
    amax = max(np.float32(np.abs(x).max()), np.float32(1e-4))
    bits = np.float32(amax * np.float32(1 / 448)).view(np.uint32)
    scale = np.float32(2.0) ** ((int(bits) >> 23) - 127 + bool(int(bits) & 0x7FFFFF))
    return np.clip(x / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn), scale


@pytest.mark.parametrize("size", [1, 2, 8, 64, 128])
def test_rotation_is_the_hadamard_matrix(size: int) -> None:
    x = np.random.default_rng(size).integers(-8, 8, (3, 2, size)).astype(np.float32)
    expected = x.astype(np.float64) @ matrix(size)
    assert (hadamard(x) == (expected.astype(np.float32) * np.float32(1 / np.sqrt(size)))).all()


def test_rotation_refuses_sizes_without_a_matrix() -> None:
    with pytest.raises(ValueError, match="found 12 channels, expected a power of two"):
        hadamard(np.ones((2, 12), np.float32))
    with pytest.raises(ValueError, match="index_head_dim: found 96"):
        spread(np.ones((2, 96), np.float32), V32)
    assert (spread(np.ones((2, 96), np.float32), V32.replace(index_rotation="none")) == 1).all()


@pytest.mark.parametrize("channels", [64, 128])
@pytest.mark.parametrize("seed", range(3))
def test_scores_by_hand(channels: int, seed: int) -> None:
    rng, heads, new, positions = np.random.default_rng(seed), 3, 2, 5
    q = bf16(rng.normal(size=(new, heads, channels)) * 2.0 ** rng.integers(-9, 9, (new, heads, 1)))
    k = bf16(rng.normal(size=(positions, channels)) * 2.0 ** rng.integers(-9, 9, (positions, 1)))
    q[0, 0], k[1] = 0, 0  # the floor of 1e-4 acts
    w = rng.normal(size=(new, heads)).astype(np.float32)
    turned_q, turned_k = spread(q, V32), spread(k, V32)
    exact = q.astype(np.float64) @ matrix(channels) / np.sqrt(channels)
    assert np.abs(turned_q - exact).max() <= 2.0**-7 * np.abs(exact).max()
    assert (turned_q == bf16(turned_q)).all()
    keys = d3.quantize(turned_k, V32.index_scheme)
    found = code_scores(turned_q, keys, w, V32)
    for t, s in np.ndindex(new, positions):
        code_k, scale_k = act_quant(turned_k[s])
        total = np.float32(0)
        for h in range(heads):
            code_q, scale_q = act_quant(turned_q[t, h])
            added = textbook.matmul_nt(code_q[None], code_k[None], accumulator="hopper_fp8")[0, 0]
            factor = w[t, h] * scale_q * np.float32(channels**-0.5)
            total = np.float32(total + max(np.float32(added), np.float32(0)) * factor)
        assert found[t, s] == np.float32(total * scale_k)


@pytest.mark.parametrize("accumulator", ["none", "float32", "exact", "hopper_fp8"])
@pytest.mark.parametrize("scheme", ["e4m3:1x128:ue8m0", "e4m3:1x128:f32", "e4m3:1x64:f32"])
def test_scores_are_near_exact_ones(accumulator: str, scheme: str) -> None:
    rng = np.random.default_rng(4)
    q, k = bf16(rng.normal(size=(4, 8, 128))), bf16(rng.normal(size=(40, 128)))
    w = np.abs(rng.normal(size=(4, 8))).astype(np.float32)
    every = None if accumulator == "none" else 128
    recipe = V32.replace(indexer=scheme, accumulator=accumulator, promote_every=every)
    found = code_scores(spread(q, recipe), d3.quantize(spread(k, recipe), recipe.index_scheme), w, recipe)
    dots = np.maximum(np.einsum("thc,sc->ths", q.astype(np.float64), k) / np.sqrt(128), 0)
    exact = np.einsum("ths,th->ts", dots, w)
    assert np.abs(found - exact).max() < 0.05 * exact.max()


def tiny(top: int) -> Model:
    """A V3.2 of two layers, random weights."""
    sizes = {"index_n_heads": 4, "index_head_dim": 64, "index_topk": top, "kv_lora_rank": 128}
    config = dataclasses.replace(Config.preset("tiny"), model_type="deepseek_v32", **sizes)
    return Model(config, random_weights(config, seed=3), dtype=np.float32)


def test_decoding_selects_as_prefill_does() -> None:
    model, ids = tiny(6), np.random.default_rng(0).integers(0, 100, (2, 24))
    whole = model.trace(ids, recipe=V32)
    cache = model.new_cache(2, 24, recipe=V32)
    assert cache.index_keys is not None
    assert cache.index_keys.dtype == np.uint8
    assert cache.index_keys.shape[-1] == 64 + 1
    model.forward(ids[:, :10], cache=cache, recipe=V32)
    seen = 0
    for t in range(10, 24):
        step = model.trace(ids[:, t : t + 1], cache=cache, recipe=V32)
        # weights_proj is in float32, whose sums depend on the number of rows by a last place
        scores, expected = step["layer0.index_scores"][:, 0], whole["layer0.index_scores"][:, t, : t + 1]
        assert np.abs(scores - expected).max() < 1e-5 * np.abs(expected).max()
        clear = whole["layer0.selection_gap"][:, t] > 1e-4 * np.abs(expected).max()
        chosen, flags = step["layer0.index_selected"][:, 0], whole["layer0.index_selected"][:, t, : t + 1]
        assert (chosen == flags)[clear].all()
        seen += clear.sum()
    assert seen > 14  # most of them


def test_all_are_selected_while_they_are_few() -> None:
    model, ids = tiny(64), np.random.default_rng(1).integers(0, 100, (1, 20))
    coded = model.forward(ids, recipe=V32)
    assert (coded == model.forward(ids, recipe=V32.replace(indexer="none"))).all()
    few = tiny(4)
    assert (few.forward(ids, recipe=V32) != few.forward(ids, recipe=V32.replace(indexer="none"))).any()


def test_what_does_not_fit_is_refused() -> None:
    model, ids = tiny(4), np.zeros((1, 8), np.int64)
    with pytest.raises(ValueError, match="for index keys, but recipe 'deepseek_v32' keeps e4m3:1x128:ue8m0"):
        model.forward(ids, cache=model.new_cache(1, 8, dtype=V32.cache_scheme), recipe=V32)
    with pytest.raises(ValueError, match="indexer: found 'e4m3:1x128:ue8m0' with accumulator 'blac"):
        Recipe.preset("blackwell_mxfp8").replace(indexer="e4m3:1x128:ue8m0")
    with pytest.raises(ValueError, match="index_rotation"):
        V32.replace(index_rotation="fourier")
    with pytest.raises(ValueError, match="indexer: found"):
        V32.replace(indexer="e4m3:128x128:f32")
    assert Recipe.from_json(V32.to_json()) == V32
    assert "rotated" in str(V32)
