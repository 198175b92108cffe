"""Comparison of arrays and files: counts, places, names, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from commands import call
from dsv3_numerics import checkpoint, formats
from dsv3_numerics.compare import compare, compare_arrays, compare_models

F8 = np.dtype(ml_dtypes.float8_e4m3fn)


@pytest.mark.parametrize("info", formats(), ids=lambda info: info.name)
def test_every_format_counts_its_neighbours(info: Any) -> None:
    """Each code beside the next one, and beside itself."""
    codes = np.arange(info.n_codes, dtype=f"u{info.dtype.itemsize}")
    plain = {"fmt": info.name} if info.dtype.kind == "u" else {}
    a = codes if plain else codes.view(info.dtype)
    assert compare_arrays(a, a.copy(), **plain).equal  # type: ignore[arg-type]
    b = a.copy()
    b.view(codes.dtype)[3] ^= 1
    found = compare_arrays(a, b, **plain)  # type: ignore[arg-type]
    assert (found.equal, found.differing, found.first, found.bits) == (False, 1, (3,), {1: 1})
    assert found.distance == {"1": 1}


def test_specials_are_counted() -> None:
    a = np.array([0x00, 0x7F, 0x7F, 0x7E, 0x10], np.uint8).view(F8)
    b = np.array([0x80, 0xFF, 0x01, 0x7D, 0x10], np.uint8).view(F8)
    found = compare_arrays(a, b)
    assert (found.zeros, found.nan_payloads, found.nan_a, found.nan_b, found.saturated_a) == (1, 1, 1, 0, 1)
    assert found.distance == {"0": 1, "1": 1}
    assert found.sqnr_db is None


def test_places_and_errors_of_floats() -> None:
    a = np.ones((300, 300), np.float32)
    b = a.copy()
    b[7, 5] = np.nextafter(np.float32(1), np.float32(2))
    b[7, 200] = 1.5
    b[299, 299] = np.nan
    found = compare_arrays(a, b)
    assert (found.rows, found.tiles, found.tile_count, found.blocks, found.block_count) == (2, 3, 900, 3, 9)
    assert found.worst_rows == [(299, 1, np.inf), (7, 2, 0.5)]
    assert (found.max_abs, found.nan_b, found.first) == (0.5, 1, (7, 5))


def test_other_dtypes_and_shapes_are_never_equal() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert not compare_arrays(a, a.astype(np.float64)).equal
    assert "transposed, bit for bit" in compare_arrays(a, a.T.copy()).note
    assert not compare_arrays(a, a.T.copy()).equal
    codes = np.arange(4, dtype=np.uint8)
    assert compare_arrays(codes, codes.view(F8)).equal
    assert not compare_arrays(codes, codes.view(np.int8)).equal


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1, 1), (5,), (2, 3, 4)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    a = np.ones(shape, np.float32)
    assert compare_arrays(a, a.copy()).equal
    assert compare_arrays(a, a + 1).equal is (a.size == 0)


def written(folder: Path) -> tuple[Path, Path]:
    x = np.arange(12, dtype=np.float32)
    np.savez(folder / "a.npz", **{"layer0.mlp.gate": x, "q": x, "only": x})
    other = {"model.layers.0.mlp.gate": x, "q": x + np.float32(1e-6)}
    checkpoint.save(folder / "b.safetensors", other)
    return folder / "a.npz", folder / "b.safetensors"


def test_names_are_matched(tmp_path: Path) -> None:
    found = compare(*written(tmp_path))
    assert [one.equal for one in found.tensors] == [False, True]
    assert found.tensors[1].name == "layer0.mlp.gate = model.layers.0.mlp.gate"
    assert (found.only_a, found.only_b, found.equal) == (["only"], [], False)


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, written(tmp_path))
    code, out, _ = call("compare", a, a, capsys=capsys)
    assert (code, "3 of 3 tensors equal" in out) == (0, True)
    code, out, _ = call("compare", a, b, capsys=capsys)
    assert (code, "only in A: only" in out) == (1, True)
    code, out, _ = call("compare", a, b, "--json", capsys=capsys)
    assert (code, json.loads(out)["equal"]) == (1, False)
    bad = tmp_path / "x.pt"
    bad.write_bytes(b"\x80\x02.")
    for wrong in (str(bad), str(tmp_path / "none.npz"), str(tmp_path / "b.txt")):
        code, _, err = call("compare", a, wrong, capsys=capsys)
        assert (code, err != "") == (2, True)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"x" * 100])
@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.safetensors"])
def test_damaged_files_are_bad_input(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert call("compare", str(tmp_path / name), str(tmp_path / name), capsys=capsys)[0] == 2


def layers(scale: float, seed: int = 0) -> dict[str, Any]:
    """A trace of three layers, off by so much."""
    rng = np.random.default_rng(0)
    noise = np.random.default_rng(seed + 1)
    out: dict[str, Any] = {}
    for i in range(3):
        x = rng.standard_normal((1, 6, 32))
        out[f"layer{i}.output"] = x + scale * 10**i * noise.standard_normal(x.shape)
        out[f"layer{i}.topk_idx"] = np.arange(12).reshape(1, 6, 2)
        out[f"layer{i}.routing_gap"] = np.linspace(0.01, 1, 6).reshape(1, 6)
    x = rng.standard_normal((6, 20))
    out["logits"] = x + scale * noise.standard_normal(x.shape)
    return out


def test_models_are_held_against_chance() -> None:
    a, noise = layers(0), [layers(1e-6, seed) for seed in range(1, 5)]
    found = compare_models(a, layers(1e-6, 9), noise=noise)
    assert (found.first_layer, "within the noise floor" in found.verdict) == (None, True)
    b = layers(1e-6, 9)
    b["layer1.output"] = b["layer1.output"] * 1.01
    b["logits"] = b["logits"] * 1.1
    b["layer2.topk_idx"] = b["layer2.topk_idx"].copy()
    b["layer2.topk_idx"][0, 0] = [7, 8]
    found = compare_models(a, b, noise=noise)
    assert (found.first_layer, "beyond the noise floor" in found.verdict) == (1, True)
    assert [(one.layer, one.changed) for one in found.experts] == [(0, 0), (1, 0), (2, 1)]
    assert (found.experts[2].gap_changed, found.experts[2].wide) == (0.01, 0)
    assert found.kl is not None
    assert len(found.kl_tokens) == 6
    assert any("first beyond" in line for line in found.lines())


def test_models_without_a_floor_say_so() -> None:
    found = compare_models(layers(0), layers(1e-3))
    assert "nothing is said of chance" in found.verdict
    assert found.first_layer is None
    assert any("fewer than two perturbed runs" in text for text in found.missing)
    assert compare_models({"x": np.ones(2)}, {"x": np.ones(2)}).kl is None


def test_axes_of_one_are_compared_but_not_equal() -> None:
    a = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    found = compare_arrays(a, a[0])
    assert (found.equal, found.differing) == (False, 0)
    assert "axes of length 1" in found.note
