"""Prints tables of pages from the data: `python tests/docs/tables.py` rewrites them in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from blocks import rewrite

import dsv3_numerics as d3

FORMATS = Path(__file__).parents[2] / "docs" / "formats.md"


def _number(value: float) -> str:
    """In short if that is exact, as a multiple of a power of two otherwise."""
    if 1 <= value < 1e6 and float(f"{value:g}") == value:
        return f"{value:g}"
    mantissa, exponent = math.frexp(value)
    factor = "" if mantissa == 0.5 else f"{2 * mantissa:.10g} × "
    return f"{factor}2^{exponent - 1}"


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def formats() -> str:
    """One row per format."""
    headings = [
        "format",
        "bits",
        "exponent",
        "mantissa",
        "bias",
        "max",
        "normal from",
        "smallest",
        "NaN",
        "Inf",
        "codes",
    ]
    rows = [
        [
            f"`{f.name}`",
            str(f.bits),
            *(("–", "–", "–") if f.is_integer else map(str, (f.exponent_bits, f.mantissa_bits, f.bias))),
            _number(float(f.max)),
            _number(float(f.tiny)),
            _number(float(f.smallest_subnormal)),
            "yes" if f.has_nan else "–",
            "yes" if f.has_inf else "–",
            str(f.dtype),
        ]
        for f in d3.formats()
    ]
    return _table(headings, rows)


# Project and version, source function, row, kinds of scale, and what to know.
WHOSE: list[tuple[str, str, str, str, str]] = [
    ("DeepSeek-V3", "`inference/kernel.py`: `act_quant`", "deepseek_v3", "float32", ""),
    (
        "DeepSeek-V3.1",
        'the same with `scale_fmt="ue8m0"`',
        "deepseek_v3_log2",
        "ue8m0",
        "`exp2(ceil(log2(s)))`",
    ),
    ("DeepSeek-V3.2-Exp", "`inference/kernel.py`: `act_quant`", "deepseek_v32_exp", "float32, ue8m0", "bits"),
    (
        "DeepGEMM 2.x",
        "`deep_gemm/utils/math.py`: `per_token_`, `per_channel_`, `per_block_cast_to_fp8`",
        "deepgemm",
        "float32, ue8m0",
        "",
    ),
    (
        "DeepGEMM 2.x",
        "the same: `per_token_cast_to_fp4`",
        "deepgemm_fp4",
        "float32, ue8m0",
        "ties toward zero, no -0",
    ),
    (
        "DeepEP 1.x",
        "`csrc/kernels/internode_ll.cu`: `dispatch` (`round_scale` for powers)",
        "deepep",
        "float32, ue8m0",
        "",
    ),
    (
        "TileKernels",
        "`tile_kernels/quant/common.py`: `get_sf_and_inv`, E4M3",
        "tilekernels",
        "float32, ue8m0",
        "",
    ),
    ("TileKernels", "the same, E2M1", "tilekernels_fp4", "float32, ue8m0", "amax at least 6 * 2^-126"),
    (
        "TileKernels",
        "`per_token_cast_to_e5m6_kernel.py`: `float_to_e5m6`",
        "tilekernels_e5m6",
        "float32, ue8m0",
        "e5m6, a row a tile; other bits decide below 2^-14",
    ),
    (
        "vLLM",
        "`csrc/quantization/w8a8/fp8/per_token_group_quant.cu`",
        "vllm",
        "float32, ue8m0",
        "two floors under powers",
    ),
    (
        "vLLM",
        "`fp8_utils.py`: `_per_token_group_quant_fp8` (Triton)",
        "vllm_triton",
        "float32, ue8m0",
        "log2 taken as correctly rounded",
    ),
    (
        "vLLM",
        "`fp8/common.cu`: `dynamic_per_token_scaled_fp8_quant`",
        "vllm_per_token",
        "float32",
        "tile: the row",
    ),
    ("vLLM", "`static_scaled_fp8_quant`, `k_scale`, `v_scale`", "vllm_static", "float32", "with `scales=`"),
    ("vLLM", "`concat_and_cache_ds_mla` (`fp8_ds_mla`)", "vllm_fp8_ds_mla", "float32", ""),
    ("vLLM", "`indexer_k_quant_and_cache`", "deepseek_v3_log2", "float32, ue8m0", ""),
    (
        "vLLM, sglang on MI300",
        "the same kernels with `fp8_max = 224`",
        "fnuz_224",
        "float32, ue8m0",
        "float8_e4m3fnuz",
    ),
    ("sglang", "`fp8_kernel.py`: `_per_token_group_quant_8bit` (Triton)", "sglang_triton", "float32", ""),
    (
        "sglang",
        "`_per_token_group_quant_8bit_colmajor` (Triton)",
        "sglang_colmajor",
        "float32, ue8m0",
        "log2 taken as correctly rounded",
    ),
    (
        "sglang",
        "`per_token_group_quant_8bit_v2.cu`",
        "sglang_cuda",
        "float32, ue8m0",
        "its newer row-major UE8M0 stores the power and divides by the float32 scale: not that",
    ),
    ("torchao", "`prototype/blockwise_fp8_training/kernels.py`", "torchao", "float32", ""),
    (
        "transformers 5",
        "`integrations/finegrained_fp8.py`: `Fp8Quantize`",
        "transformers",
        "float32",
        "zeros: 1; its `act_quant` has no floor at all (zeros are NaN there)",
    ),
    (
        "Transformer Engine 2.x",
        "`Float8BlockQuantizer` (`quantize_transpose_*_blockwise.cu`)",
        "transformer_engine",
        "float32, ue8m0",
        "an infinite amax is not its 1",
    ),
    (
        "OCP MX 1.0, microxcaling, torchao (now)",
        "section 6.3; `mx_ops.py`: `_quantize_mx`; `to_mx`, FLOOR",
        "floor",
        "mx, ue8m0",
        "",
    ),
    ("NVIDIA MX, torchao (now)", "round up amax", "ceil", "mx, ue8m0", ""),
    ("NVIDIA MX, torchao (now)", "round amax to the format's mantissa", "even", "mx, ue8m0", ""),
    (
        "NVIDIA MX",
        "`cvt.rp.satfinite.ue8m0x2.f32` of `amax / max`",
        "rceil",
        "mx, ue8m0",
        "`mxfp8:rceil`",
    ),
    (
        "Transformer Engine 2.x, torchao (now)",
        "`float_to_e8m0(amax * max_norm_rcp)`; `_to_mx_rceil`: `max_abs * (1 / max_pos)`",
        "transformer_engine_mx",
        "mx, ue8m0",
        "torchao keeps NaN",
    ),
    (
        "torchao to 0.12",
        "`mx_tensor.py`: `to_mx`, FLOOR",
        "torchao_floor",
        "mx, ue8m0",
        "byte 0 divides by 2^-126",
    ),
    ("torchao to 0.12", "the same, CEIL", "torchao_ceil", "mx, ue8m0", "byte 0 divides by 2^-126"),
    ("torchao to 0.12", "the same, EVEN", "torchao_even", "mx, ue8m0", "byte 0 divides by 2^-126"),
    ("torchao to 0.12", "the same, RCEIL", "torchao_rceil", "mx, ue8m0", "byte 0 multiplies by 1"),
    (
        "Transformer Engine 2.8 to 2.10",
        "`compute_global_encode_scaling_factor_FP4`, `compute_decoding_scaling_factor`: `amax / 6 * S_enc`",
        "nvfp4",
        "nvfp4",
        "an all-zero tensor has global scale 1",
    ),
    (
        "Transformer Engine (main)",
        "`core_nvfp4.cuh`: `amax * (S_enc * (1 / 6))`",
        "transformer_engine_nvfp4",
        "nvfp4",
        "",
    ),
    (
        "vLLM, TensorRT-LLM, FlashInfer",
        "`cvt_warp_fp16_to_fp4`: `S * (amax * rcp(6))`",
        "nvfp4_vllm",
        "nvfp4",
        "`rcp.approx` taken as the rounded inverse; a scale of 0 multiplies by 0 in vLLM",
    ),
    (
        "FlashMLA",
        "`tests/quant.py`: V41_FP4Sparse",
        "nvfp4_flashmla",
        "nvfp4",
        "`global_scale=None`; least scale 2^-9",
    ),
    (
        "Four over six",
        "choice of a block's target, 6 or 4, by squared error",
        "nvfp4_four_over_six",
        "nvfp4",
        "",
    ),
]


def whose() -> str:
    """One row per project's function."""
    missing = set(d3.rules()) ^ {row for _, _, row, _, _ in WHOSE}
    assert not missing, missing
    headings = ["project", "function", "rule", "kinds of scale", ""]
    rows = [[project, where, f"`{row}`", kinds, note] for project, where, row, kinds, note in WHOSE]
    return _table(headings, rows)


def rules() -> str:
    """One row per scale rule: the columns in which it is not the plain one."""
    plain = d3.Rule().columns()
    rows = []
    for name, rule in d3.rules().items():
        other = [f"`{column}={_cell(v)}`" for column, v in rule.columns().items() if v != plain[column]]
        rows.append([f"`{name}`", ", ".join(other) or "–"])
    return _table(["rule", "columns, where not the plain ones"], rows)


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(map(_cell, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


PAGE = Path(__file__).parents[2] / "docs" / "rules.md"
BLOCKS: dict[str, tuple[Path, Callable[[], str]]] = {
    "formats": (FORMATS, formats),
    "rules": (PAGE, rules),
    "whose": (PAGE, whose),
}


def render(block: str) -> str:
    """Make the table as it should be."""
    return BLOCKS[block][1]()


def main() -> None:
    """Rewrite the tables."""
    for page in (FORMATS, PAGE):
        rewrite(page, {block: make() for block, (file, make) in BLOCKS.items() if file == page})


if __name__ == "__main__":
    main()
