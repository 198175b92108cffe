"""Absurd integers at every integer of every function of the core: an exception or an answer, no end, no hang.

Lives here: `CALLS`, a small good call of each function, and `trials`, which replaces its integers one by one
and in pairs. ``python tests/endurance/sizes.py --count 20000`` draws so many pairs; one line says what came
of it. It runs with little address space, so that an allocation that nobody has checked ends it.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dsv3_numerics import _core

ABSURD = (
    0,
    1,
    2,
    3,
    127,
    129,
    2**20,
    2**31 - 1,
    2**31,
    2**32,
    2**32 + 1,
    2**61,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -1,
)
GOOD = (ValueError, TypeError, OverflowError)
ALSO_GOOD = {"empty": (MemoryError,)}
"""Errors of what is asked for memory, and has none."""

f32 = lambda *shape: np.ones(shape, np.float32).reshape(-1)  # noqa: E731
u8 = lambda n: np.full(n, 1, np.uint8)  # noqa: E731
E4M3 = "float8_e4m3fn"
LAYOUT = (1, 4, 256, 1, 128)
ROPE = {"dim": 4, "theta": 1e4, "interleaved": True, "yarn": (4.0, 32.0, 1.0, 1.0, 1.0, 64.0)}
MLA = {"heads": 2, "rank": 4, "nope": 4, "v": 4, "rope": ROPE}
GATE = {
    "scoring": "sigmoid", "best": 2, "experts": 8, "groups": 2, "kept": 1, "top": 2,
    "normalised": True, "factor": 1.0, "masked": 0.0, "bfloat16": False,
}  # fmt: skip


def operand(unit: bool = False) -> tuple[Any, ...]:
    """One side of a product of two rows of 64."""
    scales = (u8(4), (1, 32)) if unit else (None, (1, 1))
    return u8(128), "float8_e4m3fn", f32(2), (1, 64), *scales


def step() -> tuple[Any, ...]:
    """One side of a step of two rows."""
    return u8(64), E4M3, None, (1, 1), None, (1, 1)


def weight(rows: int = 4, cols: int = 8) -> Any:
    """A plain weight."""
    return _core.Weight(f32(rows, cols), "float32", rows, cols)


def coded_linear(
    rows: int, tile: int, every: int, group: int, shape: tuple[int, int], block: tuple[int, int]
) -> None:
    """A linear layer on codes, of activations that are quantized on the way."""
    side = u8(128), E4M3, f32(4), block, None, (1, group)
    how = _core.Projection(
        rows=(E4M3, tile, "float32", "deepseek_v3", None), accumulator="hopper_fp8", promote_every=every
    )
    weights = _core.Operand(side, *shape)
    weights.prepare("hopper_fp8")
    _core.linear(f32(2, 64), rows, weights, how, f32(2, 2))


def table(row: int, file: int) -> None:
    """Every question to a table without rows; an IndexError is an answer."""
    found = _core.TensorTable()
    for ask, number in ((found.row, row), (found.name, row), (found.take, row), (found.metadata, file)):
        try:
            ask(number)
        except IndexError:
            continue


def quantize(*args: Any) -> Any:
    """All arguments of `_core.quantize` but arrays of results."""
    layout, seed = args
    one = f32(1)
    return _core.quantize(
        (f32(4, 256), "float32"), layout, "float8_e4m3fn", u8(1024), u8(32), "float32", "deepseek_v3",
        one, one, None, None, "raise", None, seed,
    )  # fmt: skip


# A call's arguments are made anew each time: functions write into them.
CALLS: dict[str, tuple[Callable[..., Any], Callable[[], list[Any]]]] = {
    "encode": (
        _core.encode,
        lambda: [(f32(8), "float32"), u8(8), "float8_e4m3fn", "nearest_even", "saturate", "code", 0],
    ),
    "decode": (_core.decode, lambda: [u8(8), "float8_e4m3fn", (f32(8), "float32")]),
    "pack": (_core.pack, lambda: [u8(8), "float4_e2m1fn", 8, u8(4)]),
    "pack 6": (_core.pack, lambda: [u8(8), "float6_e2m3fn", 8, u8(6)]),
    "pack 12": (_core.pack, lambda: [np.ones(8, np.uint16), "e5m6", 8, np.ones(3, np.uint32)]),
    "unpack": (_core.unpack, lambda: [u8(4), "float4_e2m1fn", 8, u8(8)]),
    "unpack 12": (_core.unpack, lambda: [np.ones(3, np.uint32), "e5m6", 8, np.ones(8, np.uint16)]),
    "amax": (_core.amax, lambda: [(f32(4, 256), "float32"), LAYOUT, f32(8)]),
    "quantize": (quantize, lambda: [LAYOUT, 0]),
    "check_rule": (_core.check_rule, lambda: [{"least_exponent": -126}, "ue8m0", "float8_e4m3fn", False]),
    "dequantize": (_core.dequantize, lambda: [(u8(1024), E4M3, LAYOUT, f32(8)), (f32(1024), "float32")]),
    "dequantize_packed": (
        _core.dequantize_packed,
        lambda: [(u8(512), "float4_e2m1fn", LAYOUT, f32(8)), 0, (f32(1024), "float32")],
    ),
    "error_stats": (_core.error_stats, lambda: [(f32(8), "float32"), f32(8)]),
    "error_stats of codes": (
        _core.error_stats,
        lambda: [(f32(4, 256), "float32"), f32(4, 256), (u8(1024), E4M3, LAYOUT, f32(8))],
    ),
    "differences": (
        _core.differences,
        lambda: [
            np.ones(8, np.uint32), np.ones(8, np.uint32), "float32", None, (4, 2, 0), np.zeros(4, np.uint32),
            np.zeros(4),
        ],
    ),
    "differences of codes": (
        _core.differences,
        lambda: [
            u8(8), u8(8), "bytes", (np.zeros(256), np.zeros(256, np.int32), True), (4, 2, 0),
            np.zeros(4, np.uint32), np.zeros(4),
        ],
    ),
    "crc32": (_core.crc32, lambda: [u8(8), 0]),
    "empty": (_core.empty, lambda: [(2, 3), np.dtype(np.float32)]),
    "TensorTable": (table, lambda: [0, 0]),
    "count_saturated": (
        _core.count_saturated,
        lambda: [(f32(4, 256), "float32"), (u8(1024), "float8_e4m3fn", LAYOUT, f32(8))],
    ),
    "mma_step": (_core.mma_step, lambda: [step(), step(), "hopper_fp8", f32(2), f32(2)]),
    "matmul_nt": (
        _core.matmul_nt,
        lambda: [operand(), operand(), (1, 2, 2, 64), False, None, ("hopper_fp8", 32), (f32(4), "float32")],
    ),
    "matmul_nt float32": (
        _core.matmul_nt,
        lambda: [operand(), operand(), (1, 2, 2, 64), True, f32(4), ("float32", 64), (f32(4), "float32")],
    ),
    "matmul_nt units": (
        _core.matmul_nt,
        lambda: [operand(True), operand(True), (1, 2, 2, 64), False, None, ("blackwell_mxf8", 0),
        (f32(4), "float32")],
    ),
    "matmul_grouped_nt": (
        _core.matmul_grouped_nt,
        lambda: [
            operand(), operand(), np.array([0, 2], np.int64), (1, 2, 2, 64), None, ("hopper_fp8", 0),
            (f32(4), "float32"),
        ],
    ),
    "logfmt_encode": (
        _core.logfmt_encode,
        lambda: [
            (f32(2, 128), "float32"), (2, 128, 128), 8, "linear", False, False, 0, 0, u8(256), f32(2), f32(2),
            u8(2),
        ],
    ),
    "logfmt_decode": (
        _core.logfmt_decode,
        lambda: [u8(256), f32(2), f32(2), 8, (2, 128, 128), (f32(256), "float32"), "exact"],
    ),
    "logfmt_pack": (_core.logfmt_pack, lambda: [u8(256), (128, 8, "plain"), u8(256)]),
    "logfmt_unpack": (_core.logfmt_unpack, lambda: [u8(256), (128, 8, "plain"), u8(256)]),
    "Weight": (_core.Weight, lambda: [f32(4, 8), "float32", 4, 8]),
    "Weight of codes": (_core.Weight, lambda: [u8(32), "float8_e4m3fn", 4, 8, f32(2), (2, 8), True]),
    "linear": (_core.linear, lambda: [f32(2, 8), 2, weight(), _core.Projection(), f32(2, 4)]),
    "linear of codes": (coded_linear, lambda: [2, 32, 32, 32, (2, 64), (1, 32)]),
    "swiglu": (
        _core.swiglu,
        lambda: [
            f32(2, 8), 2, (weight(), weight(), weight(8, 4)), (_core.Projection(),) * 2, f32(2, 8),
        ],
    ),
    "Operand": (_core.Operand, lambda: [operand(), 2, 64]),
    "Projection": (coded_linear, lambda: [2, 32, 32, 32, (2, 64), (1, 32)]),
    "add": (_core.add, lambda: [f32(8), f32(8), False, f32(8)]),
    "combine": (
        _core.combine,
        lambda: [
            f32(4, 8), np.array([0, 1, 2, 3], np.int64), f32(4), f32(2, 8), 2, 8,
            True, False, f32(2, 8),
        ],
    ),
    "rms_norm": (_core.rms_norm, lambda: [f32(2, 4), weight(4, 1), 1e-6, False, f32(2, 4)]),
    "layer_norm": (
        _core.layer_norm,
        lambda: [f32(2, 4), weight(4, 1), weight(4, 1), 1e-6, False, f32(2, 4)],
    ),
    "rope_frequencies": (_core.rope_frequencies, lambda: [copy.deepcopy(ROPE)]),
    "rotate": (_core.rotate, lambda: [f32(2, 2, 8), copy.deepcopy(ROPE), [0, 1], 2, 8, False]),
    "attend": (
        _core.attend,
        lambda: [
            f32(2, 2, 8), f32(3, 8), copy.deepcopy(MLA), 1, True, weight(16, 4), None, False,
            f32(2, 2, 4), f32(2, 2, 3), None,
        ],
    ),
    "attend expanded": (
        _core.attend,
        lambda: [
            f32(2, 2, 8), f32(3, 8), copy.deepcopy(MLA), 1, False, None, f32(3, 2, 8), False,
            f32(2, 2, 4), None, np.ones(6, np.bool_),
        ],
    ),
    "index_scores": (
        _core.index_scores,
        lambda: [f32(2, 2, 4), f32(3, 4), f32(2, 2), (2, 4, 1), 0.5, f32(2, 3)],
    ),
    "select": (_core.select, lambda: [f32(2, 3), 1, 2, np.ones(6, np.bool_), f32(2)]),
    "silu_product": (_core.silu_product, lambda: [f32(8), f32(8), False, f32(8)]),
    "round_bfloat16": (_core.round_bfloat16, lambda: [f32(8)]),
    "gate": (
        _core.gate,
        lambda: [f32(2, 8), weight(8, 1), dict(GATE), np.zeros(4, np.int64), f32(4), f32(2)],
    ),
    "set_num_threads": (_core.set_num_threads, lambda: [2]),
}  # fmt: skip
WITHOUT = {
    "CastPlan", "CastPlans", "ProductPlans", "QuantizePlans",
    "accumulators", "formats", "format_row", "scale_rules", "get_num_threads",
    "set_alone", "set_least_shared", "set_least_streamed",
    "simd_level", "simd_levels", "set_simd_level", "RuleRow", "rule_row",
}  # fmt: skip
"""Functions that take no sizes."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all integers in nested arguments."""
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield path
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from places(part, (*path, i))
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], by: int) -> Any:
    """Arguments with another integer at a path."""
    if not path:
        return by
    key, *rest = path
    if isinstance(value, dict):
        return {**value, key: replaced(value[key], tuple(rest), by)}
    parts = list(value)
    parts[key] = replaced(parts[key], tuple(rest), by)
    return tuple(parts) if isinstance(value, tuple) else parts


def trial(name: str, changes: list[tuple[tuple[Any, ...], int]]) -> str:
    """One call; "refused" or "answered"."""
    function, make = CALLS[name]
    arguments = make()
    for path, by in changes:
        arguments = replaced(arguments, path, by)
    try:
        function(*arguments)
    except GOOD + ALSO_GOOD.get(name, ()):
        return "refused"
    return "answered"


def trials(pairs: int, seed: int = 0) -> Counter[str]:
    """Every function with every absurd integer at every place, and so many pairs of them."""
    found: Counter[str] = Counter()
    rng = random.Random(seed)
    before = _core.get_num_threads()
    spots = {name: list(places(make())) for name, (_, make) in CALLS.items()}
    for name, paths in spots.items():
        function, make = CALLS[name]
        function(*make())  # the call is good
        for path in paths:
            for by in ABSURD:
                found[trial(name, [(path, by)])] += 1
                _core.set_num_threads(before)
    several = [name for name, paths in spots.items() if len(paths) > 1]
    for _ in range(pairs):
        name = rng.choice(several)
        changes = [(path, rng.choice(ABSURD)) for path in rng.sample(spots[name], 2)]
        found[trial(name, changes)] += 1
        _core.set_num_threads(before)
    return found


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    pairs, start = parser.parse_args().count, time.monotonic()
    if sys.platform == "linux" and "ASAN_OPTIONS" not in os.environ:  # whose shadow is larger
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    _core.set_num_threads(2)
    found = trials(pairs)
    print(f"{sum(found.values())} calls in {time.monotonic() - start:.0f} s: {dict(found)}")


if __name__ == "__main__":
    main()
