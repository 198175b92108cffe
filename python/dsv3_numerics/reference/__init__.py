"""The textbook: every operation of the package once more, in plain NumPy and as short as its definition.

Lives here: the definitions that the Rust core is tested against, byte for byte, and that a reader can check
by eye. Values come from sign, exponent and mantissa; codes come from the table of values. Not here: speed,
``out=``, threads and friendly errors (see `dsv3_numerics` itself, which has the same names and signatures).
Nothing here uses the core.

Next: `formats` (a number on its own), `quant` (numbers that share a scale), `logfmt` (logarithmic codes),
`accumulators` and `gemm` (sums of products), `model` (the forward), `philox` (the random bits).
"""

from .accumulators import ACCUMULATORS
from .formats import FORMATS, decode, encode, pack, unpack, value_table
from .gemm import matmul_grouped_nt, matmul_nt, mma_step
from .logfmt import LogFmt, logfmt_decode, logfmt_encode, logfmt_pack, logfmt_unpack
from .philox import random_bytes, random_words
from .quant import Quantized, dequantize, quantize_blocks, quantize_tiles, requantize_tiles

__all__ = [
    "ACCUMULATORS",
    "FORMATS",
    "LogFmt",
    "Quantized",
    "decode",
    "dequantize",
    "encode",
    "logfmt_decode",
    "logfmt_encode",
    "logfmt_pack",
    "logfmt_unpack",
    "matmul_grouped_nt",
    "matmul_nt",
    "mma_step",
    "pack",
    "quantize_blocks",
    "quantize_tiles",
    "random_bytes",
    "random_words",
    "requantize_tiles",
    "unpack",
    "value_table",
]
