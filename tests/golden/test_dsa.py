"""Sparse attention against float64 answers of an independent implementation (see README.md beside it)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dsv3_numerics.model import Config, Model
from dsv3_numerics.reference import model as textbook

FOLDER = Path(os.environ.get("DSV3_VECTORS", Path(__file__).parent)) / "dsa"
if not FOLDER.is_dir():
    FOLDER = Path(__file__).parent / "dsa"
CASES = sorted(FOLDER.glob("dsa_*.npz"))

# Two programs that add the same numbers in another order leave 1e-14; a position chosen wrongly leaves 1e-2.
FLOAT64, FLOAT32 = 1e-11, 1e-5


class Case:
    """A model and its answers."""

    def __init__(self, path: Path) -> None:
        stored = np.load(path)
        self.config = Config.from_json(json.loads(str(stored["config"])))
        self.weights = {
            name[2:]: stored[name].view(ml_dtypes.bfloat16)
            if stored[name].dtype == np.uint16
            else stored[name]
            for name in stored.files
            if name.startswith("w:")
        }
        self.answers: dict[str, Any] = {n: stored[n] for n in stored.files if not n.startswith("w:")}
        self.ids = self.answers["ids"]

    def model(self, dtype: Any = np.float64) -> Model:
        return Model(self.config, self.weights, dtype=dtype)


@pytest.fixture(scope="module", params=CASES, ids=lambda path: path.stem)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_there_are_cases() -> None:
    assert CASES


@pytest.mark.parametrize("absorbed", [None, True, False])
def test_logits(case: Case, absorbed: bool | None) -> None:
    logits = case.model().forward(case.ids, absorbed=absorbed)
    assert np.abs(logits - case.answers["logits"]).max() < FLOAT64


def test_float32(case: Case) -> None:
    model = case.model(np.float32)
    gaps = [value for name, value in model.trace(case.ids).items() if name.endswith("selection_gap")]
    if min(float(gap.min()) for gap in gaps) < 1e-5:
        pytest.skip("a selection is a tie in float32")
    assert np.abs(model.forward(case.ids) - case.answers["logits"]).max() < 10 * FLOAT32


def test_scores_and_selections(case: Case) -> None:
    found = case.model().trace(case.ids)
    layers = [int(name.split(".")[1]) for name in case.answers if name.startswith("topk.")]
    assert layers
    assert layers == [i for i in range(case.config.num_hidden_layers) if case.config.has_indexer(i)]
    for layer in layers:
        scores, expected = found[f"layer{layer}.index_scores"], case.answers[f"index_scores.{layer}"]
        seen = np.tril(np.ones(scores.shape[1:], bool))
        assert np.abs(scores - expected)[:, seen].max() < FLOAT64
        assert (scores[:, ~seen] == -np.inf).all()
        flags, gap = found[f"layer{layer}.index_selected"], found[f"layer{layer}.selection_gap"]
        for b, t in np.ndindex(*gap.shape):
            answer = {int(s) for s in case.answers[f"topk.{layer}"][b, t] if s >= 0}
            assert len(answer) == min(case.config.index_topk or 0, t + 1)
            if gap[b, t] > 1e-9:  # among equal scores the other program's choice is another
                assert set(np.flatnonzero(flags[b, t])) == answer


def test_decoding_through_a_cache(case: Case) -> None:
    model, tokens = case.model(), case.ids.shape[1]
    whole = model.forward(case.ids)
    for cuts in ([tokens // 2, tokens // 2 + 3], range(1, tokens)):
        cache = model.new_cache(len(case.ids), tokens)
        parts = [model.forward(part, cache=cache) for part in np.split(case.ids, list(cuts), axis=1)]
        assert np.abs(np.concatenate(parts, axis=1) - whole).max() < FLOAT64


def test_the_textbook(case: Case) -> None:
    weights = {name: np.asarray(value, np.float64) for name, value in case.weights.items()}
    logits = textbook.forward(case.ids, weights, case.config.to_dict()).logits
    assert np.abs(logits - case.answers["logits"]).max() < FLOAT64


def test_few_tokens_are_dense_attention(case: Case) -> None:
    """Up to index_topk tokens the layer is that of DeepSeek-V3, bit for bit."""
    top = case.config.index_topk or 0
    few = case.ids[:, :top]
    plain = case.config.replace(
        model_type="deepseek_v3",
        index_topk=None,
        index_n_heads=None,
        index_head_dim=None,
        indexer_types=None,
        indexer_rope_interleave=False,
    )
    weights = {name: value for name, value in case.weights.items() if ".indexer." not in name}
    dense = Model(plain, weights, dtype=np.float64).forward(few)
    assert np.array_equal(case.model().forward(few), dense)
