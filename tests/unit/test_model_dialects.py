"""Models of every dialect: the numbers that its codes mean, or refused as by every other verb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoint_cases import CASES
from dsv3_numerics.checkpoint import CheckpointError, convert, open
from dsv3_numerics.checkpoint.conversion.targets import LOW, PLAIN
from dsv3_numerics.model import CheckpointWeights, Config, Model, random_checkpoint
from dsv3_numerics.model.weights import Weights

FLOAT32 = np.dtype(np.float32)
IDS = np.arange(12) * 7 % 100


@pytest.mark.parametrize("name", [name for name, make in CASES.items() if not make().refused])
def test_weights_that_are_understood(tmp_path: Path, name: str) -> None:
    """A model has one matrix to a weight; experts in one tensor are no weights of its layers."""
    case = CASES[name]()
    with open(case.write(tmp_path / "src")) as ckpt:
        found = CheckpointWeights(ckpt)
        for weight, meaning in case.meaning.items():
            weights = Weights(found, {weight: meaning.shape})
            if meaning.ndim > 2:
                with pytest.raises(ValueError):
                    weights.numbers(weight, FLOAT32)
            else:
                np.testing.assert_array_equal(weights.numbers(weight, FLOAT32), meaning, strict=True)


@pytest.mark.parametrize("name", [name for name, make in CASES.items() if make().refused])
def test_weights_that_are_refused(tmp_path: Path, name: str) -> None:
    """Codes without a meaning are numbers to a model no more than to a conversion."""
    case = CASES[name]()
    with open(case.write(tmp_path / "src")) as ckpt:
        found = CheckpointWeights(ckpt)
        for weight in found:
            wide = weight in ckpt and ckpt.info(weight).dtype in ("F64", "F32", "F16", "BF16")
            if wide or weight in case.kept or "scale" in weight:
                continue
            with pytest.raises((CheckpointError, TypeError)):
                Weights(found, {weight: found.shape_of(weight)}).numbers(weight, FLOAT32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose weights are bfloat16."""
    folder = tmp_path_factory.mktemp("plain") / "bf16"
    random_checkpoint(folder, Config.preset("tiny"), fp8=False)
    return folder


@pytest.mark.parametrize(
    ("to", "dialect"), [(to, None) for to in PLAIN] + [(row.name, who) for row in LOW for who in row.writers]
)
def test_logits_in_every_dialect(tmp_path: Path, plain: Path, to: str, dialect: str | None) -> None:
    """A converted model and the float32 numbers that its codes mean give the same logits."""
    convert(plain, tmp_path / "low", to=to, dialect=dialect, threads=1)
    convert(tmp_path / "low", tmp_path / "wide", to="f32", threads=1)
    low, wide = (Model.from_checkpoint(tmp_path / name) for name in ("low", "wide"))
    got, expected = low.forward(IDS), wide.forward(IDS)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(low.forward(IDS, recipe="bf16"), wide.forward(IDS, recipe="bf16"))
