"""The forward over random configurations: what has to hold whatever the sizes, weights and tokens are.

In float64 two orders of summation differ by about 1e-15 of numbers of size 1 to 10 here; 1e-12 leaves room
for depth and is far below any real difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv3_numerics import _core, set_num_threads
from dsv3_numerics.model import MLA, Block, Config, Model, Yarn, random_weights
from dsv3_numerics.reference import model as textbook

EQUAL = 1e-12


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Small models of every kind that the forward knows."""
    groups = draw(st.sampled_from([1, 2, 3]))
    per_group = draw(st.integers(1, 4))
    kept = draw(st.integers(1, groups))
    layers = draw(st.integers(1, 2))
    yarn = st.builds(
        Yarn,
        factor=st.sampled_from([0.5, 1.0, 4.0, 40.0]),
        original_max_position_embeddings=st.sampled_from([16, 4096]),
        mscale=st.sampled_from([0.0, 0.707, 1.0]),
        mscale_all_dim=st.sampled_from([0.0, 1.0]),
    )
    return Config(
        vocab_size=23,
        hidden_size=draw(st.sampled_from([8, 33])),
        intermediate_size=draw(st.integers(1, 20)),
        moe_intermediate_size=draw(st.integers(1, 12)),
        num_hidden_layers=layers,
        num_attention_heads=draw(st.integers(1, 3)),
        kv_lora_rank=draw(st.integers(1, 12)),
        qk_nope_head_dim=draw(st.integers(1, 9)),
        qk_rope_head_dim=2 * draw(st.integers(1, 4)),
        v_head_dim=draw(st.integers(1, 9)),
        n_routed_experts=groups * per_group,
        num_experts_per_tok=draw(st.integers(1, kept * per_group)),
        n_group=groups,
        topk_group=kept,
        n_shared_experts=draw(st.integers(0, 2)),
        first_k_dense_replace=draw(st.integers(0, layers)),
        q_lora_rank=draw(st.none() | st.integers(1, 12)),
        num_nextn_predict_layers=1,
        rope_scaling=draw(st.none() | yarn),
        routed_scaling_factor=draw(st.sampled_from([1.0, 2.5])),
        norm_topk_prob=draw(st.booleans()),
    )


def tokens(config: Config, seed: int, batch: int = 2, length: int = 9) -> Any:
    return np.random.default_rng(seed).integers(0, config.vocab_size, (batch, length))


def model(config: Config, seed: int) -> Model:
    return Model(config, random_weights(config, seed=seed, dtype=np.float64), dtype=np.float64)


def close(a: Any, b: Any) -> bool:
    return bool(np.abs(a - b).max(initial=0) <= EQUAL * max(1.0, float(np.abs(b).max(initial=0))))


@given(configs(), st.integers(0, 99))
@settings(max_examples=40)
def test_core_is_the_textbook_naive_and_absorbed(config: Config, seed: int) -> None:
    ids, weights = tokens(config, seed), random_weights(config, seed=seed, dtype=np.float64)
    ours, settings_ = Model(config, weights, dtype=np.float64), config.to_dict()
    for absorbed in (False, True):
        definition = textbook.forward(ids, weights, settings_, absorbed=absorbed)
        assert close(ours.forward(ids, absorbed=absorbed), definition.logits)
        predicted = textbook.mtp(definition.hidden[:, :-1], ids[:, 1:], weights, settings_)
        assert close(ours.mtp(definition.hidden[:, :-1], ids[:, 1:]), predicted.logits)


@given(configs(), st.integers(0, 99), st.integers(1, 8))
@settings(max_examples=30)
def test_later_tokens_change_nothing(config: Config, seed: int, kept: int) -> None:
    ids, ours = tokens(config, seed), model(config, seed)
    whole = ours.forward(ids)[:, :kept]
    ids[:, kept:] = 0
    assert close(ours.forward(ids)[:, :kept], whole)


@given(configs(), st.integers(0, 99), st.lists(st.integers(1, 4), min_size=1, max_size=9), st.booleans())
@settings(max_examples=30)
def test_cache_chunks_and_single_tokens_are_the_whole(
    config: Config, seed: int, steps: list[int], absorbed: bool
) -> None:
    ids, ours = tokens(config, seed), model(config, seed)
    whole = ours.forward(ids)
    cache, at, parts = ours.new_cache(2, 9), 0, []
    for step in [*steps, 9]:
        end = min(at + step, 9)
        parts.append(ours.forward(ids[:, at:end], cache=cache, absorbed=absorbed))
        at = end
    assert close(np.concatenate(parts, axis=1), whole)
    assert close(ours.forward(ids, chunk=steps[0]), whole)


@given(configs(), st.integers(0, 99))
@settings(max_examples=30)
def test_sequences_of_a_batch_do_not_meet(config: Config, seed: int) -> None:
    """Alone, in a batch, or padded and of another length: the same logits."""
    ids, ours = tokens(config, seed, batch=3), model(config, seed)
    lengths = [9, 4, 1]
    cache = ours.new_cache(3, 12)
    together = ours.forward(ids, cache=cache, lengths=lengths)
    assert cache.lengths.tolist() == lengths
    more = tokens(config, seed + 1, batch=3, length=2)
    after = ours.forward(more, cache=cache)
    for row, length in enumerate(lengths):
        assert close(together[row, :length], ours.forward(ids[row, :length]))
        alone = ours.forward(np.concatenate([ids[row, :length], more[row]]))
        assert close(after[row], alone[length:])


@given(configs(), st.integers(0, 99))
@settings(max_examples=30)
def test_experts_may_stand_in_any_order_within_their_group(config: Config, seed: int) -> None:
    weights = random_weights(config, seed=seed, dtype=np.float64)
    rng, order = np.random.default_rng(seed), np.arange(config.n_routed_experts)
    for group in np.split(order, config.n_group):
        rng.shuffle(group)
    moved = dict(weights)
    for name in weights:
        for new, old in enumerate(order):
            if f".experts.{new}." in name:
                moved[name] = weights[name.replace(f".experts.{new}.", f".experts.{old}.")]
        if ".mlp.gate." in name:
            moved[name] = weights[name][order]
    ids = tokens(config, seed)
    assert close(
        Model(config, moved, dtype=np.float64).forward(ids),
        Model(config, weights, dtype=np.float64).forward(ids),
    )


@given(configs(), st.integers(0, 99))
@settings(max_examples=15)
def test_threads_and_levels_change_no_bit(config: Config, seed: int) -> None:
    ids, ours = tokens(config, seed, length=12), model(config, seed)
    before = _core.simd_level(), _core.get_num_threads()
    found = set()
    try:
        for level in _core.simd_levels():
            for threads in (1, 3):
                _core.set_simd_level(level)
                set_num_threads(threads)
                found.add(ours.forward(ids).tobytes())
    finally:
        _core.set_simd_level(before[0])
        set_num_threads(before[1])
    assert len(found) == 1


@given(configs(), st.integers(0, 99), st.booleans())
@settings(max_examples=30)
def test_both_layouts_of_rotary_channels(config: Config, seed: int, absorbed: bool) -> None:
    """Weights whose rotary rows are sorted into halves, read as halves, attend as the interleaved ones do."""
    prefix = "model.layers.0.self_attn."
    weights = random_weights(config, prefix, seed=seed, dtype=np.float64)
    rope, heads = config.qk_rope_head_dim, config.num_attention_heads
    halves = np.concatenate([np.arange(0, rope, 2), np.arange(1, rope, 2)])
    moved = dict(weights)
    name = "q_b_proj.weight" if "q_b_proj.weight" in weights else "q_proj.weight"
    q = weights[name].reshape(heads, config.qk_nope_head_dim + rope, -1)
    moved[name] = np.concatenate([q[:, :-rope], q[:, -rope:][:, halves]], axis=1).reshape(weights[name].shape)
    joint = weights["kv_a_proj_with_mqa.weight"]
    moved["kv_a_proj_with_mqa.weight"] = np.concatenate([joint[:-rope], joint[-rope:][halves]])
    x = np.random.default_rng(seed).normal(size=(2, 7, config.hidden_size))
    same = MLA(config, weights)(x, absorbed=absorbed)
    assert close(MLA(config.replace(rope_interleave=False), moved)(x, absorbed=absorbed), same)


@given(configs(), st.integers(0, 99))
@settings(max_examples=20)
def test_a_bfloat16_cache_is_as_good_as_bfloat16(config: Config, seed: int) -> None:
    """Latents are rounded once, to 8 bits: errors stay within a few times 2^-9 of what attention gives."""
    prefix = "model.layers.0."
    weights = random_weights(config, prefix, seed=seed, dtype=np.float64)
    block = Block(config, weights, layer=0)
    x = np.random.default_rng(seed).normal(size=(1, 6, config.hidden_size))
    from dsv3_numerics.model import Cache

    exact, coarse = (Cache(config, 1, 6, dtype=kind) for kind in (np.float64, "bfloat16"))
    a, b = block.attention(x, exact), block.attention(x, coarse)
    assert np.abs(exact.data - coarse.data.astype(np.float64)).max() <= np.abs(exact.data).max() * 2.0**-8
    assert np.abs(a - b).max() <= 0.1 * max(1.0, np.abs(a).max())
