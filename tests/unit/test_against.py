"""A quantized checkpoint beside its original: figures against NumPy, and who has no partner."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from commands import call
from dsv3_numerics import checkpoint, quantize_blocks, study

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_v3_fp8"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A float32 file, and the same with one matrix in FP8, a shape changed and a name dropped."""
    rng = np.random.default_rng(0)
    shapes = ((200, 300), (64, 256), (64,), (5, 6))
    up, down, norm, odd = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    q = quantize_blocks(up)
    original, quantized = tmp_path / "original.safetensors", tmp_path / "fp8.safetensors"
    checkpoint.save(
        original, {"up.weight": up, "down.weight": down, "norm.weight": norm, "odd": odd, "mine": odd}
    )
    checkpoint.save(
        quantized,
        {
            "up.weight": q.codes,
            "up.weight_scale_inv": q.scales,
            "down.weight": down.astype(ml_dtypes.bfloat16),
            "norm.weight": norm,
            "odd": odd.T,
            "theirs": odd,
        },
    )
    return quantized, original


def test_figures_are_numpys(pair: tuple[Path, Path]) -> None:
    quantized, original = pair
    found = study.run_against(quantized, original, slab_elements=3000)
    with checkpoint.open(quantized) as a, checkpoint.open(original) as b:
        for tensor in found.tensors:
            x, y = (c.dequantized(tensor.name).astype(np.float64) for c in (b, a))
            metrics = found.metrics(tensor.name, study.STORED)
            wanted = np.linalg.norm(y - x) / np.linalg.norm(x)
            assert metrics.relative_error == pytest.approx(wanted, rel=1e-12)  # other sums of float64
    kinds = {t.name: t.kind for t in found.tensors}
    assert kinds == {"up.weight": "float8_e4m3fn", "down.weight": "bfloat16", "norm.weight": "float32"}
    bits = {t.name: found.metrics(t.name, study.STORED).bits_per_element for t in found.tensors}
    assert bits["down.weight"] == 16
    assert bits["up.weight"] == pytest.approx(8 + 32 * 2 * 3 / (200 * 300))
    assert found.totals("float32")[0].sqnr_db == np.inf


def test_tensors_without_a_partner_are_counted(pair: tuple[Path, Path]) -> None:
    found = study.run_against(*pair)
    assert {g.reason: (g.tensors, g.elements) for g in found.left_out()} == {
        "not in the original": (1, 30),
        "only in the original": (1, 30),
        "another shape than the original": (1, 30),
        "scales of a weight": (1, 6),
    }


def test_the_verb_compares(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pair[0].parent)
    code, out, err = call("study", str(pair[0]), "--against", str(pair[1]), "--json", capsys=capsys)
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["settings"]["against"] == str(pair[1])
    assert set(content["totals_by_kind"]) == {"float8_e4m3fn", "bfloat16", "float32"}
    report = Path("study-fp8-against-original/report.md").read_text()
    assert "## By format of the stored codes" in report
    code, _, err = call("study", str(pair[0]), "--against", str(pair[1]), "-s", "mxfp8", capsys=capsys)
    assert (code, "no --scheme" in err) == (2, True)


def test_nothing_in_common_is_refused(pair: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="no tensor in common"):
        study.run_against(*pair, include=["theirs"])


def test_a_checkpoint_is_studied_by_what_its_codes_mean() -> None:
    found = study.run(str(GOLDEN), ["bf16"], include=["*self_attn*"])
    with checkpoint.open(GOLDEN) as ckpt:
        weights = [name for name in ckpt.weights if "self_attn" in name]
        assert {t.name for t in found.tensors} >= set(weights)
        x = ckpt.dequantized(weights[0]).astype(np.float64)
        y = ckpt.dequantized(weights[0]).astype(ml_dtypes.bfloat16).astype(np.float64)
    wanted = np.linalg.norm(y - x) / np.linalg.norm(x)
    assert found.metrics(weights[0], "bf16").relative_error == pytest.approx(wanted, rel=1e-12)  # other sums
