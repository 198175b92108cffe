"""Every ``recipe=`` of the public API takes a recipe or its name: found by looking, and tried."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import dsv3_numerics
from dsv3_numerics import Recipe
from dsv3_numerics.model import (
    MLA,
    MLP,
    Block,
    Config,
    Gate,
    Model,
    MoE,
    random_weights,
)
from dsv3_numerics.training import ExpertRecipe, LinearRecipe

FAMILIES = (Recipe, LinearRecipe, ExpertRecipe)


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions and methods that outsiders call, by their names."""
    for info in pkgutil.walk_packages(dsv3_numerics.__path__, "dsv3_numerics."):
        if any(part.startswith("_") for part in info.name.split(".")[1:]) or ".reference" in info.name:
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            found = getattr(module, name)
            if inspect.isfunction(found):
                yield f"{info.name}.{name}", found
            elif inspect.isclass(found):
                for method, function in inspect.getmembers(found, inspect.isfunction):
                    made = method == "__init__" and not dataclasses.is_dataclass(found)  # results hold theirs
                    if not method.startswith("_") or method == "__call__" or made:
                        yield f"{info.name}.{name}.{method}", function


TAKING = {
    name: function
    for name, function in public()
    if "recipe" in inspect.signature(function).parameters and function.__module__ != "dsv3_numerics._recipes"
}


@pytest.mark.parametrize("name", TAKING)
def test_a_name_is_a_recipe_to_whoever_takes_one(name: str) -> None:
    """By its type: a recipe of a family, or a str."""
    hint = typing.get_type_hints(TAKING[name], localns={"Model": Model, "Recipe": Recipe})["recipe"]
    options = {hint, *typing.get_args(hint)}
    assert str in options, f"{name}: {hint}"
    assert options & set(FAMILIES), f"{name}: {hint}"


CONFIG = Config.preset("tiny")
X = np.ones((2, CONFIG.hidden_size), np.float32)
LAYERS: dict[str, Callable[[str], Any]] = {
    "MLA": lambda recipe: MLA(CONFIG, under("layers.0.self_attn."))(X, recipe=recipe),
    "MLP": lambda recipe: MLP(CONFIG, under("layers.0.mlp."))(X, recipe=recipe),
    "MoE": lambda recipe: MoE(CONFIG, under("layers.1.mlp."))(X, recipe=recipe),
    "Gate": lambda recipe: Gate(CONFIG, under("layers.1.mlp.gate."))(X, recipe=recipe),
    "Block": lambda recipe: Block(CONFIG, under("layers.0."), layer=0)(X, recipe=recipe),
}


def under(prefix: str) -> Any:
    return random_weights(CONFIG, f"model.{prefix}")


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_take_names(layer: str) -> None:
    assert LAYERS[layer]("bf16") is not None
    with pytest.raises(ValueError, match="recipe: found 'bf17', expected one of float64"):
        LAYERS[layer]("bf17")


def test_models_take_names() -> None:
    model = Model(CONFIG, random_weights(CONFIG))
    for recipe in ("bf16", "bfloat16", Recipe.preset("bf16")):
        assert model.new_cache(recipe=recipe).format.name == "bf16"
        np.testing.assert_array_equal(
            model.forward([1, 2], recipe=recipe), model.forward([1, 2], recipe="bf16")
        )
        assert len(model.operations(recipe, [1])) > 10
    for call in (model.forward, model.hidden, model.trace):
        with pytest.raises(ValueError, match="recipe: found 'bf17'"):
            call([1], recipe="bf17")
