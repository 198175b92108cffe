"""Code of a typed user; mypy reads this file, and it also has to run.

`assert_type` fixes what a call gives; a `type: ignore` marks a mistake that mypy has to see (an unused one
is an error under `--strict`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

import dsv3_numerics as d3
from dsv3_numerics import checkpoint, compare, sensitivity, study, training
from dsv3_numerics.model import Model, OpRecord

x = np.linspace(-4, 4, 256, dtype=np.float32).reshape(2, 128)

q = d3.quantize_tiles(x, fmt="float8_e4m3fn", tile=128, scale="ue8m0")
assert_type(q, d3.Quantized)
assert_type(q.shape, tuple[int, ...])
assert_type(q.nbytes, int)
assert_type(q.bits_per_element, float)
assert_type(d3.quantize_blocks(x, block=(128, 128)), d3.Quantized)
assert_type(d3.format_info("float8_e5m2"), d3.FormatInfo)
assert_type(d3.formats(), tuple[d3.FormatInfo, ...])

log = d3.logfmt_encode(x, bits=10, mode="paper", rounding="stochastic", seed=1)
assert_type(log, d3.LogFmt)
assert_type(log.bits_per_element, float)
assert_type(log.step, NDArray[np.float64])
assert_type(log.pack("deepep"), NDArray[np.uint8])

assert_type(d3.accumulators(), tuple[d3.AccumulatorInfo, ...])
assert_type(d3.accumulator_info("hopper_fp8").keep, int | None)
errors = training.linear_errors(x, x, np.ones((2, 2), np.float32))
assert_type(errors, training.LinearErrors)
assert_type(errors.products[0].relative, float)
y = d3.matmul_nt(q, d3.quantize_blocks(x), accumulator="exact", dtype="bfloat16")
print(y.dtype, d3.matmul_grouped_nt(q.codes, q.codes[None], [0, 2], promote_every=None).shape)

codes = d3.encode(x, "float8_e4m3fn", rounding="toward_zero")
back = d3.decode(codes, dtype=np.float32)
print(codes.dtype, back.dtype, q.dequantize().dtype, d3.logfmt_decode(log).dtype)


def checkpoints() -> None:
    """Never called."""
    with checkpoint.open("DeepSeek-V3") as ckpt:
        assert_type(ckpt, checkpoint.Checkpoint)
        assert_type(ckpt.quantized("w"), d3.Quantized)
        assert_type(ckpt.info("w").shape, tuple[int, ...])
        assert_type(ckpt.block, tuple[int, int])
        assert_type(ckpt.weights["w"].format, str)
        print(ckpt["w"].dtype, ckpt.dequantized("w", np.float16).dtype)
        ckpt["w"] = x  # type: ignore[index]
    assert_type(checkpoint.inspect("DeepSeek-V3", scales=True).consistent, bool)
    checkpoint.save("w.safetensors", {"w": x}, metadata={"format": "pt"})
    report = checkpoint.convert("DeepSeek-V3", "bf16", to="bf16", verify=True)
    assert_type(report, checkpoint.ConvertReport)
    checkpoint.convert("DeepSeek-V3", "int4", to=4)  # type: ignore[arg-type]


def watched(done: OpRecord) -> None:
    """Never called."""
    assert_type(done.operation.name, str)
    assert_type(done.replay(d3.Recipe()), NDArray[Any])


def recipes() -> None:
    """Never called."""
    recipe = d3.Recipe.preset("deepseek_v3")
    assert_type(recipe.replace(cache="flashmla", promote_every=64), d3.Recipe)
    assert_type(recipe.choices(), tuple[str, ...])
    model = Model.from_checkpoint("DeepSeek-V3")
    assert_type(model.forward([1], recipe=recipe, hook=watched), NDArray[Any])
    model.decode([1], model.new_cache(recipe="deepseek_v3"), recipe="deepseek_v3")
    model.forward([1], recipe=3)  # type: ignore[arg-type]
    recipe.cache = "fp8"  # type: ignore[misc]


def results() -> None:
    """Never called."""
    found = study.run({"x": x}, ["mxfp8"])
    assert_type(found, study.Study)
    assert_type(found.plot_bits(), Axes)
    assert_type(found.to_html("report.html"), Path)
    costs = sensitivity.run(Model.from_checkpoint("DeepSeek-V3"), [1], "deepseek_v3")
    assert_type(costs.plot_costs("kl_nats", ax=found.plot_magnitudes()), Axes)
    assert_type(compare.explain_quantization(x, q.codes, q.scales).column("rule"), list[str])


def mistakes() -> None:
    """Never called."""
    d3.encode(x, "float8_e4m3fn", rounding="sideways")  # type: ignore[arg-type]
    d3.encode(x, "float8_e4m3fn", overflow="explode")  # type: ignore[arg-type]
    d3.quantize_tiles(x, scale="decimal")  # type: ignore[arg-type]
    d3.quantize_tiles(x, tile="wide")  # type: ignore[arg-type]
    d3.logfmt_encode(x, mode="DeepEP")  # type: ignore[arg-type]
    d3.logfmt_decode(q)  # type: ignore[arg-type]
    d3.matmul_nt(q, q, promote_every="never")  # type: ignore[arg-type]
    training.fprop(x, x, recipe=3)  # type: ignore[arg-type]
    q.codes = codes  # type: ignore[misc]
