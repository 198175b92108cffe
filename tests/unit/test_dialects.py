"""Dialects: every published layout comes out right, bit for bit; all else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dialects
from dialects import BASE, E4M3, LAYOUTS, ONE, W, compressed, make
from dsv3_numerics import checkpoint, quantize, study
from dsv3_numerics.checkpoint import DIALECTS, CheckpointError, convert, open
from dsv3_numerics.checkpoint.conversion.targets import LOW, Choice, section_of


def same(got: np.ndarray, expected: np.ndarray) -> bool:
    """Same dtype, shape and bits."""
    return (got.dtype, got.shape, got.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


def test_every_row_of_the_table_has_a_layout_here() -> None:
    assert {make(name).dialect for name in LAYOUTS} == {row.name for row in DIALECTS}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_for_what_it_means(tmp_path: Path, name: str) -> None:
    layout = make(name)
    folder = layout.write(tmp_path / "src")
    with open(folder) as ckpt:
        assert {w.dialect.name for w in ckpt.weights.values()} == {layout.dialect}
        for weight, meaning in layout.meaning.items():
            assert same(ckpt.dequantized(weight), meaning)
            q = ckpt.quantized(weight).dequantize()
            assert same(np.ascontiguousarray(q.swapaxes(-1, -2) if name == "gpt-oss" else q), meaning)
        source = checkpoint.checkpoint_source(ckpt)
        for tensor in source.tensors:
            if tensor.name in layout.meaning:
                matrix = layout.meaning[tensor.name].reshape(tensor.rows, tensor.cols)
                with tensor.open() as rows:
                    for r0, r1, c0, c1 in ((0, tensor.rows, 0, tensor.cols), (3, 21, 5, 39), (7, 8, 0, 2)):
                        assert np.array_equal(rows(r0, r1, c0, c1), matrix[r0:r1, c0:c1])
    found = checkpoint.inspect(folder, scales=True)
    assert found.consistent, found.problems
    assert set(found.dialects) == {layout.dialect}
    assert found.dialects[layout.dialect].parameters == sum(x.size for x in layout.meaning.values())


@pytest.mark.parametrize("to", ["bf16", "f32"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_converted_to_numbers(tmp_path: Path, name: str, to: str) -> None:
    layout = make(name, 1)
    convert(layout.write(tmp_path / "src"), tmp_path / "out", to=to, threads=2)
    dtype = ml_dtypes.bfloat16 if to == "bf16" else np.float32
    with open(tmp_path / "out") as after:
        assert not after.weights
        extra = {n for n in layout.tensors if n.endswith("_bias")}
        assert set(after) == set(layout.meaning) | extra, "nothing of the codes is left"
        for weight, meaning in layout.meaning.items():
            assert same(after[weight], meaning.astype(dtype))
    assert not (tmp_path / "out" / "hf_quant_config.json").exists()
    if layout.config is not None:
        assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_study_is_of_what_codes_mean(tmp_path: Path) -> None:
    layout = make("modelopt nvfp4")
    folder = layout.write(tmp_path / "src")
    expected = study.run(layout.meaning, ["e4m3:1x32:f32"]).metrics(W, "e4m3:1x32:f32")
    with open(folder) as ckpt:
        for found in (study.run(folder, ["e4m3:1x32:f32"]), study.run(ckpt, ["e4m3:1x32:f32"])):
            assert [t.name for t in found.tensors] == [W]
            assert found.metrics(W, "e4m3:1x32:f32") == expected


# --- Refused ------------------------------------------------------------------------------------------------

BLOCKS = np.float32([[1, 2], [3, 4]])
# layout, tensors that are added or changed (None: left out), changes of the section, part of the message
REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None, str]] = {
    "two scales": ("v3", {f"{W}_scale": BLOCKS}, {}, "deepseek_v3"),
    "zero points": ("ct int4", {f"{W}_zero_point": np.int32([[1]])}, {}, "weight_zero_point' stands beside"),
    "asymmetric": (
        "ct int8",
        {},
        compressed("int-quantized", num_bits=8, type="int", strategy="channel", symmetric=False),
        "symmetric",
    ),
    "both second scales": (
        "modelopt nvfp4",
        {f"{W}_global_scale": ONE},
        {},
        "weight_global_scale' stands beside",
    ),
    "no second scale": ("modelopt nvfp4", {f"{W}_scale_2": None}, {}, "the scale of scales"),
    "no shape": ("ct int4", {f"{W}_shape": None}, {}, "weight_shape"),
    "another shape": ("ct int4", {f"{W}_shape": np.int32([24, 99])}, {}, "says [24, 99]"),
    "unknown method": ("v3", {}, {"quant_method": "gptq"}, "quant_method: found 'gptq'"),
    "another method": ("v3", {}, {"quant_method": "modelopt"}, "quant_method: found 'modelopt'"),
    "another block": ("v3", {}, {"weight_block_size": [32, 32]}, "in blocks of 32x32"),
    "blocks denied": ("v3", {}, {"weight_block_size": None}, "weight_block_size: found null"),
    "one number in blocks": (
        "mistral",
        {},
        {"weight_block_size": [16, 16]},
        "weight_block_size: found [16, 16]",
    ),
    "bytes that may be numbers": ("v3 bytes as e8m0", {}, {"scale_fmt": None}, "ue8m0"),
    "another format": ("v3", {}, {"fmt": "e5m2"}, "fmt: found 'e5m2'"),
    "another algorithm": ("modelopt fp8", {}, {"quant_algo": "NVFP4"}, "says 'NVFP4'"),
    "unknown algorithm": ("modelopt nvfp4", {}, {"quant_algo": "W4A8_AWQ"}, "W4A8_AWQ"),
    "factors before": (
        "modelopt nvfp4",
        {f"{BASE}.pre_quant_scale": ONE},
        {},
        "pre_quant_scale' stands beside",
    ),
    "another quark dtype": (
        "quark mxfp4",
        {},
        {"global_quant_config": {"weight": {"dtype": "int4"}}},
        "dtype: found 'int4'",
    ),
    "another strategy": (
        "ct channel",
        {},
        compressed("float-quantized", **dialects.FP8_TENSOR),
        "float8 by tensor",
    ),
    "another width": (
        "ct int4",
        {},
        compressed("pack-quantized", num_bits=8, type="int", strategy="group", group_size=32),
        "int8 by group 32",
    ),
    "rotated": ("ct channel", {}, {"transform_config": {"x": 1}}, "rotated"),
    "sparse": ("ct channel", {}, {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
    "unknown compression": ("ct channel", {}, {"format": "marlin-24"}, "marlin-24"),
    "experts of another dtype": ("v4 experts", {}, {"expert_dtype": "fp8"}, "expert_dtype"),
    "another comfy format": (
        "comfyui mixed",
        {f"{BASE}.comfy_quant": np.frombuffer(b'{"format": "nvfp4"}', np.uint8)},
        None,
        "nvfp4",
    ),
    "scale without weight": ("v3", {"other.weight_scale_inv": BLOCKS}, {}, "is not there"),
    "plain weight with scales": ("v3", {W: np.ones((150, 200), np.float32)}, {}, "has scales, but is F32"),
    "codes without scales": ("v3", {"x.weight": np.ones((2, 2), E4M3)}, {}, "--missing-scale 1"),
    "packed codes alone": ("v3", {"x.weight": np.ones((2, 2), np.uint8)}, {}, "looks like packed codes"),
    "gptq": ("v3", {"x.qweight": np.ones((2, 2), np.int32)}, {}, "GPTQ"),
    "bitsandbytes": ("v3", {"x.weight.absmax": ONE}, {}, "bitsandbytes"),
    "scale of integers": ("modelopt fp8", {f"{W}_scale": np.int32(1).reshape(())}, {}, "found I32"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_the_reason_before_a_byte_is_written(tmp_path: Path, what: str) -> None:
    name, tensors, section, message = REFUSED[what]
    layout = make(name)
    layout.tensors = {n: x for n, x in (layout.tensors | tensors).items() if x is not None}
    if section is not None:
        assert layout.config is not None
        own = layout.config["quantization_config"]
        layout.config["quantization_config"] = own | section.get("quantization_config", section)
    if what == "experts of another dtype":
        layout.config["expert_dtype"] = "fp8"  # type: ignore[index]
    folder = layout.write(tmp_path / "src")
    with pytest.raises(CheckpointError) as error:
        convert(folder, tmp_path / "out", to="bf16")
    assert message in str(error.value)
    assert "Error(" not in str(error.value)
    assert not (tmp_path / "out").exists()
    found = checkpoint.inspect(folder)
    assert not found.consistent


def test_missing_scales_only_where_the_user_says_so(tmp_path: Path) -> None:
    layout = make("v3")
    layout.tensors["bias"] = x = dialects._fp8(np.random.default_rng(1), (30,))
    folder = layout.write(tmp_path / "src")
    with open(folder) as ckpt, pytest.raises(CheckpointError, match="missing-scale"):
        ckpt.dequantized("bias")
    report = convert(folder, tmp_path / "out", to="bf16", missing_scale=1)
    assert "as you said" in report.notes[-1]
    with open(tmp_path / "out") as after:
        assert same(after["bias"], x.astype(np.float32).astype(ml_dtypes.bfloat16))
    with pytest.raises(ValueError, match="missing_scale: found 2"):
        open(folder, missing_scale=2)


# --- Between dialects ---------------------------------------------------------------------------------------

EXACT = ["v4", "mistral", "mistral consolidated", "ct tensor", "modelopt fp8", "comfyui", "fbgemm"]


@pytest.mark.parametrize("name", [n for n in EXACT if n != "fbgemm"])
def test_fp8_of_other_dialects_becomes_blocks_bit_for_bit(tmp_path: Path, name: str) -> None:
    layout = make(name)
    convert(layout.write(tmp_path / "src"), tmp_path / "out", to="fp8")
    with open(tmp_path / "out") as after:
        assert {w.dialect.name for w in after.weights.values()} == {"deepseek_v3"}
        for weight, meaning in layout.meaning.items():
            assert same(after.dequantized(weight), meaning)
            assert after.quantized(weight).codes.tobytes() == layout.tensors[weight].tobytes()
    if layout.config is not None:
        section = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
        assert (section["quant_method"], section["activation_scheme"]) == ("fp8", "dynamic")
        assert section["weight_block_size"] == [128, 128]


def spread(width: int) -> dialects.Layout:
    """MXFP4 with all magnitudes at exponents that spread by so much within one block."""
    layout = make("quark mxfp4")
    codes = np.tile(np.arange(16, dtype=np.uint8), (40, 6))
    scales = np.full((40, 3), 127, np.uint8)
    scales[17, 1] = 127 - width
    layout.tensors[W] = (codes[:, ::2] | (codes[:, 1::2] << 4)).astype(np.uint8)
    layout.tensors[f"{W}_scale"] = scales
    meant = scales.view(dialects.E8M0).astype(np.float32)
    layout.meaning = {W: dialects.E2M1[codes] * np.repeat(meant, 32, 1)}
    return layout


@pytest.mark.parametrize("to", ["fp8", "fp8-ue8m0", "nvfp4"])
@pytest.mark.parametrize("width", [0, 9, 11, 14, 15, 18, 40])
def test_mxfp4_without_loss_or_not_at_all(tmp_path: Path, width: int, to: str) -> None:
    layout = spread(width)
    folder = layout.write(tmp_path / "src")
    if width > (14 if to != "nvfp4" else 17):
        with pytest.raises(CheckpointError, match=r"block \[\d+, \d+\] \(rows .*without loss"):
            convert(folder, tmp_path / "out", to=to)
        return
    convert(folder, tmp_path / "out", to=to)
    with open(tmp_path / "out") as after:
        assert same(after.dequantized(W), layout.meaning[W])
        if to != "nvfp4":
            assert after.quantized(W).scales.tolist() == [[2.0**-6]]


def test_rows_of_other_scales_are_refused_by_their_block(tmp_path: Path) -> None:
    folder = make("ct channel").write(tmp_path / "src")
    with pytest.raises(CheckpointError, match=r"block \[0, 0\] \(rows 0 to 29, columns 0 to 49\)"):
        convert(folder, tmp_path / "out", to="fp8")


@pytest.mark.parametrize(("to", "consumer"), [(row.name, c) for row in LOW for c in row.writers])
def test_every_target_in_every_dialect_is_read_back(tmp_path: Path, to: str, consumer: str) -> None:
    rng = np.random.default_rng(3)
    weights = {f"model.layers.{i}.mlp.up_proj.weight": rng.normal(size=(136, 160)) for i in range(2)}
    plain = {"lm_head.weight": rng.normal(size=(8, 160)), "model.norm.weight": np.ones(8)}
    tensors = {n: x.astype(ml_dtypes.bfloat16) for n, x in (weights | plain).items()}
    layout = dialects.Layout("", tensors, {}, {"model_type": "qwen3", "torch_dtype": "bfloat16"})
    report = convert(layout.write(tmp_path / "src"), tmp_path / "out", to=to, dialect=consumer, verify=True)
    assert dict(report.tensors) == {"quantized": 2, "copied": 2}
    row = next(row for row in LOW if row.name == to)
    with open(tmp_path / "out") as after:
        assert {w.dialect.name for w in after.weights.values()} == {row.writers[consumer].dialect}
        assert not after.contents.problems
        for name in weights:
            x = tensors[name].astype(np.float32)
            error = np.linalg.norm(after.dequantized(name) - x) / np.linalg.norm(x)
            assert error < {4: 0.16, 8: 0.04}[4 if "4" in to else 8]
            if name in report.errors:
                assert abs(report.errors[name] - error) < 1e-6
        config = json.dumps(after.config)
    assert '"lm_head"' in config, "what stays plain is listed"
    assert checkpoint.inspect(tmp_path / "out", scales=True).consistent


@pytest.mark.parametrize("consumer", ["deepseek_v3", "compressed-tensors"])
def test_gpt_oss_becomes_blocks_bit_for_bit(tmp_path: Path, consumer: str) -> None:
    layout = near("gpt-oss")
    report = convert(layout.write(tmp_path / "src"), tmp_path / "out", to="fp8", dialect=consumer)
    assert report.tensors["recoded"] == 1
    with open(tmp_path / "out") as after:
        ((name, meaning),) = layout.meaning.items()
        assert after.weights[name].shape == meaning.shape, "the axes of its name as plain numbers"
        assert same(after.dequantized(name), meaning)
        assert not after.contents.problems
    with pytest.raises(CheckpointError, match="another weight's name"):
        convert(tmp_path / "src", tmp_path / "no", to="fp8-ue8m0", dialect="deepseek_v4")


@pytest.mark.parametrize("to", ["nvfp4", "int8", "fp8-row"])
def test_gpt_oss_is_rounded_where_groups_run_across(tmp_path: Path, to: str) -> None:
    layout = near("gpt-oss")
    (name,) = layout.meaning
    report = convert(layout.write(tmp_path / "src"), tmp_path / "out", to=to, exclude=["*_bias"])
    assert any("axes exchanged" in note for note in report.notes)
    with open(tmp_path / "src") as before, open(tmp_path / "out") as after:
        x, y = before.dequantized(name), after.dequantized(name)
        assert x.shape == y.shape
        assert np.linalg.norm(y - x) / np.linalg.norm(x) == pytest.approx(report.errors[name], rel=1e-6)
        assert report.errors[name] < 0.3
    with pytest.raises(CheckpointError, match="48 columns are no multiple of groups of 32"):
        convert(tmp_path / "src", tmp_path / "no", to="mxfp4")


def near(name: str) -> dialects.Layout:
    """MXFP4 whose exponents lie near each other."""
    layout = make(name)
    (weight,) = layout.meaning
    scales = layout.tensors[f"{weight}_scales"]
    layout.tensors[f"{weight}_scales"] = less = (120 + scales % 3).astype(np.uint8)
    factor = np.exp2(less.astype(np.float32) - scales.astype(np.float32))
    layout.meaning = {weight: layout.meaning[weight] * np.repeat(factor, 32, 2).transpose(0, 2, 1)}
    return layout


def test_scales_for_compressed_tensors_are_those_that_its_loader_keeps(tmp_path: Path) -> None:
    x = np.random.default_rng(5).normal(size=(200, 300)).astype(np.float32)
    plain = dialects.Layout("", {W: x}, {}, {"model_type": "qwen3"})
    convert(plain.write(tmp_path / "plain"), tmp_path / "rounded", to="fp8", dialect="compressed-tensors")
    convert(make("v3").write(tmp_path / "v3"), tmp_path / "wide", to="fp8", dialect="compressed-tensors")
    convert(make("v4").write(tmp_path / "v4"), tmp_path / "short", to="fp8", dialect="compressed-tensors")
    for name, dtype in (("rounded", "BF16"), ("wide", "F32"), ("short", "BF16")):
        with open(tmp_path / name) as after:
            assert after.weights[W].scale is not None
            assert after.weights[W].scale.dtype == dtype
    for name, source in (("wide", "v3"), ("short", "v4")):
        with open(tmp_path / name) as after:
            assert same(after.dequantized(W), make(source).meaning[W])
    with open(tmp_path / "rounded") as after:
        error = np.linalg.norm(after.dequantized(W) - x) / np.linalg.norm(x)
        assert error < 0.03


def test_a_scheme_that_no_dialect_holds_is_refused(tmp_path: Path) -> None:
    folder = make("v3").write(tmp_path / "src")
    for options, message in (
        ({"to": "e5m2:1x64:f32"}, "no dialect holds"),
        ({"to": "nvfp4", "dialect": "quark"}, "expected one that holds nvfp4"),
        ({"to": "bf16", "dialect": "quark"}, "plain numbers"),
        ({"to": "fp9"}, "expected one of"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(folder, tmp_path / "out", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("to", [row.name for row in LOW if row.name != "fp8-tensor"])
def test_quantized_values_are_saved_in_a_dialect(tmp_path: Path, to: str) -> None:
    row = next(row for row in LOW if row.name == to)
    q = quantize(np.random.default_rng(0).normal(size=(140, 160)).astype(np.float32), row.scheme)
    for consumer, writer in row.writers.items():
        checkpoint.save(tmp_path / "w.safetensors", {"x.weight": q}, dialect=consumer)
        (tmp_path / "config.json").write_text(
            json.dumps({"quantization_config": section_of(Choice(row, consumer), [])})
        )
        with open(tmp_path / "w.safetensors") as ckpt:
            assert ckpt.weights["x.weight"].dialect.name == writer.dialect
            found = ckpt.dequantized("x.weight")
        if writer.dialect != "compressed_tensors_nvfp4":  # which stores the reciprocal of the second scale
            assert same(found, q.dequantize())
        else:
            np.testing.assert_allclose(found, q.dequantize(), rtol=1e-6)
    with pytest.raises(ValueError, match="does not hold; write its codes"):
        checkpoint.save(tmp_path / "w.safetensors", {"x.weight": q}, dialect="gpt_oss")
    with pytest.raises(ValueError, match="dialect: found 'gpt-os', expected one of "):
        checkpoint.save(tmp_path / "w.safetensors", {"x.weight": q}, dialect="gpt-os")
