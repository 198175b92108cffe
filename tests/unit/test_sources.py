"""Checkpoint sources: every kind of file gives the same numbers, read in pieces."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from dsv3_numerics import checkpoint, study
from dsv3_numerics.checkpoint import array_tensor, open_source
from stored import of_arrays, stored

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_v3_fp8"
RNG = np.random.default_rng(0)
ARRAYS = {
    "a": RNG.normal(size=(150, 70)).astype(np.float32),
    "b": RNG.normal(size=(3, 4, 50)),
    "c": RNG.normal(size=(333,)).astype(np.float16),
    "d": RNG.normal(size=(40, 9)).astype(ml_dtypes.bfloat16),
}
SCHEMES = ["e4m3:128x128:f32", "e4m3:tensor:f32", "bf16"]


@pytest.mark.parametrize("kind", ["safetensors", "npz", "compressed", "npy", "sharded", "several"])
def test_every_kind_of_file_gives_the_numbers_of_its_arrays(tmp_path: Path, kind: str) -> None:
    arrays = dict(ARRAYS) if kind in ("safetensors", "sharded", "several") else {k: ARRAYS[k] for k in "abc"}
    inputs: Path | list[Path] = tmp_path
    if kind == "safetensors":
        inputs = tmp_path / "m.safetensors"
        inputs.write_bytes(of_arrays(arrays))
    elif kind in ("npz", "compressed"):
        inputs = tmp_path / "m.npz"
        (np.savez if kind == "npz" else np.savez_compressed)(inputs, **arrays)
    elif kind == "npy":
        inputs = [tmp_path / f"{k}.npy" for k in arrays]
        for path in inputs:
            np.save(path, arrays[path.stem])
    else:
        (tmp_path / "model-1.safetensors").write_bytes(of_arrays({k: arrays[k] for k in "ac"}))
        (tmp_path / "model-2.safetensors").write_bytes(of_arrays({k: arrays[k] for k in "bd"}))
        if kind == "sharded":
            index = {k: f"model-{1 if k in 'ac' else 2}.safetensors" for k in arrays}
            (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    read = study.run(inputs, SCHEMES, slab_elements=500)
    given = study.run(arrays, SCHEMES, slab_elements=500)
    assert {t.name for t in read.tensors} == set(arrays)
    for name in arrays:
        for scheme in SCHEMES:
            assert read.metrics(name, scheme) == given.metrics(name, scheme)


def test_safetensors_own_writer_is_understood(tmp_path: Path) -> None:
    save_file({"a": ARRAYS["a"], "ids": np.arange(3)}, tmp_path / "m.safetensors", metadata={"format": "pt"})
    source = open_source(tmp_path / "m.safetensors")
    assert [(t.name, t.shape, t.dtype) for t in source.tensors] == [("a", (150, 70), "float32")]
    assert [(s.name, s.reason[:3]) for s in source.skipped] == [("ids", "I64")]


@pytest.mark.parametrize("layout", ["C", "F", ">f4", "f8"])
@pytest.mark.parametrize("packed", ["npy", "npz"])
def test_any_region_can_be_read(tmp_path: Path, layout: str, packed: str) -> None:
    x = RNG.normal(size=(37, 53)).astype(np.float32)
    saved = np.asfortranarray(x) if layout == "F" else x.astype(layout) if layout != "C" else x
    path = tmp_path / f"x.{packed}"
    if packed == "npy":
        np.save(path, saved)
    else:
        np.savez_compressed(path, x=saved)
    (tensor,) = open_source(path).tensors
    with tensor.open() as rows:
        for r0, r1, c0, c1 in [(0, 37, 0, 53), (3, 20, 0, 53), (36, 37, 50, 53), (0, 5, 7, 9)]:
            got = rows(r0, r1, c0, c1)
            assert got.dtype == (np.float64 if layout == "f8" else np.float32)
            assert got.flags.c_contiguous
            assert np.array_equal(got, x[r0:r1, c0:c1])


def test_arrays_in_memory_are_read_without_a_copy() -> None:
    x = np.ones((4, 5), np.float32)
    tensor = array_tensor("x", x)
    with tensor.open() as rows:  # type: ignore[union-attr]
        assert np.shares_memory(rows(0, 4, 0, 5), x)


def test_codes_without_meaning_say_why_they_are_left_out(tmp_path: Path) -> None:
    scale = np.float32([2]).tobytes()
    (tmp_path / "m.safetensors").write_bytes(
        stored(
            {
                "w": ("F8_E4M3", [2, 2], bytes([0x38, 0xB8, 0x40, 0])),
                "w_scale_inv": ("F32", [1, 1], scale),
                "lone": ("F8_E5M2", [2], bytes(2)),
                "mask": ("BOOL", [2], bytes(2)),
                "norm": ("F32", [2], np.float32([1, 2]).tobytes()),
            }
        )
    )
    source = open_source(tmp_path / "m.safetensors")
    assert {t.name: t.stored_as for t in source.tensors} == {"w": "float8_e4m3fn", "norm": "float32"}
    weight = next(t for t in source.tensors if t.name == "w")
    with weight.open() as rows:
        assert rows(0, 2, 0, 2).tolist() == [[2, -2], [4, 0]]
    assert weight.stored_bits == 8 * (4 + 4)
    reasons = {s.name: s.reason for s in source.skipped}
    assert reasons["w_scale_inv"] == "the scales of w"
    assert "without scales" in reasons["lone"]
    assert reasons["mask"].startswith("BOOL")
    assert {s.name: s.elements for s in source.skipped} == {"w_scale_inv": 1, "lone": 2, "mask": 2}
    told = open_source(tmp_path / "m.safetensors", missing_scale=1)
    (lone,) = (t for t in told.tensors if t.name == "lone")
    with lone.open() as rows:
        assert rows(0, 1, 0, 2).tolist() == [[0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_any_part_of_a_weight_is_that_of_the_whole(seed: int) -> None:
    """Rows and columns at any place, within blocks and across them, ragged edges too."""
    rng = np.random.default_rng(seed)
    with checkpoint.open(GOLDEN) as ckpt:
        for tensor in open_source(GOLDEN).tensors:
            whole = ckpt.dequantized(tensor.name).reshape(tensor.rows, tensor.cols)
            (r0, r1), (c0, c1) = (sorted(rng.integers(0, n + 1, 2).tolist()) for n in whole.shape)
            with tensor.open() as rows:
                assert np.array_equal(rows(0, *whole.shape[:1], 0, tensor.cols), whole)
                if r0 < r1 and c0 < c1:
                    assert np.array_equal(rows(r0, r1, c0, c1), whole[r0:r1, c0:c1]), tensor.name


def test_npy_files_that_hold_no_numbers_say_why(tmp_path: Path) -> None:
    cases = {
        "objects": np.array([1, "a"], dtype=object),
        "codes": np.zeros(3, ml_dtypes.float8_e4m3fn),
        "stack": np.asfortranarray(np.zeros((2, 3, 4))),
        "record": np.zeros(2, [("a", "f4")]),
    }
    np.savez(tmp_path / "m.npz", **cases)  # type: ignore[arg-type]
    reasons = {s.name: s.reason for s in open_source(tmp_path / "m.npz").skipped}
    assert reasons.keys() == cases.keys()
    assert "Fortran" in reasons["stack"]
    assert "ml_dtypes" in reasons["codes"]


def test_links_are_followed(tmp_path: Path) -> None:
    """Model caches keep files under their hashes and link to them, out of the folder."""
    (tmp_path / "blob").write_bytes(of_arrays({"a": ARRAYS["a"]}))
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to("../blob")
    assert [t.name for t in open_source(folder).tensors] == ["a"]
