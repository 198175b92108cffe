"""Schemes: how a tensor is held in low precision, as one value with one spelling.

=================================== ===========================================================
spelling                            is
=================================== ===========================================================
``format:group:scale[:rule]``       codes that share scales (``e4m3:1x128:f32``), and ``[:rounding]``
``format[:rounding]``               a plain cast (``bf16``, ``float32``)
``logfmtN[:1xT[:rounding]]``        logarithmic codes in tiles, of 128 by default
``logfmtN:deepep[:rounding]``       the same as DeepEP's combine sends them
``mxfp8``, ``nvfp4``, ...           names, see `NAMED`
``none``                            numbers as they are
=================================== ===========================================================

``scheme`` is the interface and `quantize`, the front door; ``scaled``, ``logarithmic`` and ``own`` are the
kinds. A new name is a row of `NAMED`; a new kind a subclass of `Scheme` and an entry in `KINDS`. Not here:
what a recipe's field, a cache or a checkpoint allows (theirs), and the arithmetic (`quant`, `logfmt`).
"""

from .logarithmic import DeepEPLog, LogTiles
from .own import OwnScheme
from .scaled import Cast, Identity, Scaled
from .scheme import KINDS, NAMED, Approximation, CodedSlab, NotFiniteError, Scheme, quantize

KINDS += [Identity, DeepEPLog, LogTiles, Cast, Scaled, OwnScheme]

__all__ = [
    "NAMED",
    "Approximation",
    "Cast",
    "CodedSlab",
    "DeepEPLog",
    "Identity",
    "LogTiles",
    "NotFiniteError",
    "OwnScheme",
    "Scaled",
    "Scheme",
    "quantize",
]
