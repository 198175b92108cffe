"""Golden vectors: the same bytes each time, manifests that hold, and answers that the explanations know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import call
from dsv3_numerics import checkpoint, compare, golden, matmul_nt
from dsv3_numerics.compare.manifest import open_manifest
from dsv3_numerics.model import demo_checkpoint
from dsv3_numerics.training import LINEAR_PRESETS, fprop

SMALL: dict[str, dict[str, Any]] = {
    name: {"tokens": 2, "batch": 1, "record": "results"} for name in ("attention", "layer", "forward")
} | {"expert": {"tokens": 2}, "wgrad": {"n": 16, "k": 128}, "gate": {"tokens": 3}}
"""Arguments that keep what is slow short."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("operation", golden.OPERATIONS)
@pytest.mark.parametrize("form", golden.FORMS)
def test_same_call_same_bytes(operation: str, form: str, tmp_path: Path) -> None:
    few = {"cases": golden.OPERATIONS[operation].cases[1:2], **SMALL.get(operation, {})}
    for name in ("a", "b"):
        golden.write(operation, tmp_path / name, form=form, seed=3, **few)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert golden.verify(tmp_path / "a", recompute=form == "npz").tensors > 1
    golden.write(operation, tmp_path / "c", form="safetensors", seed=3, **few)
    assert compare.compare(tmp_path / "a", tmp_path / "c").equal
    golden.write(operation, tmp_path / "d", form=form, seed=4, **few)
    assert not compare.compare(tmp_path / "a", tmp_path / "d").equal


def test_a_case_is_the_same_alone(tmp_path: Path) -> None:
    golden.write("cast", tmp_path / "all")
    golden.write("cast", tmp_path / "one", cases=["tiny"])
    every, one = (open_manifest(tmp_path / name) for name in ("all", "one"))
    assert {name: array.tobytes() for name, array in one.items()} == {
        name: array.tobytes() for name, array in every.items() if name.startswith("tiny.")
    }


@pytest.mark.parametrize("layout", ["row-major", "mn_major"])
def test_answers_are_explained(layout: str, tmp_path: Path) -> None:
    golden.write("quantize", tmp_path, rule="deepep", layout=layout, cases=["normal"])
    with checkpoint.open(tmp_path / "tensors.safetensors") as held:
        x, codes, scales = (np.asarray(held[f"normal.{n}"]) for n in ("x", "codes", "scales"))
    found = compare.explain_quantization(x, codes, scales)
    assert found.exact
    assert "deepep" in found.column("rule")


@pytest.mark.parametrize("grouped", ["none", "contiguous", "masked"])
def test_partial_sums_end_in_the_product(grouped: str, tmp_path: Path) -> None:
    golden.write("product", tmp_path, grouped=grouped)
    held = open_manifest(tmp_path)
    for case in golden.OPERATIONS["product"].cases:
        assert (held[f"{case}.promotion_sums"][-1] == held[f"{case}.d"]).all()
        steps = held[f"{case}.step_sums"]
        assert steps.shape == (16, *held[f"{case}.d"].shape)
        if grouped == "none":
            a, b = (np.ascontiguousarray(held[f"{case}.{side}_codes"][:, 128:256]) for side in "ab")
            assert (matmul_nt(a, b, promote_every=None) == steps[7]).all()


def test_grouped_products_are_those_of_each_matrix(tmp_path: Path) -> None:
    """Row by row against the plain product; padding and rows beyond the masks are zero."""
    golden.write("product", tmp_path / "rows", grouped="contiguous", cases=["normal"], b_block=(1, 128))
    held = {name.removeprefix("normal."): x for name, x in open_manifest(tmp_path / "rows").items()}
    for row, expert in enumerate(held["m_indices"].tolist()):
        if expert < 0:
            assert not held["d"][row].any()
            continue
        sums = np.zeros(24, np.float64)
        for tile in range(4):
            part = slice(128 * tile, 128 * tile + 128)
            codes = matmul_nt(
                held["a_codes"][row : row + 1, part].copy(),
                held["b_codes"][expert][:, part].copy(),
                promote_every=None,
            )[0]
            scales = held["a_scales"][row, tile] * held["b_scales"][expert][:, tile]
            sums += codes.astype(np.float64) * scales
        assert np.abs(held["d"][row] - sums).max() <= 1e-6 * np.abs(sums).max()  # float32 promotions
    golden.write("product", tmp_path / "masked", grouped="masked", cases=["normal"])
    held = {name.removeprefix("normal."): x for name, x in open_manifest(tmp_path / "masked").items()}
    assert held["masked_m"].tolist() == [5, 0, 16]
    assert [np.flatnonzero(part.any(axis=1)).tolist() for part in held["d"]] == [
        list(range(5)),
        [],
        list(range(16)),
    ]


@pytest.mark.parametrize("recipe", LINEAR_PRESETS)
def test_training_products(recipe: str, tmp_path: Path) -> None:
    for operation in ("fprop", "dgrad", "wgrad"):
        golden.write(
            operation, tmp_path / operation, recipe=recipe, cases=["normal"], **SMALL.get(operation, {})
        )
    held = {name.removeprefix("normal."): x for name, x in open_manifest(tmp_path / "fprop").items()}
    found = fprop(held["x"], held["w"], recipe=recipe)
    if recipe == "float64":  # BLAS adds in an order of its own
        assert np.abs(found - held["y"]).max() < 1e-12 * np.abs(found).max()
    else:
        assert (found == held["y"]).all()
    exact = held["x"].astype(float) @ held["w"].astype(float).T
    assert np.abs(held["y"].astype(float) - exact).max() < 0.1 * np.abs(exact).max()
    held = {name.removeprefix("normal."): x for name, x in open_manifest(tmp_path / "wgrad").items()}
    exact = held["dy"].astype(float).T @ held["x"].astype(float)
    assert np.abs(held["dw"] - exact).max() < 0.1 * np.abs(exact).max()


def test_wgrad_of_groups(tmp_path: Path) -> None:
    """Each expert's gradient is that of its tokens alone."""
    golden.write("wgrad", tmp_path, ks=(128, 0, 256), n=16, k=128, cases=["normal"])
    held = {name.removeprefix("normal."): x for name, x in open_manifest(tmp_path).items()}
    assert held["ks"].tolist() == [128, 0, 256]
    assert not held["dw"][1].any()
    for expert, part in ((0, slice(0, 128)), (2, slice(128, 384))):
        exact = held["dy"][part].astype(float).T @ held["x"][part].astype(float)
        assert np.abs(held["dw"][expert] - exact).max() < 0.1 * np.abs(exact).max()
        assert (held[f"expert{expert}.promotion_sums"][-1] == held["dw"][expert]).all()


def test_a_product_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The verb, on folders whose units are unlike."""
    for unit in ("hopper_fp8", "ada_fp8"):
        golden.write("product", tmp_path / unit, unit=unit, cases=["normal"], b_block=(1, 128))
    names = ",".join(f"normal.{name}" for name in ("a_codes", "a_scales", "b_codes", "b_scales", "d"))
    folders = [str(tmp_path / unit) for unit in ("hopper_fp8", "ada_fp8")]
    code, out, _ = call("compare", *folders, "--product", names, "--json", capsys=capsys)
    why = json.loads(out)["why"]
    assert (code, why["cause"]) == (1, "equal")
    assert {fit["columns"]["unit"] for fit in why["fits"] if fit["assumptions"] == 0} == {"ada_fp8"}
    for wrong in ("a,b", names.replace("a_scales", "d"), names.replace("normal.d", "x")):
        assert call("compare", *folders, "--product", wrong, capsys=capsys)[0] == 2


def test_real_inputs_are_the_checkpoints(tmp_path: Path) -> None:
    """A tensor's own numbers, and an activation of the model as it reads."""
    name = "model.layers.1.self_attn.q_a_proj.weight"
    golden.write("quantize", tmp_path / "w", source="demo", tensors=[name], cases=["real"], columns=64)
    held = open_manifest(tmp_path / "w")["real.x"]
    with checkpoint.open(demo_checkpoint()) as opened:
        assert (held == opened.quantized(name).dequantize()[:16, :64]).all()
    names = ["layer1.q_a_proj", name]
    golden.write("product", tmp_path / "p", source="demo", tensors=names, cases=["real"], k=256, n=16)
    assert golden.verify(tmp_path / "p", recompute=True).recomputed == 7
    assert read(tmp_path / "p")["source"] == {"from": "demo", "tensors": names}
    for wrong, match in (
        ({"tensors": ["layer1.q_a_proj"]}, "from"),
        ({"source": "demo"}, "tensor"),
        ({"source": "demo", "tensors": ["nothing"]}, "found no 'nothing'"),
        ({"source": "demo", "tensors": ["layer1.q_a_proj"], "k": 512}, "at least"),
    ):
        with pytest.raises(ValueError, match=match):
            golden.write("product", tmp_path / "q", **wrong)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        golden.write("cast", tmp_path / "q", source="nowhere", tensors=["x"])
    assert not (tmp_path / "q").exists()


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def test_a_changed_file_is_found(tmp_path: Path) -> None:
    golden.write("cast", tmp_path, form="bin", cases=["normal"])
    file = tmp_path / "normal.codes.bin"
    whole = file.read_bytes()
    data = bytearray(whole)
    data[5] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="SHA-256"):
        golden.verify(tmp_path)
    file.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="bytes, expected"):
        golden.verify(tmp_path)
    file.write_bytes(whole)
    (tmp_path / "other.txt").write_text("")
    assert golden.verify(tmp_path).unlisted == ("other.txt",)


def test_recomputation_sees_answers_that_hash_rightly(tmp_path: Path) -> None:
    """A manifest whose hashes fit its files, and whose answers are not those of its settings."""
    golden.write("quantize", tmp_path, cases=["near_ties"])
    manifest = read(tmp_path)
    manifest["arguments"]["rule"] = "deepep"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert golden.verify(tmp_path).tensors == 3
    with pytest.raises(ValueError, match="otherwise when made again"):
        golden.verify(tmp_path, recompute=True)


def test_a_folder_is_written_once_and_never_mixed(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    golden.write("cast", folder, form="bin", cases=["normal", "ties"])
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    golden.write("cast", folder, form="bin", cases=["normal", "ties"])
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(FileExistsError, match="overwrite"):
        golden.write("cast", folder, form="bin", cases=["normal"])
    golden.write("cast", folder, cases=["normal"], overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "tensors.safetensors"]
    (folder / "manifest.json").unlink()  # as an interrupted run leaves it
    golden.write("cast", folder, cases=["normal"])
    assert golden.verify(folder).tensors == 2
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("")
    with pytest.raises(FileExistsError, match="mine"):
        golden.write("cast", other)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "q")
    arguments = ["quantize", "--set", "block=128x128", "--case", "ties", "--out", out]
    code, text, _ = call("golden", *arguments, capsys=capsys)
    assert (code, "manifest.json" in text) == (0, True)
    code, text, _ = call("golden", *arguments, "--json", capsys=capsys)
    assert json.loads(text)["arguments"]["block"] == [128, 128]
    code, text, _ = call("golden", "verify", out, "--recompute", "--json", capsys=capsys)
    assert json.loads(text) == {"folder": out, "tensors": 3, "files": 1, "recomputed": 3, "unlisted": []}
    code, _, err = call("golden", "quantize", "--out", out, capsys=capsys)
    assert (code, "--overwrite" in err) == (1, True)
    assert call("golden", "list", capsys=capsys)[0] == 0
    code, text, _ = call("golden", "list", "--json", capsys=capsys)
    assert set(json.loads(text)["operations"]) == set(golden.OPERATIONS)
    for wrong in (
        ["nothing"], ["suite"], ["suite", "--for", "x"], ["cast", "--set", "fmt"], ["cast", "--case", "x"],
        ["quantize", "--set", "rule=x"], ["quantize", "--set", "block=a"], ["cast", "--set", "x=1"],
        ["quantize", "--set", "block=0,128"], ["cast", "--set", "rows=0"], ["cast", "--recompute"],
        ["attention", "--set", "absorbed=yes"], ["attention", "--set", "layer=7"], ["verify"],
        ["attention", "--set", "recipe=x"], ["attention", "--set", "model=/nowhere"],
        ["attention", "--from", "demo"], ["gate", "--set", "layer=0"], ["expert", "--set", "expert=24"],
        ["cast", "ties"], ["list", "--case", "ties"], ["cast", "--form", "txt"], ["cast", "--for", "vllm"],
        ["wgrad", "--set", "recipe=float64", "--set", "ks=128,128"],
    ):  # fmt: skip
        code, _, err = call("golden", *wrong, "--out", str(tmp_path / "w"), capsys=capsys)
        assert (code in (1, 2), "Traceback" in err) == (True, False), wrong
    assert not (tmp_path / "w").exists()


def test_nothing_larger_than_the_folder_is_made_again(tmp_path: Path) -> None:
    golden.write("cast", tmp_path / "a", cases=["ties"])
    manifest = tmp_path / "a" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"rows": 16', '"rows": 1000000'))
    with pytest.raises(ValueError, match="rows: found 1000000, but its tensors have"):
        golden.verify(tmp_path / "a", recompute=True)
