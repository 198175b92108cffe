"""Recipes that are none: refused, with the list of what is possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsv3_numerics import Recipe
from dsv3_numerics.model import MLA, Cache, Config, Model, OpRecord, random_weights
from dsv3_numerics.model.fields import SCHEMES
from samples import AT_RANDOM

TINY = Config.preset("tiny")
V3 = Recipe.preset("deepseek_v3")

BAD_VALUES: dict[str, dict[Any, str]] = {
    "activations": {
        "e4m3:1x128:f33": r"scheme 'e4m3:1x128:f33': unknown scale .*mean f32",
        "e4m3:128x128:f32": r".*groups of 128x128 join tokens.*groups within a",
        "e4m3:col:f32": r".*groups of col join tokens",
        "mxfp8:requantized": r".*only a weight may be quantized already",
        "bf16:1x128:f32": r"found 'bf16:1x128:f32': fmt: ",
    },
    "weights": {
        "fp8": r"scheme 'fp8': unknown format 'fp8'; expected one of .*bf16",
        "logfmt8:deepep": r".*how a transfer sends",
        "stored": r".*unknown format 'stored'",
    },
    "cache": {
        "int4": r".* int4 needs a scale; expected for example int4:1x128",
        "nvfp4": r"found 'nvfp4': its scale of scales is found in the numbers, but a cache",
        "e4m3:tensor:f32": r"found 'e4m3:tensor:f32': one scale for all tokens",
        np.tanh: r"found 'tanh': .* nobody knows those of a scheme of one's own",
        "logfmt8:deepep": r".*deepep is how a transfer sends tokens; expected logfmt8:1x128",
    },
}
"""Values that a field alone rules out, and what follows its name in the message."""

BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    *(
        ({field: value}, f"{field}: {told}")
        for field, values in BAD_VALUES.items()
        for value, told in values.items()
    ),
    ({"compute": "float16"}, r"compute: found 'float16', expected one of float64, float32, bf16"),
    ({"accumulator": "volta"}, r"accumulator: found 'volta', expected one of none, hopper_fp8"),
    ({"rule": "mine"}, r"expected one of deepseek_v3, deepseek_v3_log2, .*vllm"),
    *(({field: f"bf16:{mode}"}, rf"{field}: .*seed") for field in SCHEMES for mode in AT_RANDOM),
    (
        {"weights": "logfmt8", "activations": "e4m3:1x128:f32", "accumulator": "exact", "promote_every": 128},
        r"with weights 'logfmt8:1x128', which are none; expected accumulator none",
    ),
    ({"dispatch": "e4m3:2x128:f32"}, r"dispatch: .*groups of 2x128 join tokens"),
    ({"combine": "fp8"}, r"combine: .* unknown format 'fp8'"),
    ({"gate": 32}, r"gate: found 32, expected one of none"),
    ({"group_mask_value": 0}, r"group_mask_value: found 0, expected one of -inf, 0"),
    ({"promote_every": 128}, r"promote_every: found 128 with accumulator 'none'.*no tiles"),
    ({"accumulator": "hopper_fp8"}, r"activations 'none' in float64; expected activations one of e4m3"),
    ({"accumulator": "hopper_f16"}, r"expected accumulator none"),
    (
        {"compute": "bf16", "accumulator": "hopper_fp8", "weights": "bf16"},
        r"expected one of hopper_bf16, blackwell_bf16",
    ),
    (
        {"activations": "int8:1x128", "accumulator": "hopper_fp8", "promote_every": 128},
        "with activations in int8; expected one of exact, float32, vdpbf16ps, none",
    ),
    (
        {"activations": "e4m3:1x128:f32", "accumulator": "hopper_fp8"},
        r"found None.*activations have a scale for 128 products; expected one of 32, 64, 128",
    ),
    (
        {"activations": "nvfp4", "weights": "nvfp4", "accumulator": "exact", "promote_every": 32},
        r"scale for 16 products; .*expected one of 16",
    ),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS)
def test_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


BAD_CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"promote_every": 100}, r"expected one of 32, 64, 128"),
    ({"promote_every": 256}, r"expected one of 32, 64, 128"),
    ({"promote_every": 0}, r"promote_every: found 0, expected at least 1"),
    ({"weights": "mxfp8"}, r"weights have a scale for 32 products; .*expected one of 32$"),
    ({"activations": "none"}, r"takes float8_e4m3fn, .*with activations in bfloat16"),
    ({"accumulator": "none"}, r"no tiles"),
    ({"weigths": "bf16"}, r"field: found 'weigths'.*did you mean weights"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_CHANGES)
def test_changes(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        V3.replace(**fields)


@pytest.mark.parametrize("every", [True, 128.0, "128"])
def test_promotions_are_whole_numbers(every: Any) -> None:
    with pytest.raises(TypeError, match=r"promote_every: .* expected an integer"):
        V3.replace(promote_every=every)


def test_choices_that_are_none() -> None:
    for method in (V3.only, V3.without):
        with pytest.raises(ValueError, match=r"choice: found 'promote_every', expected one of compute"):
            method("promote_every")
    with pytest.raises(ValueError, match=r"did you mean deepseek_v3"):
        Recipe.preset("deepseek-v3")


BAD_JSON = [
    ("", "not JSON"),
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[1]", "found list, expected an object"),
    ("null", "found NoneType"),
    ('"deepseek_v3"', "found str, expected an object"),
    ('{"cache": 3}', "cache: found 3, expected a spelling"),
    ('{"kv_cache": "fp8"}', "field: found 'kv_cache', expected one of preset, compute"),
    ('{"preset": "v4"}', "recipe: found 'v4', expected one of float64"),
    ('{"preset": []}', "recipe: found"),
    ('{"promote_every": 1e400}', "expected an integer"),
    ('{"accumulator": {"name": "exact"}}', "expected one of none, hopper_fp8"),
]


@pytest.mark.parametrize(("text", "message"), BAD_JSON)
def test_json(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Recipe.from_json(text)
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises((ValueError, TypeError), match=r"recipe\.json: .*" + message):
        Recipe.load(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Recipe.read(str(tmp_path / "missing.json"))
    path = tmp_path / "bytes.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=r"bytes\.json: .*utf-8"):
        Recipe.load(path)


# --- Recipes against weights and caches -------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> Model:
    return Model(TINY, random_weights(TINY))


def test_power_of_two_scales_are_not_made_up(fp8: Model) -> None:
    """All 48 weights are told of at once, a dozen by name, and what would do instead."""
    with pytest.raises(ValueError, match="no powers of two") as caught:
        fp8.forward([1], recipe="deepseek_v31")
    message = str(caught.value)
    assert "weights e4m3:128x128:ue8m0: 48 problems" in message
    assert message.count("model.layers.") == 12
    assert "and 36 more" in message
    possible = message.split("expected weights one of ")[1].split(", ")
    assert "e4m3:128x128:ue8m0:requantized" in possible
    for word in possible:
        fp8.forward([1], recipe=Recipe.preset("deepseek_v31").replace(weights=word))


BAD_FITS: list[tuple[str, dict[str, Any], str]] = [
    ("fp8", {"weights": "none", "compute": "bf16", "accumulator": "hopper_bf16"}, "float8_e4m3fn, but"),
    ("tiny", {"weights": "e4m3:128x128:ue8m0:requantized"}, "float32 numbers, which have no scales"),
    (
        "tiny",
        {"activations": "e4m3:1x128:f32", "accumulator": "hopper_fp8", "promote_every": 128},
        "float32, but hopper_fp8 adds products of float8_e4m3fn",
    ),
    (
        "fp8",
        {"activations": "e4m3:row:f32", "accumulator": "hopper_fp8"},
        "a scale for 128 products, but sums are promoted every None",
    ),
]


@pytest.mark.parametrize(("model", "fields", "message"), BAD_FITS)
def test_recipes_that_do_not_fit_a_checkpoint(
    request: pytest.FixtureRequest, model: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        request.getfixturevalue(model).forward([1], recipe=Recipe(**fields))
    assert "expected weights one of" in str(caught.value)


def test_an_operation_done_again_refuses_likewise(fp8: Model) -> None:
    """Nobody has held the other recipe against the weights before."""
    seen: list[OpRecord] = []
    fp8.forward([1], recipe="deepseek_v3", hook=seen.append)
    linear = next(done for done in seen if done.operation.kind == "linear")
    with pytest.raises(ValueError, match=r"q_a_proj\.weight: found float32 scales that are no powers of two"):
        linear.replay(Recipe.preset("deepseek_v31"))


def test_layers_alone_refuse_likewise() -> None:
    attention = MLA(TINY, random_weights(TINY, "model.layers.0.self_attn."))
    x = np.zeros((1, 1, TINY.hidden_size), np.float32)
    with pytest.raises(ValueError, match=r"5 problems:\n  q_a_proj.weight: found float32 numbers"):
        attention(x, recipe=V3.replace(weights="e4m3:128x128:ue8m0:requantized"))


def test_caches_of_another_format(tiny: Model) -> None:
    cache = tiny.new_cache(1, 4)
    with pytest.raises(ValueError, match=r"found float32, but recipe 'deepseek_v3' keeps bf16"):
        tiny.forward([1], cache=cache, recipe="deepseek_v3")
    assert cache.lengths.tolist() == [0]
    with pytest.raises(ValueError, match=r"recipe with cache='float32'"):
        tiny.layers[0](np.zeros((1, 1, TINY.hidden_size)), cache, recipe="bf16")
    with pytest.raises(ValueError, match=r"cache: scheme 'fp4': unknown format"):
        Cache(TINY, dtype="fp4")
    with pytest.raises(ValueError, match=r"int8 needs a scale"):
        Cache(TINY, dtype=np.int8)


@pytest.mark.parametrize("recipe", [3, {"compute": "float32"}, Recipe])
def test_what_is_no_recipe(tiny: Model, recipe: Any) -> None:
    with pytest.raises(TypeError, match=r"recipe: found (int|dict|type), expected a Recipe"):
        tiny.forward([1], recipe=recipe)
    with pytest.raises(ValueError, match=r"recipe: found 'bf17', expected one of float64"):
        tiny.forward([1], recipe="bf17")


def test_numbers_that_no_code_holds_are_traced_to_their_weights() -> None:
    weights = random_weights(TINY)
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = np.inf
    with pytest.raises(
        ValueError, match=r"layer 0: .*NaN or infinity in model\.layers\.0\.mlp\.up_proj\.weight"
    ):
        Model(TINY, weights).forward([1], recipe="deepseek_v3")
