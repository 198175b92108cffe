"""Variations of every dialect: read for what they mean by every verb, or refused by every verb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoint_cases import BF16, CASES, Case
from dsv3_numerics import checkpoint, study
from dsv3_numerics.checkpoint import CheckpointError, convert, open

READ = [name for name, make in CASES.items() if not make().refused]
REFUSED = [name for name, make in CASES.items() if make().refused]
SCHEME = "e4m3:1x32:f32"


def same(got: np.ndarray, expected: np.ndarray) -> bool:
    """Same dtype, shape and bits."""
    return (got.dtype, got.shape, got.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


def test_there_are_many_of_both_kinds() -> None:
    assert len(READ) >= 25
    assert len(REFUSED) >= 60


@pytest.mark.parametrize("name", READ)
def test_read(tmp_path: Path, name: str) -> None:
    case = CASES[name]()
    folder = case.write(tmp_path / "src")
    with open(folder) as ckpt:
        assert set(ckpt.weights) == set(case.meaning)
        for weight, meaning in case.meaning.items():
            assert same(ckpt.dequantized(weight), meaning)
            q = ckpt.quantized(weight).dequantize()
            turned = ckpt.weights[weight].dialect.transposed
            assert same(np.ascontiguousarray(q.swapaxes(-1, -2) if turned else q), meaning)
        mine = {part.name for weight in ckpt.weights.values() for part in weight.parts}
        plain = {n: ckpt[n].copy() for n in ckpt if n not in mine | {"scaled_fp8"}}
    found = checkpoint.inspect(folder, scales=True)
    assert found.consistent, found.problems
    assert sum(g.parameters for g in found.dialects.values()) == sum(x.size for x in case.meaning.values())
    convert(folder, tmp_path / "out", to="bf16", threads=1)
    with open(tmp_path / "out") as after:
        assert not after.weights
        assert set(after) == set(case.meaning) | set(plain)
        for weight, meaning in case.meaning.items():
            assert same(after[weight], meaning.astype(BF16))
        for other, x in plain.items():
            assert same(after[other], x)
    assert not list((tmp_path / "out").glob("hf_quant*"))
    config = tmp_path / "out" / "config.json"
    assert not config.exists() or "quantization_config" not in config.read_text()
    expected = study.run(case.meaning, [SCHEME])
    sums = {t.name: t.sums for t in study.run(folder, [SCHEME]).tensors}
    for tensor in expected.tensors:
        np.testing.assert_array_equal(sums[tensor.name][0], tensor.sums[0])


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    case = CASES[name]()
    folder = case.write(tmp_path / "src")
    with pytest.raises(CheckpointError) as error:
        convert(folder, tmp_path / "out", to="bf16", threads=1)
    assert case.refused in str(error.value)
    assert str(folder) in str(error.value), "the file is named"
    assert not list((tmp_path / "out").glob("*.safetensors"))
    assert not checkpoint.inspect(folder, scales=True).consistent
    _ensure_no_number_is_wrong(case, folder)


def _ensure_no_number_is_wrong(case: Case, folder: Path) -> None:
    """Codes of a folder that is refused are never given as numbers, neither by name nor in a study."""
    with open(folder) as ckpt:
        for weight in ckpt:
            info = ckpt.info(weight)
            wide = info.dtype in ("F64", "F32", "F16", "BF16", "I64", "I32")
            if wide or weight in case.kept or weight == "scaled_fp8":
                continue
            if info.dtype.startswith(("F8", "F4", "F6", "U8", "I8")) and "scale" not in weight:
                with pytest.raises(CheckpointError):
                    ckpt.dequantized(weight)
    try:
        found = study.run(folder, [SCHEME])
    except CheckpointError:
        return
    low = {n for n, x in case.tensors.items() if isinstance(x, tuple) or x.dtype.itemsize == 1}
    assert not {t.name for t in found.tensors} & (low - set(case.kept))
