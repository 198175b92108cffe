"""Calls of every function of the core that takes arrays: all its options, at every length.

Lives here: `CALLS`, one maker a function: from a number that goes up, and random numbers, it makes a function
and its arguments; arrays that the function writes are marked `Out`. Most calls are good, some are not.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from pages import Array, Out

from dsv3_numerics import _core
from dsv3_numerics.logfmt_packing import _row_bytes
from samples import ROUNDINGS, rules_of

Made = tuple[Callable[..., Any], list[Any]]
FORMATS = {row["name"]: row["bits"] for row in _core.formats()}
UNITS = {row["name"]: row for row in _core.accumulators()}
REALS = ("float32", "float64")
SOURCES = {"float32": np.float32, "float64": np.float64, "float16": np.uint16, "bfloat16": np.uint16}
GROUPS = {4: (2, 1, np.uint8), 6: (4, 3, np.uint8), 12: (8, 3, np.uint32)}
"""Codes that are packed together, by bits: how many, in how many words, of which kind."""


class Draw:
    """Random arrays and words of one call."""

    def __init__(self, rng: random.Random, turn: int) -> None:
        self.rng, self.numpy, self.turn = rng, np.random.default_rng(rng.randrange(2**32)), turn

    def length(self, most: int = 300) -> int:
        """Return every length in turn, and now and then a long one."""
        return self.rng.randrange(20_000) if self.rng.random() < 0.02 else self.turn % most

    def side(self, most: int = 20) -> int:
        """Return a side of a matrix."""
        return self.rng.choice((1, 1, 2, 3, self.rng.randint(1, most)))

    def of(self, *words: Any) -> Any:
        """Choose."""
        return self.rng.choice(words)

    def numbers(self, count: int, dtype: str = "float32", *, odd: bool = True) -> Array:
        """Numbers of a dtype as the core takes them; `odd`: NaN, infinities and subnormals among them."""
        x = self.numpy.standard_normal(count) * self.of(1, 1, 1e-3, 1e4)
        if odd and self.rng.random() < 0.3 and count:
            some = self.numpy.integers(0, count, 3)
            x[some] = self.of(np.nan, np.inf, -np.inf, 1e-42, -0.0)
        if dtype == "bfloat16":
            return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        with np.errstate(all="ignore"):
            found = x.astype(np.float16 if dtype == "float16" else dtype)
        return found.view(np.uint16) if dtype == "float16" else found

    def scales(self, count: int) -> Array:
        """Scales as rules make them."""
        return np.exp2(self.numpy.integers(-6, 6, count)).astype(np.float32)

    def codes(self, count: int, fmt: str) -> Array:
        """Codes of a format, NaN among them where it has any."""
        bits = FORMATS.get(fmt, 32)
        if bits > 16:  # tf32
            return self.numbers(count).view(np.uint32) & np.uint32(0xFFFFE000)
        found: Array = self.numpy.integers(0, 1 << bits, count)
        return found.astype(np.uint8 if bits <= 8 else np.uint16)

    def layout(self) -> tuple[int, int, int, int, int]:
        """Return stack, rows, columns, rows and columns of a block."""
        cols = self.turn % 150 + 1 if self.rng.random() < 0.9 else self.rng.randint(1, 3000)
        return (
            self.of(1, 1, 2),
            self.side(),
            cols,
            self.of(1, 1, 2, 128),
            self.of(16, 32, 64, 128, self.rng.randint(1, 200)),
        )


def blocks(layout: tuple[int, int, int, int, int]) -> int:
    """Count the blocks of a layout."""
    stack, rows, cols, high, wide = layout
    return stack * -(-rows // high) * -(-cols // wide)


def zeros(count: int, dtype: Any = np.float32) -> Out:
    """Room for results."""
    return Out(np.zeros(count, dtype))


# --- Casts, codes, blocks -----------------------------------------------------------------------------------


def encode(d: Draw) -> Made:
    n, fmt, source = d.length(), d.of(*FORMATS), d.of(*SOURCES)
    words = d.of(*ROUNDINGS), d.of("saturate", "nonfinite"), d.of("code", "zero", "raise")
    out = zeros(n, np.uint8 if FORMATS[fmt] <= 8 else np.uint16)
    return _core.encode, [(d.numbers(n, source), source), out, fmt, *words, d.rng.randrange(2**40)]


def decode(d: Draw) -> Made:
    n, fmt, target = d.length(), d.of(*FORMATS), d.of(*SOURCES)
    return _core.decode, [d.codes(n, fmt), fmt, (zeros(n, SOURCES[target]), target)]


def _packing(d: Draw) -> tuple[str, int, int, Any, int]:
    fmt = d.of(*(name for name, bits in FORMATS.items() if bits in GROUPS))
    group, words, dtype = GROUPS[FORMATS[fmt]]
    length, rows = d.turn % 200 + 1, d.side(5)
    return fmt, length, rows, dtype, rows * -(-length // group) * words


def pack(d: Draw) -> Made:
    fmt, length, rows, dtype, packed = _packing(d)
    return _core.pack, [d.codes(rows * length, fmt), fmt, length, zeros(packed, dtype)]


def unpack(d: Draw) -> Made:
    fmt, length, rows, dtype, packed = _packing(d)
    most = np.iinfo(dtype).max
    held = d.numpy.integers(0, most, packed, dtype, endpoint=True)
    return _core.unpack, [
        held,
        fmt,
        length,
        zeros(rows * length, np.uint8 if FORMATS[fmt] <= 8 else np.uint16),
    ]


def amax(d: Draw) -> Made:
    layout, source = d.layout(), d.of(*SOURCES)
    count = layout[0] * layout[1] * layout[2]
    return _core.amax, [(d.numbers(count, source), source), layout, zeros(blocks(layout))]


def quantize(d: Draw) -> Made:
    layout, source, kind = d.layout(), d.of(*SOURCES), d.of("float32", "ue8m0", "mx", "nvfp4")
    fmt = d.of("float8_e4m3fn", "float8_e5m2", "float6_e2m3fn", "float4_e2m1fn", "int8", "int4", *FORMATS)
    if kind == "nvfp4":
        fmt, layout = "float4_e2m1fn", (*layout[:3], d.of(1, 16), 16)
    count, groups = layout[0] * layout[1] * layout[2], blocks(layout)
    width = 4 if kind == "float32" else 1
    ways = d.rng.random()
    given = [
        np.abs(d.numbers(groups, odd=False)) if ways < 0.1 else None,
        d.scales(groups) if 0.1 < ways < 0.2 else None,
    ]
    rule = d.of(*rules_of(kind))
    one = np.ones(1, np.float32)
    rounding = d.of(None, None, *ROUNDINGS)
    codes = zeros(count, np.uint8 if FORMATS[fmt] <= 8 else np.uint16)
    head = [(d.numbers(count, source, odd=d.rng.random() < 0.3), source), layout, fmt, codes]
    tail = [d.of("raise", "propagate"), rounding, d.rng.randrange(2**40)]
    return _core.quantize, [*head, zeros(groups * width, np.uint8), kind, rule, one, one, *given, *tail]


def dequantize(d: Draw) -> Made:
    layout, fmt, target = d.layout(), d.of(*FORMATS), d.of(*SOURCES)
    count = layout[0] * layout[1] * layout[2]
    coded = (d.codes(count, fmt), fmt, layout, d.scales(blocks(layout)))
    return _core.dequantize, [coded, (zeros(count, SOURCES[target]), target)]


def dequantize_packed(d: Draw) -> Made:
    layout, target = d.layout(), d.of(*SOURCES)
    layout = (*layout[:2], layout[2] + layout[2] % 2, *layout[3:])
    count = layout[0] * layout[1] * layout[2]
    fmt = d.of("float4_e2m1fn", "int4")
    coded = (d.numpy.integers(0, 256, count // 2, np.uint8), fmt, layout, d.scales(blocks(layout)))
    return _core.dequantize_packed, [coded, d.of(0, 0x88), (zeros(count, SOURCES[target]), target)]


def error_stats(d: Draw) -> Made:
    layout, source, fmt = d.layout(), d.of(*SOURCES), d.of(*FORMATS)
    count = layout[0] * layout[1] * layout[2]
    coded = (d.codes(count, fmt), fmt, layout, d.scales(blocks(layout)))
    args = [(d.numbers(count, source, odd=False), source), d.numbers(count, odd=False), d.of(None, coded)]
    return lambda *a: sorted(str(v) for v in _core.error_stats(*a).values() if np.ndim(v) == 0), args


def count_saturated(d: Draw) -> Made:
    layout, source, fmt = d.layout(), d.of(*SOURCES), d.of(*FORMATS)
    count = layout[0] * layout[1] * layout[2]
    coded = (d.codes(count, fmt), fmt, layout, d.scales(blocks(layout)))
    return _core.count_saturated, [(d.numbers(count, source), source), coded]


WIDTHS = {
    "float32": 32, "float64": 64, "bfloat16": 16, "float16": 16, "int8": 8, "uint8": 8, "int16": 16,
    "uint16": 16, "int32": 32, "uint32": 32, "int64": 64, "uint64": 64, "bytes": 8, "words": 16,
}  # fmt: skip


def differences(d: Draw) -> Made:
    meaning = d.of(*WIDTHS)
    rows, cols, edge = d.side(6), d.turn % 150 + 1, d.of(1, 16, 128)
    tiles, dtype = rows * -(-cols // edge), f"u{WIDTHS[meaning] // 8}"
    a = d.numpy.integers(0, np.iinfo(dtype).max, rows * cols, dtype, endpoint=True)
    b = np.where(d.numpy.random(a.size) < d.of(0, 0.1, 1), a ^ np.asarray(1, dtype), a)
    table = None
    if meaning in ("bytes", "words"):
        count = 1 << WIDTHS[meaning]
        table = (d.numbers(count, "float64"), np.arange(count, dtype=np.int32), d.of(True, False))
    args = [a, b, meaning, table, (cols, edge, 0), zeros(tiles, np.uint32), zeros(tiles, np.float64)]
    return _core.differences, args


def crc32(d: Draw) -> Made:
    return _core.crc32, [d.numpy.integers(0, 256, d.length(), np.uint8), d.rng.randrange(2**32)]


# --- LogFMT -------------------------------------------------------------------------------------------------


def _logfmt(d: Draw) -> tuple[int, int, int, int, Any, int]:
    bits, rows, cols = d.rng.randint(3, 16), d.side(), d.turn % 150 + 1
    tile = d.of(16, 32, 64, 128, 128, d.rng.randint(1, 200))
    return bits, rows, cols, tile, np.uint8 if bits <= 8 else np.uint16, rows * -(-cols // tile)


def logfmt_encode(d: Draw) -> Made:
    bits, rows, cols, tile, dtype, tiles = _logfmt(d)
    source = d.of(*SOURCES)
    words = [d.of("linear", "log", "stochastic"), d.of(True, False), d.of(True, False)]
    src, grid = (d.numbers(rows * cols, source), source), (rows, cols, tile)
    args = [src, grid, bits, *words, d.rng.randrange(2**40), 1]
    outs = [zeros(rows * cols, dtype), zeros(tiles), zeros(tiles), zeros(tiles, np.uint8)]
    return _core.logfmt_encode, [*args, *outs]


def logfmt_decode(d: Draw) -> Made:
    bits, rows, cols, tile, dtype, tiles = _logfmt(d)
    codes = d.numpy.integers(0, 1 << bits, rows * cols).astype(dtype)
    least = np.abs(d.numbers(tiles, odd=False))
    most = least * np.float32(d.of(1, 3, 1000))
    target = d.of(*SOURCES)
    out = (zeros(rows * cols, SOURCES[target]), target)
    return _core.logfmt_decode, [codes, least, most, bits, (rows, cols, tile), out, d.of("exact", "quick")]


def _logfmt_packing(d: Draw) -> tuple[int, int, str, Any, int, int]:
    bits, rows, cols, _, dtype, _ = _logfmt(d)
    layout = d.of("plain", "deepep", "plain")
    if layout == "deepep":
        bits, cols, dtype = 10, -(-cols // 128) * 128, np.uint16
    try:
        return bits, cols, layout, dtype, rows * cols, rows * _row_bytes(cols, bits, layout)
    except ValueError:
        return bits, cols, "plain", dtype, rows * cols, rows * _row_bytes(cols, bits, "plain")


def logfmt_pack(d: Draw) -> Made:
    bits, cols, layout, dtype, count, packed = _logfmt_packing(d)
    codes = d.numpy.integers(0, 1 << bits, count).astype(dtype)
    return _core.logfmt_pack, [codes, (cols, bits, layout), zeros(packed, np.uint8)]


def logfmt_unpack(d: Draw) -> Made:
    bits, cols, layout, dtype, count, packed = _logfmt_packing(d)
    held = d.numpy.integers(0, 256, packed, np.uint8)
    return _core.logfmt_unpack, [held, (cols, bits, layout), zeros(count, dtype)]


# --- Products -----------------------------------------------------------------------------------------------


def operand(d: Draw, unit: str, rows: int, k: int, fmt: str | None = None, stack: int = 1) -> tuple[Any, ...]:
    """One side of a product: codes of a format that the unit takes, with scales for groups."""
    row = UNITS[unit]
    fmt = fmt or d.of(*row["inputs"])
    group = d.of((1, 32), (1, 64), (1, 128), (128, 128), (1, 1 << 20))
    group = (min(group[0], max(rows, 1)) if stack == 1 else group[0], min(group[1], k))
    scales: Array | None = d.scales(stack * -(-rows // group[0]) * -(-k // group[1]))
    inner, block = None, (1, 1)
    if row["scale"] is not None:
        block = (1, d.of(*row["blocks"]))
        inner = d.codes(stack * rows * -(-k // block[1]), row["scale"])
    if d.rng.random() < 0.3:
        scales, group = None, (1, 1)
    return d.codes(stack * rows * k, fmt), fmt, scales, group, inner, block


def _k(d: Draw, unit: str) -> int:
    wide = d.of(1, 1, 16, 32, UNITS[unit]["products"])
    return int(max(1, (d.turn % 40 + 1) * wide if wide > 1 else d.turn % 300 + 1))


def _start(d: Draw, unit: str, count: int) -> Array | None:
    """Numbers that a product is added to; those that are kept in float16 are of few bits."""
    return d.of(None, None, np.round(d.numbers(count, odd=False) % 8))


def mma_step(d: Draw) -> Made:
    unit, rows = d.of(*(name for name, row in UNITS.items() if row["products"] > 1)), d.length(40)
    k = UNITS[unit]["products"]
    sides = [operand(d, unit, rows, k) for _ in range(2)]
    sides = [(side[0], side[1], None, (1, 1), *side[4:]) for side in sides]
    return _core.mma_step, [*sides, unit, np.round(d.numbers(rows, odd=False) % 8), zeros(rows)]


def matmul_nt(d: Draw) -> Made:
    unit = d.of(*UNITS)
    stack, m, n, k = d.of(1, 1, 2), d.side(40), d.side(40), _k(d, unit)
    stacked, prepared = d.of(True, False), d.of(True, False)
    a = operand(d, unit, stack * m, k)
    b = operand(d, unit, n, k, stack=stack if stacked else 1)
    c, target = _start(d, unit, stack * m * n), d.of("float32", "bfloat16")
    rest = [(stack, m, n, k), stacked, c, (unit, d.of(0, 0, 32, 64, 128))]
    rest += [(zeros(stack * m * n, SOURCES[target]), target)]

    def product(a: Any, b: Any, *rest: Any) -> None:
        if prepared and not stacked:
            held = _core.Operand(b, n, k)
            held.prepare(unit)
            _core.matmul_nt(a, held, *rest)
        else:
            _core.matmul_nt(a, b, *rest)

    return product, [a, b, *rest]


def matmul_grouped_nt(d: Draw) -> Made:
    unit, groups = d.of(*UNITS), d.rng.randint(1, 4)
    n, k = d.side(30), _k(d, unit)
    offsets = np.sort(d.numpy.integers(0, 30, groups + 1)).astype(np.int64)
    offsets[0] = 0
    m = int(offsets[-1])
    a, b = operand(d, unit, m, k), operand(d, unit, n, k, stack=groups)
    target = d.of("float32", "bfloat16")
    out = (zeros(m * n, SOURCES[target]), target)
    rest = [_start(d, unit, m * n), (unit, d.of(0, 0, 64, 128)), out]
    return _core.matmul_grouped_nt, [a, b, offsets, (groups, m, n, k), *rest]


# --- The model ----------------------------------------------------------------------------------------------

Plain = tuple[Any, ...]


def plain_weight(d: Draw, rows: int, cols: int) -> Plain:
    """Arguments of a weight: numbers, or codes with scales."""
    kind = d.of("float32", "float64", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
    if kind in SOURCES:
        return d.numbers(rows * cols, kind), kind, rows, cols
    block = d.of((128, 128), (1, 128), (2, 8), (rows, max(cols, 1)), (1, 1))
    scales = d.scales(-(-rows // block[0]) * -(-cols // block[1]))
    return d.codes(rows * cols, kind), kind, rows, cols, scales, block, d.of(True, False)


def weight(d: Draw) -> Made:
    rows, cols, dtype = d.side(40), d.length(200), d.of(*REALS)
    args = [plain_weight(d, rows, cols), zeros(rows * cols, dtype)]
    return lambda held, out: _core.Weight(*held).numbers(out), args


def _projection(d: Draw) -> tuple[dict[str, Any], str | None]:
    """How a recipe multiplies, and the unit, where it multiplies codes."""
    dtype = d.of(True, False)
    if d.rng.random() < 0.5:
        return {"bfloat16": dtype}, None
    unit = d.of("hopper_fp8", "blackwell_mxf8", "ada_fp8", "exact")
    if unit == "blackwell_mxf8":
        rows = ("float8_e4m3fn", 32, "mx", d.of(*rules_of("mx")), None)
    else:
        rows = ("float8_e4m3fn", d.of(128, 64, None), "float32", d.of(*rules_of("float32")), None)
    return {"rows": rows, "accumulator": unit, "promote_every": d.of(0, 128), "bfloat16": dtype}, unit


def _matrix(d: Draw, unit: str | None, rows: int, cols: int) -> tuple[Callable[..., Any], Any]:
    """A weight of a linear layer: how to make it, and of what."""
    if unit is None:
        return _core.Weight, plain_weight(d, rows, cols)
    prepared = d.of(True, False)

    def made(*side: Any) -> Any:
        held = _core.Operand(side, rows, cols)
        if prepared:
            held.prepare(unit)
        return held

    return made, operand(d, unit, rows, cols, "float8_e4m3fn")


def linear(d: Draw) -> Made:
    rows, out, k = d.side(20), d.side(40), d.turn % 200 + 1
    how, unit = _projection(d)
    dtype = "float32" if how["bfloat16"] or unit else d.of(*REALS)
    make, held = _matrix(d, unit, out, k)
    x = d.numbers(rows * k, dtype, odd=False)

    def layer(x: Array, held: Any, result: Array) -> None:
        _core.linear(x, rows, make(*held), _core.Projection(**how), result)

    return layer, [x, held, zeros(rows * out, dtype)]


def swiglu(d: Draw) -> Made:
    rows, hidden, k = d.side(12), d.side(40), d.turn % 150 + 1
    how, unit = _projection(d)
    dtype = "float32" if how["bfloat16"] or unit else d.of(*REALS)
    sides = [_matrix(d, unit, *shape) for shape in ((hidden, k), (hidden, k), (k, hidden))]
    x = d.numbers(rows * k, dtype, odd=False)

    def layer(x: Array, helds: Any, result: Array) -> None:
        weights = tuple(make(*held) for (make, _), held in zip(sides, helds, strict=True))
        both = _core.Projection(**how), _core.Projection(**how)
        _core.swiglu(x, rows, weights, both, result)

    return layer, [x, [held for _, held in sides], zeros(rows * k, dtype)]


def _real(d: Draw) -> tuple[str, bool]:
    dtype = d.of(*REALS)
    return dtype, dtype == "float32" and d.of(True, False)


def rms_norm(d: Draw) -> Made:
    (dtype, bf16), rows, cols = _real(d), d.side(), d.turn % 200 + 1
    args = [d.numbers(rows * cols, dtype), plain_weight(d, cols, 1), zeros(rows * cols, dtype)]
    return lambda x, w, out: _core.rms_norm(x, _core.Weight(*w), 1e-6, bf16, out), args


def layer_norm(d: Draw) -> Made:
    (dtype, bf16), rows, cols = _real(d), d.side(), d.turn % 200 + 1
    args = [d.numbers(rows * cols, dtype), plain_weight(d, cols, 1), plain_weight(d, cols, 1)]

    def norm(x: Array, w: Any, b: Any, out: Array) -> None:
        _core.layer_norm(x, _core.Weight(*w), _core.Weight(*b), 1e-6, bf16, out)

    return norm, [*args, zeros(rows * cols, dtype)]


def _two(function: Callable[..., Any]) -> Callable[[Draw], Made]:
    def make(d: Draw) -> Made:
        (dtype, bf16), n = _real(d), d.length()
        return function, [d.numbers(n, dtype), d.numbers(n, dtype), bf16, zeros(n, dtype)]

    return make


def combine(d: Draw) -> Made:
    (dtype, bf16), tokens, top, channels = _real(d), d.side(), d.rng.randint(1, 5), d.turn % 200 + 1
    indices = d.numpy.integers(0, 50, tokens * top).astype(np.int64)
    shared = d.of(None, d.numbers(tokens * channels, dtype))
    args = [d.numbers(tokens * top * channels, dtype), indices, d.numbers(tokens * top, dtype), shared]
    return _core.combine, [
        *args,
        top,
        channels,
        d.of(True, False),
        bf16,
        zeros(tokens * channels, dtype),
    ]


def _rope(d: Draw, dim: int) -> dict[str, Any]:
    yarn = d.of(None, (4.0, 32.0, 1.0, 1.0, 1.0, 64.0))
    return {"dim": dim, "theta": 1e4, "interleaved": d.of(True, False), "yarn": yarn}


def rotate(d: Draw) -> Made:
    (dtype, bf16), tokens, heads, dim = _real(d), d.side(), d.side(5), 2 * (d.turn % 60 + 1)
    width = dim + d.of(0, 1, 7)
    positions: Any = d.numpy.integers(0, 5000, tokens).astype(np.int64)
    x = Out(d.numbers(tokens * heads * width, dtype))
    places = positions if d.of(True, False) else positions.tolist()
    return _core.rotate, [x, _rope(d, dim), places, heads, width, bf16]


def attend(d: Draw) -> Made:
    (dtype, bf16), new, past, heads = _real(d), d.side(5), d.of(0, 1, d.turn % 40), d.side(4)
    rank, nope, v, dim = d.turn % 70 + 1, d.side(40), d.side(40), 2 * d.side(16)
    seen = past + new
    settings = {"heads": heads, "rank": rank, "nope": nope, "v": v, "rope": _rope(d, dim)}
    way = d.of("absorbed", "naive", "expanded")
    held = plain_weight(d, heads * (nope + v), rank) if way != "expanded" else None
    expanded = d.numbers(seen * heads * (nope + v), dtype) if way == "expanded" else None
    flags = d.of(None, d.numpy.integers(0, 2, new * seen).astype(np.bool_))
    if flags is not None:
        flags.reshape(new, seen)[np.arange(new), past + np.arange(new)] = True
    arrays = [d.numbers(new * heads * (nope + dim), dtype), d.numbers(seen * (rank + dim), dtype)]
    outs = [zeros(new * heads * v, dtype), d.of(None, zeros(new * heads * seen, dtype))]

    def attention(q: Any, c: Any, held: Any, expanded: Any, out: Any, probs: Any, flags: Any) -> None:
        w = None if held is None else _core.Weight(*held)
        absorbed = way == "absorbed"
        _core.attend(q, c, settings, past, absorbed, w, expanded, bf16, out, probs, flags)

    return attention, [*arrays, held, expanded, *outs, flags]


def index_scores(d: Draw) -> Made:
    dtype, new, past, heads, wide = d.of(*REALS), d.side(), d.turn % 60, d.side(5), d.turn % 90 + 1
    arrays = [d.numbers(count, dtype) for count in (new * heads * wide, (past + new) * wide, new * heads)]
    return _core.index_scores, [*arrays, (heads, wide, past), 0.5, zeros(new * (past + new), dtype)]


def select(d: Draw) -> Made:
    dtype, new, past = d.of(*REALS), d.side(), d.turn % 200
    scores = d.numbers(new * (past + new), dtype, odd=False)
    outs = [zeros(new * (past + new), np.bool_), zeros(new, dtype)]
    return _core.select, [scores, past, d.rng.randint(1, 64), *outs]


def gate(d: Draw) -> Made:
    (dtype, bf16), tokens, groups = _real(d), d.side(), d.rng.randint(1, 8)
    experts, scoring = groups * d.rng.randint(2, 40), d.of("sigmoid", "softmax")
    kept = d.rng.randint(1, groups)
    top = d.rng.randint(1, min(16, kept * experts // groups))
    bias = plain_weight(d, experts, 1) if d.of(True, False) else None
    settings = {
        "scoring": scoring, "best": d.of(1, 2), "experts": experts, "groups": groups, "kept": kept,
        "top": top, "normalised": d.of(True, False), "factor": 2.5, "masked": d.of(0.0, float("-inf")),
        "bfloat16": bf16,
    }  # fmt: skip

    def choose(logits: Any, bias: Any, indices: Any, weights: Any, gap: Any) -> None:
        held = None if bias is None else _core.Weight(*bias)
        _core.gate(logits, held, settings, indices, weights, gap)

    logits = d.numbers(tokens * experts, dtype, odd=False)
    outs = [zeros(tokens * top, np.int64), zeros(tokens * top, dtype), zeros(tokens, dtype)]
    return choose, [logits, bias, *outs]


def round_bfloat16(d: Draw) -> Made:
    return _core.round_bfloat16, [Out(d.numbers(d.length()))]


_MAKERS: tuple[Callable[[Draw], Made], ...] = (
    encode, decode, pack, unpack, amax, quantize, dequantize, dequantize_packed, error_stats,
    count_saturated, differences, crc32, logfmt_encode, logfmt_decode, logfmt_pack, logfmt_unpack,
    mma_step, matmul_nt, matmul_grouped_nt, linear, swiglu, rms_norm, layer_norm, combine, rotate, attend,
    index_scores, select, gate, round_bfloat16,
)  # fmt: skip
CALLS: dict[str, Callable[[Draw], Made]] = {maker.__name__: maker for maker in _MAKERS} | {
    "Weight": weight,
    "add": _two(_core.add),
    "silu_product": _two(_core.silu_product),
}
WITHIN = {"Operand", "Projection"}
"""Classes that calls make of their arrays."""
WITHOUT = {"TensorTable", "check_rule", "empty", "rope_frequencies", "set_num_threads"}
"""Functions that `sizes` tries and that take no arrays."""
