"""The model's parts: configurations, the gate, the cache, traces, generation, routing, memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest

from dsv3_numerics import quantize_blocks
from dsv3_numerics.model import (
    MLA,
    Cache,
    Config,
    Gate,
    Model,
    MoE,
    Sampler,
    random_weights,
    stream,
    traffic,
    update_bias,
)

TINY = Config.preset("tiny")


@pytest.fixture(scope="module")
def tiny() -> Model:
    return Model(TINY, random_weights(TINY), dtype=np.float64)


# --- Configurations -------------------------------------------------------------------------------------


def test_published_config_is_the_preset() -> None:
    published = Path(__file__).parents[1] / "golden" / "tiny_v3" / "config.json"
    assert Config.from_json(published) == TINY
    assert Config.from_json(published.parent) == TINY
    assert Config.from_json(json.loads(published.read_text())) == TINY


def test_config_survives_json() -> None:
    for name in ("tiny", "deepseek_v3"):
        config = Config.preset(name)
        assert Config.from_json(json.loads(json.dumps(config.to_dict()))) == config


def test_softmax_scale_and_cache_of_the_released_model() -> None:
    config = Config.preset("deepseek_v3")
    assert config.softmax_scale == pytest.approx(0.1352337789, abs=1e-10)  # ten digits are published
    assert config.cache_width == 576
    assert Cache(config, 1, 1, dtype=ml_dtypes.bfloat16).bytes_per_token == 70272


def test_every_field_is_checked() -> None:
    """A field set to nonsense is refused by name."""
    for field in fields(Config):
        if field.name in ("rope_scaling", "norm_topk_prob", "eos_token_id"):
            continue
        with pytest.raises(ValueError, match=field.name):
            TINY.replace(**{field.name: -1})


# --- The gate -------------------------------------------------------------------------------------------


def gate_of(logits: Any, bias: Any, **changes: Any) -> tuple[Any, Any, Any]:
    """Route tokens by given logits: the gate's matrix is the identity."""
    experts = np.shape(logits)[-1]
    config = TINY.replace(n_routed_experts=experts, hidden_size=experts, **changes)
    gate = Gate(config, {"weight": np.eye(experts), "e_score_correction_bias": np.asarray(bias, float)})
    routing = gate(np.asarray(logits, float))
    return routing.indices, routing.weights, routing.gap


def test_lower_index_wins_ties() -> None:
    indices, weights, gap = gate_of(
        np.zeros((1, 8)), np.zeros(8), n_group=4, topk_group=2, num_experts_per_tok=3
    )
    assert indices.tolist() == [[0, 1, 2]]
    assert weights[0] == pytest.approx([2.5 / 3] * 3, rel=1e-15)  # two roundings
    assert gap.tolist() == [0.0]


def test_bias_chooses_but_does_not_weigh() -> None:
    bias = [0, 0, 0, 5]
    indices, weights, _ = gate_of(
        [[3.0, 2, 1, 0]], bias, n_group=1, topk_group=1, num_experts_per_tok=2, norm_topk_prob=False
    )
    assert indices.tolist() == [[3, 0]]
    assert weights[0] == pytest.approx([2.5 * 0.5, 2.5 / (1 + np.exp(-3.0))], rel=1e-15)  # two roundings


def test_negative_scores_do_not_let_masked_groups_in() -> None:
    """With -2 as bias every biased score is negative: where masked ones count 0, a masked expert wins."""
    settings = {"n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}
    logits, bias = [[1.0, 1, 0, 0]], [-2.0] * 4
    assert gate_of(logits, bias, **settings)[0].tolist() == [[0, 1]]
    config = TINY.replace(n_routed_experts=4, hidden_size=4, **settings)
    weights = {"weight": np.eye(4), "e_score_correction_bias": np.array(bias)}
    first_release = Gate(config, weights, group_mask_value=0.0)(np.array(logits))
    assert first_release.indices.tolist() == [[2, 3]]


def test_gate_against_brute_force(tiny: Model) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, TINY.hidden_size))
    weights = random_weights(TINY, "model.layers.1.mlp.gate.", dtype=np.float64)
    routing = Gate(TINY, weights)(x)
    scores = 1 / (1 + np.exp(-(x @ weights["weight"].T)))
    biased = scores + weights["e_score_correction_bias"]
    for token in range(len(x)):
        groups = biased[token].reshape(TINY.n_group, -1)
        best = sorted(range(TINY.n_group), key=lambda g: -np.sort(groups[g])[-2:].sum())[: TINY.topk_group]
        per_group = groups.shape[1]
        allowed = [e for e in range(TINY.n_routed_experts) if e // per_group in best]
        chosen = sorted(allowed, key=lambda e: -biased[token, e])[: TINY.num_experts_per_tok]
        assert routing.indices[token].tolist() == chosen


def test_gap_is_what_flips_the_choice() -> None:
    """Moving a score by less than the gap changes no set of experts; moving the closest by more does."""
    rng = np.random.default_rng(1)
    settings = {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 3}
    flips = 0
    for _ in range(40):
        logits, bias = rng.normal(size=(1, 12)), rng.normal(size=12) * 0.1
        indices, _, gap = gate_of(logits, bias, **settings)
        for expert in range(12):
            for factor in (-0.999, 0.999, -1.001, 1.001):
                moved = bias.copy()
                moved[expert] += factor * gap[0]
                same = set(gate_of(logits, moved, **settings)[0][0]) == set(indices[0])
                assert same or abs(factor) > 1
                flips += not same
    assert flips >= 40


# --- Layers and weights ---------------------------------------------------------------------------------


def test_weights_may_be_of_any_kind(tiny: Model) -> None:
    """bfloat16, float16 and FP8 weights act as the numbers that they stand for."""
    prefix = "model.layers.0.self_attn."
    weights = random_weights(TINY, prefix)
    x = np.random.default_rng(0).normal(size=(3, TINY.hidden_size))
    for make in (
        lambda w: w.astype(ml_dtypes.bfloat16),
        lambda w: w.astype(np.float16),
        lambda w: quantize_blocks(w) if w.ndim == 2 else w,
        lambda w: quantize_blocks(w, scale="ue8m0", block=(32, 48)) if w.ndim == 2 else w,
    ):
        stored = {name: make(w) for name, w in weights.items()}
        plain = {
            name: w.dequantize(np.float64) if hasattr(w, "dequantize") else w.astype(np.float64)
            for name, w in stored.items()
        }
        assert np.array_equal(MLA(TINY, stored)(x), MLA(TINY, plain)(x))


def test_experts_that_no_token_goes_to_are_not_looked_at() -> None:
    config = TINY.replace(n_group=1, topk_group=1, num_experts_per_tok=1)
    weights: dict[str, Any] = dict(random_weights(config, "model.layers.1.mlp."))
    weights["gate.e_score_correction_bias"] = np.arange(24.0)

    class Watched(dict[str, Any]):
        seen: ClassVar[set[str]] = set()

        def __getitem__(self, name: str) -> Any:
            self.seen.add(name)
            return super().__getitem__(name)

    watched = Watched(weights)
    layer = MoE(config, watched)
    watched.seen.clear()
    layer(np.ones((2, config.hidden_size), np.float32))
    assert {name.split(".")[1] for name in watched.seen if name.startswith("experts.")} == {"23"}


def test_probabilities_add_up(tiny: Model) -> None:
    for absorbed in (False, True):
        probs = tiny.trace([[1, 2, 3, 4, 5]], ["layer1.probs"], absorbed=absorbed)["layer1.probs"]
        assert probs.shape == (1, 4, 5, 5)
        assert np.abs(probs.sum(axis=-1) - 1).max() < 1e-14  # float64 rounding of five terms
        assert not probs[..., np.triu_indices(5, 1)[0], np.triu_indices(5, 1)[1]].any()


def test_trace_gives_exactly_what_is_named(tiny: Model) -> None:
    assert list(tiny.trace([1, 2], "layer2.topk_idx")) == ["layer2.topk_idx"]
    everything = tiny.trace([[1, 2, 3]])
    assert set(everything) == {name for name in tiny.trace_names() if not name.endswith("probs")}
    assert np.array_equal(everything["logits"], tiny.forward([[1, 2, 3]]))


# --- Caches and generation ------------------------------------------------------------------------------


def test_failed_forward_leaves_the_cache_as_it_was(tiny: Model) -> None:
    cache = tiny.new_cache(1, 8)
    tiny.forward([[1, 2, 3]], cache=cache)

    def stop(name: str, done: float, total: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.forward([[4, 5]], cache=cache, progress=stop)
    assert cache.lengths.tolist() == [3]
    again = tiny.forward([[4, 5]], cache=cache)
    assert np.abs(again - tiny.forward([[1, 2, 3, 4, 5]])[:, 3:]).max() < 1e-12  # another order of summation


def test_speculation_gives_the_greedy_tokens(tiny: Model) -> None:
    for seed in range(3):
        prompt = np.random.default_rng(seed).integers(0, TINY.vocab_size, 6)
        plain = tiny.generate(prompt, max_new_tokens=24, eos=-1)
        fast = tiny.generate(prompt, max_new_tokens=24, eos=-1, speculative=True)
        assert plain.tokens.tolist() == fast.tokens.tolist()
        assert plain.speculation is None
        assert fast.speculation is not None
        assert fast.speculation.drafted == fast.speculation.steps > 0


def test_right_drafts_are_accepted() -> None:
    """A head that always prefers one token makes every draft right: two tokens for each forward."""
    weights = random_weights(TINY)
    weights["lm_head.weight"] = np.zeros_like(weights["lm_head.weight"])
    model = Model(TINY, weights)
    done = model.generate([5], max_new_tokens=21, eos=-1, speculative=True)
    log = done.speculation
    assert done.tokens.tolist() == [0] * 21  # of equal logits the lowest id wins
    assert log is not None
    assert (log.steps, log.drafted, log.accepted, log.acceptance) == (10, 10, 10, 1.0)
    assert log.expected_speedup == 2 / (1 + log.cost)


def test_generation_stops_at_the_end_token(tiny: Model) -> None:
    free = tiny.generate([[3, 1], [4, 1]], max_new_tokens=10, eos=-1).tokens
    end = int(free[0, 3])
    stopped = tiny.generate([[3, 1], [4, 1]], max_new_tokens=10, eos=end).tokens
    assert (stopped[0, 3:] == end).all()
    for row, tokens in enumerate(stopped):
        until = tokens.tolist().index(end) if end in tokens else len(tokens)
        assert tokens[:until].tolist() == free[row, :until].tolist()


def test_streaming_and_sampling(tiny: Model) -> None:
    greedy = tiny.generate([3, 1, 4], max_new_tokens=6, eos=-1).tokens.tolist()
    assert list(islice(stream(tiny, [3, 1, 4]), 6)) == greedy
    assert (
        len(list(stream(tiny, [3, 1, 4], capacity=7))) == 5
    )  # four tokens of room, and one more after the last
    heard: list[int] = []
    tiny.generate([3, 1, 4], max_new_tokens=6, eos=-1, on_token=lambda t: heard.append(int(t[0])))
    assert heard == greedy
    one = [
        tiny.generate([3], max_new_tokens=8, temperature=1.0, seed=s, eos=-1).tokens.tolist()
        for s in (1, 1, 2)
    ]
    assert one[0] == one[1] != one[2]
    assert (
        tiny.generate([3, 1, 4], max_new_tokens=6, temperature=9.0, top_k=1, eos=-1).tokens.tolist() == greedy
    )


def test_samples_follow_their_probabilities() -> None:
    """10 000 draws: five standard errors, 0.025, are missed once in a million times; the seed is fixed."""
    logits = np.log([[0.5, 0.3, 0.15, 0.05]])
    draws = np.concatenate([Sampler(1.0, seed=0)(np.repeat(logits, 10_000, axis=0))])
    assert np.bincount(draws, minlength=4) / 1e4 == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.025)
    nucleus = Sampler(1.0, top_p=0.79, seed=0)(np.repeat(logits, 1000, axis=0))
    assert set(nucleus.tolist()) == {0, 1}


# --- Routing --------------------------------------------------------------------------------------------


def test_node_limited_routing_bounds_traffic(tiny: Model) -> None:
    """At most topk_group nodes for a token, whatever the experts: the paper's M <= 4."""
    x = np.random.default_rng(0).normal(size=(500, TINY.hidden_size))
    routing = Gate(TINY, random_weights(TINY, "model.layers.1.mlp.gate.", dtype=np.float64))(x)
    found = traffic(routing, TINY)
    assert found.nodes.max() <= TINY.topk_group
    assert found.dispatched == found.nodes.sum() <= found.sent_to_experts == 500 * TINY.num_experts_per_tok
    assert found.load.sum() == found.sent_to_experts
    assert traffic(routing, TINY, nodes=1).dispatched == 500
    assert "nodes for a token" in str(found)


def test_bias_updates_even_the_load_out() -> None:
    config = TINY.replace(n_group=1, topk_group=1)
    weights: dict[str, Any] = dict(random_weights(config, "model.layers.1.mlp.gate.", dtype=np.float64))
    weights["e_score_correction_bias"] = np.linspace(-0.2, 0.2, 24)
    x = np.random.default_rng(0).normal(size=(2000, config.hidden_size))
    before = traffic(Gate(config, weights)(x), config).imbalance
    for _ in range(150):
        load = traffic(Gate(config, weights)(x), config).load
        weights["e_score_correction_bias"] = update_bias(weights["e_score_correction_bias"], load, speed=0.01)
    assert traffic(Gate(config, weights)(x), config).imbalance < 1.2 < before


# --- Memory ---------------------------------------------------------------------------------------------

_LONG = """
import resource, numpy as np
from dsv3_numerics.model import MLA, Cache, Config, random_weights
small = dict(num_attention_heads=1, hidden_size=16, kv_lora_rank=16, qk_nope_head_dim=8, v_head_dim=8)
c = Config.preset("tiny").replace(**small)
a = MLA(c, random_weights(c, "model.layers.0.self_attn."))
x = np.random.default_rng(0).standard_normal((1, 16384, 16), np.float32)
short = a(x[:, :64], absorbed={absorbed})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = a(x, absorbed={absorbed})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, float(np.abs(out[:, :64] - short).max()))
"""


@pytest.mark.parametrize("absorbed", [False, True])
def test_attention_memory_is_linear_in_the_context(absorbed: bool) -> None:
    """16 384 tokens: all scores of a head would take 1 GiB; 64 rows of them and the tokens take 20 MB."""
    code = _LONG.format(absorbed=absorbed)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kib, difference = done.stdout.split()
    assert int(kib) < 100 * 1024
    assert float(difference) < 1e-5  # float32 sums in another order
