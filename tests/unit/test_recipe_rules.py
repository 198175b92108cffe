"""Rules and NVFP4 in recipes: one's own rule is followed, and batch mates do not move each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dsv3_numerics as d3
from dsv3_numerics import Recipe, Rule, Scheme, study
from dsv3_numerics.model import Config, Model, random_weights

IDS = [3, 1, 4, 1, 5, 9]


@pytest.fixture(scope="module")
def model() -> Any:
    config = Config.preset("tiny")
    return Model(config, random_weights(config))


@pytest.mark.parametrize("field", ["activations", "combine"])
def test_tokens_in_nvfp4_do_not_depend_on_their_batch_mates(model: Any, field: str) -> None:
    recipe = Recipe.preset("bf16").replace(**{field: "nvfp4"})
    assert str(getattr(recipe, field)) == "nvfp4:row"
    alone = model.forward([IDS], recipe=recipe)
    beside = model.forward([IDS, [7] * 6], recipe=recipe)
    np.testing.assert_array_equal(alone[0], beside[0])


@pytest.mark.parametrize("compute", ["bf16", "float32", "float64"])
@pytest.mark.parametrize("dispatch", ["nvfp4", "nvfp4=0.01", "nvfp4:none"])
def test_dispatched_nvfp4_tokens_are_the_same_in_any_batch_of_few(
    model: Any, compute: str, dispatch: str
) -> None:
    """To the bit, as long as no product has more than eight rows: those of more add in another order."""
    recipe = Recipe.preset(compute).replace(dispatch=dispatch)
    alone = model.forward([IDS[:4]], recipe=recipe)
    for mates in ([2, 7, 1, 8], [7] * 4, [0, 0, 0, 190]):
        beside = model.forward([IDS[:4], mates], recipe=recipe)
        np.testing.assert_array_equal(alone[0], beside[0])


def test_products_on_accumulators_do_not_depend_on_the_rows() -> None:
    rng = np.random.default_rng(0)
    x, w = (
        rng.standard_normal((40, 192)).astype(np.float32),
        rng.standard_normal((24, 192)).astype(np.float32),
    )
    weights = d3.quantize(w, "nvfp4")
    whole = d3.quantize(x, "nvfp4:row")
    many = d3.matmul_nt(whole, weights, accumulator="blackwell_nvfp4", promote_every=None)
    for rows in (1, 6, 8, 9, 17):
        few = d3.matmul_nt(
            d3.quantize(x[:rows], "nvfp4:row"), weights, accumulator="blackwell_nvfp4", promote_every=None
        )
        np.testing.assert_array_equal(few, many[:rows])


def test_a_rule_of_ones_own_is_followed_and_survives_json(model: Any) -> None:
    base = Recipe.preset("deepseek_v3")
    own = base.replace(rule=Rule.parse("deepgemm").replace(amax_floor=4.0))
    assert own.rule == "deepgemm(amax_floor=4)"
    assert Recipe.from_json(own.to_json()) == own
    assert (model.forward([IDS], recipe=own) != model.forward([IDS], recipe=base)).any()
    with pytest.raises(ValueError, match=r"^rule: found 'deepgemm\(scale_op=none\)'"):
        base.replace(rule="deepgemm(scale_op=none)")


def test_mx_and_nvfp4_rules_are_schemes(model: Any) -> None:
    recipes = [Recipe.preset("bf16").replace(activations=s, weights=s) for s in ("mxfp8", "mxfp8:rceil")]
    floor, rceil = (model.forward([IDS], recipe=recipe) for recipe in recipes)
    assert (floor != rceil).any()
    assert Scheme.parse("mxfp4:even").read_back(np.full((1, 32), 7, np.float32))[0, 0] == 8


def test_a_study_says_where_a_floor_decided() -> None:
    x = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32) * np.float32(1e-5)
    schemes = ["e2m1:1x32:ue8m0", "mxfp4", "e2m1:1x32:ue8m0:deepseek_v3(amax_floor=0)"]
    remarks = study.run({"x": x, "y": x * 1e5}, schemes).remarks()
    assert len(remarks) == 1
    assert "e2m1:1x32:ue8m0: a floor of its rule" in remarks[0]
    assert "8,192 elements (0.5 of all) in 1 tensor." in remarks[0]
