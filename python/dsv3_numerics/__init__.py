"""The numerics of DeepSeek-V3 on any CPU: small formats, shared scales, and their errors.

Lives here: the public names. Casts are in `formats`, quantizers in `quant`, logarithmic codes in `logfmt`,
the same once more in plain NumPy in `reference`; `checkpoint` opens files, `study` measures errors, and
``dsv3-numerics --help`` runs it all.
"""

from . import reference
from ._core import __version__
from .formats import FormatInfo, decode, encode, format_info, formats, pack, unpack
from .logfmt import LogFmt, logfmt_decode, logfmt_encode, logfmt_pack, logfmt_unpack
from .machine import get_num_threads, set_num_threads, simd_level
from .quant import quantize_blocks, quantize_tiles, requantize_tiles
from .quantized import Quantized

__all__ = [
    "FormatInfo",
    "LogFmt",
    "Quantized",
    "__version__",
    "decode",
    "encode",
    "format_info",
    "formats",
    "get_num_threads",
    "logfmt_decode",
    "logfmt_encode",
    "logfmt_pack",
    "logfmt_unpack",
    "pack",
    "quantize_blocks",
    "quantize_tiles",
    "reference",
    "requantize_tiles",
    "set_num_threads",
    "simd_level",
    "unpack",
]
