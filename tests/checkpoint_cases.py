"""Checkpoint folders that a careful person reads in one way, or refuses: variations of every dialect.

One function a case: it gives the files, the configuration, and for each weight the numbers that it means, by
plain NumPy, or a part of the message by which it has to be refused. Nothing here uses the package but for its
table of dtypes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dialects import E2M1, E4M3, E5M2, E8M0, MARKER, Array, compressed, file_of

BF16 = ml_dtypes.bfloat16
ATTENTION, EXPERT = "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.experts.0.down_proj"
FUSED = "model.layers.1.mlp.experts.gate_up_proj"
W, X = f"{ATTENTION}.weight", f"{EXPERT}.weight"


@dataclass
class Case:
    """A folder to be written.

    Attributes
    ----------
    tensors : dict of str to array, or to (dtype, shape, bytes)
    meaning : dict of str to float32 array
        Weights as numbers; all other tensors stay as they are.
    section : dict or None
        ``quantization_config``.
    refused : str
        Part of the message; empty: everything is understood.
    config, more : dict
        The rest of ``config.json``, and other JSON files.
    shards : int
        Files, tensors dealt round; with an index.
    kept : tuple of str
        Weights that can be read although the folder as a whole is refused.
    """

    tensors: dict[str, Any]
    meaning: dict[str, Array] = field(default_factory=dict)
    section: dict[str, Any] | None = None
    refused: str = ""
    config: dict[str, Any] = field(default_factory=lambda: {"model_type": "llama"})
    more: dict[str, Any] = field(default_factory=dict)
    shards: int = 1
    kept: tuple[str, ...] = ()

    def write(self, folder: Path) -> Path:
        """Write it into a new folder."""
        folder.mkdir(parents=True)
        names = [f"model-{i:05}-of-{self.shards:05}.safetensors" for i in range(1, self.shards + 1)]
        dealt = {n: names[i % self.shards] for i, n in enumerate(self.tensors)}
        for name in names:
            part = {n: x for n, x in self.tensors.items() if dealt[n] == name}
            (folder / name).write_bytes(file_of(part))
        texts = dict(self.more)
        if self.shards > 1:
            texts["model.safetensors.index.json"] = {"metadata": {}, "weight_map": dealt}
        if self.section or self.more or "text_config" in self.config:
            texts["config.json"] = self.config | (
                {"quantization_config": self.section} if self.section else {}
            )
        for name, content in texts.items():
            (folder / name).write_text(json.dumps(content))
        return folder


# --- Parts --------------------------------------------------------------------------------------------------


def rng() -> np.random.Generator:
    """The same numbers in every case."""
    return np.random.default_rng(7)


def fp8(shape: tuple[int, ...], dtype: Any = E4M3) -> Array:
    """Codes without NaN."""
    x = rng().integers(0, 0x78, shape, np.uint8) | (rng().integers(0, 2, shape, np.uint8) << 7)
    return x.astype(np.uint8).view(dtype)


def number(*shape: int, dtype: Any = np.float32) -> Array:
    """Scales that are no powers of two."""
    return rng().uniform(1e-3, 1e-1, shape).astype(dtype)


def power(*shape: int) -> Array:
    """Bytes of E8M0."""
    return rng().integers(110, 130, shape).astype(np.uint8)


def f32(x: Array) -> Array:
    """Stored numbers as float32."""
    return x.astype(np.float32)


def wide(s: Array, shape: tuple[int, ...], block: tuple[int, int]) -> Array:
    """Scales of blocks, one an element."""
    full = np.repeat(np.repeat(f32(s), block[0], -2), block[1], -1)
    return full[..., : shape[-2], : shape[-1]]


def nibbles(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """E2M1 numbers, and their codes two a byte."""
    c = rng().integers(0, 16, shape).astype(np.uint8)
    return E2M1[c], c[..., ::2] | (c[..., 1::2] << 4)


def words(shape: tuple[int, int]) -> tuple[Array, Array]:
    """Signed 4-bit integers, and the same in words."""
    q = rng().integers(-8, 8, shape)
    u = (q + 8).astype(np.uint32).reshape(shape[0], -1, 8)
    return f32(q), (u << (4 * np.arange(8, dtype=np.uint32))).sum(-1, dtype=np.uint32).view(np.int32)


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
SHAPE, GRID = (200, 300), (2, 3)


def v3(scale: Array | None = None, section: dict[str, Any] | None = None, **more: Any) -> Case:
    """FP8 with 128x128 blocks."""
    x, s = fp8(SHAPE), number(*GRID) if scale is None else scale
    held = s.view(E8M0) if s.dtype == np.uint8 else s
    meaning = {} if more.get("refused") else {W: f32(x) * wide(held, SHAPE, (128, 128))}
    tensors = {W: x, f"{W}_scale_inv": s} | more.pop("add", {})
    return Case(tensors, meaning, FP8 if section is None else section, **more)


def ct(kind: str, **weights: Any) -> dict[str, Any]:
    """Section of compressed-tensors with one group."""
    section: dict[str, Any] = compressed(kind, **weights)["quantization_config"]
    return section


CHANNEL = {"num_bits": 8, "type": "float", "strategy": "channel"}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
NV = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}


def int4(group: int = 32, section: dict[str, Any] | None = None, **more: Any) -> Case:
    """pack-quantized with groups."""
    q, packed = words((24, 192))
    s = number(24, 192 // group, dtype=BF16)
    tensors = {f"{X}_packed": packed, f"{X}_scale": s, f"{X}_shape": np.int32([24, 192])}
    meaning = {} if more.get("refused") else {X: q * np.repeat(f32(s), group, 1)}
    section = ct("pack-quantized", **INT4) if section is None else section
    return Case(tensors | more.pop("add", {}), meaning, section, **more)


def nvfp4(
    reciprocal: bool, second: Any = None, group: int = 16, shape: tuple[int, ...] = (48, 96), **more: Any
) -> Case:
    """NVFP4 of ModelOpt, or of compressed-tensors with a reciprocal."""
    q, packed = nibbles(shape)
    s = rng().integers(8, 0x78, (*shape[:-1], shape[-1] // group)).astype(np.uint8).view(E4M3)
    one = np.float32([640.0] if reciprocal else 0.0078)
    second = one if second is None else second
    codes, end = (f"{X}_packed", "_global_scale") if reciprocal else (X, "_scale_2")
    tensors = {codes: packed, f"{X}_scale": s, X + end: np.asarray(second)}
    section = (
        ct("nvfp4-pack-quantized", **NV)
        if reciprocal
        else {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    )
    section = more.pop("section", section)
    scales = f32(s) / one if reciprocal else f32(s) * one
    meaning = {} if more.get("refused") else {X: q * np.repeat(scales, group, -1)}
    return Case(tensors | more.pop("add", {}), meaning, section, **more)


def mxfp4(codes: str, scale: str, section: Any, shape: tuple[int, ...] = (48, 96), **more: Any) -> Case:
    """E2M1 with a power of two for 32."""
    q, packed = nibbles(shape)
    s = power(*shape[:-1], shape[-1] // more.pop("group", 32))
    meaning = {} if more.get("refused") else {X: q * np.repeat(f32(s.view(E8M0)), 32, -1)}
    packed = packed.view(more.pop("dtype", np.uint8))
    s = s.view(more.pop("scale_dtype", np.uint8))
    return Case({codes: packed, scale: s} | more.pop("add", {}), meaning, section, **more)


def scaled(
    end: str, s: Array, section: Any, name: str = W, shape: tuple[int, ...] = (48, 96), **more: Any
) -> Case:
    """FP8 with scales that broadcast."""
    x = fp8(shape, more.pop("dtype", E4M3))
    each = f32(s)
    each = each[:, None] if each.shape == shape[:1] and len(shape) > 1 else each
    meaning = {} if more.get("refused") else {name: f32(x) * each}
    place = name.removesuffix(".weight") + end if end.startswith(".") else name + end
    return Case({name: x, place: s} | more.pop("add", {}), meaning, section, **more)


QUARK = {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}


def quark(**weight: Any) -> dict[str, Any]:
    """Section of Quark."""
    return {"quant_method": "quark", "global_quant_config": {"weight": QUARK | weight}}


def gpt_oss(
    blocks: tuple[int, ...] = (2, 48, 3, 16), scales: tuple[int, ...] = (2, 48, 3), **more: Any
) -> Case:
    """MXFP4 of fused experts."""
    q, packed = nibbles((2, 48, 96))
    s = power(*scales)
    meaning = (
        {} if more.get("refused") else {FUSED: (q * np.repeat(f32(s.view(E8M0)), 32, 2)).transpose(0, 2, 1)}
    )
    tensors = {
        f"{FUSED}_blocks": packed.reshape(blocks),
        f"{FUSED}_scales": s,
        f"{FUSED}_bias": number(2, 48),
    }
    for name in more.pop("drop", ()):
        del tensors[name]
    return Case(
        tensors,
        meaning,
        {"quant_method": "mxfp4"},
        **more,
    )


def comfy(s: Array, **more: Any) -> Case:
    """ComfyUI's scaled FP8."""
    return scaled(".scale_weight", s, None, add=MARKER | more.pop("add", {}), **more)


def two(first: Case, second: Case, section: Any) -> Case:
    """Two cases in one folder."""
    return Case(first.tensors | second.tensors, first.meaning | second.meaning, section)


def groups(*weights: dict[str, Any]) -> dict[str, Any]:
    """Section of compressed-tensors with several groups."""
    section = ct("mixed-precision", **weights[0])
    section["config_groups"] = {
        f"group_{i}": {"targets": ["Linear"], "weights": w} for i, w in enumerate(weights)
    }
    return section


def comfy_groups() -> Case:
    """ComfyUI with scales of groups of a row."""
    x, s = fp8((48, 96)), number(48, 3, 1)
    meaning = (f32(x).reshape(48, 3, 32) * s).reshape(48, 96)
    return Case({W: x, f"{ATTENTION}.scale_weight": s, **MARKER}, {W: meaning})


def stranger(name: str, x: Array, refused: str, **more: Any) -> Case:
    """A good weight, and a tensor of a kind that no dialect has."""
    return v3(add={name: x}, refused=refused, kept=(W,), **more)


def plain_beside() -> Case:
    """Tensors whose names look like scales, and are parameters."""
    case = v3()
    case.tensors |= {
        "model.layers.1.hc_attn_scale": number(4),
        "model.norm.weight": number(8, dtype=BF16),
        "model.norm.scale": number(8),
        "model.tid2eid": np.arange(12).reshape(3, 4),
        "logit_scale": np.float32(2.5).reshape(()),
        "model.layers.1.attn.k_scale": number(1),
    }
    return case


def fnuz() -> Case:
    """AMD's FP8, which the dtype says."""
    case = scaled(
        "_scale_inv", number(1, 1), {"quant_method": "fp8", "fmt": "e4m3"}, dtype=ml_dtypes.float8_e4m3fnuz
    )
    case.tensors[W] = np.where(case.tensors[W].view(np.uint8) == 0x80, 0, case.tensors[W].view(np.uint8))
    case.tensors[W] = case.tensors[W].astype(np.uint8).view(ml_dtypes.float8_e4m3fnuz)
    case.meaning = {W: f32(case.tensors[W]) * case.tensors[f"{W}_scale_inv"]}
    return case


HF_QUANT = "hf_quant_config.json"
V4 = FP8 | {"scale_fmt": "ue8m0"}
EYE = np.eye(3, 4, dtype=np.int32)
CASES: dict[str, Callable[[], Case]] = {
    # DeepSeek's blocks
    "v3 weight and scales in other shards": lambda: v3(shards=2),
    "v3 half-precision scales": lambda: v3(number(*GRID, dtype=np.float16)),
    "v3 bytes as exponents": lambda: v3(power(*GRID), V4),
    "v3 bytes without scale_fmt": lambda: v3(power(*GRID), refused="ue8m0"),
    "v3 scales transposed": lambda: v3(number(3, 2), refused="found shape [3, 2]"),
    "v3 scales on one axis": lambda: v3(number(6), refused="found shape [6]"),
    "v3 a row of scales too many": lambda: v3(number(3, 3), refused="found shape [3, 3]"),
    "v3 scales of smaller blocks": lambda: v3(number(4, 5), refused="expected [2, 3]"),
    "v3 double scales": lambda: v3(number(*GRID, dtype=np.float64), refused="found F64"),
    "v3 integer scales": lambda: v3(np.ones(GRID, np.int64), refused="found I64"),
    "v3 infinite scale": lambda: v3(np.full(GRID, np.inf, np.float32), refused="found inf"),
    "v3 NaN scale": lambda: v3(np.full(GRID, np.nan, np.float32), refused="found nan"),
    "v3 negative scale": lambda: v3(-number(*GRID), refused="found -"),
    "v3 NaN exponent": lambda: v3(np.full(GRID, 255, np.uint8), V4, refused="found nan"),
    "v3 one of two without scales": lambda: v3(add={X: fp8((8, 8))}, refused="without scales", kept=(W,)),
    "v3 scales without codes": lambda: v3(
        add={f"{X}_scale_inv": number(1, 1)}, refused="is not there", kept=(W,)
    ),
    "v3 both scale and scale_inv": lambda: v3(add={f"{W}_scale": number(*GRID)}, refused="_scale"),
    "v3 codes as bytes": lambda: Case(
        {W: fp8(SHAPE, np.uint8), f"{W}_scale_inv": number(*GRID)}, {}, FP8, "U8 beside"
    ),
    "v3 plain weight with scales": lambda: Case(
        {W: number(*SHAPE, dtype=BF16), f"{W}_scale_inv": number(*GRID)}, {}, FP8, "has scales, but is BF16"
    ),
    "v3 another float": lambda: v3(section=FP8 | {"fmt": "e5m2"}, refused="fmt: found 'e5m2'"),
    "v3 blocks that are none": lambda: v3(
        section=FP8 | {"weight_block_size": [128]}, refused="weight_block_size"
    ),
    "v3 blocks of nothing": lambda: v3(
        section=FP8 | {"weight_block_size": [0, 128]}, refused="weight_block_size"
    ),
    "v3 in text_config": lambda: v3(
        section={}, config={"model_type": "kimi_k25", "text_config": {"quantization_config": FP8}}
    ),
    "v3 said twice alike": lambda: v3(
        config={"model_type": "x", "text_config": {"quantization_config": FP8}}
    ),
    "v3 said twice otherwise": lambda: v3(
        config={"text_config": {"quantization_config": FP8 | {"weight_block_size": [64, 64]}}},
        refused="block is",
    ),
    "v3 and ModelOpt's file": lambda: v3(
        more={HF_QUANT: {"quantization": {"quant_algo": "FP8"}}}, refused="method is"
    ),
    "v3 columns of blocks": lambda: Case(
        {W: fp8((200, 64)), f"{W}_scale_inv": number(4, 1)},
        {W: f32(fp8((200, 64))) * wide(number(4, 1), (200, 64), (64, 128))},
        FP8 | {"weight_block_size": [64, 128]},
    ),
    "v3 fused experts": lambda: Case(
        {FUSED: fp8((3, 130, 70)), f"{FUSED}_scale_inv": number(3, 2, 1)},
        {FUSED: f32(fp8((3, 130, 70))) * wide(number(3, 2, 1), (3, 130, 70), (128, 128))},
        FP8,
    ),
    "v3 fused experts, scales of one": lambda: Case(
        {FUSED: fp8((3, 130, 70)), f"{FUSED}_scale_inv": number(2, 1)}, {}, FP8, "found shape [2, 1]"
    ),
    "v3 with scales of activations": lambda: v3(
        add={f"{ATTENTION}.input_scale": number(1)}, section=FP8 | {"activation_scheme": "static"}
    ),
    "v3 beside parameters that look like scales": plain_beside,
    "fnuz": fnuz,
    # DeepSeek V4
    "v4 float scales": lambda: Case(
        {W: fp8(SHAPE), f"{ATTENTION}.scale": number(*GRID)},
        {W: f32(fp8(SHAPE)) * wide(number(*GRID), SHAPE, (128, 128))},
        FP8,
    ),
    "v4 experts in one tensor": lambda: mxfp4(
        X, f"{EXPERT}.scale", V4, (2, 8, 96), dtype=np.int8, scale_dtype=E8M0
    ),
    "v4 experts by 16": lambda: mxfp4(
        X, f"{EXPERT}.scale", V4, group=16, dtype=np.int8, scale_dtype=E8M0, refused="found shape [48, 6]"
    ),
    "v4 experts, numbers as scales": lambda: Case(
        {X: np.ones((8, 48), np.int8), f"{EXPERT}.scale": number(8, 3)}, {}, V4, "found F32, expected F8_E8M0"
    ),
    "v4 experts said to be FP8": lambda: mxfp4(
        X,
        f"{EXPERT}.scale",
        V4 | {"expert_dtype": "fp8"},
        dtype=np.int8,
        scale_dtype=E8M0,
        refused="expert_dtype",
    ),
    "v4.1 scales in blocks of V4": lambda: Case(
        {W: fp8(SHAPE), f"{ATTENTION}.scale": power(7, 10).view(E8M0)}, {}, V4, "found shape [7, 10]"
    ),
    # compressed-tensors
    "ct rows on one axis": lambda: scaled("_scale", number(48), ct("float-quantized", **CHANNEL)),
    "ct one number": lambda: scaled(
        "_scale", number(1, 1), ct("naive-quantized", **CHANNEL | {"strategy": "tensor"})
    ),
    "ct rows where one was said": lambda: scaled(
        "_scale",
        number(48, 1),
        ct("float-quantized", **CHANNEL | {"strategy": "tensor"}),
        refused="by tensor",
    ),
    "ct columns on one axis": lambda: scaled(
        "_scale", number(96), ct("float-quantized", **CHANNEL), refused="found shape [96]"
    ),
    "ct blocks as text": lambda: Case(
        {W: fp8(SHAPE), f"{W}_scale": number(*GRID, dtype=BF16)},
        {W: f32(fp8(SHAPE)) * wide(number(*GRID, dtype=BF16), SHAPE, (128, 128))},
        ct("float-quantized", **CHANNEL | {"strategy": "block", "block_structure": "128x128"}),
    ),
    "ct int4 by other groups": lambda: int4(64, refused="found shape [24, 3]"),
    "ct int4 of two kinds": lambda: two(int4(), int4_of(W, 64), groups(INT4, INT4 | {"group_size": 64})),
    "ct int4 and fp8": lambda: two(
        int4(), scaled("_scale", number(48, 1, dtype=BF16), None), groups(INT4, CHANNEL)
    ),
    "ct int4 in another order": lambda: int4(
        add={f"{X}_g_idx": np.arange(192, dtype=np.int32)}, refused="g_idx"
    ),
    "ct int4 with zero points": lambda: int4(
        section=ct("pack-quantized", **INT4 | {"symmetric": False}), refused="symmetric"
    ),
    "ct int4 without a shape": lambda: int4_without(f"{X}_shape", "weight_shape"),
    "ct int4 of another shape": lambda: int4(
        add={f"{X}_shape": np.int32([192, 24])}, refused="says [192, 24]"
    ),
    "ct int4 whose shape is a matrix": lambda: int4(
        add={f"{X}_shape": np.int32([[24, 192]])}, refused="integers of a shape"
    ),
    "ct 3 bits": lambda: int4(
        section=ct("pack-quantized", **INT4 | {"num_bits": 3}), refused="int3 by group"
    ),
    "ct int4 beside its numbers": lambda: int4(add={X: number(24, 192)}, refused="is there too"),
    "ct nvfp4": lambda: nvfp4(True),
    "ct nvfp4 without a global scale": lambda: nvfp4(True, np.float32([0]), refused="found 0"),
    "ct nvfp4 by a negative one": lambda: nvfp4(True, np.float32([-1]), refused="found -1"),
    "ct nvfp4 with ModelOpt's second scale": lambda: renamed(
        nvfp4(True, refused="scale of scales"), f"{X}_global_scale", f"{X}_scale_2"
    ),
    "ct nvfp4 by two": lambda: nvfp4(True, np.float32([640, 640]), refused="expected one F32 number"),
    "ct mxfp4 said to be nvfp4": lambda: mxfp4(
        f"{X}_packed", f"{X}_scale", ct("nvfp4-pack-quantized", **NV), refused="float4 by tensor_group 16"
    ),
    # ModelOpt
    "modelopt rows where one was said": lambda: scaled(
        "_scale",
        number(48, 1),
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        refused="quant_algo: found 'FP8'",
    ),
    "modelopt rows": lambda: scaled(
        "_scale", number(48), {"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}
    ),
    "modelopt experts": lambda: scaled(
        "_scale", number(3, 1, 1), {"quant_method": "modelopt", "quant_algo": "FP8"}, FUSED, (3, 8, 16)
    ),
    "modelopt nvfp4": lambda: nvfp4(False),
    "modelopt nvfp4 of experts": lambda: nvfp4(False, shape=(2, 8, 96)),
    "modelopt nvfp4, one for each expert": lambda: nvfp4(
        False, np.float32([0.1, 0.2]), shape=(2, 8, 96), refused="expected one F32 number"
    ),
    "modelopt nvfp4 said to be by 32": lambda: nvfp4(
        False,
        section={"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 32},
        refused="group_size: found 32",
    ),
    "modelopt nvfp4 by 32": lambda: nvfp4(False, group=32, refused="found shape [48, 3]"),
    "modelopt mxfp4 said to be nvfp4": lambda: mxfp4(
        X,
        f"{X}_scale",
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        refused="quant_algo: found 'NVFP4'",
    ),
    # Quark, MXFP8, gpt-oss
    "quark": lambda: mxfp4(X, f"{X}_scale", quark()),
    "quark by 16": lambda: mxfp4(X, f"{X}_scale", quark(group_size=16), refused="group_size: found 16"),
    "quark with other scales": lambda: mxfp4(
        X, f"{X}_scale", quark(scale_format="float8_e4m3"), refused="scale_format"
    ),
    "quark scales transposed": lambda: mxfp4(
        X, f"{X}_scale", quark(), add={f"{X}_scale": power(3, 48)}, refused="found shape [3, 48]"
    ),
    "quark fp8 said to be fp4": lambda: scaled(
        "_scale", number(), quark(), refused="weight dtype: found float4"
    ),
    "mxfp8 by 16": lambda: Case(
        {W: fp8((8, 96)), f"{W}_scale_inv": power(8, 6)},
        {},
        {"quant_method": "mxfp8", "weight_block_size": [1, 32]},
        "found shape [8, 6]",
    ),
    "mxfp8 without a section": lambda: Case(
        {W: fp8((8, 96)), f"{W}_scale_inv": power(8, 3).view(E8M0)},
        {W: f32(fp8((8, 96))) * np.repeat(f32(power(8, 3).view(E8M0)), 32, 1)},
    ),
    "gpt-oss": gpt_oss,
    "gpt-oss blocks of 8": lambda: gpt_oss((2, 48, 6, 8), refused="expected [..., 16]"),
    "gpt-oss scales transposed": lambda: gpt_oss(scales=(2, 3, 48), refused="found shape [2, 3, 48]"),
    "gpt-oss without scales": lambda: gpt_oss(drop=(f"{FUSED}_scales",), refused="_blocks"),
    "gpt-oss without blocks": lambda: gpt_oss(drop=(f"{FUSED}_blocks",), refused="_scales"),
    # Without a section
    "comfyui rows": lambda: comfy(number(48, 1)),
    "comfyui groups": comfy_groups,
    "comfyui columns": lambda: comfy(number(1, 96), refused="found shape [1, 96]"),
    "comfyui on a plain weight": lambda: comfy(
        number(),
        add={X: number(4, 4, dtype=np.float16), f"{EXPERT}.scale_weight": number()},
        refused="has scales, but is F16",
        kept=(W,),
    ),
    "comfyui without scales": lambda: Case({W: fp8((4, 8)), **MARKER}, refused="without scales"),
    "f4 by E4M3": lambda: Case(
        {W: ("F4", [8, 32], bytes(128)), f"{W}_scale": fp8((8, 2))}, refused="found F8_E4M3"
    ),
    "f4 without scales": lambda: Case({W: ("F4", [8, 32], bytes(128))}, refused="packed codes"),
    "f6": lambda: Case(
        {W: ("F6_E2M3", [8, 32], bytes(192)), f"{W}_scale": power(8, 1).view(E8M0)}, refused="F6_E2M3"
    ),
    "e5m2": lambda: scaled("_scale", number(), None, dtype=E5M2),
    # Kinds that no dialect here describes
    "gptq": lambda: Case(
        {f"{ATTENTION}.qweight": EYE, f"{ATTENTION}.qzeros": EYE, f"{ATTENTION}.scales": number(3, 4)},
        {},
        {"quant_method": "gptq", "bits": 4},
        "packed down columns",
    ),
    "awq": lambda: Case({f"{ATTENTION}.qweight": EYE}, {}, {"quant_method": "awq"}, "zero points"),
    "gptq without a section": lambda: stranger(f"{EXPERT}.qweight", EYE, "GPTQ or AWQ"),
    "nf4": lambda: Case(
        {W: np.ones((64, 1), np.uint8), f"{W}.absmax": number(2), f"{W}.quant_map": number(16)},
        {},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "table of quantiles",
    ),
    "int8 of bitsandbytes": lambda: Case(
        {W: np.ones((4, 8), np.int8), f"{ATTENTION}.SCB": number(4)}, {}, {"load_in_8bit": True}, "LLM.int8"
    ),
    "hqq": lambda: Case(
        {f"{ATTENTION}.W_q": np.ones((4, 8), np.uint8)}, {}, {"quant_method": "hqq"}, "zero points"
    ),
    "an unknown method": lambda: v3(section={"quant_method": "fp7"}, refused="quant_method: found 'fp7'"),
    "words that are no weight": lambda: stranger(X, EYE, "looks like packed codes"),
    "bytes that are no weight": lambda: stranger(X, np.ones((4, 8), np.uint8), "looks like packed codes"),
    "factors before a weight": lambda: stranger(
        f"{ATTENTION}.pre_quant_scale", number(300), "pre_quant_scale"
    ),
}


def int4_of(name: str, group: int) -> Case:
    """Another weight in words."""
    q, packed = words((24, 192))
    s = number(24, 192 // group, dtype=BF16)
    tensors = {f"{name}_packed": packed, f"{name}_scale": s, f"{name}_shape": np.int64([24, 192])}
    return Case(tensors, {name: q * np.repeat(f32(s), group, 1)})


def int4_without(name: str, refused: str) -> Case:
    """Words with a part missing."""
    case = int4(refused=refused)
    del case.tensors[name]
    return case


def renamed(case: Case, old: str, new: str) -> Case:
    """A case with a tensor under another name."""
    case.tensors[new] = case.tensors.pop(old)
    return case
