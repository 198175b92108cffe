"""Products explained: which unit, promotion, order and rounding makes this product of those operands.

Lives here: the search over the tables of `product_rows` and `product_sums`. What nothing reproduces is
classified in `product_leftovers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._arrays import Array, as_array
from ..quantized import Quantized
from .code_rows import as_bits
from .explanation import Explanation, Fit, of_classes, of_fits
from .product_leftovers import classify
from .product_rows import CHANGES, LAYOUTS, OUTPUTS, Operands, codes_of
from .product_sums import Sums, exact_product, magnitude, sums_table
from .scale_rows import Floats, f32

_ROWS, _COLUMNS = 16, 32  # outputs of a sample
_KEPT = 8
_MOST = 32
_HELD = 8  # whole products that are held at a time
_CHANGES = 6
_TERMS = 1 << 25
_NEAR = 2.0**-7
"""Error over the sum of magnitudes that no accumulator exceeds."""


@dataclass(frozen=True)
class _Hypothesis:
    sums: tuple[str, str]
    operands: tuple[str, ...]
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

    @np.errstate(all="ignore")
    def run(self) -> Explanation:
        """Search."""
        m, n = self.shape
        rows = np.unique(np.linspace(0, m - 1, min(m, _ROWS)).astype(np.intp))
        columns = np.unique(np.linspace(0, n - 1, min(n, _COLUMNS)).astype(np.intp))
        part = self.given.take(rows, columns)
        plain = self._score((), part, list(self.read), rows, columns, plain=True)
        best = max((score for score, _ in plain), default=0.0)
        exact = [h for score, h in plain if score == 1.0]
        confirmed = self._confirm(exact[:_MOST])
        fits = [fit for fit, _ in confirmed if fit.exact]
        if fits:
            return of_fits(fits, self.tried, "outputs")
        scored = plain
        for names, changed, layouts in self._likely(rows, columns):
            part = changed.take(rows, columns)
            scored += self._score(names, part, layouts, rows, columns, plain=False)
            best = max((score for score, _ in scored), default=0.0)
            if best == 1.0:
                break
        if not scored:
            raise ValueError("a and b: found formats and scales that no unit takes")
        scored.sort(key=lambda item: (-item[0], item[1].assumptions))
        exact = [h for score, h in scored if score == 1.0 and h not in exact][:_MOST]
        more = self._confirm(exact)
        fits = [fit for fit, _ in more if fit.exact]
        if fits:
            return of_fits(fits, self.tried, "outputs")
        confirmed += more + self._confirm([h for score, h in scored if score < 1.0][:_KEPT])
        nearest, hypothesis = min(confirmed, key=lambda pair: _distance(pair[0]))
        return self._classified(nearest, hypothesis)

    def _likely(
        self, rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> list[tuple[tuple[str, ...], Operands, list[str]]]:
        """Return changes of operands under which the product is near, with the layouts of it that are.

        The nearest come first, and no change at all where it is near too.

        Nearness is the median error over the sum of magnitudes: sums of any unit stay near, wrong scales do
        not.
        """
        part = self.given.take(rows, columns)
        found = {
            name: np.asarray(bits[np.ix_(rows, columns)]).view(self.product.dtype).astype(np.float64)
            for name, bits in self.read.items()
        }
        plain: tuple[str, ...] = ()
        distances: list[tuple[float, tuple[str, ...], str]] = []

        def measure(names: tuple[str, ...], given: Operands) -> None:
            exact, reach = exact_product(given), magnitude(given)
            for layout, b in found.items():
                error = np.abs(b - exact) / reach
                error = error[np.isfinite(error)]
                distances.append((float(np.median(error)) if error.size else np.inf, names, layout))

        measure(plain, part)
        singles: dict[str, Operands] = {}
        for name, change in CHANGES.items():
            whole = change(self.given)
            if whole is not None:
                singles[name] = whole
                measure((name,), whole.take(rows, columns))
        if min(distances)[0] > _NEAR:  # two departures
            for first, changed in singles.items():
                for second, change in CHANGES.items():
                    if " a " not in f" {first} " or " b " not in f" {second} " or "both" in first + second:
                        continue
                    again = change(changed)
                    if again is not None:
                        measure((first, second), again.take(rows, columns))
        best = min(distances)[0]
        kept: dict[tuple[str, ...], list[str]] = {}
        if any(names == plain and distance <= 8 * best + 1e-7 for distance, names, _ in distances):
            kept[plain] = list(self.read)
        for distance, names, layout in sorted(distances, key=lambda d: (d[0], len(d[1]))):
            if distance > 8 * best + 1e-7 or len(kept) > _CHANGES:
                break
            layouts = kept.setdefault(names, [])
            if layout not in layouts:
                layouts.append(layout)
        kept.setdefault(plain, list(self.read))
        out = []
        for names, layouts in kept.items():
            given = self.changed(names)
            assert given is not None
            out.append((names, given, layouts))
        return out

    def changed(self, names: tuple[str, ...]) -> Operands | None:
        """Change the operands."""
        given: Operands | None = self.given
        for name in names:
            given = None if given is None else CHANGES[name](given)
        return given

    def _score(
        self,
        names: tuple[str, ...],
        part: Operands,
        layouts: list[str],
        rows: NDArray[np.intp],
        columns: NDArray[np.intp],
        *,
        plain: bool,
    ) -> list[tuple[float, _Hypothesis]]:
        """Compare every way to add on the sample; the plain ones only, or the others too."""
        found = {name: self.read[name][np.ix_(rows, columns)] for name in layouts}
        scored: list[tuple[float, _Hypothesis]] = []
        for key, (more, sums) in self.table.items():
            if (plain and more) or (not names and not plain and not more):
                continue
            made = _tried(sums, part)
            if made is None:
                continue
            for output, (add, round_) in self.outputs.items():
                bits = as_bits(round_(made))
                for layout, other in found.items():
                    total = len(names) + more + add + LAYOUTS[layout][0]
                    self.tried += 1
                    scored.append(
                        (float((bits == other).mean()), _Hypothesis(key, names, output, layout, total))
                    )
        return scored

    def _made(self, h: _Hypothesis) -> Floats | None:
        """Compute a hypothesis whole; orders of float32 sums a few rows at a time."""
        changed = self.changed(h.operands)
        if changed is None:
            return None
        sums = self.table[h.sums][1]
        (m, n), k = self.shape, codes_of(changed.a).shape[1]
        if h.sums[0] != "float32":
            return _tried(sums, changed)
        step = max(1, _TERMS // (n * k))
        everything = np.arange(n)
        parts = [
            _tried(sums, changed.take(np.arange(start, min(start + step, m)), everything))
            for start in range(0, m, step)
        ]
        return None if any(part is None for part in parts) else np.concatenate(parts)  # type: ignore[arg-type]

    def _confirm(self, hypotheses: list[_Hypothesis]) -> list[tuple[Fit, _Hypothesis]]:
        out = []
        made: dict[tuple[Any, Any], Floats | None] = {}
        for h in hypotheses:
            key = h.sums, h.operands
            if key not in made:
                if len(made) >= _HELD:
                    made.clear()
                made[key] = self._made(h)
            product = made[key]
            if product is None:
                continue
            bits = as_bits(self.outputs[h.output][1](product))
            same = int((bits == self.read[h.layout]).sum())
            out.append((Fit(_columns(h), h.assumptions, same, bits.size), h))
        return out

    def _classified(self, nearest: Fit, h: _Hypothesis) -> Explanation:
        changed = self.changed(h.operands)
        sums = self._made(h)
        assert changed is not None
        assert sums is not None
        own = self.outputs[h.output][1](sums)
        found = self.read[h.layout].view(own.dtype)
        classes, evidence, noise = classify(changed, found, own, sums)
        return of_classes(nearest, classes, evidence, self.tried, garbage=noise, what="outputs")


def _distance(fit: Fit) -> float:
    """Weigh what a hypothesis leaves by what it assumes."""
    return (fit.elements - fit.matching) * (1 + 0.5 * fit.assumptions)


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
    if h.operands:
        columns["operands"] = ", ".join(h.operands)
    if h.layout != "as given":
        columns["output layout"] = h.layout
    return columns
