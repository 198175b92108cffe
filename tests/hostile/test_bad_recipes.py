"""Recipes that are none: refused, with the list of what is possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dsv3_numerics import Recipe

V3 = Recipe.preset("deepseek_v3")

BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"activations": "e4m3:1x128:f33"}, r"did you mean e4m3:1x128:f32"),
    ({"activations": None}, r"activations: found None, expected one of none, e4m3"),
    ({"weights": "fp8"}, r"weights: found 'fp8', expected one of stored, bf16, e4m3:128x128:f32"),
    ({"numbers": "float16"}, r"numbers: found 'float16', expected one of float64, float32, bfloat16"),
    ({"accumulator": "volta"}, r"accumulator: found 'volta', expected one of none, hopper_fp8"),
    ({"rule": "mine"}, r"expected one of deepseek_v3, deepgemm, deepep, vllm"),
    ({"cache": "int4"}, r"cache: .* expected one of numbers, float64, float32, bfloat16, fp8, logfmt8"),
    ({"dispatch": "logfmt8"}, r"dispatch: .* expected one of numbers, bf16, e4m3"),
    ({"combine": "fp8"}, r"combine: .* e5m6:1x128:ue8m0, logfmt8, logfmt10"),
    ({"gate": 32}, r"gate: found 32, expected one of numbers"),
    ({"masked": 0}, r"masked: found 0, expected one of -inf, 0"),
    ({"promote_every": 128}, r"promote_every: found 128 with accumulator 'none'.*no tiles"),
    ({"accumulator": "hopper_fp8"}, r"activations 'none' in float64; expected activations one of e4m3"),
    ({"accumulator": "hopper_f16"}, r"expected accumulator none"),
    (
        {"numbers": "bfloat16", "accumulator": "hopper_fp8", "weights": "bf16"},
        r"expected one of hopper_bf16, blackwell_bf16",
    ),
    (
        {"activations": "int8:1x128:f32", "accumulator": "hopper_fp8", "promote_every": 128},
        r"takes float8_e4m3fn, float8_e5m2, with activations in int8; expected one of exact, float32, none",
    ),
    (
        {"activations": "e4m3:1x128:f32", "accumulator": "hopper_fp8"},
        r"found None.*activations have a scale for 128 products; expected one of 32, 64, 128",
    ),
    (
        {"activations": "nvfp4", "weights": "nvfp4", "accumulator": "exact", "promote_every": 32},
        r"scale for 16 products; .*expected accumulator none",
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
        with pytest.raises(ValueError, match=r"choice: found 'promote_every', expected one of numbers"):
            method("promote_every")
    with pytest.raises(ValueError, match=r"did you mean deepseek_v3"):
        Recipe.preset("deepseek-v3")


BAD_JSON = [
    ("", "found no JSON"),
    ("{", "found no JSON"),
    ("[" * 100_000, "found no JSON"),
    ("[1]", "found list, expected an object"),
    ("null", "found NoneType"),
    ('"deepseek_v3"', "found str, expected an object"),
    ('{"cache": 3}', "cache: found 3, expected one of"),
    ('{"kv_cache": "fp8"}', "field: found 'kv_cache', expected one of preset, numbers"),
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
