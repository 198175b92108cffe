"""Tensors of torch go in as they are; skipped where torch is not installed (no test needs it)."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as d3

torch: Any = pytest.importorskip("torch")
X = np.random.default_rng(0).normal(size=(4, 256)).astype(np.float32)
CODED = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_numbers_of_any_dtype_are_taken(dtype: str) -> None:
    tensor = torch.from_numpy(X).to(getattr(torch, dtype))
    array = X.astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
    for given in (tensor, torch.nn.Parameter(tensor), tensor.t().contiguous().t()):
        assert d3.quantize_tiles(given).equals(d3.quantize_tiles(array))
        assert (d3.encode(given, "e4m3").view(np.uint8) == d3.encode(array, "e4m3").view(np.uint8)).all()


@pytest.mark.parametrize("name", CODED)
def test_codes_and_their_dtypes_are_understood(name: str) -> None:
    dtype = getattr(torch, name)
    codes = d3.encode(X, dtype)
    assert codes.dtype.name == name
    tensor = torch.from_numpy(codes.view(np.uint8)).view(dtype)
    assert (d3.decode(tensor) == d3.decode(codes)).all()
    assert (tensor.float().numpy() == d3.decode(codes)).all()
    assert d3.format_info(dtype) is d3.format_info(name)
    assert d3.decode(codes, dtype=torch.bfloat16).dtype == ml_dtypes.bfloat16


def test_empty_scalar_and_conjugated_tensors() -> None:
    assert d3.encode(torch.tensor(1.5, dtype=torch.bfloat16), "e4m3").shape == ()
    assert d3.encode(torch.empty(0, 3, dtype=torch.bfloat16), "e4m3").shape == (0, 3)
    negative = torch.view_as_complex(torch.tensor([[1.0, 2.0]])).conj().imag
    assert d3.encode(negative, "e4m3").tolist() == [-2]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (lambda: torch.empty(3, device="meta"), "found a tensor on meta, expected one in CPU memory"),
        (lambda: torch.eye(3).to_sparse(), "sparse_coo, expected a dense one"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantized by torch"),
        (lambda: torch.ones(3, dtype=torch.int32), "found dtype int32"),
    ],
)
def test_what_is_no_plain_tensor_is_refused(tensor: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        d3.encode(tensor(), "e4m3")


def test_memory_is_shared() -> None:
    from dsv3_numerics._arrays import as_array

    tensor = torch.ones(4, dtype=torch.bfloat16)
    assert as_array(tensor, "x").ctypes.data == tensor.data_ptr()
