"""Conversion of any shape, any codes and any scales: the textbook's bytes, there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv3_numerics import reference
from dsv3_numerics.checkpoint import convert, open, save

E4M3 = ml_dtypes.float8_e4m3fn
NUMPY = {"bf16": ml_dtypes.bfloat16, "f32": np.float32}
NAME = "model.layers.0.mlp.down_proj.weight"
SCALE = NAME + "_scale_inv"

shapes = st.tuples(st.integers(0, 300), st.integers(0, 300)) | st.tuples(
    st.integers(0, 3), st.integers(0, 140), st.integers(0, 140)
)


def grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the scales."""
    return (*shape[:-2], *(-(-n // 128) for n in shape[-2:]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples, which write over each other's files."""
    return tmp_path_factory.mktemp("convert")


def through(folder: Path, arrays: dict[str, np.ndarray], to: Any) -> dict[str, np.ndarray]:
    """Convert a file."""
    save(folder / "in.safetensors", arrays)
    (folder / "out.safetensors").unlink(missing_ok=True)
    convert(folder / "in.safetensors", folder / "out.safetensors", to=to, threads=2, verify=True)
    with open(folder / "out.safetensors") as ckpt:
        return {name: array.copy() for name, array in ckpt.items()}


@given(shapes, st.sampled_from(sorted(NUMPY)), st.integers(0, 2**32 - 1))
def test_out_of_fp8(folder: Path, shape: tuple[int, ...], to: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, shape, np.uint8).view(E4M3)  # NaN codes too
    # All finite scales that are not negative, zeros and subnormals included.
    scales = rng.integers(0, 0x7F800000, grid(shape), np.uint32).view(np.float32)
    q = reference.Quantized(codes, scales, "float8_e4m3fn", (128, 128), None, "float32", None, None)
    found = through(folder, {NAME: codes, SCALE: scales}, to)
    assert set(found) == {NAME}
    expected = q.dequantize(NUMPY[to])
    nan = np.isnan(expected.astype(np.float32))
    assert np.array_equal(np.isnan(found[NAME].astype(np.float32)), nan)
    assert found[NAME][~nan].tobytes() == expected[~nan].tobytes()


@given(shapes, st.sampled_from(["fp8", "fp8-ue8m0"]), st.integers(0, 2**32 - 1), st.integers(-120, 100))
def test_into_fp8(folder: Path, shape: tuple[int, ...], to: str, seed: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) * 2.0**exponent).astype(np.float32)
    found = through(folder, {NAME: x, "norm": x}, to)
    q = reference.quantize_blocks(x, block=(128, 128), scale="ue8m0" if to == "fp8-ue8m0" else "float32")
    assert found[NAME].tobytes() == q.codes.tobytes()
    assert found[SCALE].tobytes() == q.effective_scales().tobytes()
    assert found["norm"].tobytes() == x.tobytes()


@given(shapes, st.integers(0, 2**32 - 1))
def test_powers_of_two_never_change_again(folder: Path, shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 0x7F, shape, np.uint8).view(E4M3)
    scales = rng.uniform(1e-4, 4e-4, grid(shape)).astype(np.float32)
    once = through(folder, {NAME: codes, SCALE: scales}, "fp8-ue8m0")
    twice = through(folder, once, "fp8-ue8m0")
    assert {k: v.tobytes() for k, v in once.items()} == {k: v.tobytes() for k, v in twice.items()}
    assert (np.frexp(once[SCALE])[0] == 0.5).all()
