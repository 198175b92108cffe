"""Schemes that tests of recipes go through, by field: some of every kind that makes sense there."""

from __future__ import annotations

from dsv3_numerics.model.fields import GATES, MASK_VALUES, RULES

ACTIVATIONS = (
    "none",
    "bf16",
    "e4m3",
    "e4m3:1x128:f32",
    "e4m3:1x128:ue8m0",
    "e4m3:1x64:f32",
    "e4m3:row:f32",
    "e4m3:tensor:f32",
    "e5m2:1x128:f32",
    "e5m2:1x128:ue8m0:deepgemm",
    "e5m6:1x32:f32",
    "int8:1x128",
    "int8:row",
    "int4:1x32",
    "logfmt8:1x128",
    "mxfp8",
    "mxfp6",
    "mxfp4",
    "nvfp4",
)
WEIGHTS = (
    "none",
    "bf16",
    "f16",
    "float32",
    "e5m2",
    "e4m3:128x128:f32",
    "e4m3:128x128:ue8m0",
    "e4m3:128x128:ue8m0:requantized",
    "e4m3:64x64:f32",
    "e4m3:row:f32",
    "e4m3:col:f32",
    "e4m3:tensor:f32",
    "e5m6:1x128:ue8m0",
    "int8:128x128",
    "int8:row",
    "logfmt10:1x64",
    "mxfp8",
    "mxfp6",
    "mxfp4",
    "nvfp4",
)
CACHES = (
    "none",
    "float64",
    "float32",
    "f16",
    "bf16",
    "e5m2",
    "flashmla",
    "e4m3:1x64:ue8m0",
    "e4m3:row:f32",
    "e5m6:1x32:ue8m0",
    "int8:1x128",
    "mxfp8",
    "mxfp6",
    "mxfp4",
    "logfmt8:1x128",
    "logfmt10:1x128",
    "logfmt5:1x16:log",
)
DISPATCHES = (
    "none",
    "bf16",
    "e4m3:1x128:f32",
    "e4m3:1x128:ue8m0",
    "e4m3:row:f32",
    "logfmt8:1x128",
    "mxfp8",
    "nvfp4",
)
COMBINES = (
    "none",
    "bf16",
    "e4m3:1x128:f32",
    "e5m6:1x128:ue8m0",
    "logfmt8:1x128",
    "logfmt10:1x128",
    "logfmt10:deepep",
    "nvfp4",
)
GATES, RULES, MASKS = tuple(GATES), tuple(RULES), tuple(MASK_VALUES)
