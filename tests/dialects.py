"""Small checkpoints in every published layout, with what each weight means by plain NumPy.

One function a layout: it gives tensors as (dtype, shape, bytes), a configuration, and the numbers that the
weights stand for, in the order of float32 products that the layout prescribes. Nothing here uses the package
but for its table of dtypes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dsv3_numerics.checkpoint.dtypes import of_numpy
from stored import stored

Array = np.ndarray[Any, Any]
E4M3, E5M2, E8M0 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu
E2M1 = np.float32([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
BASE = "model.layers.0.mlp.up_proj"


@dataclass
class Layout:
    """A checkpoint to be written.

    Attributes
    ----------
    dialect : str
        The row of the table that its weights are in.
    tensors : dict of str to array, or to (dtype, shape, bytes)
    meaning : dict of str to float32 array
        By the names that the weights have as plain numbers.
    config : dict or None
    more : dict of str to dict
        Other JSON files.
    """

    dialect: str
    tensors: dict[str, Any]
    meaning: dict[str, Array]
    config: dict[str, Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write it into a new folder."""
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(file_of(self.tensors))
        texts = dict(self.more) | ({} if self.config is None else {"config.json": self.config})
        for name, content in texts.items():
            (folder / name).write_text(json.dumps(content))
        return folder


def file_of(tensors: dict[str, Any]) -> bytes:
    """A file of arrays and of tensors by hand."""
    return stored({name: x if isinstance(x, tuple) else _entry(x) for name, x in tensors.items()})


def _entry(x: Array) -> tuple[str, list[int], bytes]:
    return of_numpy(x.dtype).name, list(x.shape), np.ascontiguousarray(x).tobytes()


def _fp8(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = E4M3) -> Array:
    largest = 0x7E if dtype == E4M3 else 0x7B
    codes = rng.integers(0, largest + 1, shape, np.uint8) | (rng.integers(0, 2, shape, np.uint8) << 7)
    return codes.astype(np.uint8).view(dtype)


def _f32(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(1e-4, 0.1, shape).astype(np.float32)


def _powers(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.integers(110, 130, shape).astype(np.uint8)


def _nibbles(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Codes, and the same two a byte."""
    codes = rng.integers(0, 16, shape).astype(np.uint8)
    return codes, (codes[..., ::2] | (codes[..., 1::2] << 4)).astype(np.uint8)


def _each(scales: Array, shape: tuple[int, ...], block: tuple[int, int]) -> Array:
    full = np.repeat(np.repeat(scales.astype(np.float32), block[0], -2), block[1], -1)
    return full[..., : shape[-2], : shape[-1]]


def _method(name: str, **more: Any) -> dict[str, Any]:
    return {"model_type": "llama", "quantization_config": {"quant_method": name, **more}}


def _blocks(
    kind: str, dialect: str, codes: str, scale: str, scale_dtype: Any, block: int
) -> Callable[..., Layout]:
    def make(rng: np.random.Generator) -> Layout:
        shape = (150, 200) if kind != "fused" else (3, 150, 200)
        x = _fp8(rng, shape, E5M2 if kind == "e5m2" else E4M3)
        grid = (*shape[:-2], -(-shape[-2] // block), -(-shape[-1] // block))
        if scale_dtype in (E8M0, np.uint8):
            s = _powers(rng, grid).view(scale_dtype)
            meant = s.view(E8M0).astype(np.float32)
        else:
            s = _f32(rng, grid).astype(scale_dtype)
            meant = s.astype(np.float32)
        more = {"scale_fmt": "ue8m0"} if scale_dtype in (E8M0, np.uint8) else {}
        config = _method("fp8", weight_block_size=[block, block], **more)
        meaning = x.astype(np.float32) * _each(meant, shape, (block, block))
        name = codes.removesuffix(".weight") if kind == "fused" else codes
        return Layout(
            dialect, {codes: x, scale: s}, {name: meaning} if kind != "fused" else {codes: meaning}, config
        )

    return make


def _scaled(
    dialect: str,
    scale: str,
    shape: tuple[int, ...],
    scale_shape: tuple[int, ...],
    config: dict[str, Any] | None,
    companions: dict[str, Any] | None = None,
    dtype: Any = np.float32,
    codes: str = f"{BASE}.weight",
    more: dict[str, Any] | None = None,
) -> Callable[..., Layout]:
    """FP8 with scales whose shape broadcasts, or is [N]."""

    def make(rng: np.random.Generator) -> Layout:
        x, s = _fp8(rng, shape), _f32(rng, scale_shape).astype(dtype)
        each = s.astype(np.float32)
        if scale_shape == shape[:1] and len(shape) == 2 and shape[0] > 1:
            each = each[:, None]
        if len(scale_shape) == len(shape) + 1:
            meaning = x.astype(np.float32).reshape(*scale_shape[:-1], -1) * each
        else:
            meaning = x.astype(np.float32) * each
        tensors = {codes: x, scale: s} | (companions or {})
        return Layout(dialect, tensors, {codes: meaning.reshape(shape)}, config, more or {})

    return make


def _groups(
    dialect: str,
    codes: str,
    scale: str,
    config: dict[str, Any] | None,
    code_dtype: Any = np.uint8,
    scale_dtype: Any = np.uint8,
) -> Callable[..., Layout]:
    """E2M1 two a byte with a power of two for 32."""

    def make(rng: np.random.Generator) -> Layout:
        c, packed = _nibbles(rng, (40, 96))
        s = _powers(rng, (40, 3))
        meaning = E2M1[c] * np.repeat(s.view(E8M0).astype(np.float32), 32, 1)
        tensors: dict[str, Any] = {codes: packed.view(code_dtype), scale: s.view(scale_dtype)}
        if code_dtype == "F4":
            tensors = {codes: ("F4", [40, 96], packed.tobytes()), scale: s.view(scale_dtype)}
        return Layout(dialect, tensors, {f"{BASE}.weight": meaning}, config)

    def f4(rng: np.random.Generator) -> Layout:
        c, packed = _nibbles(rng, (40, 96))
        s = _powers(rng, (40, 3))
        meaning = E2M1[c] * np.repeat(s.view(E8M0).astype(np.float32), 32, 1)
        tensors = {codes: ("F4", [40, 96], packed.tobytes()), scale: s.view(scale_dtype)}
        return Layout(dialect, tensors, {f"{BASE}.weight": meaning}, config)

    return f4 if code_dtype == "F4" else make


def _mxfp8(
    dialect: str, scale: str, scale_dtype: Any, config: dict[str, Any] | None
) -> Callable[..., Layout]:
    def make(rng: np.random.Generator) -> Layout:
        x, s = _fp8(rng, (40, 96)), _powers(rng, (40, 3))
        meaning = x.astype(np.float32) * np.repeat(s.view(E8M0).astype(np.float32), 32, 1)
        tensors = {f"{BASE}.weight": x, scale: s.view(scale_dtype)}
        return Layout(dialect, tensors, {f"{BASE}.weight": meaning}, config)

    return make


def _nvfp4(
    packed_name: str, second: str, reciprocal: bool, config: dict[str, Any] | None
) -> Callable[..., Layout]:
    def make(rng: np.random.Generator) -> Layout:
        c, packed = _nibbles(rng, (40, 96))
        s = rng.integers(1, 0x7F, (40, 6)).astype(np.uint8).view(E4M3)
        number = np.float32(rng.uniform(1e-4, 1e-2)) if not reciprocal else np.float32(rng.uniform(100, 9000))
        scales = s.astype(np.float32) / number if reciprocal else s.astype(np.float32) * number
        meaning = E2M1[c] * np.repeat(scales, 16, 1)
        tensors = {packed_name: packed, f"{BASE}.weight_scale": s}
        tensors[second] = np.array([number] if reciprocal else number, np.float32)
        tensors[f"{BASE}.input{'_global' if reciprocal else ''}_scale"] = np.float32([0.01])
        dialect = "compressed_tensors_nvfp4" if reciprocal else "modelopt_nvfp4"
        return Layout(dialect, tensors, {f"{BASE}.weight": meaning}, config)

    return make


def _words(bits: int, cols: int, group: int) -> Callable[..., Layout]:
    def make(rng: np.random.Generator) -> Layout:
        half, each = 1 << (bits - 1), 32 // bits
        q = rng.integers(-half, half, (24, cols))
        wide = np.zeros((24, -(-cols // each) * each), np.uint32)
        wide[:, :cols] = q + half
        words = np.zeros((24, wide.shape[1] // each), np.uint32)
        for i in range(each):
            words |= wide[:, i::each] << np.uint32(bits * i)
        s = _f32(rng, (24, cols // group)).astype(ml_dtypes.bfloat16)
        meaning = q.astype(np.float32) * np.repeat(s.astype(np.float32), group, 1)
        strategy = {"strategy": "channel"} if group == cols else {"strategy": "group", "group_size": group}
        weights = {"num_bits": bits, "type": "int", "symmetric": True, **strategy}
        config = compressed("pack-quantized", **weights)
        name = f"{BASE}.weight"
        tensors = {
            f"{name}_packed": words.view(np.int32),
            f"{name}_scale": s,
            f"{name}_shape": np.array([24, cols], np.int32 if bits == 4 else np.int64),
        }
        dialect = "compressed_tensors_int4" if bits == 4 else "compressed_tensors_int8_packed"
        return Layout(dialect, tensors, {name: meaning}, config)

    return make


def _int8(rng: np.random.Generator) -> Layout:
    q, s = rng.integers(-128, 128, (40, 70)).astype(np.int8), _f32(rng, (40, 1))
    config = compressed("int-quantized", num_bits=8, type="int", strategy="channel")
    name = f"{BASE}.weight"
    meaning = {name: q.astype(np.float32) * s}
    return Layout("compressed_tensors_int8", {name: q, f"{name}_scale": s}, meaning, config)


def _gpt_oss(rng: np.random.Generator) -> Layout:
    c, packed = _nibbles(rng, (2, 48, 96))
    s = _powers(rng, (2, 48, 3))
    meaning = E2M1[c] * np.repeat(s.view(E8M0).astype(np.float32), 32, 2)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {
        f"{name}_blocks": packed.reshape(2, 48, 3, 16),
        f"{name}_scales": s,
        f"{name}_bias": np.zeros((2, 48), ml_dtypes.bfloat16),
    }
    config = _method("mxfp4", modules_to_not_convert=["lm_head"])
    return Layout("gpt_oss", tensors, {name: meaning.transpose(0, 2, 1)}, config)


def _split(rng: np.random.Generator) -> Layout:
    x, s = _fp8(rng, (150, 200)), _f32(rng, (2, 1, 2, 1))
    meaning = x.astype(np.float32) * _each(s.reshape(2, 2), (150, 200), (128, 128))
    name = f"{BASE}.weight"
    config = _method("modelopt", quant_algo="FP8_PB_WO")
    return Layout("modelopt_fp8", {name: x, f"{name}_scale": s}, {name: meaning}, config)


def compressed(kind: str, **weights: Any) -> dict[str, Any]:
    """Configuration of compressed-tensors with one group."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return _method("compressed-tensors", format=kind, config_groups={"group_0": group}, ignore=["lm_head"])


W = f"{BASE}.weight"
ONE = np.float32([0.5])
FP8_TENSOR = {"num_bits": 8, "type": "float", "strategy": "tensor"}
FP8_CHANNEL = FP8_TENSOR | {"strategy": "channel"}
FP8_BLOCK = FP8_TENSOR | {"strategy": "block", "block_structure": [128, 128]}
FP4_GROUP = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}
MARKER = {"scaled_fp8": np.zeros(2, E4M3)}
HF_QUANT = {"hf_quant_config.json": {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}}
COMFY = {f"{BASE}.comfy_quant": np.frombuffer(b'{"format": "float8_e4m3fn"}', np.uint8)}
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"

LAYOUTS: dict[str, Callable[[np.random.Generator], Layout]] = {
    "v3": _blocks("", "deepseek_v3", W, f"{W}_scale_inv", np.float32, 128),
    "v3 bf16 scales": _blocks("", "deepseek_v3", W, f"{W}_scale_inv", ml_dtypes.bfloat16, 128),
    "v3 f16 scales": _blocks("", "deepseek_v3", W, f"{W}_scale_inv", np.float16, 128),
    "v3 e8m0 scales": _blocks("", "deepseek_v3", W, f"{W}_scale_inv", E8M0, 128),
    "v3 bytes as e8m0": _blocks("", "deepseek_v3", W, f"{W}_scale_inv", np.uint8, 128),
    "v3 fused experts": _blocks("fused", "deepseek_v3", EXPERTS, f"{EXPERTS}_scale_inv", np.float32, 64),
    "v4": _blocks("", "deepseek_v4", W, f"{BASE}.scale", E8M0, 128),
    "v4.1": _blocks("", "deepseek_v4", W, f"{BASE}.scale", E8M0, 32),
    "v4 experts": _groups(
        "deepseek_v4_experts",
        W,
        f"{BASE}.scale",
        _method("fp8", weight_block_size=[128, 128]) | {"expert_dtype": "fp4"},
        np.int8,
        E8M0,
    ),
    "mistral": _scaled(
        "mistral",
        f"{W}_scale_inv",
        (30, 50),
        (),
        _method("fp8", weight_block_size=None, activation_scheme="static"),
        {f"{BASE}.activation_scale": ONE},
        ml_dtypes.bfloat16,
    ),
    "mistral consolidated": _scaled(
        "mistral_consolidated", f"{BASE}.qscale_weight", (30, 50), (), None, {f"{BASE}.qscale_act": ONE}
    ),
    "ct tensor": _scaled(
        "compressed_tensors_fp8",
        f"{W}_scale",
        (30, 50),
        (1,),
        compressed("float-quantized", **FP8_TENSOR),
        {f"{BASE}.input_scale": ONE},
    ),
    "ct channel": _scaled(
        "compressed_tensors_fp8",
        f"{W}_scale",
        (30, 50),
        (30, 1),
        compressed("float-quantized", **FP8_CHANNEL),
        dtype=ml_dtypes.bfloat16,
    ),
    "ct columns of experts": _scaled(
        "compressed_tensors_fp8",
        f"{EXPERTS}_scale",
        (2, 30, 50),
        (2, 1, 50),
        compressed("float-quantized", **FP8_CHANNEL),
        codes=EXPERTS,
    ),
    "ct nvfp4": _nvfp4(
        f"{W}_packed",
        f"{W}_global_scale",
        True,
        compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16),
    ),
    "ct mxfp4": _groups(
        "compressed_tensors_mxfp4",
        f"{W}_packed",
        f"{W}_scale",
        compressed("mxfp4-pack-quantized", **FP4_GROUP),
    ),
    "ct int4": _words(4, 96, 32),
    "ct int4 rows that end in a word": _words(4, 44, 44),
    "ct int8 in words": _words(8, 96, 32),
    "ct int8": _int8,
    "ct mxfp8": _mxfp8(
        "mxfp8_weight_scale",
        f"{W}_scale",
        np.uint8,
        compressed("mxfp8-quantized", num_bits=8, type="float", strategy="group", group_size=32),
    ),
    "modelopt fp8": _scaled(
        "modelopt_fp8",
        f"{W}_scale",
        (30, 50),
        (),
        _method("modelopt", quant_algo="FP8"),
        {f"{BASE}.input_scale": ONE, f"{BASE}.k_scale": ONE},
        more=HF_QUANT,
    ),
    "modelopt by its own file": _scaled(
        "modelopt_fp8", f"{W}_scale", (30, 50), (), {"model_type": "llama"}, more=HF_QUANT
    ),
    "modelopt blocks": _split,
    "modelopt nvfp4": _nvfp4(W, f"{W}_scale_2", False, _method("modelopt", quant_algo="NVFP4")),
    "quark mxfp4": _groups(
        "quark_mxfp4",
        W,
        f"{W}_scale",
        _method("quark", global_quant_config={"weight": {"dtype": "fp4", "group_size": 32}}),
    ),
    "quark fp8": _scaled(
        "quark_fp8",
        f"{W}_scale",
        (30, 50),
        (),
        _method("quark", global_quant_config={"weight": {"dtype": "fp8_e4m3"}}),
    ),
    "fbgemm": _scaled(
        "fp8_weight_scale",
        f"{W}_scale",
        (30, 50),
        (30, 1),
        _method("fbgemm_fp8"),
        {f"{BASE}.input_scale_ub": ONE},
    ),
    "gpt-oss": _gpt_oss,
    "mxfp8": _mxfp8("mxfp8", f"{W}_scale_inv", np.uint8, _method("mxfp8", weight_block_size=[1, 32])),
    "mxfp8 e8m0": _mxfp8("mxfp8", f"{W}_scale_inv", E8M0, _method("mxfp8", weight_block_size=[1, 32])),
    "comfyui": _scaled("comfyui_scaled", f"{BASE}.scale_weight", (30, 50), (), None, MARKER),
    "comfyui groups": _scaled("comfyui_scaled", f"{BASE}.scale_weight", (30, 64), (30, 2, 1), None, MARKER),
    "comfyui mixed": _scaled("comfyui_quant", f"{W}_scale", (30, 50), (), None, COMFY),
    "safetensors f4": _groups("safetensors_f4", W, f"{W}_scale", None, "F4", E8M0),
}


def make(name: str, seed: int = 0) -> Layout:
    """A layout by name."""
    layout = LAYOUTS[name](np.random.default_rng([seed, sum(name.encode())]))
    layout.config = copy.deepcopy(layout.config)
    return layout
