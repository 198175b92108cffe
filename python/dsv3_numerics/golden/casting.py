"""Golden vectors of casts, quantization and LogFMT."""

from __future__ import annotations

from typing import Any

from ..logfmt import logfmt_encode
from ..number_formats import encode, format_info
from .inputs import Given
from .products import quantized
from .tensors import Tensor, Tensors, coded, logarithmic, parts


def cast(arguments: dict[str, Any], given: Given) -> Tensors:
    """Cast numbers to codes of a format."""
    info = format_info(arguments["fmt"])
    x = given.draw(arguments["rows"], arguments["columns"], 128, info, at_most=True)
    codes = encode(x, info.name, rounding=arguments["rounding"], nan="code" if info.has_nan else "zero")
    return {"x": Tensor(x, "input"), "codes": coded(codes, info.name, "x cast to the format")}


def quantize(arguments: dict[str, Any], given: Given) -> Tensors:
    """Quantize numbers by a rule, and lay the scales out."""
    info = format_info(arguments["fmt"])
    high, wide = arguments["block"]
    x = given.draw(max(arguments["rows"], 2 * high), arguments["columns"], wide, info, at_most=True)
    q = quantized(x, arguments, (high, wide))
    return {"x": Tensor(x, "input"), **parts(q, arguments["layout"])}


def logfmt(arguments: dict[str, Any], given: Given) -> Tensors:
    """Encode numbers to logarithmic codes."""
    tile = arguments["tile"]
    x = given.draw(arguments["rows"], arguments["columns"], tile, format_info("float8_e4m3fn"), at_most=True)
    return {"x": Tensor(x, "input"), **logarithmic(logfmt_encode(x, bits=arguments["bits"], tile=tile))}
