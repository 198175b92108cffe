"""Golden vectors: the same bytes each time, manifests that hold, and answers that the explanations know."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commands import call
from dsv3_numerics import checkpoint, compare, golden, matmul_nt


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("operation", golden.OPERATIONS)
@pytest.mark.parametrize("form", golden.FORMS)
def test_same_call_same_bytes(operation: str, form: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        golden.write(operation, tmp_path / name, form=form, seed=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert golden.verify(tmp_path / "a") > 3
    golden.write(operation, tmp_path / "c", form="safetensors", seed=3)
    assert compare.compare(tmp_path / "a", tmp_path / "c").equal
    golden.write(operation, tmp_path / "d", form=form, seed=4)
    assert not compare.compare(tmp_path / "a", tmp_path / "d").equal


@pytest.mark.parametrize("name", golden.SUITES)
def test_suites_are_small_and_whole(name: str, tmp_path: Path) -> None:
    folder = golden.write_suite(name, tmp_path / name)
    files = contents(folder)
    assert sum(map(len, files.values())) < 20_000_000
    assert golden.verify(folder) > 10
    assert name in files["README.md"].decode()
    assert compare.compare(folder, folder).equal


@pytest.mark.parametrize("layout", ["row-major", "mn_major"])
def test_answers_are_explained(layout: str, tmp_path: Path) -> None:
    golden.write("quantize", tmp_path, rule="deepep", layout=layout, cases=["normal"])
    with checkpoint.open(tmp_path / "tensors.safetensors") as held:
        x, codes, scales = (np.asarray(held[f"normal.{n}"]) for n in ("x", "codes", "scales"))
    found = compare.explain_quantization(x, codes, scales)
    assert found.exact
    assert "deepep" in found.column("rule")


def test_partial_sums_end_in_the_product(tmp_path: Path) -> None:
    golden.write("product", tmp_path)
    with checkpoint.open(tmp_path / "tensors.safetensors") as held:
        for case in golden.OPERATIONS["product"].cases:
            assert (held[f"{case}.promotion_sums"][-1] == held[f"{case}.d"]).all()
            steps = held[f"{case}.step_sums"]
            assert steps.shape == (16, 16, 24)
            a, b = (np.ascontiguousarray(held[f"{case}.{side}_codes"][:, 128:256]) for side in "ab")
            assert (matmul_nt(a, b, promote_every=None) == steps[7]).all()


def test_a_product_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The verb, on folders whose units are unlike."""
    for unit in ("hopper_fp8", "ada_fp8"):
        golden.write("product", tmp_path / unit, unit=unit, cases=["normal"])
    names = ",".join(f"normal.{name}" for name in ("a_codes", "a_scales", "b_codes", "b_scales", "d"))
    folders = [str(tmp_path / unit) for unit in ("hopper_fp8", "ada_fp8")]
    code, out, _ = call("compare", *folders, "--product", names, "--json", capsys=capsys)
    why = json.loads(out)["why"]
    assert (code, why["cause"]) == (1, "equal")
    assert {fit["columns"]["unit"] for fit in why["fits"] if fit["assumptions"] == 0} == {"ada_fp8"}
    for wrong in ("a,b", names.replace("a_scales", "d"), names.replace("normal.d", "x")):
        assert call("compare", *folders, "--product", wrong, capsys=capsys)[0] == 2


def test_a_changed_file_is_found(tmp_path: Path) -> None:
    golden.write("cast", tmp_path, form="bin", cases=["normal"])
    file = tmp_path / "normal.codes.bin"
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="SHA-256"):
        golden.verify(tmp_path)
    file.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="bytes, expected"):
        golden.verify(tmp_path)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "q")
    code, text, _ = call(
        "golden", "quantize", "--set", "block=128,128", "--case", "ties", "--out", out, capsys=capsys
    )
    assert (code, "manifest.json" in text) == (0, True)
    assert call("golden", "list", capsys=capsys)[0] == 0
    for wrong in (
        ["nothing"], ["suite"], ["suite", "--for", "x"], ["cast", "--set", "fmt"], ["cast", "--case", "x"],
        ["quantize", "--set", "rule=x"], ["quantize", "--set", "block=a"], ["cast", "--set", "x=1"],
    ):  # fmt: skip
        assert call("golden", *wrong, "--out", out, capsys=capsys)[0] in (1, 2)
