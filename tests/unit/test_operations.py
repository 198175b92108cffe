"""Operations under recipes: what each must equal, what a choice may change, and what a watch sees."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dsv3_numerics import (
    Quantized,
    Recipe,
    _core,
    checkpoint,
    decode,
    encode,
    get_num_threads,
    matmul_nt,
    quantize,
    quantize_blocks,
    quantize_tiles,
    set_num_threads,
    simd_level,
)
from dsv3_numerics.model import MLA, MLP, Block, Cache, Config, Gate, Model, MoE, OpRecord, random_weights
from dsv3_numerics.model import attention as attention_module
from scheme_words import ACTIVATIONS, CACHES, COMBINES, DISPATCHES, GATES, RULES, WEIGHTS
from steps import bfloat16, nearly

GOLDEN = Path(__file__).parents[1] / "golden"
FP8 = GOLDEN / "tiny_v3_fp8"
REQUANTIZED = {"weights": "e4m3:128x128:ue8m0:requantized"}
V3 = Recipe.preset("deepseek_v3")
V31 = Recipe.preset("deepseek_v31")
SMALL = Config.preset("tiny").replace(num_hidden_layers=2, n_routed_experts=8, n_group=4, topk_group=3)
IDS = np.random.default_rng(0).integers(0, 144, (2, 7))


@pytest.fixture(scope="module")
def small() -> Model:
    return Model(SMALL, random_weights(SMALL))


def watched(model: Model, recipe: Recipe | str, ids: Any = IDS, **settings: Any) -> list[OpRecord]:
    """Record of a forward."""
    seen: list[OpRecord] = []
    model.forward(ids, recipe=recipe, hook=seen.append, **settings)
    return seen


def tensor_of(name: str) -> str:
    """The checkpoint's name of an operation's weight."""
    layer, rest = name.removeprefix("layer").split(".", 1)
    attention = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
    return f"model.layers.{layer}.{'self_attn' if rest in attention else 'mlp'}.{rest}.weight"


# --- Linear layers ----------------------------------------------------------------------------------------

PRODUCTS = {
    "deepseek_v3": V3,
    "deepseek_v31": V31.replace(**REQUANTIZED),
    "blackwell": Recipe.preset("blackwell").replace(**REQUANTIZED),
    "blackwell_mxfp8": Recipe.preset("blackwell_mxfp8"),
    "blackwell_nvfp4": Recipe.preset("blackwell_nvfp4").replace(dispatch="bf16"),
    "promotion": V3.replace(promote_every=32),
    "rule": V31.replace(rule="vllm", **REQUANTIZED),
    "rows": V3.replace(
        activations="e4m3:row:f32", weights="e4m3:tensor:f32", dispatch="bf16", promote_every=None
    ),
    "ada": V3.replace(activations="e5m2:1x128:f32", accumulator="ada_fp8"),
    "microscaling": Recipe(
        compute="float32", activations="mxfp8", weights="mxfp8", accumulator="blackwell_fp8", promote_every=32
    ),
    "integers": Recipe(
        activations="int8:1x128:f32", weights="int8:128x128:f32", accumulator="exact", promote_every=128
    ),
    "bfloat16": Recipe(compute="bf16", weights="bf16", accumulator="hopper_bf16"),
    "small groups": V3.replace(
        activations="e4m3:1x64:ue8m0", weights="e4m3:64x64:f32", dispatch="none", promote_every=64
    ),
}


def by_hand(done: OpRecord, stored: Quantized, recipe: Recipe) -> Any:
    """quantize_tiles and matmul_nt, from the recipe's rows."""
    left: Any
    if len(done.inputs) == 2:
        codes, scales = done.inputs
        scheme = recipe.dispatch
        left = Quantized(codes, scales, scheme.format, (scheme.group_k,), 1, scheme.scale)
    else:
        x = done.inputs[0].reshape(-1, done.inputs[0].shape[-1])
        scheme = recipe.activations
        left = x.astype(ml_dtypes.bfloat16)
        if scheme.is_quantized:
            rule: Any = {"rule": recipe.rule} if scheme.uses_scale_rule else {}
            if scheme.scale == "nvfp4":
                rule["global_scale"] = scheme.global_scale
            left = quantize_tiles(x, fmt=scheme.format, tile=scheme.group_k, scale=scheme.scale, **rule)
    right: Any = stored
    made = recipe.weights
    stored_so = made.group == (128, 128) and made.format == stored.format and not made.requantize
    if made.is_quantized and not stored_so:
        rule = {"rule": recipe.rule} if made.uses_scale_rule else {}
        block: Any = made.group
        right = quantize_blocks(stored.dequantize(), fmt=made.format, block=block, scale=made.scale, **rule)
    elif not made.is_quantized:
        right = stored.dequantize(ml_dtypes.bfloat16)
    out = matmul_nt(left, right, accumulator=recipe.accumulator, promote_every=recipe.promote_every)
    return (bfloat16(out) if recipe.bfloat16 else out).reshape(done.output.shape)


@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize("recipe", PRODUCTS.values(), ids=PRODUCTS)
def test_linear_layers_are_quantize_and_matmul_nt(fp8: Model, recipe: Recipe, absorbed: bool) -> None:
    """Bit for bit, on the golden FP8 checkpoint: no other arithmetic is in between."""
    found = 0
    with checkpoint.open(FP8) as opened:
        for done in watched(fp8, recipe, absorbed=absorbed):
            # a scale over all tokens cannot be found again from those of one expert
            shared = recipe.activations.needs_tensor_amax and ".experts." in done.operation.name
            if done.operation.kind == "linear" and not shared:
                expected = by_hand(done, opened.quantized(tensor_of(done.operation.name)), recipe)
                assert np.array_equal(done.output, expected), done.operation
                found += 1
    assert found > 12


def test_simulated_products_are_of_what_codes_mean(fp8: Model) -> None:
    """Without an accumulator codes are read back; float64 products are then exact to 1e-12 of their size."""
    recipe = Recipe(activations="e4m3:1x128:f32", weights="e4m3:128x128:f32")
    with checkpoint.open(FP8) as opened:
        for done in watched(fp8, recipe):
            if done.operation.kind != "linear":
                continue
            x = done.inputs[0].reshape(-1, done.inputs[0].shape[-1])
            w = opened.dequantized(tensor_of(done.operation.name)).astype(np.float64)
            expected = quantize_tiles(x).dequantize(np.float64) @ w.T
            assert np.allclose(done.output.reshape(expected.shape), expected, rtol=0, atol=1e-12)


def test_codes_arrive_at_experts_as_they_were_sent(fp8: Model) -> None:
    """Rows of what dispatch made of all tokens, not quantized again."""
    seen = watched(fp8, V3)
    sent = next(done for done in seen if done.operation.kind == "dispatch")
    whole = quantize_tiles(sent.inputs[0])
    assert np.array_equal(sent.output, bfloat16(whole.dequantize()))
    rows = {row.tobytes() for row in whole.codes}
    first = [done for done in seen if done.operation.kind == "linear" and len(done.inputs) == 2]
    assert {done.operation.name.rsplit(".", 1)[1] for done in first} == {"gate_proj", "up_proj"}
    assert all(row.tobytes() in rows for done in first for row in done.inputs[0])


# --- The reference is a recipe ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("absorbed", [False, True])
def test_recipes_of_one_float_type_are_the_reference(small: Model, dtype: str, absorbed: bool) -> None:
    model = Model(SMALL, random_weights(SMALL), dtype=dtype)
    caches = model.new_cache(2, 9), small.new_cache(2, 9, recipe=dtype)
    for part in (IDS[:, :4], IDS[:, 4:6], IDS[:, 6:]):
        expected = model.forward(part, cache=caches[0], absorbed=absorbed)
        found = small.forward(part, cache=caches[1], absorbed=absorbed, recipe=dtype)
        assert found.dtype == expected.dtype == dtype
        assert np.array_equal(found, expected)
    assert np.array_equal(caches[0].data, caches[1].data)
    expected_trace = model.trace(IDS, absorbed=absorbed)
    found_trace = small.trace(IDS, absorbed=absorbed, recipe=dtype)
    assert all(np.array_equal(found_trace[name], x) for name, x in expected_trace.items())


@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize("recipe", ["float32", "bf16", "deepseek_v3", "deepseek_v31", "blackwell"])
def test_a_watch_changes_nothing_and_redo_repeats(small: Model, recipe: str, absorbed: bool) -> None:
    seen: list[OpRecord] = []
    alone = small.forward(IDS, recipe=recipe, absorbed=absorbed)
    assert np.array_equal(small.forward(IDS, recipe=recipe, absorbed=absorbed, hook=seen.append), alone)
    for done in seen:
        assert not any(x.flags.writeable for x in (*done.inputs, done.output))
        again = done.replay(Recipe.preset(recipe))
        assert again.dtype == done.output.dtype
        assert np.array_equal(again, done.output), done.operation


def test_operations_have_the_names_of_their_tensors(small: Model) -> None:
    names = [done.operation.name for done in watched(small, "bf16", absorbed=False)]
    assert names[:4] == ["embed_tokens", "layer0.input_layernorm", "layer0.q_a_proj", "layer0.q_a_layernorm"]
    assert {"layer0.kv_b_proj", "layer0.attend", "layer0.gate_proj", "layer1.combine", "lm_head"} <= set(
        names
    )
    assert len(set(names)) == len(names)
    known = {name.removesuffix(".weight") for name in small.weights}
    linear = [done.operation for done in watched(small, "bf16") if done.operation.kind == "linear"]
    assert all(tensor_of(operation.name).removesuffix(".weight") in known for operation in linear)
    assert small.operations("bf16", [3]) == [d.operation for d in watched(small, "bf16", [3])]


# --- One choice changes only what it names ----------------------------------------------------------------

Names = Callable[[str, str, Recipe], bool]


def first_products(name: str) -> bool:
    return ".experts." in name and not name.endswith("down_proj")


CHANGES: dict[str, tuple[list[dict[str, Any]], Names]] = {
    "activations": (
        [{"activations": word} for word in ACTIVATIONS if word != "none"],
        lambda name, kind, r: kind == "linear" and not (first_products(name) and r.dispatch.is_quantized),
    ),
    "weights": (
        [{"weights": word} for word in WEIGHTS if "requantized" not in word],
        lambda name, kind, r: kind in ("linear", "attend absorbed"),
    ),
    "cache": ([{"cache": word} for word in CACHES], lambda name, kind, r: kind == "cache"),
    "dispatch": (
        [{"dispatch": word} for word in DISPATCHES],
        lambda name, kind, r: kind == "dispatch" or (kind == "linear" and first_products(name)),
    ),
    "combine": ([{"combine": word} for word in COMBINES], lambda name, kind, r: kind == "combine"),
    "gate": ([{"gate": word} for word in GATES], lambda name, kind, r: kind == "gate"),
    "group_mask_value": ([{"group_mask_value": "0"}], lambda name, kind, r: kind == "gate"),
    "rule": (
        [{"rule": rule} for rule in RULES],
        lambda name, kind, r: kind in ("linear", "dispatch", "combine", "attend absorbed"),
    ),
    "accumulator": (
        [{"accumulator": unit} for unit in ("hopper_fp8", "ada_fp8", "exact", "float32")]
        + [{"promote_every": every} for every in (32, 64)],
        lambda name, kind, r: kind == "linear",
    ),
    "compute": (
        [{"compute": word} for word in ("float32", "float64")],
        lambda name, kind, r: True,
    ),
}
# Everything has something to do, and a choice of weights meets no promotion that forbids it.
SIMULATED = V3.replace(accumulator="none", promote_every=None, combine="e5m6:1x128:ue8m0", cache="flashmla")
BASES = {"accumulator": V3}


def variants() -> Iterator[Any]:
    for field, (changes, _) in CHANGES.items():
        base = BASES.get(field, SIMULATED)
        for change in changes:
            if base.replace(**change) != base:
                yield pytest.param(field, base, base.replace(**change), id=str(change))


@pytest.fixture(scope="module")
def tellings(small: Model) -> dict[tuple[Recipe, bool], list[OpRecord]]:
    bases = (SIMULATED, V3)
    return {(r, a): watched(small, r, absorbed=a) for r in bases for a in (False, True)}


@pytest.mark.parametrize(("field", "base", "other"), list(variants()))
def test_a_choice_changes_only_the_operations_that_it_names(
    small: Model,
    tellings: dict[tuple[Recipe, bool], list[OpRecord]],
    field: str,
    base: Recipe,
    other: Recipe,
) -> None:
    """`how` of exactly those; and on the same inputs, done again, the bytes of none of the others."""
    named = CHANGES[field][1]
    for absorbed in (False, True):
        how = {
            done.operation.name: done.operation.description
            for done in watched(small, other, absorbed=absorbed)
        }
        for done in tellings[base, absorbed]:
            name, kind, before = done.operation
            word = f"{kind} absorbed" if kind == "attend" and absorbed else kind
            expected = named(name, word, base)
            if name in how:  # the other recipe may choose other experts
                assert (how[name] != before) == expected, (name, before, how[name])
            if not expected:
                assert np.array_equal(done.replay(other), done.output), name


def test_choices_change_bytes(tellings: dict[tuple[Recipe, bool], list[OpRecord]]) -> None:
    """Operations that a choice names come out otherwise, where anything can."""
    for field, choice, kind in [
        ("activations", "mxfp4", "linear"),
        ("weights", "mxfp4", "linear"),
        ("cache", "logfmt8", "cache"),
        ("dispatch", "bf16", "dispatch"),
        ("combine", "logfmt8", "combine"),
        ("gate", "bfloat16", "gate"),
    ]:
        other = SIMULATED.replace(**{field: choice})
        done = [d for d in tellings[SIMULATED, False] if d.operation.kind == kind]
        if field == "activations":
            done = [d for d in done if not first_products(d.operation.name)]
        changed = [not np.array_equal(d.replay(other), d.output) for d in done]
        assert all(changed), field
    wide = SIMULATED.replace(compute="float64")  # bfloat16 would hide scales that differ in their last bit
    sent = next(d for d in tellings[SIMULATED, False] if d.operation.kind == "dispatch")
    assert not np.array_equal(sent.replay(wide.replace(rule="deepep")), sent.replay(wide))


# --- Where bfloat16 rounds --------------------------------------------------------------------------------


def test_bfloat16_rounds_where_torch_does(small: Model) -> None:
    """Each operation from its own inputs in float64, rounded once for each tensor that torch would make."""
    raw = random_weights(SMALL)
    kinds = set()
    for done in watched(small, "bf16", absorbed=False):
        name, kind, _ = done.operation
        x = [np.asarray(i, np.float64) for i in done.inputs]
        assert np.array_equal(bfloat16(done.output), done.output) or kind == "gate", name
        if kind == "linear":
            assert nearly(done.output, bfloat16(x[0] @ bfloat16(raw[tensor_of(name)]).astype(float).T)), name
        elif kind == "head":
            assert nearly(done.output, bfloat16(x[0] @ bfloat16(raw["lm_head.weight"]).astype(float).T))
        elif kind == "add":
            assert np.array_equal(done.output, bfloat16(x[0] + x[1]))
        elif kind == "silu":
            assert nearly(done.output, bfloat16(bfloat16(x[0] / (1 + np.exp(-x[0]))) * x[1]))
        elif kind == "norm":
            key = (
                "model.norm.weight" if name == "norm" else f"model.layers.{name.removeprefix('layer')}.weight"
            )
            key = key.replace("q_a_lay", "self_attn.q_a_lay").replace("kv_a_lay", "self_attn.kv_a_lay")
            over = x[0] / np.sqrt((x[0] ** 2).mean(axis=-1, keepdims=True) + SMALL.rms_norm_eps)
            assert nearly(done.output, bfloat16(over * bfloat16(raw[key]))), name
        elif kind == "embed":
            assert np.array_equal(done.output, bfloat16(raw["model.embed_tokens.weight"])[done.inputs[0]])
        elif kind == "combine":
            assert np.array_equal(done.output, torch_sum(*done.inputs))
        else:
            continue
        kinds.add(kind)
    assert kinds == {"linear", "head", "add", "silu", "norm", "embed", "combine"}


def torch_sum(parts: Any, indices: Any, weights: Any, shared: Any) -> Any:
    """Expert by expert: ``y[tokens] += (out * weight).to(bfloat16)``, then the shared expert."""
    out, place = np.zeros_like(shared), 0
    for expert in np.unique(indices):
        for token, slot in zip(*np.nonzero(indices == expert), strict=True):
            out[token] = bfloat16(out[token] + bfloat16(weights[token, slot] * parts[place]))
            place += 1
    return bfloat16(out + shared)


def test_combine_is_one_float32_sum(small: Model) -> None:
    """DeepEP: bfloat16 outputs times float32 weights, added in the order of the choice, rounded once."""
    done = next(d for d in watched(small, V3) if d.operation.kind == "combine")
    parts, indices, weights, shared = done.inputs
    order = np.argsort(indices.reshape(-1), kind="stable").tolist()
    out = np.zeros_like(shared)
    for token, experts in enumerate(indices):
        for slot in range(len(experts)):
            out[token] += weights[token, slot] * parts[order.index(token * len(experts) + slot)]
    assert np.array_equal(done.output, bfloat16(bfloat16(out) + shared))


# --- Attention --------------------------------------------------------------------------------------------


def test_naive_and_absorbed_are_two_computations_in_codes(small: Model) -> None:
    """The naive form quantizes latents; the absorbed one multiplies by kv_b read back. Close, not equal."""
    x = np.random.default_rng(1).standard_normal((2, 9, SMALL.hidden_size)).astype(np.float32)
    attention = MLA(SMALL, random_weights(SMALL, "model.layers.0.self_attn."))
    exact = attention(x, recipe="float64")
    naive, absorbed = (attention(x, recipe=V3, absorbed=a) for a in (False, True))
    size = np.linalg.norm(exact)
    assert 0.005 < np.linalg.norm(naive - absorbed) / size < 0.1  # one more cast of 2 to 3 %
    assert np.linalg.norm(naive - exact) / size < 0.15
    assert np.linalg.norm(absorbed - exact) / size < 0.15
    a, b = (attention(x, recipe="float64", absorbed=a) for a in (False, True))
    assert np.abs(a - b).max() < 1e-12


@pytest.mark.parametrize(
    "change", [{}, {"accumulator": "none", "promote_every": None}, {"weights": "mxfp8", "promote_every": 32}]
)
def test_keys_and_values_are_made_some_heads_at_a_time(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """Bounded memory changes no bit; groups end where blocks of weights do (3 heads of 128 + 64 rows)."""
    config = SMALL.replace(num_attention_heads=6, qk_nope_head_dim=128, v_head_dim=64)
    attention = MLA(config, random_weights(config, "model.layers.0.self_attn."))
    x = np.random.default_rng(1).standard_normal((2, 5, config.hidden_size)).astype(np.float32)
    recipe, groups = V3.replace(**change), []
    whole = attention(x, recipe=recipe, absorbed=False)
    monkeypatch.setattr(attention_module, "_EXPANDED", 1)
    made = MLA._groups

    def counted(*args: Any) -> Iterator[tuple[int, int]]:
        groups.extend(made(*args))
        return iter(groups)

    monkeypatch.setattr(MLA, "_groups", counted)
    assert np.array_equal(attention(x, recipe=recipe, absorbed=False), whole)
    assert groups == ([(i, i + 1) for i in range(6)] if "weights" in change else [(0, 2), (2, 4), (4, 6)])


def test_probabilities_and_traces_under_recipes(small: Model) -> None:
    for absorbed in (False, True):
        trace = small.trace(IDS, small.trace_names(), recipe="deepseek_v3", absorbed=absorbed)
        assert set(trace) == set(small.trace_names())
        # eight probabilities, each rounded to bfloat16
        assert np.abs(trace["layer1.probs"].sum(axis=-1) - 1).max() < 8 * 2.0**-9
        assert np.array_equal(trace["logits"], small.forward(IDS, recipe="deepseek_v3", absorbed=absorbed))


# --- The cache --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [word for word in CACHES if word != "none"])
def test_decoding_reads_what_the_cache_keeps(small: Model, name: str) -> None:
    """Token by token is the whole forward, as new tokens are read through the format too."""
    recipe = V3.replace(cache=name)
    whole = small.forward(IDS, recipe=recipe, absorbed=True)
    cache = small.new_cache(2, 7, recipe=recipe)
    parts = [small.forward(IDS[:, :3], cache=cache, recipe=recipe, absorbed=True)]
    parts += [
        small.decode(IDS[:, i], cache, recipe=recipe, absorbed=True)[:, None] for i in range(3, IDS.shape[1])
    ]
    assert cache.format.name == str(recipe.cache_scheme)
    # Keys are the same bits; attention's float32 sums may be cut into other parts, a bfloat16 ulp at most.
    found = np.concatenate(parts, axis=1)
    assert (found == whole).mean() > 0.9
    assert np.linalg.norm(found - whole) / np.linalg.norm(whole) < 0.05


@pytest.fixture(scope="module")
def alone(small: Model) -> Any:
    """A forward in one thread at the scalar level."""
    before = simd_level(), get_num_threads()
    _core.set_simd_level("scalar")
    set_num_threads(1)
    logits = small.forward(IDS, recipe=V3)
    _core.set_simd_level(before[0])
    set_num_threads(before[1])
    return logits


def test_threads_and_levels_change_nothing(
    small: Model, alone: Any, product_level: str, threads: int
) -> None:
    assert np.array_equal(small.forward(IDS, recipe=V3), alone), (product_level, threads)


@pytest.mark.parametrize("recipe", ["bf16", "deepseek_v3"])
def test_speculation_gives_the_tokens_of_the_recipe(recipe: str) -> None:
    """Whatever is drafted, if the form of attention does not depend on how many tokens there are."""
    model = Model(SMALL, random_weights(SMALL))
    settings = {"max_new_tokens": 12, "eos": -1, "recipe": recipe, "absorbed": True}
    plain = model.generate([3, 1, 4], **settings)
    assert model.generate([3, 1, 4], speculative=True, **settings).tokens.tolist() == plain.tokens.tolist()


SHAPES = {
    MLP: [(128,), (0, 128), (2, 0, 128), (1, 2, 3, 128)],
    MoE: [(128,), (0, 128), (2, 0, 128), (1, 2, 3, 128)],
    MLA: [(0, 128), (2, 0, 128), (0, 3, 128), (3, 128)],
}


@pytest.mark.parametrize("recipe", ["float32", "bf16", "deepseek_v3"])
@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_of_all_sizes(kind: Any, recipe: str) -> None:
    """No tokens at all, one without an axis, and batches of batches come out as they went in."""
    under = {MLP: "0.mlp.", MoE: "1.mlp.", MLA: "0.self_attn."}[kind]
    layer = kind(SMALL, random_weights(SMALL, f"model.layers.{under}"))
    for shape in SHAPES[kind]:
        x = np.random.default_rng(0).standard_normal(shape)
        out = layer(x, recipe=recipe)
        assert out.shape == shape
        if kind is not MLA:  # tokens do not see each other: a batch is its tokens
            rows = [layer(row[None], recipe=recipe)[0] for row in x.reshape(-1, 128)]
            assert np.allclose(out.reshape(-1, 128), np.reshape(rows, (-1, 128)), rtol=2.0**-7, atol=1e-3)


def test_layers_alone_are_those_of_the_model(small: Model) -> None:
    """A block, its attention and its experts give what they give in the model."""
    trace = small.trace(IDS, recipe="deepseek_v3")
    weights = random_weights(SMALL, "model.layers.1.")
    block = Block(SMALL, weights, layer=1)
    assert np.array_equal(block(trace["layer1.input"], recipe="deepseek_v3"), trace["layer1.output"])
    attention = MLA(SMALL, random_weights(SMALL, "model.layers.1.self_attn."))
    assert np.array_equal(
        attention(trace["layer1.attn_norm"].astype(np.float64), recipe="deepseek_v3"),
        trace["layer1.attn_out"],
    )
    experts = MoE(SMALL, random_weights(SMALL, "model.layers.1.mlp."))
    assert np.array_equal(experts(trace["layer1.ffn_norm"], recipe="deepseek_v3"), trace["layer1.mlp_out"])
    gate = Gate(SMALL, random_weights(SMALL, "model.layers.1.mlp.gate."))
    assert np.array_equal(
        gate(trace["layer1.ffn_norm"], recipe="deepseek_v3").indices, trace["layer1.topk_idx"]
    )


def test_the_mask_of_a_recipe_is_its_own() -> None:
    """As in the first release where asked, whatever the gate was built with."""
    config = SMALL.replace(n_routed_experts=4, hidden_size=4, n_group=2, topk_group=1, num_experts_per_tok=2)
    weights = {"weight": np.eye(4), "e_score_correction_bias": np.full(4, -2.0)}
    x = np.array([[1.0, 1, 0, 0]])
    for masked in (-np.inf, 0.0):
        gate = Gate(config, weights, group_mask_value=masked)
        assert gate(x, recipe="float64").indices.tolist() == [[0, 1]]
        assert gate(x, recipe=Recipe(group_mask_value="0")).indices.tolist() == [[2, 3]]


def test_float16_sums_overflow_on_codes_and_say_so(small: Model) -> None:
    """448 times 448 is beyond float16: a unit that adds in it is for codes scaled further down."""
    recipe = V3.replace(accumulator="hopper_fp8_f16")
    with pytest.raises(
        ValueError, match=r"layer 0: .*overflow formats or accumulator of recipe 'deepseek_v3"
    ):
        small.forward(IDS, recipe=recipe)


def test_attention_and_gate_in_bfloat16_are_near_float64(small: Model) -> None:
    """A handful of roundings of 2**-9 each, in sums of a few terms: within 2 % of the norm."""
    for absorbed in (False, True):
        for done in watched(small, "bf16", absorbed=absorbed):
            if done.operation.kind in ("attend", "gate"):
                exact = done.replay(Recipe())
                assert np.linalg.norm(done.output - exact) < 0.02 * np.linalg.norm(exact), done.operation


@pytest.mark.parametrize("name", list(PRODUCTS))
@pytest.mark.parametrize("absorbed", [True, False])
def test_one_crossing_gives_what_single_operations_give(
    name: str, absorbed: bool, fp8: Model, small: Model
) -> None:
    """With a hook everything is done operation by operation."""
    recipe = PRODUCTS[name]
    for model in fp8, small:
        for ids in IDS, IDS[:1, :1]:
            try:
                found = model.forward(ids, recipe=recipe, absorbed=absorbed)
            except ValueError as error:
                with pytest.raises(type(error), match=re.escape(str(error)[:40])):
                    watched(model, recipe, ids, absorbed=absorbed)
                continue
            seen: list[OpRecord] = []
            step_by_step = model.forward(ids, recipe=recipe, absorbed=absorbed, hook=seen.append)
            assert found.tobytes() == step_by_step.tobytes()
            assert len(seen) > 20


def test_rounded_numbers_are_bfloat16_for_every_input() -> None:
    """float64 input is rounded once, not by way of float32."""
    x = np.full((1, 1, SMALL.hidden_size), 1 + 2.0**-8 + 2.0**-40)  # above the tie that float32 makes of it
    seen: list[OpRecord] = []
    Block(SMALL, random_weights(SMALL, "model.layers.0."), layer=0)(x, recipe="bf16", hook=seen.append)
    assert np.array_equal(seen[0].inputs[0], decode(encode(x, "bfloat16")))
    assert float(seen[0].inputs[0].max()) == 1 + 2.0**-7


def test_cache_of_numbers_is_not_copied(small: Model) -> None:
    cache = Cache(SMALL, 1, 4, dtype="float32")
    assert all(
        np.shares_memory(tokens, cache.data) for tokens in cache.cached_latents(0, 2, np.dtype(np.float32))
    )
    assert replace(cache.format, rank=512, rope=64).width == 576


def test_a_scheme_of_ones_own_is_what_linear_layers_multiply(small: Model) -> None:
    """As if inputs and weights had been what it gives back."""

    def halves(x: Any) -> Any:
        return np.rint(x * 64) / 64

    found = watched(small, Recipe(activations=halves, weights=halves), absorbed=False)
    linear = [done for done in found if done.operation.kind == "linear" and "kv_b" not in done.operation.name]
    for done in linear:
        w = halves(np.asarray(small.weights.given(tensor_of(done.operation.name)), np.float64))
        expected = halves(done.inputs[0].astype(np.float64)) @ w.T
        np.testing.assert_allclose(done.output, expected, rtol=1e-9, atol=1e-9)  # float64 in another order
    assert len(linear) > 20


def test_dispatch_in_nvfp4_is_what_experts_multiply(small: Model) -> None:
    """Each expert's rows are the rows of all tokens in codes, each under its global scale."""
    recipe = Recipe(dispatch="nvfp4")
    records = watched(small, recipe)
    sent = next(r for r in records if r.operation.kind == "dispatch")
    codes = quantize(sent.inputs[0], "nvfp4:row")
    np.testing.assert_array_equal(sent.output, codes.dequantize(np.float64))
