"""Recipes: every row of every table, what goes together, single choices, tables, JSON."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from dsv3_numerics import Recipe, Scheme
from dsv3_numerics.accumulator import accumulators
from dsv3_numerics.model import PRESETS
from dsv3_numerics.quantized import SCALE_DTYPES
from scheme_words import ACTIVATIONS, CACHES, COMBINES, DISPATCHES, GATES, MASKS, RULES, WEIGHTS

FLOAT64 = Recipe()
ROWS = [
    (field, word)
    for field, table in (
        ("activations", ACTIVATIONS),
        ("weights", WEIGHTS),
        ("cache", CACHES),
        ("dispatch", DISPATCHES),
        ("combine", COMBINES),
        ("gate", GATES),
        ("group_mask_value", MASKS),
        ("rule", RULES),
        ("compute", ("float64", "float32", "bf16")),
    )
    for word in table
]
PAIRS = [
    (a, w)
    for a, w in itertools.product(ACTIVATIONS, WEIGHTS)
    if Scheme.parse(a).is_quantized and Scheme.parse(w).is_quantized
]


def accepted(**fields: Any) -> bool:
    try:
        Recipe(**fields)
    except ValueError as error:
        return "expected" not in str(error)  # a refusal that does not say what is possible counts as none
    return True


@pytest.mark.parametrize(("field", "word"), ROWS)
def test_every_row_is_a_recipe_by_itself_and_survives_json(field: str, word: str) -> None:
    recipe = Recipe(**{field: word})
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert word in str(recipe) or str(getattr(FLOAT64, field)) == word or field in recipe.name
    assert recipe.only(field) == recipe.without("gate" if field != "gate" else "cache")
    assert recipe.without(field) == FLOAT64


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_their_names_and_survive_json(name: str) -> None:
    recipe = Recipe.preset(name)
    assert recipe.name == name == str(recipe).splitlines()[0]
    assert Recipe.from_json(recipe.to_json()) == recipe == Recipe.from_json({"preset": name})
    assert Recipe.read(name) is recipe


@pytest.mark.parametrize("unit", accumulators(), ids=lambda unit: unit.name)
def test_an_accumulator_is_allowed_exactly_where_matmul_nt_takes_the_operands(unit: Any) -> None:
    """The rule of `matmul_nt`, written once more: formats taken, steps whole, scales constant between."""
    for (a, w), every in itertools.product(PAIRS, (None, 16, 32, 64, 128, 256)):
        sides = Scheme.parse(a), Scheme.parse(w)
        allowed = all(side.format in unit.inputs for side in sides)
        allowed &= every is None or every % unit.interval == 0
        for side in sides:
            if unit.scale is not None:
                allowed &= unit.takes_scales(SCALE_DTYPES[side.scale], side.group_k)
            else:
                allowed &= side.group_k is None or (every is not None and side.group_k % every == 0)
        fields = {"activations": a, "weights": w, "accumulator": unit.name, "promote_every": every}
        assert accepted(**fields) == allowed, fields


def test_bfloat16_numbers_are_codes_for_units_that_take_them() -> None:
    for unit in accumulators():
        allowed = accepted(compute="bf16", weights="bf16", accumulator=unit.name)
        assert allowed == ("bfloat16" in unit.inputs)


@pytest.mark.parametrize("name", PRESETS)
def test_single_choices_are_valid_recipes_and_add_up(name: str) -> None:
    recipe, whole = Recipe.preset(name), FLOAT64
    for choice in recipe.choices():
        alone = recipe.only(choice)
        assert choice in alone.choices()
        assert choice not in recipe.without(choice).choices()
        brought = set(alone.choices()) - {choice}
        needs = {"compute", "activations", "weights"} if choice in ("accumulator", "rule") else set()
        assert brought <= needs
    order = [c for c in Recipe.CHOICES if c != "accumulator"]
    for choice in order:
        whole = whole.replace(**{choice: getattr(recipe, choice)})
    both = {"accumulator": recipe.accumulator, "promote_every": recipe.promote_every}
    assert whole.replace(**both) == recipe
    assert FLOAT64.choices() == ()


def test_an_accumulator_alone_brings_its_codes_and_leaves_with_them() -> None:
    recipe = Recipe.preset("deepseek_v3")
    assert recipe.only("accumulator").choices() == ("activations", "weights", "accumulator")
    assert recipe.without("activations").accumulator == "none"
    assert recipe.without("weights").accumulator == "none"
    assert recipe.without("compute").accumulator == "hopper_fp8"
    tensor_core = Recipe(compute="bf16", weights="bf16", accumulator="hopper_bf16")
    assert tensor_core.only("accumulator") == tensor_core
    assert tensor_core.without("compute").accumulator == "none"


def test_names_tell_what_differs_from_the_closest_preset() -> None:
    recipe = Recipe.preset("blackwell")
    assert recipe.replace(cache="flashmla", group_mask_value="0").name == (
        "blackwell with cache=flashmla, group_mask_value=0"
    )
    other = recipe.replace(
        cache="flashmla", combine="logfmt8", gate="bf16", rule="vllm", group_mask_value="0"
    )
    assert other.name == "custom"


def test_the_table_of_deepseek_v3() -> None:
    table = str(Recipe.preset("deepseek_v3"))
    row = next(line for line in table.splitlines() if line.startswith("q, kv_a"))
    for part in ("e4m3 x e4m3", "1x128 f32, 128x128 f32", "hopper_fp8, promoted every 128", "bf16"):
        assert part in row


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    recipe = Recipe.preset("deepseek_v31").replace(cache="logfmt10")
    recipe.save(path)
    assert Recipe.load(path) == recipe == Recipe.read(str(path))
    assert json.loads(path.read_text())["cache"] == "logfmt10:1x128"


OLD = {
    "numbers": "bfloat16",
    "activations": "int8:1x128:f32",
    "weights": "stored",
    "cache": "fp8",
    "dispatch": "numbers",
    "combine": "logfmt10",
    "gate": "numbers",
    "masked": "0",
}


def test_json_of_earlier_versions_loads(tmp_path: Path) -> None:
    recipe = Recipe.from_json(json.dumps(OLD))
    assert recipe == Recipe(
        compute="bf16", activations="int8:1x128", cache="flashmla", combine="logfmt10", group_mask_value="0"
    )
    assert Recipe.from_json(recipe.to_json()) == recipe
    bf16 = {"numbers": "bfloat16", "weights": "bf16", "cache": "bfloat16", "gate": "float32"}
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"preset": "float64", **bf16}))
    assert Recipe.load(path) == Recipe.preset("bf16") == Recipe.preset("bfloat16")
    with pytest.raises(ValueError, match="found 'numbers' and 'compute'"):
        Recipe.from_json({"numbers": "float32", "compute": "float32"})


def test_spellings_of_one_scheme_are_one_recipe() -> None:
    a = Recipe(cache="bfloat16", activations=" FLOAT8_E4M3FN:1x128 ", compute="bfloat16")
    assert a == Recipe(cache="bf16", activations=Scheme.parse("e4m3:1x128:f32"), compute="bf16")
    assert hash(a) == hash(a.replace())


class Doubled:
    """Twice what goes in."""

    def quantize(self, x: Any) -> Any:
        return x * 2

    def dequantize(self, q: Any) -> Any:
        return q


def test_a_scheme_of_ones_own_is_a_choice() -> None:
    recipe = Recipe(activations=Doubled(), weights=abs)
    assert recipe.name == "float64 with activations=Doubled, weights=abs"
    assert recipe.choices() == ("activations", "weights")
    assert recipe.only("activations").without("activations") == FLOAT64
    with pytest.raises(ValueError, match="activations: found 'Doubled', a scheme of one's own"):
        recipe.to_json()
    with pytest.raises(ValueError, match="adds products of codes, with activations 'Doubled'"):
        recipe.replace(accumulator="exact")
