"""The forward against float64 answers of an independent implementation (see README.md beside this file)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsv3_numerics.model import Model
from dsv3_numerics.reference import model as textbook

HERE = Path(__file__).parent

# Two programs that add the same numbers in another order: float64 leaves 1e-14, so 1e-11 is far above
# rounding and far below any difference in what is computed. In float32 rounding alone leaves 8e-6.
FLOAT64, FLOAT32 = 1e-11, 1e-5

CASES = {
    "tiny_v3": ("tiny_v3", "", False),
    "fp8 as float32 products": ("tiny_v3_fp8", "wf32.", False),
    "fp8 as bfloat16": ("tiny_v3_fp8", "wbf16.", True),
}


class Case:
    """A checkpoint, its answers under their plain names, and its tokens."""

    def __init__(self, folder: str, prefix: str, rounded: bool) -> None:
        stored = np.load(HERE / folder / "golden.npz")
        self.path, self.rounded = HERE / folder, rounded
        self.ids = stored["input_ids"]
        self.answers: dict[str, Any] = {
            name.removeprefix(prefix): stored[name] for name in stored.files if name.startswith(prefix)
        }

    def model(self, dtype: Any) -> Model:
        return Model.from_checkpoint(self.path, dtype=dtype, weights_as_bf16=self.rounded)


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


def worst(found: Any, answer: Any) -> float:
    """The largest difference; shapes may differ by where batch and tokens are split."""
    return float(np.abs(np.asarray(found, np.float64).reshape(answer.shape) - answer).max())


def traced(model: Model, ids: Any) -> dict[str, Any]:
    """Everything that the answers have, under their names."""
    names = list(model.trace_names())
    found = model.trace(ids, names)
    states = [found["layer0.input"], *(found[f"layer{i}.output"] for i in range(len(model.layers)))]
    renamed = {
        name.replace("mtp.", "mtp_"): value for name, value in found.items() if name.startswith("mtp.")
    }
    return found | renamed | {"hidden_states": np.stack(states)}


# Answers that are not of a plain forward of all tokens, and those of another program's rounding.
ELSEWHERE = {
    "input_ids",
    "decode_schedule",
    "decode_logits",
    "hf_f64_logits",
    "hf_f32_logits",
    "mtp_logits_from_prenorm_hidden",
}


@pytest.mark.parametrize(("dtype", "bar"), [(np.float64, FLOAT64), (np.float32, 20 * FLOAT32)])
def test_every_intermediate(case: Case, dtype: Any, bar: float) -> None:
    """float32 intermediates are larger than logits (hidden states reach 8), hence the wider bar there."""
    found = traced(case.model(dtype), case.ids)
    checked = 0
    for name, answer in case.answers.items():
        if name in ELSEWHERE:
            continue
        if name.endswith("topk_idx"):
            assert np.array_equal(found[name].reshape(answer.shape), answer), name
        else:
            assert worst(found[name], answer) <= bar, name
        checked += 1
    assert checked >= 13


def test_logits_in_float32(case: Case) -> None:
    assert worst(case.model(np.float32).forward(case.ids), case.answers["logits"]) <= FLOAT32


@pytest.mark.parametrize("absorbed", [False, True, None])
@pytest.mark.parametrize(("dtype", "bar"), [(np.float64, FLOAT64), (np.float32, FLOAT32)])
def test_decoding_through_the_cache(case: Case, dtype: Any, bar: float, absorbed: bool | None) -> None:
    """A prompt, a chunk of two, then single tokens."""
    model = case.model(dtype)
    cache = model.new_cache(len(case.ids), case.ids.shape[1])
    parts = [
        model.forward(case.ids[:, start:end], cache=cache, absorbed=absorbed)
        for start, end in case.answers["decode_schedule"]
    ]
    assert worst(np.concatenate(parts, axis=1), case.answers["decode_logits"]) <= bar
    assert cache.lengths.tolist() == [case.ids.shape[1]] * len(case.ids)


def test_mtp_is_fed_the_normalised_hidden_state(case: Case) -> None:
    """Fed with the state before the final norm, it gives the answer kept for that, which is another one."""
    model = case.model(np.float64)
    trace = model.trace(case.ids, ["final_norm", f"layer{len(model.layers) - 1}.output"])
    before = trace[f"layer{len(model.layers) - 1}.output"][:, :-1]
    after = trace["final_norm"][:, :-1]
    next_ids = case.ids[:, 1:]
    assert worst(model.mtp(after, next_ids), case.answers["mtp_logits"]) <= FLOAT64
    assert worst(model.mtp(before, next_ids), case.answers["mtp_logits_from_prenorm_hidden"]) <= FLOAT64
    assert worst(model.mtp(before, next_ids), case.answers["mtp_logits"]) > 1e-6


@pytest.mark.parametrize("absorbed", [False, True])
def test_textbook(case: Case, absorbed: bool) -> None:
    model = case.model(np.float64)
    weights = {name: model.weights.numbers(name, np.dtype(np.float64)) for name in model.weights}
    config = model.config.to_dict()
    whole = textbook.forward(case.ids, weights, config, absorbed=absorbed)
    assert worst(whole.logits, case.answers["logits"]) <= FLOAT64
    found = whole.trace | {"logits": whole.logits}
    for name in set(found) & set(case.answers):
        assert worst(found[name], case.answers[name]) <= FLOAT64, name
    predicted = textbook.mtp(whole.hidden[:, :-1], case.ids[:, 1:], weights, config)
    assert worst(predicted.logits, case.answers["mtp_logits"]) <= FLOAT64
