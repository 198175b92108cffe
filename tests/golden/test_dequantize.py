"""The release format, dequantized: every byte as an independent implementation wrote it down."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from dsv3_numerics import checkpoint

FP8 = Path(__file__).parent / "tiny_v3_fp8"
EXPECTED = json.loads((FP8 / "expected_dequant.sha256.json").read_text())
DTYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16}


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.mark.parametrize("kind", DTYPES)
def test_every_quantized_weight_by_reads_and_by_mapping(kind: str, simd_level: str, threads: int) -> None:
    with checkpoint.open(FP8) as ckpt:
        quantized = {info.name for info in ckpt.infos() if info.dtype == "F8_E4M3"}
        assert quantized == set(EXPECTED)
        read = {name: digest(ckpt.dequantized(name, DTYPES[kind])) for name in EXPECTED}
        mapped = {name: digest(ckpt.quantized(name).dequantize(DTYPES[kind])) for name in EXPECTED}
    assert read == mapped == {name: expected[kind] for name, expected in EXPECTED.items()}


def test_some_weights_and_their_scales_lie_in_different_files() -> None:
    with checkpoint.open(FP8) as ckpt:
        scales = {name: ckpt.weights[name].scale.name for name in EXPECTED}
        apart = [n for n, scale in scales.items() if scale and ckpt.info(n).file != ckpt.info(scale).file]
    assert all(scales.values())
    assert apart
