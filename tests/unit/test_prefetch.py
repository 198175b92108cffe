"""Prefetching: whole tensors, only those that are used as they are stored, and never an error."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dsv3_numerics import checkpoint
from dsv3_numerics.checkpoint import prefetch
from dsv3_numerics.model import Config, Model, Recipe, random_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="systems that take such hints")
IDS = np.array([[3, 1, 4, 1, 5]])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Prefetches of the system, as (file, begin, end); every tensor counts as large and as not there."""
    found: list[tuple[str, int, int]] = []

    def advise(handle: int, begin: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        name = Path(os.readlink(f"/proc/self/fd/{handle}")).name
        found.append((name, begin, begin + length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(prefetch, "is_there", lambda handle, begin, end: False)
    monkeypatch.setattr("dsv3_numerics.checkpoint.reader.LEAST", 1)
    monkeypatch.setattr(prefetch, "_PIECE", 1000)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("tiny")
    random_checkpoint(where, Config.preset("tiny"), shard_bytes=500_000)
    return where


def tensors(asked: list[tuple[str, int, int]], ckpt: checkpoint.Checkpoint) -> set[str]:
    """The tensors whose every byte was asked for, once or more, in pieces of at most 1000."""
    assert all(0 < end - begin <= 1000 for _, begin, end in asked)
    pieces = set(asked)
    return {
        info.name
        for info in ckpt.infos()
        if {(info.file, at, min(at + 1000, info.end)) for at in range(info.begin, info.end, 1000)} <= pieces
    }


def test_a_forward_asks_for_the_weights_it_uses(folder: Path, asked: list[tuple[str, int, int]]) -> None:
    model = Model.from_checkpoint(folder)
    used = {int(e) for e in model.trace(IDS, ["layer1.topk_idx"])["layer1.topk_idx"].reshape(-1)}
    asked.clear()
    model.forward(IDS)
    with checkpoint.open(folder) as ckpt:
        found = tensors(asked, ckpt)
    assert {"lm_head.weight", "model.layers.0.mlp.up_proj.weight"} < found
    assert {f"model.layers.2.self_attn.{n}_proj.weight" for n in ("q_a", "q_b", "kv_b", "o")} < found
    experts = {int(n.split(".")[5]) for n in found if n.startswith("model.layers.1.mlp.experts.")}
    assert experts == used


def test_what_is_kept_in_another_form_is_not_asked_for_again(
    folder: Path, asked: list[tuple[str, int, int]]
) -> None:
    model = Model.from_checkpoint(folder)
    recipe = Recipe(weights="mxfp8")
    with checkpoint.open(folder) as ckpt:
        model.forward(IDS, recipe=recipe)
        first = tensors(asked, ckpt)
        asked.clear()
        model.forward(IDS, recipe=recipe)
        again = tensors(asked, ckpt)
    assert "model.layers.0.self_attn.o_proj.weight" in first
    assert "model.layers.0.self_attn.o_proj.weight" not in again


def test_small_tensors_are_not_worth_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "is_there", lambda handle, begin, end: pytest.fail("looked"))
    with checkpoint.open(folder) as ckpt:
        ckpt.prefetch(ckpt)
        with pytest.raises(KeyError, match="no tensor 'w'"):
            ckpt.prefetch(["w"])


def test_a_file_that_has_gone_is_left_to_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    checkpoint.save(path, {"w": np.zeros(1 << 19, np.float32)})
    with checkpoint.open(path) as ckpt:
        path.unlink()
        ckpt.prefetch(["w"])
        with pytest.raises(checkpoint.CheckpointError, match="no such file"):
            ckpt["w"]


def test_what_was_just_written_is_there(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(bytes(1 << 20))
    handle = os.open(path, os.O_RDONLY)
    try:
        assert prefetch.is_there(handle, 0, 1 << 20) == hasattr(os, "RWF_NOWAIT")
    finally:
        os.close(handle)
