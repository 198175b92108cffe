"""Explanations of products: units, promotions and faults are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from commands import call
from dsv3_numerics import accumulators, checkpoint, matmul_nt, pack, quantize_blocks, quantize_tiles
from dsv3_numerics.compare import explain_product
from dsv3_numerics.compare.operands import operand

Floats = NDArray[np.float32]
RNG = np.random.default_rng(1)
A, B = (
    (RNG.standard_normal((n, 512)) * np.exp2(RNG.integers(-4, 5, (n, 512)))).astype(np.float32)
    for n in (24, 40)
)
QA, QB = quantize_tiles(A), quantize_tiles(B)
UNITS = [i.name for i in accumulators() if "float8_e4m3fn" in i.inputs and i.scale is None]
BF16 = ml_dtypes.bfloat16


@pytest.mark.parametrize("unit", UNITS)
def test_each_unit_is_named(unit: str) -> None:
    product = matmul_nt(QA, QB, accumulator=unit)
    found = explain_product(QA, QB, product)
    assert found.cause == "equal"
    assert unit in found.column("unit")
    for other in found.column("unit"):
        if other in UNITS:
            again = matmul_nt(QA, QB, accumulator=other)
            assert again.tobytes() == product.tobytes()


def scaled_late(scales: NDArray[Any]) -> NDArray[Any]:
    return np.roll(scales, 1, axis=1)


def partial(i: int) -> Floats:
    part = slice(128 * i, 128 * i + 128)
    return matmul_nt(QA.codes[:, part].copy(), QB.codes[:, part].copy(), promote_every=None)


def in_bfloat16() -> Floats:
    total = np.zeros((24, 40), np.float32)
    for i in range(4):
        total = (
            (total + partial(i) * (QA.scales[:, i, None] * QB.scales[None, :, i]))
            .astype(BF16)
            .astype(np.float32)
        )
    return total


FAULTS: dict[str, tuple[str, str, Callable[[], Any]]] = {
    "promoted every 32": ("sums", "promoted every 32", lambda: matmul_nt(QA, QB, promote_every=32)),
    "bfloat16 accumulator": ("sums", "sums held in bfloat16", in_bfloat16),
    "late scales": (
        "operands",
        "scales of a off by one group (one late)",
        lambda: matmul_nt(replace(QA, scales=scaled_late(QA.scales)), QB),
    ),
    "cut output": (
        "output",
        "cut to bfloat16",
        lambda: (matmul_nt(QA, QB).view(np.uint32) >> 16).astype(np.uint16).view(BF16),
    ),
    "double rounding of the output": (
        "output",
        "rounded to bfloat16, held as float32",
        lambda: matmul_nt(QA, QB).astype(BF16).astype(np.float32),
    ),
    "transposed": ("output layout", "transposed", lambda: matmul_nt(QA, QB).T),
    "bfloat16 operands": (
        "sums",
        "dequantized to bfloat16 before",
        lambda: matmul_nt(
            QA.dequantize(BF16), QB.dequantize(BF16), accumulator="hopper_bf16", promote_every=None
        ),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(name: str) -> None:
    column, expected, make = FAULTS[name]
    found = explain_product(QA, QB, make())
    assert found.exact, found.lines()
    assert expected in found.column(column), found.lines()


def test_promotion_forgotten_is_named() -> None:
    a, b = A.astype(ml_dtypes.float8_e4m3fn), B.astype(ml_dtypes.float8_e4m3fn)
    found = explain_product(a, b, matmul_nt(a, b, promote_every=None))
    assert (found.cause, found.column("sums")) == ("equal", ["never promoted", "promoted every 512"])


def flipped(p: Floats) -> None:
    p.view(np.uint32)[3, 5] ^= 1 << 22


def doubled(p: Floats) -> None:
    p[7] *= np.float32(4)


def swapped(p: Floats) -> None:
    p[[2, 9]] = p[[9, 2]]


def nan(p: Floats) -> None:
    p[4, :8] = np.nan


def reordered(p: Floats) -> None:
    k = np.random.default_rng(5).permutation(QA.shape[1])
    half = QA.dequantize()[:, k] @ QB.dequantize()[:, k].T
    p[:] = half


LEFT: dict[str, Callable[[Floats], None]] = {
    "one flipped bit": flipped,
    "off by a power of two (a scale)": doubled,
    "swapped rows": swapped,
    "NaN or infinite": nan,
    "order of sums (within the bound of float32)": reordered,
}


@pytest.mark.parametrize("cause", LEFT)
def test_leftovers_are_classified(cause: str) -> None:
    product = matmul_nt(QA, QB)
    LEFT[cause](product)
    found = explain_product(QA, QB, product)
    assert (found.exact, found.cause) == (False, cause), found.lines()
    assert found.nearest is not None
    assert sum(found.classes.values()) == found.nearest.elements - found.nearest.matching


def test_garbage_is_garbage() -> None:
    noise = np.random.default_rng(3).standard_normal((24, 40)).astype(np.float32) * 1000
    assert explain_product(QA, QB, noise).cause == "garbage"


def test_blocks_are_taken() -> None:
    b = quantize_blocks(B)
    assert explain_product(QA, b, matmul_nt(QA, b)).cause == "equal"


OPERANDS: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any]]] = {
    "float32": ("hopper_fp8", {}, lambda s: s),
    "bfloat16": ("hopper_fp8", {"scale": "ue8m0"}, lambda s: s.astype(BF16)),
    "float16": ("hopper_fp8", {"scale": "ue8m0"}, lambda s: s.astype(np.float32).astype(np.float16)),
    "UE8M0": ("hopper_fp8", {"scale": "ue8m0"}, lambda s: s),
    "UE8M0 words": ("hopper_fp8", {"scale": "ue8m0"}, lambda s: s.view(np.uint8).view(np.int32)),
    "MX bytes": ("blackwell_mxf8", {"scale": "mx", "tile": 32}, lambda s: s.view(np.uint8)),
    "NVFP4": ("blackwell_nvfp4", {"scale": "nvfp4", "tile": 16, "fmt": "float4_e2m1fn"}, lambda s: s),
    "NVFP4 bytes": (
        "blackwell_nvfp4",
        {"scale": "nvfp4", "tile": 16, "fmt": "float4_e2m1fn"},
        lambda s: s.view(np.uint8),
    ),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", OPERANDS)
def test_every_scale_dtype_goes_on_the_command_line(
    name: str, packed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unit, options, store = OPERANDS[name]
    if packed and "fmt" not in options:
        pytest.skip("codes of 8 bits are not packed")
    a, b = (quantize_tiles(x * np.float32(2), **options) for x in (A, B))
    every = 128 if unit == "hopper_fp8" else None
    held = {"d": matmul_nt(a, b, accumulator=unit, promote_every=every)}  # type: ignore[arg-type]
    for key, q in (("a", a), ("b", b)):
        codes = pack(q.codes, fmt=q.format) if packed else q.codes.view(np.uint8)
        held |= {
            key: codes,
            f"{key}_s": store(q.scales),
            f"{key}_g": np.asarray(q.global_scale or 1, np.float32),
        }
    checkpoint.save(tmp_path / "x.safetensors", held)
    path = str(tmp_path / "x.safetensors")
    names = "a,a_s,b,b_s,d" + (",a_g,b_g" if a.global_scale is not None else "")
    code, out, err = call(
        "compare", path, path, "--product", names, "--fmt", a.format, "--json", capsys=capsys
    )
    assert code == 0, err
    why = json.loads(out)["why"]
    assert why["exact"], why
    assert unit in [fit["columns"]["unit"] for fit in why["fits"]]


def test_scales_that_fit_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a: found scales of shape \(24, 3\), expected one for each group"):
        operand(QA.codes, np.ones((24, 3), np.float32), name="a")
    with pytest.raises(ValueError, match="a: found scales of int64, expected float32"):
        operand(QA.codes, np.ones((24, 4), np.int64), name="a")
    with pytest.raises(ValueError, match="a: found a global scale beside scales of float32"):
        operand(QA.codes, QA.scales, name="a", global_scale=np.float32(1))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="product: found shape"):
        explain_product(QA, QB, np.zeros((3, 3), np.float32))
    with pytest.raises(TypeError, match="product: found dtype"):
        explain_product(QA, QB, np.zeros((24, 40), np.int32))
