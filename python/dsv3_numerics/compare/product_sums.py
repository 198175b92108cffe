"""Hypotheses about sums: units and promotions, how partial sums are added, and orders of float32 sums.

Lives here: the table of sums, whose rows take operands and give float32. Operands and outputs are in
`product_rows`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .. import accumulator
from ..gemm import matmul_nt
from ..quantized import Quantized
from .product_rows import PROMOTIONS, Operands, codes_of, dequantized
from .scale_rows import Floats, f32, to_bfloat16, to_float16

_BF16 = np.dtype(ml_dtypes.bfloat16)
_SMALL = 1 << 12  # outputs of samples, whose partial sums are kept
Sum = Callable[[Operands], Floats]
Sums = dict[tuple[str, str], tuple[int, Sum]]

# --- Units --------------------------------------------------------------------------------------------------


def _unit(name: str, every: int | None) -> Sum:
    def product(given: Operands) -> Floats:
        found: Floats = matmul_nt(given.a, given.b, c=given.c, accumulator=name, promote_every=every)
        return found

    return product


def _then_c(name: str) -> Sum:
    """Add c at the end."""

    def product(given: Operands) -> Floats:
        if given.c is None:
            raise ValueError("no c")
        found: Floats = matmul_nt(given.a, given.b, accumulator=name) + given.c
        return found

    return product


def _partial(name: str, given: Operands, part: slice) -> Floats:
    key = name, part.start, part.stop
    if key in given.partials:
        return given.partials[key]
    a, b = (np.ascontiguousarray(codes_of(x)[:, part]) for x in (given.a, given.b))
    found: Floats = matmul_nt(a, b, accumulator=name, promote_every=None)
    if found.size <= _SMALL:
        given.partials[key] = found
    return found


def _start(given: Operands) -> Floats:
    if given.c is not None:
        return given.c
    return np.zeros((len(codes_of(given.a)), len(codes_of(given.b))), f32)


Step = Callable[[Floats, Floats, Floats, Floats], Floats]


def _added(name: str, add: Step, every: int | None = None) -> Sum:
    """Add partial sums of a unit by an own step ``add(sum, partial, scale of a, scale of b)``."""

    def product(given: Operands) -> Floats:
        total = _start(given)
        for part, left, right in given.factors(every):
            total = add(total, _partial(name, given, part), left[:, None], right[None])
        return total

    return product


_ADDITIONS: dict[str, Step] = {
    "scaled partial sums rounded, then added": lambda t, p, a, b: t + p * (a * b),
    "partial sums times each scale, rounded twice, then added": lambda t, p, a, b: t + (p * a) * b,
    "partial sums times b's scale first, then a's, then added": lambda t, p, a, b: t + (p * b) * a,
    "partial sums rounded to bfloat16": lambda t, p, a, b: t + to_bfloat16(p) * (a * b),
    "partial sums rounded to float16": lambda t, p, a, b: t + to_float16(p) * (a * b),
    "scaled partial sums rounded to bfloat16": lambda t, p, a, b: t + to_bfloat16(p * (a * b)),
    "sums of scaled sums (scales applied to all before)": lambda t, p, a, b: (t + p) * (a * b),
    "only the last part kept (sums overwritten)": lambda t, p, a, b: p * (a * b),
}
_NARROW: dict[str, Step] = {
    "sums held in bfloat16": lambda t, p, a, b: to_bfloat16(t + p * (a * b)),
    "sums held in float16": lambda t, p, a, b: to_float16(t + p * (a * b)),
}


def _scaled_parts(name: str, given: Operands) -> list[Floats]:
    return [
        _partial(name, given, part) * (left[:, None] * right[None]) for part, left, right in given.factors()
    ]


def _kahan(parts: list[Floats], total: Floats) -> Floats:
    lost = np.zeros_like(total)
    for part in parts:
        y = part - lost
        t = total + y
        lost = (t - total) - y
        total = t
    return total


def _in_turn(parts: list[Floats], total: Floats) -> Floats:
    for part in parts:
        total = total + part
    return total


def _in_pairs(parts: list[Floats], total: Floats) -> Floats:
    while len(parts) > 1:
        pairs = [parts[i] + parts[i + 1] for i in range(0, len(parts) - 1, 2)]
        parts = pairs + parts[len(parts) - len(parts) % 2 :]
    return total + parts[0]


def _split(
    count: int, strided: bool, narrow: Callable[[Floats], Floats] = lambda x: x
) -> Callable[[list[Floats], Floats], Floats]:
    def add(parts: list[Floats], total: Floats) -> Floats:
        if len(parts) < count:
            raise ValueError("fewer parts than splits")
        size = -(-len(parts) // count)
        shares = (
            [parts[i::count] for i in range(count)] if strided
            else [parts[i : i + size] for i in range(0, len(parts), size)]
        )  # fmt: skip
        return _in_turn([narrow(_in_turn(share[1:], share[0])) for share in shares], total)

    return add


_PART_ORDERS: dict[str, Callable[[list[Floats], Floats], Floats]] = {
    "scaled partial sums added in reverse": lambda parts, total: _in_turn(parts[::-1], total),
    "scaled partial sums added by Kahan": _kahan,
    "scaled partial sums added in pairs": _in_pairs,
    "scaled partial sums added in float64": lambda parts, total: (
        np.sum([p.astype(np.float64) for p in parts], axis=0) + total
    ).astype(f32),
    **{f"split-K by {n}, then added": _split(n, False) for n in (2, 3, 4, 8, 16)},
    **{f"split-K by {n} in turns, then added": _split(n, True) for n in (2, 4)},
    **{f"split-K by {n}, shares rounded to bfloat16": _split(n, False, to_bfloat16) for n in (2, 4, 8)},
    **{f"split-K by {n}, shares rounded to float16": _split(n, False, to_float16) for n in (2, 4, 8)},
}


def _ordered(name: str, order: Callable[[list[Floats], Floats], Floats]) -> Sum:
    return lambda given: order(_scaled_parts(name, given), _start(given))


def _chained_splits(name: str, count: int) -> Sum:
    """Split k, sum each share in one chain of the unit without promotion, and add."""

    def product(given: Operands) -> Floats:
        if given.group is not None:
            raise ValueError("scales change along k")
        k = codes_of(given.a).shape[1]
        if k % (32 * count):
            raise ValueError("k does not split")
        size = k // count
        _, left, right = next(iter(given.factors()))
        parts = [_partial(name, given, slice(i, i + size)) for i in range(0, k, size)]
        return _start(given) + _in_turn(parts[1:], parts[0]) * (left[:, None] * right[None])

    return product


def _promotion_forgotten(name: str, which: int) -> Sum:
    """One chain over all of k, scaled once at its end, by the last or the first scales."""

    def product(given: Operands) -> Floats:
        _, left, right = list(given.factors())[which]
        whole = _partial(name, given, slice(None))
        return whole * (left[:, None] * right[None])

    return product


def _scaled_at_end(name: str, narrow: Callable[[Floats], Floats]) -> Sum:
    """One chain over all of k, rounded before its scales are applied; no scale changes along k."""

    def product(given: Operands) -> Floats:
        if given.group is not None:
            raise ValueError("scales change along k")
        _, left, right = next(iter(given.factors()))
        return _start(given) + narrow(_partial(name, given, slice(None))) * (left[:, None] * right[None])

    return product


def _cut_short(name: str, by: int | None) -> Sum:
    """Leave out the last of k, as a loop over whole steps does; None: what fills no 128."""

    def product(given: Operands) -> Floats:
        k = codes_of(given.a).shape[1]
        rest = k % 128 if by is None else by
        if not 0 < rest < k:
            raise ValueError("nothing to leave out")
        keep = np.arange(k) < k - rest
        a, b = (_zeroed(x, keep) for x in (given.a, given.b))
        found: Floats = matmul_nt(a, b, c=given.c, accumulator=name)
        return found

    return product


def _zeroed(x: Any, keep: NDArray[np.bool_]) -> Any:
    codes = codes_of(x)
    codes = np.where(keep, codes, np.zeros((), codes.dtype))
    return replace(x, codes=codes) if isinstance(x, Quantized) else codes


def _part_missing(name: str, which: int) -> Sum:
    def product(given: Operands) -> Floats:
        parts = _scaled_parts(name, given)
        del parts[which]
        return _in_turn(parts, _start(given))

    return product


def _last_part_twice(name: str) -> Sum:
    def product(given: Operands) -> Floats:
        parts = _scaled_parts(name, given)
        return _in_turn([*parts, parts[-1]], _start(given))

    return product


def _reversed_k(name: str, every: int | None) -> Sum:
    """Go along k from its end: parts, and steps in them."""

    def product(given: Operands) -> Floats:
        total = _start(given)
        for part, left, right in reversed(list(given.factors(every))):
            a, b = (np.ascontiguousarray(codes_of(x)[:, part][:, ::-1]) for x in (given.a, given.b))
            total = total + matmul_nt(a, b, accumulator=name, promote_every=None) * (
                left[:, None] * right[None]
            )
        return total

    return product


def _dequantized_unit(name: str, dtype: np.dtype[np.generic]) -> Sum:
    def product(given: Operands) -> Floats:
        with np.errstate(over="ignore"):
            a, b = (dequantized(x).astype(dtype) for x in (given.a, given.b))
        found: Floats = matmul_nt(a, b, c=given.c, accumulator=name, promote_every=None)
        return found

    return product


# --- float32 in an order ------------------------------------------------------------------------------------


def exact_product(given: Operands) -> NDArray[np.float64]:
    """Return the product of what the codes mean, in float64."""
    total: NDArray[np.float64] = dequantized(given.a).astype(np.float64) @ dequantized(given.b).T.astype(
        np.float64
    )
    return total if given.c is None else total + given.c


def magnitude(given: Operands) -> NDArray[np.float64]:
    """Return the sum of magnitudes of all products, by which errors of sums are bounded."""
    a, b = (np.abs(dequantized(x)).astype(np.float64) for x in (given.a, given.b))
    total: NDArray[np.float64] = a @ b.T
    return total if given.c is None else total + np.abs(given.c)


Chain = Callable[[Floats, Floats, Floats], Floats]


def _terms(given: Operands) -> tuple[Floats, Floats]:
    """Return dequantized operands, k first."""
    return tuple(np.ascontiguousarray(dequantized(x).T) for x in (given.a, given.b))  # type: ignore[return-value]


def _chain(a: Floats, b: Floats, total: Floats) -> Floats:
    for left, right in zip(a, b, strict=True):
        total = total + left[:, None] * right[None]
    return total


def _fused(a: Floats, b: Floats, total: Floats) -> Floats:
    """Multiply and add with one rounding: exact in float64, rounded there to odd, then to float32."""
    for left, right in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
        p, c = left[:, None] * right[None], total.astype(np.float64)
        s = p + c
        other = s - p
        error = (p - (s - other)) + (c - other)
        bits = s.view(np.int64)
        step = np.where((error > 0) == (s > 0), 1, -1)
        odd = np.where((error != 0) & (bits & 1 == 0), bits + step, bits)
        total = odd.view(np.float64).astype(f32)
    return total


def _kahan_chain(a: Floats, b: Floats, total: Floats) -> Floats:
    return _kahan([left[:, None] * right[None] for left, right in zip(a, b, strict=True)], total)


def _narrow_chain(narrow: Callable[[Floats], Floats]) -> Chain:
    def chain(a: Floats, b: Floats, total: Floats) -> Floats:
        for left, right in zip(a, b, strict=True):
            total = narrow(total + left[:, None] * right[None])
        return total

    return chain


def _pairwise(a: Floats, b: Floats, total: Floats) -> Floats:
    return _in_pairs([left[:, None] * right[None] for left, right in zip(a, b, strict=True)], total)


def _halves(a: Floats, b: Floats, total: Floats) -> Floats:
    """Add the first half of the terms to the second, again and again, as a tree of lanes does."""
    parts = [left[:, None] * right[None] for left, right in zip(a, b, strict=True)]
    while len(parts) > 1:
        half = (len(parts) + 1) // 2
        parts = [p + parts[i + half] if i + half < len(parts) else p for i, p in enumerate(parts[:half])]
    added: Floats = total + parts[0]
    return added


def _blocks(size: int, narrow: Callable[[Floats], Floats] = lambda x: x) -> Chain:
    def chain(a: Floats, b: Floats, total: Floats) -> Floats:
        for i in range(0, len(a), size):
            part = _chain(a[i : i + size], b[i : i + size], np.zeros_like(total))
            total = narrow(total + part)
        return total

    return chain


def _shares(count: int) -> Chain:
    def chain(a: Floats, b: Floats, total: Floats) -> Floats:
        size = -(-len(a) // count)
        zero = np.zeros_like(total)
        parts = [_chain(a[i : i + size], b[i : i + size], zero) for i in range(0, len(a), size)]
        return total + _in_turn(parts[1:], parts[0])

    return chain


def _lanes(count: int) -> Chain:
    def chain(a: Floats, b: Floats, total: Floats) -> Floats:
        zero = np.zeros_like(total)
        parts = [_chain(a[i::count], b[i::count], zero) for i in range(min(count, len(a)))]
        while len(parts) > 1:
            half = (len(parts) + 1) // 2
            parts = [p + parts[i + half] if i + half < len(parts) else p for i, p in enumerate(parts[:half])]
        return total + parts[0]

    return chain


def _backwards(chain: Chain) -> Chain:
    return lambda a, b, total: chain(a[::-1], b[::-1], total)


_CHAINS: dict[str, Chain] = {
    "one chain in the order of k": _chain,
    "one chain against the order of k": _backwards(_chain),
    "one chain of fused multiply-adds": _fused,
    "one chain of fused multiply-adds, against the order of k": _backwards(_fused),
    "one chain by Kahan": _kahan_chain,
    "one chain by Kahan, against the order of k": _backwards(_kahan_chain),
    "neighbours added in pairs": _pairwise,
    "halves added (a tree)": _halves,
    "one chain held in bfloat16": _narrow_chain(to_bfloat16),
    "one chain held in float16": _narrow_chain(to_float16),
    **{f"blocks of {n}, then added": _blocks(n) for n in (4, 8, 16, 32, 64, 128)},
    **{f"blocks of {n}, added in bfloat16": _blocks(n, to_bfloat16) for n in (16, 32, 64, 128)},
    **{f"blocks of {n}, added in float16": _blocks(n, to_float16) for n in (16, 32, 64, 128)},
    **{f"split-K by {n}, then added": _shares(n) for n in (2, 3, 4, 8, 16)},
    **{f"{n} lanes, then a tree": _lanes(n) for n in (4, 8, 16, 32)},
}


def _software(chain: Chain) -> Sum:
    def product(given: Operands) -> Floats:
        a, b = _terms(given)
        start = np.zeros((a.shape[1], b.shape[1]), f32) if given.c is None else given.c
        return chain(a, b, start)

    return product


def _plain(given: Operands) -> Floats:
    found = dequantized(given.a) @ dequantized(given.b).T
    return found if given.c is None else found + given.c


def _of_unit(info: accumulator.AccumulatorInfo, out: Sums) -> None:
    name = info.name
    for every in PROMOTIONS:
        told = "never promoted" if every is None else f"promoted every {every}"
        out[name, told] = (0, _unit(name, every))
    if info.scale is None and info.result == "float32":
        for told, add in (_ADDITIONS | _NARROW).items():
            out[name, told] = (1, _added(name, add))
        for told, add in _NARROW.items():
            for every in dict.fromkeys((info.products, 32, 64)):
                out[name, f"{told}, after each {every} products"] = (1, _added(name, add, every))
        for told, order in _PART_ORDERS.items():
            out[name, told] = (1, _ordered(name, order))
        for count in (2, 4, 8):
            out[name, f"split-K by {count}, each share one chain"] = (1, _chained_splits(name, count))
        out[name, "promotion forgotten: one chain, scaled at its end"] = (1, _promotion_forgotten(name, -1))
        out[name, "promotion forgotten: one chain, scaled by the first scales"] = (
            1,
            _promotion_forgotten(name, 0),
        )
        for every in (None, 32, 64):
            told = "" if every is None else f", in parts of {every}"
            out[name, f"k from its end{told}"] = (1, _reversed_k(name, every))
        for told, narrow in (("bfloat16", to_bfloat16), ("float16", to_float16)):
            out[name, f"one chain, rounded to {told}, then scaled"] = (1, _scaled_at_end(name, narrow))
        for by in (None, 1, 16, 32, 64, 128):
            told = "k behind the last whole 128" if by is None else f"the last {by} of k"
            out[name, f"{told} left out"] = (1, _cut_short(name, by))
        out[name, "the first part of k left out"] = (1, _part_missing(name, 0))
        out[name, "the last part of k left out"] = (1, _part_missing(name, -1))
        out[name, "the last part of k added twice"] = (1, _last_part_twice(name))
    if info.scale is None:
        out[name, "c added at the end"] = (1, _then_c(name))
    for dtype in (_BF16, np.dtype(np.float16)):
        if dtype.name in info.inputs:
            out[name, f"dequantized to {dtype.name} before"] = (1, _dequantized_unit(name, dtype))
    if "tf32" in info.inputs:
        out[name, "dequantized to float32 before"] = (1, _dequantized_unit(name, np.dtype(f32)))


def sums_table() -> Sums:
    """Make every row: (unit or arithmetic, promotion or addition) with its assumptions and its function."""
    out: Sums = {}
    for info in accumulator.accumulators():
        _of_unit(info, out)
    out["float64", "dequantized, rounded once"] = (1, lambda given: exact_product(given).astype(f32))
    for told, chain in _CHAINS.items():
        out["float32", f"dequantized, {told}"] = (1 if "held" not in told else 2, _software(chain))
    out["float32", "dequantized, NumPy's own product on this machine"] = (2, _plain)
    return out
