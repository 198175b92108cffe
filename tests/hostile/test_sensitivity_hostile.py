"""Hostile input of a sensitivity analysis: each ends in a clear error before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsv3_numerics import sensitivity
from dsv3_numerics.model import Config, Model, Recipe, random_weights

GATE = Recipe(gate="bf16")


@pytest.fixture(scope="module")
def model() -> Model:
    """The demo's model."""
    return sensitivity.random_model()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "ids: found float64"),
        ([1.5], "ids: found float64"),
        ([[[1]]], r"ids: found int64 \(1, 1, 1\)"),
        (np.zeros((0, 3), np.int64), r"ids: found int64 \(0, 3\)"),
        ([-1], "ids: found -1 to -1, expected 0 to 191"),
        ([192], "ids: found 192 to 192"),
    ],
)
def test_ids_that_are_none(model: Model, ids: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        sensitivity.run(model, ids, GATE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "deepseek"}, "recipe: found 'deepseek', expected one of float64"),
        ({"only": ["cache"]}, "choice: found 'cache', expected some of gate"),
        ({"perturbations": -1}, "perturbations: found -1"),
        ({"perturbations": 10**30}, "expected 0 to 10000"),
    ],
)
def test_settings_that_do_not_exist(model: Model, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sensitivity.run(model, [1, 2], **({"recipe": GATE} | settings))


def test_tokens_must_be_some(model: Model) -> None:
    with pytest.raises(ValueError, match="tokens: found 0"):
        sensitivity.random_ids(model, 0)


def other_model() -> Model:
    config = Config.preset("tiny")
    return Model(config, random_weights(config, seed=1))


def test_a_folder_of_something_else_is_refused(model: Model, tmp_path: Path) -> None:
    sensitivity.prepare(model, [1, 2], GATE, folder=tmp_path)
    before = sorted(p.read_bytes() for p in tmp_path.rglob("*.json"))
    for change, message in (
        ({"ids": [1, 3]}, r"other settings: ids \(\[\[1, 2\]\], now \[\[1, 3\]\]\)"),
        ({"recipe": Recipe(group_mask_value="0")}, "other settings: recipe"),
        ({"absorbed": True}, r"absorbed \(false, now true\)"),
        ({"model": other_model()}, "other settings: model"),
    ):
        settings = {"model": model, "ids": [1, 2], "recipe": GATE} | change
        with pytest.raises(ValueError, match=message):
            sensitivity.prepare(**settings, folder=tmp_path)
    assert sorted(p.read_bytes() for p in tmp_path.rglob("*.json")) == before, "nothing was touched"
    sensitivity.prepare(model, [1, 3], GATE, folder=tmp_path, restart=True)
    assert json.loads((tmp_path / "parts" / "about.json").read_text())["ids"] == [[1, 3]]


@pytest.mark.parametrize("content", [b"", b"[]", b"nonsense", b"[" * 100_000, b"\xff\xfe", b'{"ids": 1'])
def test_a_folder_that_does_not_say_what_it_is(model: Model, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "about.json").write_bytes(content)
    with pytest.raises(ValueError, match="not what a sensitivity analysis wrote"):
        sensitivity.prepare(model, [1], GATE, folder=tmp_path)
    assert sensitivity.prepare(model, [1], GATE, folder=tmp_path, restart=True).jobs


@pytest.mark.parametrize("content", [b"", b"[]", b"nonsense", b"[" * 100_000, b"{}", b'{"variant": 1}'])
def test_a_damaged_part_is_done_again(model: Model, tmp_path: Path, content: bytes) -> None:
    first = sensitivity.run(model, [1, 2], GATE, perturbations=0, folder=tmp_path)
    (tmp_path / "parts" / "layers-all.json").write_bytes(content)
    left = sensitivity.prepare(model, [1, 2], GATE, perturbations=0, folder=tmp_path)
    assert [job.label for job in left.jobs] == ["layers: all"]
    sensitivity.execute(left)
    assert left.result.parts == first.parts


def test_parts_of_an_unknown_origin_are_removed(model: Model, tmp_path: Path) -> None:
    sensitivity.run(model, [1, 2], GATE, perturbations=0, folder=tmp_path)
    (tmp_path / "parts" / "about.json").unlink()
    left = sensitivity.prepare(model, [1, 2], GATE, perturbations=0, folder=tmp_path)
    assert left.result.parts == {}


def test_a_folder_that_cannot_be_written(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        sensitivity.prepare(model, [1], GATE, folder=tmp_path / "file")


def test_weights_that_are_not_finite(model: Model) -> None:
    config = Config.preset("tiny")
    weights = random_weights(config)
    weights["model.layers.1.self_attn.o_proj.weight"][0, 0] = np.inf
    with pytest.raises(ValueError, match=r"layer 1, recipe .*expected finite"):
        sensitivity.run(Model(config, weights), [1, 2], GATE)
