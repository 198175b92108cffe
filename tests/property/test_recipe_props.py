"""Properties of any recipe: JSON, finite results, each token for itself, choices that add up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv3_numerics import Recipe
from dsv3_numerics.accumulator import accumulators
from dsv3_numerics.model import PRESETS, Config, Model, OpRecord, random_weights
from scheme_words import ACTIVATIONS, CACHES, COMBINES, DISPATCHES, GATES, MASKS, RULES, WEIGHTS

CONFIG = Config.preset("tiny").replace(
    num_hidden_layers=2, n_routed_experts=8, n_group=4, topk_group=3, num_nextn_predict_layers=0
)
MODEL = Model(CONFIG, random_weights(CONFIG))
FLOAT64 = Recipe()

# Without those whose float16 sums overflow on FP8 codes.
UNITS = ["none", *(info.name for info in accumulators() if info.result == "float32")]
anything = st.builds(
    dict,
    compute=st.sampled_from(["float64", "float32", "bf16"]),
    activations=st.sampled_from(list(ACTIVATIONS)),
    weights=st.sampled_from([word for word in WEIGHTS if not word.endswith("requantized")]),
    accumulator=st.sampled_from(UNITS),
    promote_every=st.sampled_from([None, 16, 32, 64, 128, 256]),
    rule=st.sampled_from(list(RULES)),
    cache=st.sampled_from(list(CACHES)),
    dispatch=st.sampled_from(list(DISPATCHES)),
    combine=st.sampled_from(list(COMBINES)),
    gate=st.sampled_from(list(GATES)),
    group_mask_value=st.sampled_from(list(MASKS)),
)


def made(fields: dict[str, Any]) -> Recipe:
    """The recipe of these fields, without what is refused in them."""
    for less in (
        {},
        {"promote_every": 128},
        {"promote_every": 32},
        {"promote_every": None},
        {"promote_every": None, "accumulator": "none"},
    ):
        try:
            return Recipe(**(fields | less))
        except ValueError:
            continue
    raise AssertionError(f"nothing is left of {fields}")


# Weights as they are stored here, in float32, are no codes for an accumulator.
recipes = anything.map(made).filter(lambda r: r.accumulator == "none" or not r.weights.is_identity)


def together(scheme: Any) -> bool:
    """Tell whether tokens share a scale."""
    return scheme.needs_tensor_amax or scheme.group == (None, None)


# Each token for itself: NVFP4 and "tensor" have one scale for all of them.
tokenwise = recipes.filter(lambda r: not any(together(s) for s in (r.activations, r.dispatch, r.combine)))
tokens = st.lists(st.integers(0, CONFIG.vocab_size - 1), min_size=2, max_size=6)


@given(recipes)
def test_json_names_and_tables(recipe: Recipe) -> None:
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.replace() == recipe
    rows = str(recipe).splitlines()
    assert rows[0] == recipe.name
    assert len(rows) == 11
    if recipe.name not in (*PRESETS, "custom"):
        name, changes = recipe.name.split(" with ")
        start = Recipe.preset(name)
        fields = dict(change.split("=") for change in changes.split(", "))
        assert {field for field, word in fields.items() if str(getattr(recipe, field)) == word} == {
            field for field in fields if getattr(start, field) != getattr(recipe, field)
        }


@settings(max_examples=60)
@given(recipes, tokens, st.booleans())
def test_hooks_change_no_bit(recipe: Recipe, ids: list[int], absorbed: bool) -> None:
    """Several operations in one crossing of the core, or each by itself: the same bytes."""
    seen: list[OpRecord] = []
    expected = MODEL.forward(ids, recipe=recipe, absorbed=absorbed, hook=seen.append)
    assert MODEL.forward(ids, recipe=recipe, absorbed=absorbed).tobytes() == expected.tobytes()


@given(recipes)
def test_single_choices(recipe: Recipe) -> None:
    """Each choice alone and each left out is a recipe; none left out of float64 changes it."""
    for choice in Recipe.CHOICES:
        assert FLOAT64.only(choice) == FLOAT64.without(choice) == FLOAT64
        alone, rest = recipe.only(choice), recipe.without(choice)
        assert (choice in alone.choices()) == (choice in recipe.choices())
        assert choice not in rest.choices()
        assert set(rest.choices()) <= set(recipe.choices())


@given(recipes, tokens, st.booleans())
@settings(max_examples=40)
def test_every_recipe_runs(recipe: Recipe, ids: list[int], absorbed: bool) -> None:
    """Finite numbers of the recipe's kind; a watch sees them and each operation repeats itself."""
    seen: list[OpRecord] = []
    logits = MODEL.forward(ids, recipe=recipe, absorbed=absorbed)
    assert logits.dtype == recipe.dtype
    assert np.isfinite(logits).all()
    assert np.array_equal(MODEL.forward(ids, recipe=recipe, absorbed=absorbed, hook=seen.append), logits)
    for done in seen:
        assert np.array_equal(done.replay(recipe), done.output), done.operation


@given(tokenwise, tokens, st.booleans(), st.data())
@settings(max_examples=30)
def test_a_cache_decodes_to_the_whole_forward(
    recipe: Recipe, ids: list[int], absorbed: bool, data: st.DataObject
) -> None:
    """As far as sums allow: attention cuts float32 sums by the number of queries, products by rows."""
    whole = MODEL.forward(ids, recipe=recipe, absorbed=absorbed)
    cut = data.draw(st.integers(1, len(ids) - 1))
    cache = MODEL.new_cache(1, len(ids), recipe=recipe)
    parts = [
        MODEL.forward(ids[:cut], cache=cache, recipe=recipe, absorbed=absorbed),
        MODEL.forward(ids[cut:], cache=cache, recipe=recipe, absorbed=absorbed),
    ]
    close(np.concatenate(parts), whole, recipe)


@given(tokenwise, st.lists(st.lists(st.integers(0, 191), min_size=3, max_size=3), min_size=2, max_size=3))
@settings(max_examples=30)
def test_a_batch_is_its_sequences(recipe: Recipe, batch: list[list[int]]) -> None:
    together = MODEL.forward(batch, recipe=recipe, absorbed=True)
    for ids, found in zip(batch, together, strict=True):
        close(found, MODEL.forward(ids, recipe=recipe, absorbed=True), recipe)


def close(found: Any, expected: Any, recipe: Recipe) -> None:
    """Sums cut elsewhere differ in their last bits; a code that this flips moves logits by less than 1 %."""
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    exact = set(recipe.choices()) <= {"group_mask_value", "rule"}
    assert error < (1e-12 if exact else 1e-6 if recipe.compute == "float64" else 0.01)


@pytest.mark.parametrize("name", ["bf16", "deepseek_v3", "deepseek_v31", "blackwell"])
def test_presets_decode_bit_for_bit(name: str) -> None:
    """Products of codes do not know how many rows there are, and bfloat16 hides the rest at these sizes."""
    ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (1, 9))
    whole = MODEL.forward(ids, recipe=name, absorbed=True)
    cache = MODEL.new_cache(1, 9, recipe=name)
    parts = [MODEL.decode(ids[:, i], cache, recipe=name, absorbed=True) for i in range(9)]
    assert np.array_equal(np.stack(parts, axis=1), whole)
