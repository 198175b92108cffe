"""Each kind of input catches what its label says: a program that is wrong in that way differs on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dsv3_numerics import Quantized, encode, golden, matmul_nt, quantize_tiles
from dsv3_numerics.compare.manifest import open_manifest
from dsv3_numerics.golden.inputs import CASES
from dsv3_numerics.model import Config, Gate

Held = dict[str, Any]
F8 = np.dtype(ml_dtypes.float8_e4m3fn)


def cast_away(held: Held) -> Any:
    return encode(held["x"], F8, rounding="nearest_away")


def cast_twice(held: Held) -> Any:
    return encode(encode(held["x"], "bfloat16"), F8)


def cast_flushing(held: Held) -> Any:
    found = encode(held["x"], F8)
    small = np.abs(found.astype(np.float32)) < 2.0**-6
    return np.where(small, np.copysign(np.float32(0), held["x"]), found.astype(np.float32)).astype(F8)


def cast_without_signs_of_zeros(held: Held) -> Any:
    return encode(held["x"] + np.float32(0), F8)


def cast_of_nan_to_the_largest(held: Held) -> Any:
    return encode(held["x"], F8, nan="max")


def tiles(held: Held, **options: Any) -> Quantized:
    return quantize_tiles(held["x"], **{"rule": "deepgemm", **options})


def tiles_by_division(held: Held) -> Any:
    return tiles(held, rule="deepseek_v3").codes


def tiles_of_the_neighbour(held: Held) -> Any:
    rolled = np.roll(held["x"], 1, axis=1)
    return np.roll(tiles({"x": rolled}).codes, -1, axis=1)


def tiles_without_a_floor(held: Held) -> Any:
    return tiles(held, rule="vllm_fp8_ds_mla").codes


def tiles_of_zeros_divided(held: Held) -> Any:
    x = held["x"].reshape(len(held["x"]), -1, 128)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = x / (np.abs(x).max(axis=-1, keepdims=True) / np.float32(448))
    return encode(scaled.reshape(held["x"].shape), F8)


def scales_to_the_lower_power(held: Held) -> Any:
    return tiles(held, scale="mx", rule="floor", tile=128).scales


def operand(held: Held, side: str) -> Quantized:
    codes, scales = held[f"{side}_codes"], held[f"{side}_scales"]
    axis, block = (1, (128,)) if side == "a" else (None, (128, 128))
    return Quantized(codes, scales, "float8_e4m3fn", block, axis=axis)


def product(held: Held, **options: Any) -> Any:
    return matmul_nt(operand(held, "a"), operand(held, "b"), **options)


def product_never_promoted(held: Held) -> Any:
    """Scales of a row and column that are one, so that promotion is all that differs."""
    return held["step_sums"][3] * 0 + matmul_nt(held["a_codes"], held["b_codes"], promote_every=None)


def codes_promoted(held: Held) -> Any:
    return matmul_nt(held["a_codes"], held["b_codes"], promote_every=128)


def product_in_float32(held: Held) -> Any:
    return product(held, accumulator="float32")


def product_of_flushed_operands(held: Held) -> Any:
    """Subnormal codes read as zero."""
    sides = {}
    for side in "ab":
        codes = held[f"{side}_codes"].astype(np.float32)
        sides[f"{side}_codes"] = np.where(np.abs(codes) < 2.0**-6, 0, codes).astype(F8)
    return product({**held, **sides})


def product_of_a_wider_unit(held: Held) -> Any:
    return product(held, accumulator="blackwell_fp8")


WRONG: dict[tuple[str, str], tuple[Callable[[Held], Any], str, dict[str, Any]]] = {
    ("cast", "ties"): (cast_away, "codes", {}),
    ("cast", "near_ties"): (cast_twice, "codes", {}),
    ("cast", "subnormals"): (cast_flushing, "codes", {}),
    ("cast", "zeros"): (cast_without_signs_of_zeros, "codes", {}),
    ("cast", "specials"): (cast_of_nan_to_the_largest, "codes", {}),
    ("quantize", "near_ties"): (tiles_by_division, "codes", {}),
    ("quantize", "outlier"): (tiles_of_the_neighbour, "codes", {}),
    ("quantize", "tiny"): (tiles_without_a_floor, "codes", {}),
    ("quantize", "zeros"): (tiles_of_zeros_divided, "codes", {}),
    ("quantize", "powers"): (scales_to_the_lower_power, "scales", {"scale": "mx", "rule": "rceil"}),
    ("product", "cancellation"): (product_in_float32, "d", {}),
    ("product", "subnormals"): (product_of_flushed_operands, "d", {}),
    ("product", "normal"): (product_of_a_wider_unit, "d", {}),
    ("product", "outlier"): (product_of_a_wider_unit, "d", {}),
}


@pytest.mark.parametrize(("operation", "case"), WRONG)
def test_a_wrong_program_differs(operation: str, case: str, tmp_path: Path) -> None:
    wrong, name, arguments = WRONG[operation, case]
    golden.write(operation, tmp_path, cases=[case], **arguments)
    held = {key.removeprefix(f"{case}."): x for key, x in open_manifest(tmp_path).items()}
    right, other = (np.ascontiguousarray(x) for x in (held[name], wrong(held)))
    assert right.shape == other.shape
    assert right.tobytes() != other.tobytes()


@pytest.mark.parametrize("case", ["normal", "cancellation"])
def test_a_promotion_that_was_forgotten_differs(case: str, tmp_path: Path) -> None:
    golden.write("product", tmp_path, cases=[case])
    held = {key.removeprefix(f"{case}."): x for key, x in open_manifest(tmp_path).items()}
    assert (product_never_promoted(held) != codes_promoted(held)).any()


def test_every_kind_is_caught_by_some_test() -> None:
    """Nothing has a label without a proof, but those that are there for no fault."""
    proven = {case for _, case in WRONG} | set(MODELS) | {"ties", "real"}
    assert set(CASES) - proven == {"hidden"}


def gate_of(held: Held) -> Gate:
    weights = {"weight": held["weight"], "e_score_correction_bias": held["bias"]}
    return Gate(Config.preset("tiny"), weights)


def other_index_first(held: Held) -> bool:
    """Among equals the higher index first."""
    scores = held["scores"] + held["bias"]
    top = np.argsort(scores, axis=-1, kind="stable")[:, ::-1]
    tied = [scores[t, a] == scores[t, b] for t, (a, b) in enumerate(top[:, :2])]
    return any(tied) and any(a > b for a, b in top[:, :2].tolist())


def weights_of_biased_scores(held: Held) -> bool:
    chosen = np.take_along_axis(held["scores"] + held["bias"], held["indices"], axis=-1)
    weights = chosen / chosen.sum(axis=-1, keepdims=True) * np.float32(2.5)
    return bool(np.abs(weights - held["weights"]).max() > 1e-3)


def masked_by_zero(held: Held) -> bool:
    weights = {"weight": held["weight"], "e_score_correction_bias": held["bias"]}
    other = Gate(Config.preset("tiny"), weights, group_mask_value=0.0)(held["x"])
    return bool((other.indices != held["indices"]).any())


def sigmoids_of_a_wider_program(held: Held) -> bool:
    """Scores that are equal in float32 and are not in float64."""
    wide = 1 / (1 + np.exp(-held["logits"].astype(np.float64)))
    return any(len(np.unique(a)) < len(np.unique(b)) for a, b in zip(held["scores"], wide, strict=True))


def softmax_without_the_largest(held: Held) -> bool:
    """Some probability is zero or one: scores are far apart."""
    return bool((held["probs"] == 1).any())


def amax_of_a_token(held: Held) -> bool:
    """One scale for a token's 256 channels."""
    codes = quantize_tiles(held["x"].reshape(-1, held["x"].shape[-1]), tile=256).codes
    return codes.tobytes() != np.asarray(held["q_a_proj.x_codes"]).tobytes()


def norms_without_epsilon(held: Held) -> bool:
    """A token of zeros, whose root mean square is zero."""
    return not held["x"].reshape(-1, held["x"].shape[-1]).any(axis=-1).all()


def keys_that_do_not_turn(held: Held) -> bool:
    """Rotated keys of one token, unlike at each place, though the latents are alike."""
    keys, latents = held["k_pe"][0], held["c_kv"][0]
    return bool((latents == latents[0]).all() and (keys != keys[0]).any())


MODELS: dict[str, tuple[str, Callable[[Held], bool], dict[str, Any]]] = {
    "gate_ties": ("gate", other_index_first, {}),
    "gate_bias": ("gate", weights_of_biased_scores, {}),
    "gate_negative": ("gate", masked_by_zero, {}),
    "gate_saturated": ("gate", sigmoids_of_a_wider_program, {}),
    "loud": ("attention", softmax_without_the_largest, {}),
    "outlier_channels": ("attention", amax_of_a_token, {"model": "heads"}),
    "zero_tokens": ("attention", norms_without_epsilon, {}),
    "repeated": ("attention", keys_that_do_not_turn, {}),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_wrong_model_differs(case: str, tmp_path: Path) -> None:
    operation, differs, arguments = MODELS[case]
    golden.write(operation, tmp_path, cases=[case], **arguments)
    held = {key.removeprefix(f"{case}."): x for key, x in open_manifest(tmp_path).items()}
    for array in held.values():
        if array.dtype.kind == "f":
            assert not np.isnan(array).any()
    assert differs(held)
