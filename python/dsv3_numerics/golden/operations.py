"""Operations of golden vectors: what each one writes for an input.

Lives here: the table of operations and their arguments. A tensor is (array, meaning, format of its codes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from .. import layouts
from .._arrays import Array
from ..accumulator import AccumulatorInfo, accumulator_info
from ..gemm import matmul_nt
from ..grouped import matmul_contiguous_nt, matmul_masked_nt
from ..logfmt import logfmt_encode
from ..number_formats import encode, format_info, pack
from ..quant import quantize_blocks, quantize_tiles
from ..quantized import Quantized
from .inputs import CASES

_ROWS, _COLUMNS = 16, 512
_M, _N, _K = 16, 24, 512
_OUTPUTS = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Tensor(NamedTuple):
    """Array to be written: what it means, and its format where it holds codes."""

    array: Array
    meaning: str
    format: str = ""


@dataclass(frozen=True)
class Operation:
    """Row of the table: defaults of the arguments, the kinds of input, and the maker of tensors."""

    summary: str
    defaults: Mapping[str, Any]
    cases: tuple[str, ...]
    make: Callable[[dict[str, Any], str, int], dict[str, Tensor]]


LAYOUTS: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "row-major": ("a scale for each row and group", lambda s: s),
    "mn_major": (
        "(groups, rows filled up to 16 bytes), as DeepGEMM reads float32 scales",
        layouts.to_mn_major,
    ),
    "packed_ue8m0": (
        "int32 words of four exponents along k, (words, rows filled up), as DeepGEMM on Blackwell reads them",
        layouts.to_packed_ue8m0,
    ),
    "128x4": ("tiles of 128 rows by 4 groups, as cuBLASLt, FlashInfer and vLLM store them", layouts.to_128x4),
}
"""Layouts of scales by name: what they are, and the function that lays them out."""


def coded(codes: Array, fmt: str, meaning: str) -> Tensor:
    """Write codes: 4-bit ones two to a byte, others without a dtype of safetensors as unsigned integers."""
    info = format_info(fmt)
    if info.bits == 4:
        return Tensor(pack(codes, fmt=fmt), f"{meaning}; two codes in a byte, the low one first", info.name)
    return Tensor(codes, meaning, info.name)


def _cast(arguments: dict[str, Any], case: str, seed: int) -> dict[str, Tensor]:
    info = format_info(arguments["fmt"])
    x = CASES[case].make(_ROWS, _COLUMNS, 128, info, seed)
    codes = encode(x, info.name, rounding=arguments["rounding"], nan="code" if info.has_nan else "zero")
    return {"x": Tensor(x, "input"), "codes": coded(codes, info.name, "x cast to the format")}


def _quantized(x: Array, arguments: dict[str, Any]) -> Quantized:
    high, wide = arguments["block"]
    options: dict[str, Any] = {"scale": arguments["scale"], "fmt": arguments["fmt"]}
    options["rule"] = arguments["rule"]
    options["nonfinite"] = "propagate" if not np.isfinite(x).all() else "raise"
    if high == 1:
        return quantize_tiles(x, tile=wide, **options)
    return quantize_blocks(x, block=(high, wide), **options)


def _parts(q: Quantized, layout: str, prefix: str = "") -> dict[str, Tensor]:
    """Write codes and scales; the scales as a plain grid too, where the kernel's layout is another."""
    told, lay = LAYOUTS[layout]
    out = {f"{prefix}codes": coded(q.codes, q.format, "codes")}
    out[f"{prefix}scales"] = Tensor(lay(q.scales), f"scales; {told}")
    if layout != "row-major":
        out[f"{prefix}scales_row_major"] = Tensor(q.scales, "the same scales, one for each row and group")
    if q.global_scale is not None:
        outer = np.asarray(q.global_scale, np.float32).reshape(1)
        out[f"{prefix}global_scale"] = Tensor(outer, "scale of all scales")
    return out


def _quantize(arguments: dict[str, Any], case: str, seed: int) -> dict[str, Tensor]:
    info = format_info(arguments["fmt"])
    high, wide = arguments["block"]
    x = CASES[case].make(max(_ROWS, 2 * high), _COLUMNS, wide, info, seed)
    return {"x": Tensor(x, "input"), **_parts(_quantized(x, arguments), arguments["layout"])}


def _logfmt(arguments: dict[str, Any], case: str, seed: int) -> dict[str, Tensor]:
    x = CASES[case].make(_ROWS, _COLUMNS, arguments["tile"], format_info("float8_e4m3fn"), seed)
    q = logfmt_encode(x, bits=arguments["bits"], tile=arguments["tile"])
    return {
        "x": Tensor(x, "input"),
        "codes": Tensor(q.codes, "codes of so many bits, sign first"),
        "amin": Tensor(q.amin, "least magnitude of each tile"),
        "amax": Tensor(q.amax, "largest magnitude of each tile"),
        "decoded": Tensor(q.dequantize(), "numbers that the codes mean"),
    }


def _product(arguments: dict[str, Any], case: str, seed: int) -> dict[str, Tensor]:
    unit = accumulator_info(arguments["unit"])
    info, wide = format_info(arguments["fmt"]), arguments["block"][1]
    grouped, experts = arguments["grouped"], 3
    a_rows = _M * experts if grouped == "masked" else _M
    a = _quantized(CASES[case].make(a_rows, _K, wide, info, seed), {**arguments, "block": (1, wide)})
    count = experts if grouped != "none" else 1
    w = CASES[case].make(count * _N, _K, wide, info, seed + 1000)
    b = _quantized(w, {**arguments, "block": (1, wide)})
    dtype, every = _OUTPUTS[arguments["output"]], arguments["promote_every"]
    options: dict[str, Any] = {"accumulator": unit.name, "promote_every": every}
    out = {**_parts(a, arguments["layout"], "a_"), **_parts(b, arguments["layout"], "b_")}
    if grouped == "none":
        out["d"] = Tensor(matmul_nt(a, b, dtype=dtype, **options), "a @ b.T")
        out.update(_partial_sums(a, b, unit, every))
        return out
    stacked = _stack(b, experts, _N)
    if grouped == "contiguous":
        indices = np.repeat(np.array([0, 1, -1, 2], np.int32), 4)
        out["m_indices"] = Tensor(indices, "matrix of each row; -1 is padding")
        product = matmul_contiguous_nt(a, stacked, indices, dtype=dtype, **options)
        out["d"] = Tensor(
            product, "each row of a times its matrix of b, whose rows stand one matrix after another"
        )
    else:
        counts = np.array([5, 0, _M], np.int32)
        out["masked_m"] = Tensor(counts, "rows of each expert's buffer that count")
        product = matmul_masked_nt(_stack(a, experts, _M), stacked, counts, dtype=dtype, **options)
        out["d"] = Tensor(product, "(experts, rows, n); rows beyond masked_m are zero")
    return out


def _stack(q: Quantized, count: int, rows: int) -> Quantized:
    codes, scales = q.codes.reshape(count, rows, -1), q.scales.reshape(count, rows, -1)
    return replace(q, codes=codes, scales=scales, axis=2)


def _partial_sums(a: Quantized, b: Quantized, unit: AccumulatorInfo, every: int | None) -> dict[str, Tensor]:
    """Make the sums of the unit after each step, and float32 sums after each promotion."""
    k, step = a.shape[-1], unit.products
    plain: dict[str, Any] = {"accumulator": unit.name, "promote_every": None}
    told = f"the unit's sums after each step of {step} products"
    if every is None:
        sums = [matmul_nt(a[:, :end], b[:, :end], **plain) for end in range(step, k + 1, step)]
        return {"step_sums": Tensor(np.stack(sums), told)}
    sums = []
    for start in range(0, k, every):
        for end in range(start + step, min(start + every, k) + 1, step):
            sides = (np.ascontiguousarray(x.codes[:, start:end]) for x in (a, b))
            sums.append(matmul_nt(*sides, **plain))
    promoted = [
        matmul_nt(a[:, :end], b[:, :end], accumulator=unit.name, promote_every=every)
        for end in range(every, k + 1, every)
    ]
    return {
        "step_sums": Tensor(np.stack(sums), f"{told}, from zero again after each {every}; without scales"),
        "promotion_sums": Tensor(
            np.stack(promoted), f"float32 sums with scales, after each {every} products"
        ),
    }


_FINITE = tuple(name for name, case in CASES.items() if case.finite)
_ALL = tuple(CASES)
_QUANTIZE = {
    "fmt": "float8_e4m3fn",
    "scale": "float32",
    "rule": "deepgemm",
    "block": (1, 128),
    "layout": "row-major",
}

OPERATIONS: dict[str, Operation] = {
    "cast": Operation(
        "numbers to codes of a format",
        {"fmt": "float8_e4m3fn", "rounding": "nearest_even"},
        _ALL,
        _cast,
    ),
    "quantize": Operation("numbers to codes with scales, by a rule, in a layout", _QUANTIZE, _ALL, _quantize),
    "logfmt": Operation("numbers to logarithmic codes", {"bits": 8, "tile": 128}, _FINITE, _logfmt),
    "product": Operation(
        "products of codes as a matrix unit forms them, with all partial sums",
        {
            **_QUANTIZE,
            "unit": "hopper_fp8",
            "promote_every": 128,
            "output": "float32",
            "grouped": "none",
        },
        ("normal", "cancellation", "subnormals", "outlier", "zeros"),
        _product,
    ),
}
"""Operations by name."""

CHOICES: dict[str, tuple[str, ...]] = {
    "layout": tuple(LAYOUTS),
    "output": tuple(_OUTPUTS),
    "grouped": ("none", "contiguous", "masked"),
}
"""Arguments that have a list of words."""
