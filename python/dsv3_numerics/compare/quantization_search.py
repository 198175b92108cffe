"""Search for what quantized an input: hypotheses on a sample first, then on everything.

Lives here: the order in which the tables of `scale_rows`, `scale_layouts`, `code_rows` and `code_layouts` are
gone through, from plain to odd. What no hypothesis reproduces is classified in `leftovers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from ..number_formats import FormatInfo, format_info
from ..scale_rule import rules
from .case import Case, all_rules, own_global
from .code_layouts import CodeReading, code_readings, likeness, other_formats
from .code_rows import (
    INPUTS,
    ODD_QUOTIENTS,
    PLAIN_INPUT,
    PLAIN_ROUNDING,
    QUOTIENTS,
    ROUNDINGS,
    fits_format,
    numbers_of,
    rounded,
)
from .explanation import Explanation, Fit, of_classes, of_fits
from .hypotheses import NO_SCALE, Given, Hypothesis, View, columns_of, unique
from .leftovers import classify
from .scale_layouts import PLAIN_LAYOUT, ScaleReading, readings
from .scale_rows import (
    AMAXES,
    AS_STORED,
    MAXES,
    PLAIN_AMAX,
    WHOLE_AMAXES,
    Floats,
    ScaleRow,
    f32,
)

_SAMPLE = 1 << 14  # elements
_KEPT = 6  # hypotheses that are confirmed on everything although they do not fit the sample whole
_MOST = 24  # those that fit it, and are confirmed
_CLEAR = 2  # differences that no odder hypothesis is asked to explain
_ODD = 2  # place of what no rule does, whose fits another format may explain more plainly
_PLAIN_ENOUGH = 2  # assumptions
_CHANCE = 0.9  # share of unlike scales that tells as much as all
_LEAST = 0.2  # share of codes below which no other rounding is tried
_UNKNOWN = "scales of unknown making"
_OWN = "the rule's own"
_BLOCKS: tuple[tuple[int | None, int | None], ...] = (
    (1, 128), (128, 128), (1, 64), (1, 32), (1, 16), (64, 64), (32, 32), (16, 16), (1, None), (None, None),
    (128, 1), (64, 1), (32, 1), (16, 1), (None, 1), (1, 256), (1, 512), (256, 256),
)  # fmt: skip


@dataclass
class _Sample:
    """Rows of the input in whole groups of one block."""

    rows: NDArray[np.intp]
    groups: NDArray[np.intp]
    codes: dict[str, CodeReading] = field(default_factory=dict)
    likeness: dict[tuple[str, str], float] = field(default_factory=dict)


class Search:
    """One search."""

    def __init__(self, given: Given, block: tuple[int, int] | None) -> None:
        self.given, self.info = given, given.info
        x = given.x
        finite = np.abs(x[np.isfinite(x)])
        self.top = float(finite.max()) if finite.size else 0.0
        self.tried = 0
        m, k = x.shape
        wanted = _BLOCKS if block is None else (block,)
        clipped = dict.fromkeys((min(high or m, m), min(wide or k, k)) for high, wide in wanted)
        self.read: dict[tuple[tuple[int, int], bool], list[ScaleReading]] = {}
        self.blocks = [b for b in clipped if self._readings(b)]
        if given.stored is None and block is None:
            first = 1, min(128, k)
            self.blocks = [first, *[b for b in self.blocks if b != first][:3]]
        if not self.blocks:
            stored = given.stored
            assert stored is not None
            raise ValueError(
                f"scales: found shape {stored.shape} of {stored.dtype}, expected one for each group of x "
                f"{x.shape}, in groups of {', '.join(f'{a or m}x{b or k}' for a, b in wanted)}"
            )
        self.samples: dict[tuple[int, int], _Sample] = {}
        self.whole: dict[View, Case] = {}
        self.near: list[tuple[Fit, Hypothesis]] = []
        self.best: dict[tuple[tuple[int, int], str], float] = {}

    # --- Readings -------------------------------------------------------------------------------------------

    def _readings(self, block: tuple[int, int], *, deep: bool = False) -> list[ScaleReading]:
        key = block, deep
        if key not in self.read:
            (m, k), (high, wide) = self.given.x.shape, block
            rows, groups = -(-m // high), -(-k // wide)
            if self.given.stored is None:
                self.read[key] = [ScaleReading(PLAIN_LAYOUT, 0, np.zeros((rows, 0), f32))]
            else:
                self.read[key] = list(
                    readings(
                        self.given.stored, rows, groups, self.given.outer, own_global(self.top, self.info),
                        nvfp4=self.given.outer is not None or (self.info.bits == 4 and wide == 16), deep=deep,
                    )
                )  # fmt: skip
        return self.read[key]

    def _sample(self, block: tuple[int, int]) -> _Sample:
        """Choose rows in whole groups, spread evenly, and read their codes."""
        if block in self.samples:
            return self.samples[block]
        (m, k), high = self.given.x.shape, block[0]
        count = -(-m // high)
        wanted = min(count, max(2, _SAMPLE // (high * k)))
        amax = np.abs(self.given.x).max(axis=1)
        special = np.array([amax.argmin(), amax.argmax()]) // high  # where floors and largest numbers show
        groups = np.unique(np.concatenate([np.linspace(0, count - 1, wanted).astype(np.intp), special]))
        rows = (groups[:, None] * high + np.arange(high)).reshape(-1)
        found = _Sample(rows[rows < m], groups)
        for reading in code_readings(self.given.codes, self.given.x, block[1], self.info):
            found.codes[reading.name] = reading._replace(
                codes=np.ascontiguousarray(reading.codes[found.rows]),
                zero=None if reading.zero is None else reading.zero[found.rows],
            )
        self.samples[block] = found
        return found

    def _alike(self, sample: _Sample, block: tuple[int, int], info: FormatInfo) -> dict[str, CodeReading]:
        """Return the readings of codes that follow the input best, read as codes of a format."""
        x = self.given.x[sample.rows]
        for name, reading in sample.codes.items():
            key = info.name, name
            if key not in sample.likeness:
                with np.errstate(all="ignore"):
                    numbers = numbers_of(reading.codes, info)
                    if reading.zero is not None:
                        numbers = numbers - reading.zero
                sample.likeness[key] = likeness(x, numbers, block[1] if block[1] > 1 else x.shape[1])
        best = min(sample.likeness.values())
        return {
            name: reading
            for name, reading in sample.codes.items()
            if (name == "as given" and info is self.info)
            or sample.likeness[info.name, name] <= 2 * best + 0.05
        }

    def _case(self, view: View, rows: NDArray[np.intp] | None = None, groups: Any = None) -> Case:
        """Make the case of a view, of sampled rows or of everything."""
        if rows is None and view in self.whole:
            return self.whole[view]
        info = format_info(view.fmt) if view.fmt else self.info
        change = INPUTS[view.input][1]
        x = self.given.x
        outer = self.given.outer
        if rows is not None and isinstance(outer, np.ndarray):
            outer = outer[rows]
        case = Case(
            change(x if rows is None else x[rows]),
            info,
            view.block,
            self.top,
            view.amax,
            view.most,
            view.odd,
            outer=outer,
        )
        if rows is None:
            if len(self.whole) > _KEPT:
                self.whole.clear()
            self.whole[view] = case
        elif view.amax in WHOLE_AMAXES:
            plain = self._case(View(view.block, view.input, view.fmt, view.amax))
            case.whole_amax = plain.amax[groups]
        return case

    # --- Order ----------------------------------------------------------------------------------------------

    def _views(self) -> Iterator[list[View]]:
        """Yield departures, the plainest first; `blocks` get fewer in between."""
        yield [View(block) for block in self.blocks]
        yield [View(block, name) for block in self.blocks for name in INPUTS if name != PLAIN_INPUT]
        yield [view for block in self.blocks for view in self._odd(block, PLAIN_INPUT)]
        own = self.info.max
        yield [
            View(block, fmt=other.name, most=most)
            for block in self.blocks
            for other in other_formats(self.info)
            for most in dict.fromkeys((None, None if own == other.max else own))
        ]
        yield [
            view
            for block in self.blocks
            for name in ("rounded to bfloat16 before", "rounded to float16 before")
            if self.best.get((block, name), 0.0) >= self.best.get((block, PLAIN_INPUT), 0.0)
            for view in self._odd(block, name)
        ]

    def _odd(self, block: tuple[int, int], name: str) -> Iterator[View]:
        """Yield what no rule of ours does with magnitudes, largest numbers and floors."""
        yield View(block, name)  # with two departures of layout
        yield from (View(block, name, amax=how) for how in AMAXES if how != PLAIN_AMAX)
        yield from (View(block, name, most=most) for most in MAXES if most != self.info.max)
        yield View(block, name, odd=True)

    @np.errstate(all="ignore")
    def run(self) -> Explanation:
        """Search."""
        fits: list[Fit] = []
        for number, views in enumerate(self._views()):
            scored: list[tuple[float, int, Hypothesis]] = []
            for view in views:
                found = list(self._score(view, deep=number in (_ODD, 4)))
                if number < 2:
                    self.best[view.block, view.input] = max((score for score, _, _ in found), default=0.0)
                scored += found
            scored.sort(key=lambda item: (-item[0], item[1]))
            if number == 0:
                self._keep_blocks(scored)
            exact = [h for score, _, h in scored if score == 2.0][:_MOST]
            confirmed = self._confirm(exact)
            fits += [fit for fit, _ in confirmed if fit.exact]
            if fits and (number != _ODD or min(fit.assumptions for fit in fits) <= _PLAIN_ENOUGH):
                return of_fits(unique(fits), self.tried, "codes")
            rest = [h for score, _, h in scored if score < 2.0][:_KEPT]
            self.near += confirmed + self._confirm(rest)
            if self.near:
                nearest, hypothesis = min(self.near, key=lambda pair: _distance(pair[0]))
                explained = self._classified(nearest, hypothesis)
                sure = explained.conclusive and nearest.matching * 2 >= nearest.elements
                if not fits and (_differences(nearest) <= _CLEAR or sure):
                    return explained
        return of_fits(unique(fits), self.tried, "codes") if fits else explained

    def _keep_blocks(self, scored: list[tuple[float, int, Hypothesis]]) -> None:
        """Drop groups under which far less is reproduced than under others."""
        best: dict[tuple[int, int], float] = {}
        for score, _, h in scored:
            best[h.view.block] = max(best.get(h.view.block, 0.0), score)
        if best:
            most = max(best.values())
            self.blocks = [block for block in self.blocks if best.get(block, 0.0) >= most - 0.5]

    def _score(self, view: View, *, deep: bool) -> Iterator[tuple[float, int, Hypothesis]]:
        """Compare every hypothesis of a view on the sample: share of codes plus share of scales."""
        sample = self._sample(view.block)
        info = format_info(view.fmt) if view.fmt else self.info
        codes = self._alike(sample, view.block, info)
        if not codes:
            return
        case = self._case(view, sample.rows, sample.groups)
        if view.input != PLAIN_INPUT and np.array_equal(case.x, self.given.x[sample.rows], equal_nan=True):
            return
        read = [
            (reading, reading.values[sample.groups])
            for reading in self._readings(view.block, deep=deep and view.plain)
        ]
        cost = view.assumptions
        for rule, (own, scales) in case.named_rules():
            self.tried += 1
            agree = {
                how: float((own == found.codes).mean()) for how, found in codes.items() if found.zero is None
            }
            for reading, part in read:
                share = _equal(scales, part)
                share = share if share > 1 - _CHANCE else 0.0
                for how, same in agree.items():
                    total = cost + reading.assumptions + codes[how].assumptions
                    yield (
                        same + share, total,
                        Hypothesis(
                            view, reading, how, rule[0], AS_STORED, _OWN, PLAIN_ROUNDING, total, rule
                        ),
                    )  # fmt: skip
        for reading, alike, row in self._matching_rows(case, read, view):
            share = alike if alike > 1 - _CHANCE else 0.0
            for use, more, divisor in row.uses:
                for choice, same in self._rounded(case, use, divisor, row.amax, codes).items():
                    quotient, rounding, how = choice
                    total = cost + reading.assumptions + row.assumptions + more + ROUNDINGS[rounding][0]
                    total += codes[how].assumptions + ODD_QUOTIENTS.get(quotient, 0)
                    yield (
                        same + share, total,
                        Hypothesis(view, reading, how, row.name, use, quotient, rounding, total),
                    )  # fmt: skip

    def _matching_rows(
        self, case: Case, read: list[tuple[ScaleReading, Floats]], view: View
    ) -> list[tuple[ScaleReading, float, ScaleRow]]:
        """Return the rows whose scales were found, or the nearest; and scales as they are."""
        matches: list[tuple[float, int, ScaleReading, ScaleRow]] = []
        if self.given.stored is None:
            one = np.ones(case.grid, f32)
            out = [(read[0][0], 1.0, ScaleRow(NO_SCALE, 0, one, case.amax, [(AS_STORED, 0, one)]))]
            if view.input == PLAIN_INPUT and not view.fmt:
                seen: set[bytes] = set()
                for row in case.rows():
                    if row.uses[0][0] == AS_STORED and (key := row.stored.tobytes()) not in seen:
                        seen.add(key)
                        out.append((read[0][0], 1.0, row._replace(uses=row.uses[:1])))
            return out
        parts = np.stack([part for _, part in read])
        absent = np.isnan(parts)
        for row in case.rows():
            same = row.stored == parts
            if absent.any():
                same |= np.isnan(row.stored) & absent
            for (reading, _), share in zip(read, same.mean(axis=(1, 2)).tolist(), strict=True):
                if share:
                    matches.append((share, reading.assumptions + row.assumptions, reading, row))
        matches.sort(key=lambda match: (-match[0], match[1]))
        best = matches[0][0] if matches else 0.0
        odd = not view.plain
        out = []
        alike: set[tuple[Any, ...]] = set()
        for share, _, reading, row in matches:
            if share < best and (best == 1 or len(alike) >= _KEPT):
                break
            if odd and share < 0.5:
                break
            same_codes = (
                reading.key,
                row.stored.tobytes(),
                row.amax.tobytes(),
                *(u[2].tobytes() for u in row.uses),
            )
            if same_codes not in alike:
                alike.add(same_codes)
                out.append((reading, share, row))
        if not odd:
            out += [(reading, 0.0, _unknown(part, case)) for reading, part in read]
        return out

    def _rounded(
        self, case: Case, use: str, divisor: Floats, amax: Floats, codes: dict[str, CodeReading]
    ) -> dict[tuple[str, str, str], float]:
        """Compare every quotient, rounding and order of codes for one divisor."""
        out: dict[tuple[str, str, str], float] = {}
        seen: set[bytes] = set()
        for quotient in QUOTIENTS:
            if quotient in ODD_QUOTIENTS and use != AS_STORED:
                continue
            if quotient.endswith("amax)") and not np.allclose(divisor * case.limit, amax, rtol=1e-5, atol=0):
                continue  # such codes are not by this divisor
            q = case.quotients(divisor, quotient, amax)
            if (key := q.tobytes()) in seen:
                continue
            seen.add(key)
            for rounding, (_, make) in ROUNDINGS.items():
                if not fits_format(rounding, case.info):
                    continue
                found = make(q, case.info)
                self.tried += 1
                shares = {
                    how: float((_with_zero(found, q, other, case.info) == other.codes).mean())
                    for how, other in codes.items()
                    if other.zero is None or rounding == PLAIN_ROUNDING
                }
                if not shares:
                    continue
                out |= {(quotient, rounding, how): share for how, share in shares.items()}
                if rounding == PLAIN_ROUNDING and max(shares.values()) < _LEAST:
                    break
        return out

    # --- Everything -----------------------------------------------------------------------------------------

    def _confirm(self, hypotheses: list[Hypothesis]) -> list[tuple[Fit, Hypothesis]]:
        """Make whole arrays of hypotheses, and count."""
        out = []
        codes: dict[tuple[int, str], CodeReading] = {}
        for h in hypotheses:
            case = self._case(h.view)
            key = h.view.block[1], h.codes_layout
            if key not in codes:
                codes[key] = self._whole_codes(h)
            found, values = codes[key].codes, h.reading.values
            made = self._make(h, case, codes[key])
            if made is None:
                continue
            own, scales = made
            known = h.scale != _UNKNOWN and self.given.stored is not None
            good = int(_same(scales, values).sum()) if known else 0
            same = int((own == found).sum())
            for rule, saved in self._names(h, case):
                columns = columns_of(h, rule, self.info)
                fit = Fit(columns, h.assumptions - saved, same, found.size, good, values.size)
                out.append((fit, h))
        return out

    def _whole_codes(self, h: Hypothesis) -> CodeReading:
        readings = code_readings(self.given.codes, self.given.x, h.view.block[1], self.info)
        return next(reading for reading in readings if reading.name == h.codes_layout)

    def _make(self, h: Hypothesis, case: Case, reading: CodeReading) -> tuple[Array, Floats] | None:
        if h.rule is not None:
            return case.by_rule(*h.rule)
        row = self._row(h, case)
        made = case.codes(row, h.use, h.quotient, h.rounding)
        if reading.zero is not None:
            divisor = next(s for name, _, s in row.uses if name == h.use)
            made = _with_zero(made, case.quotients(divisor, h.quotient, row.amax), reading, case.info)
        return made, row.stored

    def _row(self, h: Hypothesis, case: Case) -> ScaleRow:
        if h.scale == _UNKNOWN:
            return _unknown(h.reading.values, case)
        if h.scale == NO_SCALE:
            one = np.ones(case.grid, f32)
            return ScaleRow(NO_SCALE, 0, one, case.amax, [(AS_STORED, 0, one)])
        return case.row(h.scale)

    def _names(self, h: Hypothesis, case: Case) -> list[tuple[str, int]]:
        """Name the rules whose scales and quotients a hypothesis has, and what that saves in assumptions."""
        if h.rule is not None:
            return [(h.rule[1], 0)]
        if h.scale in (_UNKNOWN, NO_SCALE):
            return [(h.scale, 0)]
        sample = self._sample(h.view.block)
        small = self._case(h.view, sample.rows, sample.groups)
        likely = [key for key in all_rules() if self._is_rule(h, small, key)]
        names = [key[1] for key in likely if self._is_rule(h, case, key)]
        row = self._row(h, case)
        told = row.name.removeprefix("rule ").replace(" | ", " ").strip()
        return [(name, row.assumptions) for name in dict.fromkeys(names)] or [(f"none of ours: {told}", 0)]

    def _is_rule(self, h: Hypothesis, case: Case, key: tuple[str, str]) -> bool:
        made = case.by_rule(*key)
        if made is None:
            return False
        row = self._row(h, case)
        if not _same(made[1], row.stored).all():
            return False
        return bool((made[0] == case.codes(row, row.uses[0][0], h.quotient, PLAIN_ROUNDING)).all())

    def _classified(self, nearest: Fit, h: Hypothesis) -> Explanation:
        """Classify what the nearest hypothesis leaves."""
        case = self._case(h.view)
        reading, values = self._whole_codes(h), h.reading.values
        found, made = reading.codes, self._make(h, case, reading)
        assert made is not None
        own, scales = made
        known = h.scale != _UNKNOWN and self.given.stored is not None
        rounding = h.rounding
        if h.rule is not None and rules()[h.rule[1]].rounding == "nearest_toward_zero":
            rounding = "nearest, ties toward zero"
        quotient = h.quotient if h.quotient in QUOTIENTS else _quotient_of(case, own, scales, rounding)
        used, amax = scales, case.floored(scales)
        if h.rule is None:
            row = self._row(h, case)
            used, amax = next(s for name, _, s in row.uses if name == h.use), row.amax
        shown = values if values.size else scales
        classes, evidence = classify(
            case, found, own, shown, scales, used, amax, quotient, rounding, scales_known=known,
            scales_given=self.given.stored is not None,
        )  # fmt: skip
        sample = self._sample(h.view.block)
        follows = sample.likeness.get((case.info.name, h.codes_layout), np.inf)
        garbage = nearest.matching < nearest.elements // 4 and (
            follows > 0.5 or classes.get("unexplained", 0) > sum(classes.values()) // 2
        )
        if garbage:
            evidence["distance of codes from the input (log2, median; rounding gives a few hundredths)"] = (
                round(follows, 3)
            )
        return of_classes(nearest, classes, evidence, self.tried, garbage=garbage, what="codes")


def _quotient_of(case: Case, own: Array, scales: Floats, rounding: str) -> str:
    """Find the quotient that a rule of the package has."""
    for name in QUOTIENTS:
        q = case.quotients(scales, name, case.floored(scales))
        if (ROUNDINGS[rounding][1](q, case.info) == own).all():
            return name
    return next(iter(QUOTIENTS))


def _with_zero(found: Array, q: Floats, reading: CodeReading, info: FormatInfo) -> Array:
    """Add a reading's zero-point to whole quotients, and clip."""
    return found if reading.zero is None else rounded(np.rint(q) + reading.zero, info)


def _unknown(scales: Floats, case: Case) -> ScaleRow:
    """Take scales as they are, however they came about."""
    return ScaleRow(_UNKNOWN, 3, scales, case.amax, [(AS_STORED, 0, scales)])


def _same(a: Floats, b: Floats) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (a == b) | (np.isnan(a) & np.isnan(b))
    return found


def _equal(a: Floats, b: Floats) -> float:
    return float(_same(a, b).mean()) if b.size else 1.0


def _differences(fit: Fit) -> int:
    return fit.elements - fit.matching + fit.scales - fit.scales_matching


def _distance(fit: Fit) -> float:
    """Weigh what a hypothesis leaves by what it assumes: an odder one has to explain more."""
    codes = (fit.elements - fit.matching) / fit.elements
    scales = (fit.scales - fit.scales_matching) / max(fit.scales, 1)
    if scales > _CHANCE:
        scales = 1.0  # what agrees may agree by chance
    return codes * (1 + 0.5 * fit.assumptions) + scales + 1e-6 * fit.assumptions
