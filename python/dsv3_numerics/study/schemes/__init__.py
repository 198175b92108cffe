"""Schemes: how one tensor is quantized, in one readable line.

A scheme is spelled ``format:group:scale[:rule]`` (quantized with shared scales), ``format`` alone (a plain
cast), ``logfmtN:group[:rounding]`` (logarithmic codes), or by a name out of `NAMED`. A scheme turns a slab
of a tensor into its approximation and says how many bits it stores; nothing else in the study knows what a
scheme does. A new kind of scheme is a subclass with the four methods of `Scheme` and one entry in `KINDS`.

`base` is the interface, `formats` and `logfmt` the kinds.
"""

from .base import KINDS, NAMED, WHOLE, Approximation, Floats, Group, Scheme
from .formats import Cast, Scaled, short_names
from .logfmt import DeepEPLog, LogTiles

KINDS += [DeepEPLog, LogTiles, Cast, Scaled]

DEFAULT_SPELLINGS = (
    "bf16",
    "e5m6:1x128:ue8m0",
    "logfmt10:1x128",
    "int8:1x128",
    "mxfp8",
    "e4m3:1x128:f32",
    "logfmt8:1x128",
    "e4m3:128x128:f32",
    "e4m3:128x128:ue8m0",
    "e4m3:tensor:f32",
    "e5m2:1x128:f32",
    "mxfp6",
    "int4:1x128",
    "nvfp4",
    "mxfp4",
)

__all__ = [
    "DEFAULT_SPELLINGS",
    "KINDS",
    "NAMED",
    "WHOLE",
    "Approximation",
    "Cast",
    "DeepEPLog",
    "Floats",
    "Group",
    "LogTiles",
    "Scaled",
    "Scheme",
    "short_names",
]
