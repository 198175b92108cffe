"""The numerics of DeepSeek-V3 on any CPU: small formats, shared scales, matrix products, and their errors.

Lives here: the public names. Casts are in `number_formats`, quantizers in `quant`, their rules in
`scale_rule`, logarithmic codes in `logfmt`, the language of schemes in `schemes`, matrix units in
`accumulator` and `gemm`. The rooms load on first use: `checkpoint` opens files, `training` has a layer's and
an expert's passes, `model` runs a checkpoint by a `Recipe`, `study` measures errors of tensors, `sensitivity`
those of a recipe's choices, `experiments` what the papers claim, `codesign` does their arithmetic, `compare`
says where two results differ and why, `golden` writes known answers, `report` writes results, `reference` is
the textbook in plain NumPy, and ``dsv3-numerics --help`` runs it all.

Examples
--------
>>> import dsv3_numerics as d3
>>> d3.study.measure([[1.0, 2.0, 3.0]], "bf16").sqnr_db
inf
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._core import __version__

if TYPE_CHECKING:  # the names as a type checker sees them; at run time they load on first use, see below
    from . import (
        checkpoint,
        codesign,
        compare,
        experiments,
        golden,
        model,
        reference,
        report,
        sensitivity,
        study,
        training,
    )
    from .accumulator import AccumulatorInfo, accumulator_info, accumulators
    from .gemm import matmul_grouped_nt, matmul_nt, mma_step, prepare
    from .logfmt import LogFmt, logfmt_decode, logfmt_encode, logfmt_pack, logfmt_unpack
    from .machine import get_num_threads, set_num_threads, show_versions, simd_level
    from .model import Recipe
    from .number_formats import Format, FormatInfo, decode, encode, format_info, formats, pack, unpack
    from .prepared import PreparedWeights
    from .quant import quantize_blocks, quantize_tiles, requantize_tiles
    from .quantized import Quantized
    from .scale_rule import Rule, rules
    from .schemes import Scheme, quantize

__all__ = [
    "AccumulatorInfo",
    "Format",
    "FormatInfo",
    "LogFmt",
    "PreparedWeights",
    "Quantized",
    "Recipe",
    "Rule",
    "Scheme",
    "__version__",
    "accumulator_info",
    "accumulators",
    "checkpoint",
    "codesign",
    "compare",
    "decode",
    "encode",
    "experiments",
    "format_info",
    "formats",
    "get_num_threads",
    "golden",
    "logfmt_decode",
    "logfmt_encode",
    "logfmt_pack",
    "logfmt_unpack",
    "matmul_grouped_nt",
    "matmul_nt",
    "mma_step",
    "model",
    "pack",
    "prepare",
    "quantize",
    "quantize_blocks",
    "quantize_tiles",
    "reference",
    "report",
    "requantize_tiles",
    "rules",
    "sensitivity",
    "set_num_threads",
    "show_versions",
    "simd_level",
    "study",
    "training",
    "unpack",
]

_MODULES = (
    "machine",
    "number_formats",
    "accumulator",
    "quantized",
    "scale_rule",
    "quant",
    "logfmt",
    "gemm",
    "prepared",
    "schemes",
    "model",
)
"""Modules that public names are looked up in, the quickest to load first."""

if not TYPE_CHECKING:  # a type checker is to see names that do not exist

    def __getattr__(name: str) -> Any:
        """Load a module, or a public name, on first use; until then the import costs next to nothing."""
        from importlib import import_module
        from importlib.util import find_spec

        if not name.startswith("__") and find_spec(f"{__name__}.{name}") is not None:
            return import_module(f"{__name__}.{name}")
        if name in __all__:
            for module in _MODULES:
                found = vars(import_module(f"{__name__}.{module}"))
                if name in found:
                    return globals().setdefault(name, found[name])
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, whether loaded or not."""
    return sorted(__all__)
