"""Calls of the core in a forward: how many there are, and weights that are laid out for those to come."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsv3_numerics import Recipe, _core, simd_level
from dsv3_numerics.model import Model
from dsv3_numerics.model.projections import products_of

FP8 = Path(__file__).parents[1] / "golden" / "tiny_v3_fp8"
V3 = Recipe.preset("deepseek_v3")
IDS = np.random.default_rng(0).integers(0, 144, (2, 7))


def test_weights_are_made_once_and_codes_stay_where_they_are(fp8: Model) -> None:
    """FP8 weights are multiplied in the mapped file; others are quantized when they are first used."""
    fp8.forward([1, 2], recipe=V3)
    weights = fp8.weights.under("model.layers.0.self_attn.")
    held: Any = weights.operand("o_proj.weight", products_of(V3).use)
    assert held is weights.given("o_proj.weight")
    assert not held.codes.flags.owndata
    other = products_of(Recipe(activations="mxfp8", weights="mxfp8")).use
    assert weights.operand("o_proj.weight", other) is weights.operand("o_proj.weight", other)
    assert products_of(V3.replace(cache="flashmla")).use is products_of(V3).use


@pytest.mark.parametrize("room", [0, 50_000, 1 << 30])
def test_weights_used_again_are_laid_out_within_the_memory_given(room: int) -> None:
    """Prepared or not, and with whatever level: the same bytes."""
    model = Model.from_checkpoint(FP8, prepared_bytes=room)
    kept = model.weights._kept
    level, expected = simd_level(), model.forward(IDS, recipe=V3)
    assert kept.room == room
    assert kept.once
    for at in reversed(_core.simd_levels()):
        _core.set_simd_level(at)
        try:
            assert model.forward(IDS, recipe=V3).tobytes() == expected.tobytes(), at
            assert (
                model.forward(IDS[:1, :1], recipe=V3).tobytes()
                == Model.from_checkpoint(FP8).forward(IDS[:1, :1], recipe=V3).tobytes()
            )
        finally:
            _core.set_simd_level(level)
    assert 0 <= kept.room <= room
    assert (kept.room < room) == (room > 0 and level != "scalar")


def test_core_crossings_of_a_forward(fp8: Model) -> None:
    """Rounding belongs to the operation that makes the result, and an expert is one crossing."""
    fp8.forward(IDS, recipe=V3)
    fp8.forward(IDS, recipe=V3)
    found: Counter[str] = Counter()

    def profile(_: Any, event: str, function: Any) -> None:
        if event == "c_call" and getattr(function, "__module__", None) == "dsv3_numerics._core":
            found[function.__name__] += 1

    sys.setprofile(profile)
    try:
        fp8.forward(IDS, recipe=V3)
    finally:
        sys.setprofile(None)
    del found["empty"]  # an array's memory, in the place and at the price of numpy.empty
    assert found["round_bfloat16"] == 0
    assert found["matmul_nt"] == found["quantize"] == 0
    assert found["swiglu"] == 6  # a dense layer, four experts, the shared one
    assert found.total() < 50
