"""The numerics of DeepSeek-V3 on any CPU: small formats, shared scales, matrix products, and their errors.

Lives here: the public names. Casts are in `formats`, quantizers in `quant`, logarithmic codes in `logfmt`,
matrix units in `accumulators` and `gemm`, a layer's training in `linear`, an expert's in `expert`, the same
once more in plain NumPy in `reference`; `checkpoint` opens files, `model` runs them by a `Recipe`, `study`
measures errors, and ``dsv3-numerics --help`` runs it all.
"""

from . import checkpoint, expert, linear, reference
from ._core import __version__
from .accumulator import AccumulatorInfo, accumulator_info, accumulators
from .gemm import matmul_grouped_nt, matmul_nt, mma_step
from .logfmt import LogFmt, logfmt_decode, logfmt_encode, logfmt_pack, logfmt_unpack
from .machine import get_num_threads, set_num_threads, simd_level
from .model import Recipe
from .number_formats import FormatInfo, decode, encode, format_info, formats, pack, unpack
from .quant import quantize_blocks, quantize_tiles, requantize_tiles
from .quantized import Quantized
from .schemes import OwnScheme, Scheme, quantize

__all__ = [
    "AccumulatorInfo",
    "FormatInfo",
    "LogFmt",
    "OwnScheme",
    "Quantized",
    "Recipe",
    "Scheme",
    "__version__",
    "accumulator_info",
    "accumulators",
    "checkpoint",
    "decode",
    "encode",
    "expert",
    "format_info",
    "formats",
    "get_num_threads",
    "linear",
    "logfmt_decode",
    "logfmt_encode",
    "logfmt_pack",
    "logfmt_unpack",
    "matmul_grouped_nt",
    "matmul_nt",
    "mma_step",
    "pack",
    "quantize",
    "quantize_blocks",
    "quantize_tiles",
    "reference",
    "requantize_tiles",
    "set_num_threads",
    "simd_level",
    "unpack",
]
