"""Products explained: which unit, promotion, order and rounding makes this product of those operands.

Lives here: the search over the tables of `product_rows`, and classes of what nothing reproduces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._arrays import Array, as_array
from ..quantized import Quantized
from .code_rows import as_bits
from .explanation import Explanation, Fit, of_classes, of_fits
from .kinds import kind_of
from .product_rows import (
    LAYOUTS,
    OPERANDS,
    OUTPUTS,
    Operands,
    Sums,
    codes_of,
    exact_product,
    magnitude,
    sums_table,
)
from .scale_rows import Floats, f32

_ROWS, _COLUMNS = 16, 32  # outputs of a sample
_KEPT = 8
_FEW = 4
_LISTED = 5
_NARROW = 2.0**-12
"""Error of sums of 13 bits, relative to the sum of magnitudes; such units are looked for by name first."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Hypothesis:
    sums: tuple[str, str]
    operands: str
    output: str
    layout: str
    assumptions: int


def explain_product(
    a: ArrayLike | Quantized, b: ArrayLike | Quantized, product: ArrayLike, *, c: ArrayLike | None = None
) -> Explanation:
    """Find what made a product ``a @ b.T``.

    Parameters
    ----------
    a : Quantized, or array_like of a format's dtype
        Shape (m, k), with tiles along k, blocks, or codes without scales.
    b : Quantized, or array_like of a format's dtype
        Shape (n, k).
    product : array_like of float32, bfloat16 or float16
        Result to be explained, shape (m, n); also (n, m).
    c : array_like of float32, optional
        Addend, shape (m, n).

    Returns
    -------
    Explanation
        Hypotheses are confirmed on every output, which takes the time of some products.

    Raises
    ------
    TypeError, ValueError
        Arrays of another kind, or shapes that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import matmul_nt, quantize_tiles
    >>> x = np.sin(np.arange(4096, dtype=np.float32)).reshape(8, 512)
    >>> q = quantize_tiles(x)
    >>> found = explain_product(q, q, matmul_nt(q, q, accumulator="ada_fp8"))
    >>> "ada_fp8" in found.column("unit"), found.column("sums")
    (True, ['promoted every 128'])
    """
    given = as_array(product, "product")
    dtype = given.dtype.newbyteorder("=").name
    if dtype not in OUTPUTS:
        raise TypeError(f"product: found dtype {given.dtype}, expected one of {', '.join(OUTPUTS)}")
    for name, x in (("a", a), ("b", b)):
        if codes_of(x).ndim != 2:
            raise ValueError(f"{name}: found shape {codes_of(x).shape}, expected two axes")
        if isinstance(x, Quantized) and x.axis == 0:
            raise ValueError(f"{name}: found tiles along axis 0, expected tiles along k, or blocks")
    (m, k), (n, other) = codes_of(a).shape, codes_of(b).shape
    if k != other:
        raise ValueError(f"a and b: found {k} and {other} codes along k, expected one number")
    if given.shape not in ((m, n), (n, m)) or not given.size or not k:
        raise ValueError(f"product: found shape {given.shape}, expected {(m, n)}, none of them 0")
    start = None if c is None else np.asarray(c, f32)
    if start is not None and start.shape != (m, n):
        raise ValueError(f"c: found shape {start.shape}, expected {(m, n)}")
    return _Search(Operands.of(a, b, start), given.astype(given.dtype.newbyteorder("=")), (m, n), dtype).run()


class _Search:
    """One search."""

    def __init__(self, given: Operands, product: Array, shape: tuple[int, int], dtype: str) -> None:
        self.given, self.shape, self.outputs = given, shape, OUTPUTS[dtype]
        self.tried = 0
        self.read: dict[str, Array] = {}
        seen: set[bytes] = set()
        for name, (_, how) in LAYOUTS.items():
            found = how(product)
            if found is None or found.shape != shape:
                continue
            bits = as_bits(found)
            if bits.tobytes() not in seen:
                seen.add(bits.tobytes())
                self.read[name] = bits
        self.product = product
        self.table: Sums = sums_table()

    def run(self) -> Explanation:
        """Search."""
        m, n = self.shape
        rows = np.unique(np.linspace(0, m - 1, min(m, _ROWS)).astype(np.intp))
        columns = np.unique(np.linspace(0, n - 1, min(n, _COLUMNS)).astype(np.intp))
        scored = self._score(rows, columns)
        if not scored:
            raise ValueError("a and b: found formats and scales that no unit takes")
        scored.sort(key=lambda item: (-item[0], item[1].assumptions))
        exact = [h for score, h in scored if score == 1.0]
        confirmed = self._confirm(exact or [h for _, h in scored[:_KEPT]])
        fits = [fit for fit, _ in confirmed if fit.exact]
        if fits:
            return of_fits(fits, self.tried, "outputs")
        if exact:
            confirmed += self._confirm([h for _, h in scored[len(exact) : len(exact) + _KEPT]])
        nearest, hypothesis = max(confirmed, key=lambda pair: (pair[0].matching, -pair[0].assumptions))
        return self._classified(nearest, hypothesis)

    def _score(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> list[tuple[float, _Hypothesis]]:
        found = {name: bits[np.ix_(rows, columns)] for name, bits in self.read.items()}
        scored: list[tuple[float, _Hypothesis]] = []
        for kind, (cost, change) in OPERANDS.items():
            changed = change(self.given)
            if changed is None:
                continue
            part = changed.take(rows, columns)
            for key, (more, sums) in self.table.items():
                if cost and more:
                    continue  # one departure of operands or of sums at a time
                made = _tried(sums, part)
                if made is None:
                    continue
                for output, (add, round_) in self.outputs.items():
                    bits = as_bits(round_(made))
                    for layout, other in found.items():
                        total = cost + more + add + LAYOUTS[layout][0]
                        self.tried += 1
                        share = float((bits == other).mean())
                        scored.append((share, _Hypothesis(key, kind, output, layout, total)))
        return scored

    def _confirm(self, hypotheses: list[_Hypothesis]) -> list[tuple[Fit, _Hypothesis]]:
        out = []
        made: dict[tuple[tuple[str, str], str], Floats | None] = {}
        for h in hypotheses:
            key = h.sums, h.operands
            if key not in made:
                changed = OPERANDS[h.operands][1](self.given)
                made[key] = None if changed is None else _tried(self.table[h.sums][1], changed)
            product = made[key]
            if product is None:
                continue
            bits = as_bits(self.outputs[h.output][1](product))
            same = int((bits == self.read[h.layout]).sum())
            out.append((Fit(_columns(h), h.assumptions, same, bits.size), h))
        return out

    def _classified(self, nearest: Fit, h: _Hypothesis) -> Explanation:
        changed = OPERANDS[h.operands][1](self.given)
        assert changed is not None
        sums = _tried(self.table[h.sums][1], changed)
        assert sums is not None
        own = self.outputs[h.output][1](sums)
        found = self.read[h.layout].view(own.dtype)
        classes, evidence, noise = classify(changed, found, own, sums)
        return of_classes(nearest, classes, evidence, self.tried, garbage=noise, what="outputs")


def _tried(sums: Any, given: Operands) -> Floats | None:
    """Compute a hypothesis; None where the operands do not go with it."""
    try:
        with np.errstate(all="ignore"):
            found: Floats = np.ascontiguousarray(sums(given), f32)
    except (ValueError, TypeError):
        return None
    return found


def _columns(h: _Hypothesis) -> dict[str, str]:
    columns = {"unit": h.sums[0], "sums": h.sums[1], "output": h.output}
    if h.operands != "as given":
        columns["operands"] = h.operands
    if h.layout != "as given":
        columns["output layout"] = h.layout
    return columns


def classify(
    given: Operands, found: Array, own: Array, sums: Floats
) -> tuple[dict[str, int], dict[str, Any], bool]:
    """Put every output that differs in a class.

    Returns
    -------
    classes, evidence, garbage
        Outputs in each class; figures; True where B has nothing to do with the product.
    """
    u, v = as_bits(found), as_bits(own)
    left: Mask = u != v
    total = int(left.sum())
    classes: dict[str, int] = {}
    evidence: dict[str, Any] = {}

    def take(name: str, mask: Mask) -> None:
        nonlocal left
        mask = mask & left
        if mask.any():
            classes[name] = classes.get(name, 0) + int(mask.sum())
            left = left & ~mask

    b, o = found.astype(np.float64), own.astype(np.float64)
    exact, reach = exact_product(given), magnitude(given)
    with np.errstate(all="ignore"):
        if total > _FEW:
            take("NaN or infinite", ~np.isfinite(b) | ~np.isfinite(o))
        take("signs of zero", (b == 0) & (o == 0))
        _moved_rows(take, evidence, u, v, left)
        take("zeros where there is a sum", (b == 0) & (reach > 0) & (np.abs(o) > 0))
        factor = b / o
        power = (np.frexp(np.abs(factor))[0] == 0.5) & (np.abs(factor) != 1)
        if (power & left).any():
            evidence["factors"] = np.unique(factor[power & left])[:_LISTED].tolist()
        take("off by a power of two (a scale)", power & (factor > 0))
        take("sign turned", factor == -1)
        flips = left & (np.bitwise_count(u ^ v) == 1)
        if 0 < total <= _FEW and int(flips.sum()) == int(left.sum()):
            places = np.argwhere(flips)[:_LISTED]
            if len(places):
                evidence["flipped bits: place, found, expected"] = [
                    (p.tolist(), hex(int(u[tuple(p)])), hex(int(v[tuple(p)]))) for p in places
                ]
            take("one flipped bit" if len(places) == 1 else "flipped bits", flips)
        take("NaN or infinite", ~np.isfinite(b) | ~np.isfinite(o))
        half = 0.0
        if own.dtype != f32:
            line = kind_of(own.dtype).line
            beside = np.abs(line(u) - line(v)) == 1
            middle = (b + o) / 2
            take("ties only (rounding of the output)", beside & (sums == middle))
            half = 2.0**-8 if own.dtype == np.dtype(ml_dtypes.bfloat16) else 2.0**-11
        k = codes_of(given.a).shape[1]
        error = np.maximum(np.abs(b - exact) - half * np.abs(exact), 0)
        relative = error / reach
        if left.any():
            evidence["largest error over the sum of magnitudes, in units of 2**-24"] = float(
                relative[left].max() * 2.0**24
            )
            evidence["terms of a sum"] = k
        take("order of sums (within the bound of float32)", error <= k * 2.0**-24 * reach)
        take("sums of fewer bits (within 2**-12 of the sum of magnitudes)", error <= _NARROW * reach)
        noise, signal = float(np.nansum((b - exact)[left] ** 2)), float(np.nansum(exact[left] ** 2))
    garbage = bool(total * 2 > u.size and int(left.sum()) * 2 > total and noise > signal / 4)
    if left.any():
        classes["unexplained"] = int(left.sum())
        evidence["unexplained, first places"] = np.argwhere(left)[:_LISTED].tolist()
    return classes, evidence, garbage


def _moved_rows(take: Any, evidence: dict[str, Any], u: Array, v: Array, left: Mask) -> None:
    """Find rows, and tiles of 64 columns, that stand elsewhere."""
    m, n = u.shape
    for width in dict.fromkeys((n, min(n, 128), min(n, 64))):
        whole = n // width
        if width < 2 or m * whole < 2:
            continue
        own, found, open_ = (
            np.ascontiguousarray(x[:, : whole * width]).reshape(m * whole, width) for x in (v, u, left)
        )
        where = {tile.tobytes(): i for i, tile in reversed(list(enumerate(own)))}
        pairs = [
            (int(t), where[found[t].tobytes()])
            for t in np.flatnonzero(open_.any(axis=1))
            if found[t].tobytes() in where and np.unique(found[t]).size > 1
        ]
        if not pairs:
            continue
        mask = np.zeros(left.shape, np.bool_)
        for tile, _ in pairs:
            row, column = divmod(tile, whole)
            mask[row, column * width : (column + 1) * width] = True
        there = dict(pairs)
        swapped = all(there.get(y) == x for x, y in pairs)
        what = "rows" if width == n else "tiles"
        name = f"swapped {what}" if swapped else f"{what} of another place"
        take(name, mask)
        evidence[f"{name}: found at, belongs at"] = [
            (divmod(x, whole), divmod(y, whole)) for x, y in pairs[:_LISTED]
        ]
        return
