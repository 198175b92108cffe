"""The table of dialects: how published low-precision checkpoints hold a weight, one row each.

Lives here: rows, and the names that say that a file is of a kind which no row describes. A row is data:
`resolve` matches it against a checkpoint's headers, `dequantize` reads by it, the conversion writes by it. A
new dialect is one row and a test.

Names are templates: ``{x}`` is the weight's name, ``{m}`` the same without ``.weight``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

Packing = Literal["", "nibbles", "words"]

_FP8 = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
_FP4 = {"U8": "float4_e2m1fn"}
# How a stored scale becomes the number that it stands for.
_NUMBERS = {"F32": "number", "BF16": "number", "F16": "number"}
_POWERS = {"F8_E8M0": "e8m0", "U8": "e8m0"}


@dataclass(frozen=True)
class Dialect:
    """One way to store a low-precision weight.

    Attributes
    ----------
    name : str
        As ``--dialect`` takes it.
    published : str
        Projects or models that write it.
    methods : tuple of (str or None)
        Values of the configuration's ``quant_method`` under which it appears; None: without a section.
    codes : str
        Template of the name of the codes.
    code_dtypes : dict of str to str
        Dtypes of the codes as safetensors spells them, and the format of one code.
    scale : str
        Template of the name of the scales; empty where there are none.
    scale_dtypes : dict of str to str
        Dtypes of scales, and their meaning: "number", or "e8m0": a power of two by its biased exponent.
    forms : tuple of str
        Shapes that the scales may have, see `resolve.FORMS`.
    packing : {"", "nibbles", "words"}
        nibbles: two 4-bit codes a byte, the first in the low bits. words: signed codes with an offset in
        32-bit words, the first in the lowest bits.
    block : tuple of two int
        Rows and columns of a block, where the configuration says nothing.
    group : int
        Consecutive elements of a row that share a scale, for the form "group"; 0: by the configuration.
    second : str
        Template of the name of the scale of scales; empty without one.
    divides : bool
        True: block scales are divided by the second scale, which is stored as a reciprocal.
    needs : tuple of str
        Templates of tensors that must be there.
    companions : tuple of str
        Templates of tensors that may be there, and that change no weight.
    transposed : bool
        True: as plain numbers the last two axes are exchanged.
    declared : bool
        True: checkpoints of this kind carry a section in their configuration.
    """

    name: str
    published: str
    methods: tuple[str | None, ...]
    codes: str
    code_dtypes: dict[str, str]
    scale: str
    scale_dtypes: dict[str, str]
    forms: tuple[str, ...]
    packing: Packing = ""
    block: tuple[int, int] = (128, 128)
    group: int = 0
    second: str = ""
    divides: bool = False
    needs: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    transposed: bool = False
    declared: bool = True

    @property
    def product(self) -> str:
        """The order of the float32 operations that give a number."""
        if not self.scale:
            return "code"
        if not self.second:
            return "code * scale"
        return f"code * (scale {'/' if self.divides else '*'} {self.second.rsplit('}')[-1].lstrip('_.')})"


_ACTIVATIONS = (
    *("{m}.input_scale", "{m}.output_scale", "{m}.activation_scale"),
    *("{m}.k_scale", "{m}.v_scale", "{m}.q_scale"),
)

_DEEPSEEK_V3 = Dialect(
    "deepseek_v3",
    "DeepSeek V3, R1, V3.1, V3.2; Kimi-K2, Qwen3-FP8, MiniMax-M2, GLM",
    ("fp8", "mxfp8", None),
    "{x}",
    _FP8,
    "{x}_scale_inv",
    {**_NUMBERS, **_POWERS},
    ("block",),
    companions=_ACTIVATIONS,
)
_DEEPSEEK_V4 = Dialect(
    "deepseek_v4",
    "DeepSeek V4 (128x128), V4.1 (32x32), and V3 as its inference code converts it",
    ("fp8", None),
    "{m}.weight",
    _FP8,
    "{m}.scale",
    {**_NUMBERS, "F8_E8M0": "e8m0"},
    ("block",),
    companions=_ACTIVATIONS,
)
_COMPRESSED_FP8 = Dialect(
    "compressed_tensors_fp8",
    "compressed-tensors: RedHatAI, GLM-4.5-FP8, Llama-4 FP8",
    ("compressed-tensors",),
    "{x}",
    _FP8,
    "{x}_scale",
    _NUMBERS,
    ("one", "row", "column", "expert", "block"),
    companions=_ACTIVATIONS,
)
_MXFP8 = Dialect(
    "mxfp8",
    "MXFP8 in DeepSeek's names",
    ("mxfp8", "fp8", None),
    "{x}",
    {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
    "{x}_scale_inv",
    _POWERS,
    ("group",),
    group=32,
    companions=_ACTIVATIONS,
)
_NVFP4 = Dialect(
    "modelopt_nvfp4",
    "NVIDIA ModelOpt",
    ("modelopt", None),
    "{x}",
    _FP4,
    "{x}_scale",
    {"F8_E4M3": "number"},
    ("group",),
    packing="nibbles",
    group=16,
    second="{x}_scale_2",
    companions=_ACTIVATIONS,
)
_QUARK_MXFP4 = Dialect(
    "quark_mxfp4",
    "AMD Quark, ModelOpt MXFP4",
    ("quark", "modelopt", None),
    "{x}",
    _FP4,
    "{x}_scale",
    _POWERS,
    ("group",),
    packing="nibbles",
    group=32,
    companions=_ACTIVATIONS,
)
_PACKED = Dialect(
    "compressed_tensors_int4",
    "compressed-tensors pack-quantized: Kimi-K2-Thinking",
    ("compressed-tensors", None),
    "{x}_packed",
    {"I32": "int4"},
    "{x}_scale",
    _NUMBERS,
    ("row", "group"),
    packing="words",
    needs=("{x}_shape",),
    companions=_ACTIVATIONS,
)


def _pack_quantized(row: Dialect, fmt: str, **changes: Any) -> Dialect:
    """Return the row of a format in compressed-tensors, where packed codes have a name of their own."""
    return replace(
        row,
        name=f"compressed_tensors_{fmt}",
        published=f"compressed-tensors {fmt}-pack-quantized",
        methods=("compressed-tensors", None),
        codes="{x}_packed",
        **changes,
    )


DIALECTS: tuple[Dialect, ...] = (
    _DEEPSEEK_V3,
    replace(
        _DEEPSEEK_V3,
        name="mistral",
        published="Ministral, Devstral: one scale for a weight",
        methods=("fp8", None),
        scale_dtypes=_NUMBERS,
        forms=("one", "expert"),
    ),
    Dialect(
        "mistral_consolidated",
        "Mistral's consolidated.safetensors",
        ("fp8", None),
        "{m}.weight",
        _FP8,
        "{m}.qscale_weight",
        _NUMBERS,
        ("one",),
        companions=("{m}.qscale_act",),
        declared=False,
    ),
    _MXFP8,
    _DEEPSEEK_V4,
    replace(
        _DEEPSEEK_V4,
        name="deepseek_v4_experts",
        published="DeepSeek V4's experts: two E2M1 a byte",
        code_dtypes={"I8": "float4_e2m1fn"},
        scale_dtypes={"F8_E8M0": "e8m0"},
        forms=("group", "block"),
        packing="nibbles",
        group=32,
    ),
    _COMPRESSED_FP8,
    replace(
        _COMPRESSED_FP8,
        name="modelopt_fp8",
        published="NVIDIA ModelOpt",
        methods=("modelopt",),
        forms=("one", "row", "expert", "block", "split_block"),
    ),
    replace(
        _COMPRESSED_FP8,
        name="quark_fp8",
        published="AMD Quark",
        methods=("quark",),
        forms=("one", "row", "block"),
    ),
    replace(
        _COMPRESSED_FP8,
        name="fp8_weight_scale",
        published="AutoFP8, FBGEMM, and files without a configuration",
        methods=("fp8", "fbgemm_fp8", None),
        companions=(*_ACTIVATIONS, "{m}.input_scale_ub"),
        declared=False,
    ),
    replace(
        _MXFP8,
        name="mxfp8_weight_scale",
        published="MXFP8 of compressed-tensors, ModelOpt and Quark",
        methods=("compressed-tensors", "modelopt", "quark", "mxfp8", None),
        scale="{x}_scale",
    ),
    _NVFP4,
    _pack_quantized(
        _NVFP4,
        "nvfp4",
        second="{x}_global_scale",
        divides=True,
        companions=(*_ACTIVATIONS, "{m}.input_global_scale"),
    ),
    _QUARK_MXFP4,
    _pack_quantized(_QUARK_MXFP4, "mxfp4"),
    Dialect(
        "gpt_oss",
        "gpt-oss MXFP4",
        ("mxfp4", None),
        "{x}_blocks",
        _FP4,
        "{x}_scales",
        {"U8": "e8m0"},
        ("group",),
        packing="nibbles",
        group=32,
        transposed=True,
    ),
    _PACKED,
    replace(
        _PACKED,
        name="compressed_tensors_int8_packed",
        published="compressed-tensors pack-quantized with eight bits",
        methods=("compressed-tensors",),
        code_dtypes={"I32": "int8"},
    ),
    replace(
        _PACKED,
        name="compressed_tensors_int8",
        published="compressed-tensors int-quantized (W8A8)",
        methods=("compressed-tensors",),
        codes="{x}",
        code_dtypes={"I8": "int8"},
        forms=("one", "row", "group"),
        packing="",
        needs=(),
    ),
    Dialect(
        "comfyui_scaled",
        "ComfyUI and musubi-tuner scaled FP8",
        (None,),
        "{m}.weight",
        _FP8,
        "{m}.scale_weight",
        _NUMBERS,
        ("one", "row", "group_column"),
        companions=("{m}.scale_input",),
        declared=False,
    ),
    Dialect(
        "comfyui_quant",
        "ComfyUI mixed FP8",
        (None,),
        "{m}.weight",
        _FP8,
        "{x}_scale",
        _NUMBERS,
        ("one",),
        needs=("{m}.comfy_quant",),
        companions=("{m}.input_scale",),
        declared=False,
    ),
    Dialect(
        "safetensors_f4",
        "torch.float4_e2m1fn_x2 as safetensors stores it",
        (None,),
        "{x}",
        {"F4": "float4_e2m1fn"},
        "{x}_scale",
        _POWERS,
        ("group",),
        packing="nibbles",
        group=32,
        declared=False,
    ),
)
"""Published dialects, one row each: all that opening, inspecting and converting know of them."""

# FP8 codes that the user says are numbers: scale 1.
RAW = Dialect(
    "raw", "codes without scales, where the user says 1", (), "{x}", _FP8, "", {}, (), declared=False
)

BY_NAME = {row.name: row for row in (*DIALECTS, RAW)}

# Templates of tensors that change what a weight beside them means: a row that does not name one does not fit.
MODIFIERS = (
    "{x}_scale_inv",
    "{x}_scale",
    "{x}_scales",
    "{x}_scale_2",
    "{x}_global_scale",
    "{x}_zero_point",
    "{x}_zeros",
    "{x}_g_idx",
    "{x}_packed",
    "{x}_blocks",
    "{m}.scale_weight",
    "{m}.qscale_weight",
    "{m}.weight_scale",
    "{m}.weight_zero_point",
    "{m}.weight_g_idx",
    "{m}.comfy_quant",
    "{m}.pre_quant_scale",
    "{m}.qweight",
    "{m}.qzeros",
    "{m}.SCB",
    "{x}.absmax",
)

# Ends of names that belong to a quantized weight, wherever they stand.
SCALE_ENDS = (
    ".weight_scale_inv",
    "_proj_scale_inv",
    ".weight_scale",
    ".weight_scale_2",
    ".weight_global_scale",
    ".weight_packed",
    ".scale_weight",
    ".qscale_weight",
)

# Kinds of files that no row describes: the end of a name, and what it is.
UNSUPPORTED = {
    ".qweight": "GPTQ or AWQ (integers in an order of their own, with zero points), or HQQ",
    ".qzeros": "GPTQ or AWQ zero points",
    ".g_idx": "GPTQ with reordered columns",
    ".weight_g_idx": "columns reordered by activation (actorder group)",
    ".weight_zero_point": "asymmetric integers with zero points",
    ".pre_quant_scale": "AWQ or SmoothQuant factors that belong into the weight",
    ".weight.absmax": "bitsandbytes",
    ".weight.quant_map": "bitsandbytes",
    ".SCB": "bitsandbytes LLM.int8",
    ".W_q": "HQQ",
    ".scale_and_zero": "torchao int4 in tiles of a GPU kernel",
    ".weight_correction": "codes with a correction",
    ".sparsity_bitmask": "sparse compressed-tensors",
    ".weight_bitmask": "sparse compressed-tensors",
    ".weight_compressed": "sparse compressed-tensors",
}


def summary(row: Dialect) -> dict[str, str]:
    """One row in a few words, for tables.

    Examples
    --------
    >>> summary(BY_NAME["modelopt_nvfp4"])["scales"]
    '{x}_scale F8_E4M3, 16 in a row; {x}_scale_2 multiplies'
    """
    codes = " / ".join(row.code_dtypes)
    fmt = ", ".join(dict.fromkeys(row.code_dtypes.values())) if len(row.code_dtypes) == 1 else ""
    packing = {"": "", "nibbles": ", two a byte", "words": ", in words"}[row.packing]
    scales = f"{row.scale} {' / '.join(row.scale_dtypes)}"
    shapes = {
        "one": "one number",
        "row": "rows",
        "column": "columns",
        "expert": "experts",
        "block": "blocks",
        "split_block": "blocks [R, 1, C, 1]",
        "group": f"{row.group} in a row" if row.group else "groups of a row",
        "group_column": "groups [N, G, 1]",
    }
    second = f"; {row.second} {'divides' if row.divides else 'multiplies'}" if row.second else ""
    return {
        "dialect": row.name,
        "written by": row.published,
        "quant_method": ", ".join(method or "none" for method in row.methods),
        "codes": f"{row.codes} {codes}{packing}" + (f" ({fmt})" if row.packing else ""),
        "scales": f"{scales}, {' or '.join(shapes[form] for form in row.forms)}{second}",
    }


def expand(template: str, weight: str) -> str:
    """Return the name that a template stands for beside a weight.

    Examples
    --------
    >>> expand("{m}.scale", "layers.0.attn.wkv.weight"), expand("{x}_scale_inv", "experts.down_proj")
    ('layers.0.attn.wkv.scale', 'experts.down_proj_scale_inv')
    """
    return template.replace("{x}", weight).replace("{m}", weight.removesuffix(".weight"))


def weight_of(template: str, name: str) -> str | None:
    """Return the weight whose codes have a name, if the template fits it; the inverse of `expand`."""
    stem, end = template[:3], template[3:]
    if not name.endswith(end) or len(name) == len(end):
        return None
    base = name[: len(name) - len(end)]
    return base if stem == "{x}" else base + ".weight"
