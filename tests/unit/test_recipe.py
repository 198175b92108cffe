"""Recipes: every row of every table, what goes together, single choices, tables, JSON."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from dsv3_numerics import Recipe
from dsv3_numerics.accumulator import accumulators
from dsv3_numerics.model import PRESETS
from dsv3_numerics.model.forms import ACTIVATIONS, CACHES, COMBINES, DISPATCHES, GATES, MASKED, RULES, WEIGHTS

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
        ("masked", MASKED),
        ("rule", RULES),
        ("numbers", ("float64", "float32", "bfloat16")),
    )
    for word in table
]
PAIRS = [
    (a, w)
    for a, w in itertools.product(ACTIVATIONS, WEIGHTS)
    if ACTIVATIONS[a].coded and WEIGHTS[w].coded and w != "stored"
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
    assert word in str(recipe) or getattr(FLOAT64, field) == word or field in recipe.name
    assert recipe.only(field) == recipe.without("masked" if field != "masked" else "gate")
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
        sides = ACTIVATIONS[a], WEIGHTS[w]
        allowed = all(side.format in unit.inputs for side in sides)
        allowed &= every is None or every % unit.products == 0
        for side in sides:
            allowed &= side.along is None or (every is not None and side.along % every == 0)
        fields = {"activations": a, "weights": w, "accumulator": unit.name, "promote_every": every}
        assert accepted(**fields) == allowed, fields


def test_bfloat16_numbers_are_codes_for_units_that_take_them() -> None:
    for unit in accumulators():
        allowed = accepted(numbers="bfloat16", weights="bf16", accumulator=unit.name)
        assert allowed == ("bfloat16" in unit.inputs)


@pytest.mark.parametrize("name", PRESETS)
def test_single_choices_are_valid_recipes_and_add_up(name: str) -> None:
    recipe, whole = Recipe.preset(name), FLOAT64
    for choice in recipe.choices():
        alone = recipe.only(choice)
        assert choice in alone.choices()
        assert choice not in recipe.without(choice).choices()
        brought = set(alone.choices()) - {choice}
        assert not brought or (choice == "accumulator" and brought <= {"numbers", "activations", "weights"})
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
    assert recipe.without("numbers").accumulator == "hopper_fp8"
    tensor_core = Recipe(numbers="bfloat16", weights="bf16", accumulator="hopper_bf16")
    assert tensor_core.only("accumulator") == tensor_core
    assert tensor_core.without("numbers").accumulator == "none"


def test_names_tell_what_differs_from_the_closest_preset() -> None:
    recipe = Recipe.preset("blackwell")
    assert recipe.replace(cache="fp8", masked="0").name == "blackwell with cache=fp8, masked=0"
    other = recipe.replace(cache="fp8", combine="logfmt8", gate="bfloat16", rule="vllm", masked="0")
    assert other.name == "custom"


def test_the_table_of_deepseek_v3() -> None:
    table = str(Recipe.preset("deepseek_v3"))
    row = next(line for line in table.splitlines() if line.startswith("q, kv_a"))
    for part in ("e4m3 x e4m3", "1x128 f32, 128x128 f32", "hopper_fp8, promoted every 128", "bfloat16"):
        assert part in row


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    recipe = Recipe.preset("deepseek_v31").replace(cache="logfmt10")
    recipe.save(path)
    assert Recipe.load(path) == recipe == Recipe.read(str(path))
    assert json.loads(path.read_text())["cache"] == "logfmt10"
