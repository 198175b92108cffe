"""Quantization explained: which rule, rounding, order and layout makes these codes and scales of that input.

Lives here: the search over the tables of `scale_rows` and `code_rows`, on a sample first, then on everything.
What no hypothesis reproduces is classified in `leftovers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._arrays import Array, as_array, source
from ..number_formats import FormatInfo, code_array, format_info, unpack
from ..quant import quantize_blocks, quantize_tiles
from ..quantized import SCALE_DTYPES, Quantized
from ..scale_rule import rules
from .code_rows import INPUTS, OVERFLOW, QUOTIENTS, ROUNDINGS, as_bits, code_readings
from .explanation import Explanation, Fit, of_classes, of_fits
from .leftovers import classify
from .scale_rows import Floats, ScaleRow, f32, readings, scale_rows

_SAMPLE = 1 << 14  # elements
_KEPT = 6  # hypotheses that are confirmed on everything although they do not fit the sample whole
_MOST = 24  # those that fit it, and are confirmed
_UNKNOWN = "scales of unknown making"
_BLOCKS: tuple[tuple[int | None, int | None], ...] = (
    (1, 128), (128, 128), (1, 64), (1, 32), (1, 16), (64, 64), (32, 32), (16, 16), (1, None), (None, None),
)  # fmt: skip


@dataclass(frozen=True)
class _Hypothesis:
    """Choices by name; `realize` makes codes and scales of them."""

    input: str
    block: tuple[int, int]
    layout: str
    codes_layout: str
    scale: str
    use: str
    quotient: str
    rounding: str
    assumptions: int
    rule: tuple[str, str] | None = None
    "kind and rule, where a quantizer of the package is the hypothesis"


@dataclass
class _Case:
    """Input and groups of one search, with everything that is computed once."""

    x: Floats
    info: FormatInfo
    block: tuple[int, int]
    top: float
    rules: dict[tuple[str, str], tuple[Array, Floats] | None] = field(default_factory=dict)
    names: dict[tuple[str, str], list[tuple[str, int]]] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of groups."""
        (m, k), (high, wide) = self.x.shape, self.block
        return -(-m // high), -(-k // wide)

    def amax(self) -> Floats:
        """Return the largest magnitude of each group."""
        found = np.abs(self.x)
        for axis, length in enumerate(self.block):
            found = np.maximum.reduceat(found, np.arange(0, self.x.shape[axis], length), axis=axis)
        return found

    def spread(self, scales: Floats) -> Floats:
        """Repeat scales over their groups."""
        for axis, length in enumerate(self.block):
            scales = np.repeat(scales, length, axis=axis).take(np.arange(self.x.shape[axis]), axis=axis)
        return scales

    def by_rule(self, kind: str, rule: str) -> tuple[Array, Floats] | None:
        """Quantize by a rule of the package; None where it does not go with the format."""
        key = kind, rule
        if key not in self.rules:
            options: dict[str, Any] = {"scale": kind, "rule": rule, "fmt": self.info.name}
            options["nonfinite"] = "propagate" if self.info.has_nan else "raise"
            if kind == "nvfp4":
                options["tensor_amax"] = self.top
            try:
                with np.errstate(all="ignore"):
                    if self.block[0] == 1:
                        q = quantize_tiles(self.x, tile=self.block[1], **options)
                    else:
                        q = quantize_blocks(self.x, block=self.block, **options)
            except (ValueError, TypeError):
                self.rules[key] = None
                return None
            self.rules[key] = as_bits(q.codes), q.weight_scale_inv()
        return self.rules[key]

    def codes(self, row: ScaleRow, use: str, quotient: str, rounding: str) -> Array:
        """Make the codes of a composed hypothesis."""
        divisor = next(s for name, _, s in row.uses if name == use)
        return ROUNDINGS[rounding][1](self.quotients(divisor, quotient, row.amax), self.info)

    def quotients(self, divisor: Floats, quotient: str, amax: Floats) -> Floats:
        """Divide, in a rule's way; `amax` is not below the rule's floor."""
        limit = f32(self.info.max)
        with np.errstate(all="ignore"):
            return QUOTIENTS[quotient](self.x, self.spread(divisor), self.spread(amax), limit).astype(f32)


def _rules() -> Iterator[tuple[str, str]]:
    """Every kind of scale with every rule of the package."""
    for kind in SCALE_DTYPES:
        yield from ((kind, rule) for rule in rules())


def explain_quantization(
    x: ArrayLike,
    codes: ArrayLike | Quantized,
    scales: ArrayLike | None = None,
    *,
    fmt: str | None = None,
    block: tuple[int, int] | None = None,
    global_scale: float | None = None,
) -> Explanation:
    """Find what made codes and scales of an input.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        The input, shape (..., k); leading axes are rows.
    codes : array_like of a format's dtype or of its unsigned integers, or Quantized
        Result to be explained. Two codes of 4 bits may share a byte, the low one first.
    scales : array_like
        Its scales in any layout: float32, bfloat16, float16, float8_e8m0fnu (or uint8), float8_e4m3fn, or
        int32 words of four exponents. Not given with a Quantized.
    fmt : str, optional
        Format of codes that are plain unsigned integers.
    block : tuple of two int, optional
        Rows and columns that share a scale. By default every usual group that fits the number of scales.
    global_scale : float, optional
        Scale of all scales, for NVFP4 (and then scales of uint8 are float8_e4m3fn).

    Returns
    -------
    Explanation
        `fits` names every hypothesis that reproduces codes and scales bit for bit.

    Raises
    ------
    TypeError, ValueError
        Arrays of another kind; codes of another size than the input; scales that fit no group.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import quantize_tiles
    >>> x = np.linspace(-3, 3, 1024, dtype=np.float32).reshape(4, 256) ** 3
    >>> q = quantize_tiles(x, rule="deepep")
    >>> found = explain_quantization(x, q.codes, q.scales)
    >>> found.cause, "deepep" in found.column("rule"), "deepgemm" in found.column("rule")
    ('equal', True, False)
    """
    if isinstance(codes, Quantized):
        if scales is not None:
            raise ValueError("scales: found an array beside a Quantized, expected None")
        fmt, block = codes.format, block or _block_of(codes)
        global_scale = None if codes.global_scale is None else float(codes.global_scale)
        scales, codes = codes.scales, codes.codes
    if scales is None:
        raise ValueError("scales: found None, expected the scales of the codes")
    array, _ = source(x, "x")
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(array, np.float32)
    if numbers.ndim < 2:
        raise ValueError(f"x: found shape {numbers.shape}, expected at least two axes")
    numbers = numbers.reshape(-1, numbers.shape[-1])
    if not numbers.size:
        raise ValueError(f"x: found shape {array.shape}, expected elements")
    held, info = _codes_of(codes, fmt, numbers.shape)
    stored = as_array(scales, "scales")
    if global_scale is not None and stored.dtype == np.uint8:
        stored = stored.view(format_info("float8_e4m3fn").dtype)
    stored = stored.reshape(-1, stored.shape[-1]) if stored.ndim else stored.reshape(1, 1)
    return _Search(numbers, held, stored, info, block, global_scale).run()


def _block_of(q: Quantized) -> tuple[int, int]:
    if q.axis is None:
        return q.block[0], q.block[1]
    if q.axis != q.ndim - 1:
        raise ValueError(f"codes: found tiles along axis {q.axis} of {q.shape}, expected the last")
    return 1, q.block[0]


def _codes_of(codes: Any, fmt: str | None, shape: tuple[int, ...]) -> tuple[Array, FormatInfo]:
    """Return codes as unsigned integers, two axes, and their format."""
    array = as_array(codes, "codes")
    if fmt is not None and format_info(fmt).bits == 4 and array.size * 2 == shape[0] * shape[1]:
        array = unpack(array.view(np.uint8), fmt=fmt, size=array.shape[-1] * 2)
    array, info = code_array(array, fmt, "codes")
    if array.size != shape[0] * shape[1]:
        raise ValueError(
            f"codes: found shape {array.shape}, expected {shape[0] * shape[1]} codes for x of {shape}"
        )
    bits = as_bits(array)
    return (bits.reshape(shape) if bits.shape != shape[::-1] else bits), info


class _Search:
    """One search: readings of what was found, hypotheses on a sample, and their confirmation."""

    def __init__(
        self,
        x: Floats,
        codes: Array,
        stored: Array,
        info: FormatInfo,
        block: tuple[int, int] | None,
        global_scale: float | None,
    ) -> None:
        self.x, self.codes, self.stored, self.info = x, codes, stored, info
        self.outer = f32(1 if global_scale is None else global_scale)
        finite = np.abs(x[np.isfinite(x)])
        self.top = float(finite.max()) if finite.size else 0.0
        self.tried = 0
        m, k = x.shape
        wanted = _BLOCKS if block is None else (block,)
        clipped = ((min(high or m, m), min(wide or k, k)) for high, wide in wanted)
        self.blocks = [b for b in dict.fromkeys(clipped) if self._read(b)]
        if not self.blocks:
            raise ValueError(
                f"scales: found shape {stored.shape} of {stored.dtype}, expected one for each group of x "
                f"{x.shape}, in groups of {', '.join(f'{a or m}x{b or k}' for a, b in wanted)}"
            )

    def _read(self, block: tuple[int, int]) -> dict[str, tuple[int, Floats]]:
        (m, k), (high, wide) = self.x.shape, block
        found = readings(self.stored, -(-m // high), -(-k // wide))
        return {name: (cost, values * self.outer) for name, cost, values in found}

    def run(self) -> Explanation:
        """Search."""
        scored: list[tuple[float, int, _Hypothesis]] = []
        for block in self.blocks:
            rows, groups = self._sampled(block)
            seen: list[Floats] = []
            for name, (cost, prepare) in INPUTS.items():
                x = prepare(self.x[rows])
                if any(np.array_equal(x, other) for other in seen):
                    continue
                seen.append(x)
                case = _Case(x, self.info, block, self.top)
                scored += self._score(case, name, cost, rows, groups)
        scored.sort(key=lambda item: (-item[0], item[1]))
        exact = [h for score, _, h in scored if score == 2.0][:_MOST]
        chosen = exact or [h for _, _, h in scored[:_KEPT]]
        confirmed = self._confirm(chosen)
        fits = [fit for fit, _ in confirmed if fit.exact]
        if fits:
            return of_fits(_unique(fits), self.tried, "codes")
        if exact:  # the sample is reproduced, the rest is not: others may leave less
            confirmed += self._confirm([h for _, _, h in scored[len(exact) : len(exact) + _KEPT]])
        nearest, hypothesis = max(confirmed, key=lambda pair: (_share(pair[0]), -pair[0].assumptions))
        return self._classified(nearest, hypothesis)

    def _sampled(self, block: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Choose rows in whole groups, spread evenly, and the groups that they are."""
        (m, k), high = self.x.shape, block[0]
        count = -(-m // high)
        wanted = min(count, max(2, _SAMPLE // (high * k)))
        amax = np.abs(self.x).max(axis=1)
        special = np.array([amax.argmin(), amax.argmax()]) // high  # where floors and largest numbers show
        groups = np.unique(np.concatenate([np.linspace(0, count - 1, wanted).astype(np.intp), special]))
        rows = (groups[:, None] * high + np.arange(high)).reshape(-1)
        return rows[rows < m], groups

    def _score(
        self, case: _Case, name: str, cost: int, rows: NDArray[np.intp], groups: NDArray[np.intp]
    ) -> Iterator[tuple[float, int, _Hypothesis]]:
        """Compare every hypothesis on the sample: share of codes plus share of scales."""
        block = case.block
        codes = {
            how: (add, c[rows])
            for how, add, c in code_readings(self.codes, self.x.shape, block[1])
        }  # fmt: skip
        table = list(scale_rows(case.amax(), self.info.max))
        named = [(key, made) for key in _rules() if (made := case.by_rule(*key)) is not None]
        matches: list[tuple[float, str, int, ScaleRow]] = []
        for layout, (add, values) in self._read(block).items():
            part = values[groups]
            for rule, (own, scales) in named:
                share = _equal(scales, part)
                self.tried += 1
                for how, (more, found) in codes.items():
                    yield (
                        float((own == found).mean()) + share,
                        cost + add + more,
                        _Hypothesis(name, block, layout, how, rule[0], "stored scale", "the rule's own",
                                    "nearest, ties to even", cost + add + more, rule),
                    )  # fmt: skip
            matches += [(_equal(row.stored, part), layout, add, row) for row in table]
            read = _unknown(part, case)
            matches.append((0.0, layout, add, read))
        best = max(share for share, *_ in matches)
        alike: set[tuple[str, bytes]] = set()
        shares: dict[tuple[bytes, bytes], dict[str, float]] = {}
        matches.sort(key=lambda match: (-match[0], match[3].assumptions))
        for share, layout, add, row in matches:
            known = row.name != _UNKNOWN
            if known and (share < best or (best < 1 and len(alike) >= _KEPT)):
                continue
            both = (
                layout,
                row.stored.tobytes() + row.amax.tobytes() + b"".join(u[2].tobytes() for u in row.uses),
            )
            if both in alike:
                continue
            if known:
                alike.add(both)
            for use, more, divisor in row.uses:
                key = divisor.tobytes(), row.amax.tobytes()
                if key not in shares:
                    shares[key] = self._rounded(case, divisor, row.amax, codes)
                for choice, agree in shares[key].items():
                    quotient, rounding, how = choice.split("\0")
                    total = cost + add + row.assumptions + more + ROUNDINGS[rounding][0] + codes[how][0]
                    hypothesis = _Hypothesis(
                        name, block, layout, how, row.name, use, quotient, rounding, total
                    )
                    yield agree + share, total, hypothesis

    def _rounded(
        self, case: _Case, divisor: Floats, amax: Floats, codes: dict[str, tuple[int, Array]]
    ) -> dict[str, float]:
        """Compare every quotient, rounding and layout of codes for one divisor."""
        out: dict[str, float] = {}
        seen: set[bytes] = set()
        limit = f32(self.info.max)
        for quotient in QUOTIENTS:
            if quotient.endswith("amax)") and not np.allclose(divisor * limit, amax, rtol=1e-5, atol=0):
                continue  # such codes are not by this divisor
            q = case.quotients(divisor, quotient, amax)
            if q.tobytes() in seen:
                continue
            seen.add(q.tobytes())
            for rounding, (_, make) in ROUNDINGS.items():
                if rounding == OVERFLOW and not (self.info.has_nan or self.info.has_inf):
                    continue
                found = make(q, self.info)
                self.tried += 1
                for how, (_, other) in codes.items():
                    out["\0".join((quotient, rounding, how))] = float((found == other).mean())
        return out

    def _confirm(self, hypotheses: list[_Hypothesis]) -> list[tuple[Fit, _Hypothesis]]:
        """Make whole arrays of hypotheses, and count."""
        out = []
        cases: dict[tuple[str, tuple[int, int]], tuple[_Case, dict[str, ScaleRow]]] = {}
        codes = {
            block: {how: c for how, _, c in code_readings(self.codes, self.x.shape, block[1])}
            for block in self.blocks
        }
        read = {block: self._read(block) for block in self.blocks}
        for h in hypotheses:
            key = h.input, h.block
            if key not in cases:
                case = _Case(INPUTS[h.input][1](self.x), self.info, h.block, self.top)
                cases[key] = case, {row.name: row for row in scale_rows(case.amax(), self.info.max)}
            case, rows = cases[key]
            if h.layout not in read[h.block] or h.codes_layout not in codes[h.block]:
                continue
            values, found = read[h.block][h.layout][1], codes[h.block][h.codes_layout]
            made = self._make(h, case, rows, values)
            if made is None:
                continue
            own, scales = made
            good = 0 if h.scale == _UNKNOWN else int(_same(scales, values).sum())
            for rule, cost in self._names(h, case, rows, values):
                columns = _columns(h, rule)
                same = int((own == found).sum())
                out.append((Fit(columns, h.assumptions + cost, same, found.size, good, values.size), h))
        return out

    def _make(
        self, h: _Hypothesis, case: _Case, rows: dict[str, ScaleRow], values: Floats
    ) -> tuple[Array, Floats] | None:
        if h.rule is not None:
            return case.by_rule(*h.rule)
        row = _unknown(values, case) if h.scale == _UNKNOWN else rows[h.scale]
        return case.codes(row, h.use, h.quotient, h.rounding), row.stored

    def _names(
        self, h: _Hypothesis, case: _Case, rows: dict[str, ScaleRow], values: Floats
    ) -> list[tuple[str, int]]:
        """Name the rules whose scales and quotients a hypothesis has, and what that saves in assumptions."""
        if h.rule is not None:
            return [(h.rule[1], 0)]
        if h.scale == _UNKNOWN:
            return [(h.scale, 0)]
        row = rows[h.scale]
        key = h.scale, h.quotient
        if key in case.names:
            return case.names[key]
        plain = case.codes(row, row.uses[0][0], h.quotient, "nearest, ties to even")
        names = [
            rule
            for kind, rule in _rules()
            if (made := case.by_rule(kind, rule)) is not None
            and _same(made[1], row.stored).all()
            and (made[0] == plain).all()
        ]
        case.names[key] = [(name, -row.assumptions) for name in names] or [(f"none of ours: {row.name}", 0)]
        return case.names[key]

    def _classified(self, nearest: Fit, h: _Hypothesis) -> Explanation:
        """Classify what the nearest hypothesis leaves."""
        case = _Case(INPUTS[h.input][1](self.x), self.info, h.block, self.top)
        rows = {row.name: row for row in scale_rows(case.amax(), self.info.max)}
        values = self._read(h.block)[h.layout][1]
        found = {how: c for how, _, c in code_readings(self.codes, self.x.shape, h.block[1])}[h.codes_layout]
        made = self._make(h, case, rows, values)
        assert made is not None
        own, scales = made
        known = h.scale != _UNKNOWN
        quotient = h.quotient if h.quotient in QUOTIENTS else _quotient_of(case, own, scales)
        used, amax = scales, _floored(case, scales)
        if h.rule is None and known:
            used = next(s for name, _, s in rows[h.scale].uses if name == h.use)
            amax = rows[h.scale].amax
        classes, evidence = classify(
            case, found, own, values, scales, used, amax, quotient, self.info, scales_known=known
        )
        garbage = (
            nearest.matching < nearest.elements // 4
            and classes.get("unexplained", 0) > sum(classes.values()) // 2
        )
        return of_classes(nearest, classes, evidence, self.tried, garbage=garbage, what="codes")


def _quotient_of(case: _Case, own: Array, scales: Floats) -> str:
    """Find the quotient that a rule of the package has."""
    for name in QUOTIENTS:
        q = case.quotients(scales, name, _floored(case, scales))
        if (ROUNDINGS["nearest, ties to even"][1](q, case.info) == own).all():
            return name
    return next(iter(QUOTIENTS))


def _floored(case: _Case, scales: Floats) -> Floats:
    """Return magnitudes that are not below a floor: a scale shows one where amax does not account for it."""
    with np.errstate(all="ignore"):
        return np.where(
            scales > 2 * case.amax() / f32(case.info.max), scales * f32(case.info.max), case.amax()
        )


def _unknown(scales: Floats, case: _Case) -> ScaleRow:
    """Take scales as they are, however they came about."""
    return ScaleRow(_UNKNOWN, 3, scales, case.amax(), [("stored scale", 0, scales)])


def _same(a: Floats, b: Floats) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (a == b) | (np.isnan(a) & np.isnan(b))
    return found


def _equal(a: Floats, b: Floats) -> float:
    return float(_same(a, b).mean())


def _share(fit: Fit) -> float:
    return fit.matching / max(fit.elements, 1) + fit.scales_matching / max(fit.scales, 1)


def _columns(h: _Hypothesis, rule: str) -> dict[str, str]:
    """Name the choices, plain ones only where a reader needs them."""
    columns = {"rule": rule, "groups": f"{h.block[0]}x{h.block[1]}"}
    if h.rule is not None:
        columns["scale"] = h.rule[0]
    else:
        columns["quotient"] = h.quotient
        columns["rounding"] = h.rounding
        if h.use != "stored scale":
            columns["codes by"] = h.use
    if h.layout != "row-major":
        columns["scale layout"] = h.layout
    if h.codes_layout != "as given":
        columns["code layout"] = h.codes_layout
    if h.input != "as given":
        columns["input"] = h.input
    return columns


def _unique(fits: list[Fit]) -> list[Fit]:
    """Leave out composed hypotheses that say the same as a rule with nothing changed."""
    rules = {(fit.columns["rule"], fit.assumptions) for fit in fits if "scale" in fit.columns}
    kept: dict[str, Fit] = {}
    for fit in fits:
        plain = fit.columns.get("rounding") == "nearest, ties to even" and "codes by" not in fit.columns
        if plain and (fit.columns["rule"], fit.assumptions) in rules:
            continue
        kept.setdefault(fit.name, fit)
    return list(kept.values())
