"""Search for what quantized an input: hypotheses on a sample first, then on everything.

Lives here: the order in which the tables of `scale_rows`, `scale_layouts`, `code_rows` and `code_layouts` are
gone through, from plain to odd. What no hypothesis reproduces is classified in `leftovers`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from ..number_formats import FormatInfo, format_info
from ..scale_rule import rules
from .case import Case, all_rules
from .cases import Cases, Sample
from .code_layouts import CodeReading, likeness, other_formats, read_again
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
from .hypotheses import NO_SCALE, OWN, Given, Hypothesis, View, columns_of, unique
from .leftovers import classify
from .permutations import permuted_rows
from .scale_layouts import ScaleReading
from .scale_rows import (
    AMAXES,
    AS_STORED,
    MAXES,
    PLAIN_AMAX,
    Floats,
    ScaleRow,
    f32,
    same_scales,
)

_KEPT = 6  # hypotheses that are confirmed on everything although they do not fit the sample whole
_MOST = 24  # those that fit it, and are confirmed
_LARGE = 1 << 22  # elements
_CLEAR = 2  # differences that no odder hypothesis is asked to explain
_ODD = 2  # place of what no rule does, whose fits another format may explain more plainly
_PLAIN_ENOUGH = 2  # assumptions
_CHANCE = 0.9  # share of unlike scales that tells as much as all
_LEAST = 0.2  # share of codes below which no other rounding is tried
_UNKNOWN = "scales of unknown making"


class Search(Cases):
    """One search."""

    def __init__(self, given: Given, block: tuple[int, int] | None) -> None:
        super().__init__(given, block)
        self.tried = 0
        self.near: list[tuple[Fit, Hypothesis]] = []
        self.best: dict[tuple[tuple[int, int], str], float] = {}

    def _alike(self, sample: Sample, block: tuple[int, int], info: FormatInfo) -> dict[str, CodeReading]:
        """Return the readings of codes that follow the input best, read as codes of a format."""
        x = sample.x
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
            confirmed: list[tuple[Fit, Hypothesis]] = []
            if self.given.x.size > _LARGE:  # rules first, and no more where they account for everything
                confirmed = self._confirm([h for h in exact if h.rule is not None])
                if confirmed and not any(fit.exact for fit, _ in confirmed):
                    nearest, hypothesis = min(confirmed, key=lambda pair: _distance(pair[0]))
                    explained = self._classified(nearest, hypothesis)
                    if explained.conclusive and nearest.matching * 2 >= nearest.elements:
                        return explained
                exact = [h for h in exact if h.rule is None and not any(fit.exact for fit, _ in confirmed)]
            confirmed += self._confirm(exact)
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
        if fits:
            return of_fits(unique(fits), self.tried, "codes")
        fits = permuted_rows(self, self.blocks) if self.given.x.size <= _LARGE else []
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
        sample = self.sample(view.block)
        info = format_info(view.fmt) if view.fmt else self.info
        codes = self._alike(sample, view.block, info)
        if not codes:
            return
        case = self.case(view, sample.rows, sample.groups, sample.x)
        if view.input != PLAIN_INPUT and np.array_equal(case.x, sample.x, equal_nan=True):
            return
        read = []
        for reading in self.readings_of(view.block, deep=deep and view.plain):
            if reading.key not in sample.scales:
                sample.scales[reading.key] = reading.of(sample.groups)
            read.append((reading, sample.scales[reading.key]))
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
                            view, reading, how, rule[0], AS_STORED, OWN, PLAIN_ROUNDING, total, rule
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
                        Hypothesis(
                            view, reading, how, row.name, use, quotient, rounding, total,
                            row_assumptions=row.assumptions,
                        ),
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
        """Make codes and scales of hypotheses everywhere, a few rows at a time, and count."""
        out: list[tuple[Fit, Hypothesis]] = []
        for block in dict.fromkeys(h.view.block for h in hypotheses):
            counted = [_Counted(h, self._likely_names(h)) for h in hypotheses if h.view.block == block]
            high = math.lcm(block[0], self.high(one.h.view for one in counted))
            for rows in self.pieces(high):
                self._count(counted, rows)
            out += [(fit, one.h) for one in counted for fit in self._fits(one)]
        order = {id(h): i for i, h in enumerate(hypotheses)}
        return sorted(out, key=lambda pair: order[id(pair[1])])

    def _count(self, counted: list[_Counted], rows: NDArray[np.intp]) -> None:
        """Count some rows of hypotheses that share their groups."""
        x = self.given.rows(rows)
        cases: dict[View, Case] = {}
        codes: dict[str, CodeReading] = {}
        scales: dict[str, Floats] = {}
        for one in counted:
            h = one.h
            block = h.view.block
            groups = np.arange(rows[0] // block[0], -(-(rows[-1] + 1) // block[0]))
            if h.view not in cases:
                cases[h.view] = self.case(h.view, rows, groups, x)
            if h.codes_layout not in codes:
                codes[h.codes_layout] = self._codes(h, x, rows)
            if h.reading.key not in scales:
                scales[h.reading.key] = h.reading.of(groups)
            case, reading, values = cases[h.view], codes[h.codes_layout], scales[h.reading.key]
            made = self._make(h, case, reading, values)
            if made is None:
                one.fails = True
                continue
            one.matching += int((made[0] == reading.codes).sum())
            one.elements += reading.codes.size
            one.scales += values.size
            if h.scale != _UNKNOWN and self.given.stored is not None:
                one.scales_matching += int(same_scales(made[1], values).sum())
            one.names = self._alike_rules(h, case, one.names)

    def _fits(self, one: _Counted) -> Iterator[Fit]:
        """Name a hypothesis that was counted, by each of the rules that it is alike."""
        if one.fails:
            return
        h = one.h
        for rule, saved in self._names(h, one.names):
            yield Fit(
                columns_of(h, rule, self.info), h.assumptions - saved,
                one.matching, one.elements, one.scales_matching, one.scales,
            )  # fmt: skip

    def _codes(self, h: Hypothesis, x: Floats, rows: NDArray[np.intp]) -> CodeReading:
        reading = self.sample(h.view.block).codes[h.codes_layout]
        return read_again(reading, self.given.codes, x, h.view.block[1], self.info, rows)

    def _make(
        self, h: Hypothesis, case: Case, reading: CodeReading, values: Floats
    ) -> tuple[Array, Floats] | None:
        if h.rule is not None:
            return case.by_rule(*h.rule)
        row = self._row(h, case, values)
        made = case.codes(row, h.use, h.quotient, h.rounding)
        if reading.zero is not None:
            divisor = next(s for name, _, s in row.uses if name == h.use)
            made = _with_zero(made, case.quotients(divisor, h.quotient, row.amax), reading, case.info)
        return made, row.stored

    def _row(self, h: Hypothesis, case: Case, values: Floats) -> ScaleRow:
        if h.scale == _UNKNOWN:
            return _unknown(values, case)
        if h.scale == NO_SCALE:
            one = np.ones(case.grid, f32)
            return ScaleRow(NO_SCALE, 0, one, case.amax, [(AS_STORED, 0, one)])
        return case.row(h.scale)

    def _likely_names(self, h: Hypothesis) -> list[tuple[str, str]]:
        """Return the rules that have the scales and quotients of a hypothesis on the sample."""
        if h.rule is not None or h.scale in (_UNKNOWN, NO_SCALE):
            return []
        sample = self.sample(h.view.block)
        case = self.case(h.view, sample.rows, sample.groups, sample.x)
        return self._alike_rules(h, case, list(all_rules()))

    def _names(self, h: Hypothesis, rules: list[tuple[str, str]]) -> list[tuple[str, int]]:
        """Name a hypothesis, and say what each name saves in assumptions."""
        if h.rule is not None:
            return [(h.rule[1], 0)]
        if h.scale in (_UNKNOWN, NO_SCALE):
            return [(h.scale, 0)]
        told = h.scale.removeprefix("rule ").replace(" | ", " ").strip()
        names = dict.fromkeys(rule for _, rule in rules)
        saved = h.row_assumptions
        return [(name, saved) for name in names] or [(f"none of ours: {told}", 0)]

    def _alike_rules(self, h: Hypothesis, case: Case, keys: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the rules that have the scales and quotients of a hypothesis."""
        if not keys:
            return []
        row = case.row(h.scale)
        codes: Array | None = None
        found = []
        for key in keys:
            made = case.by_rule(*key)
            if made is None or not same_scales(made[1], row.stored).all():
                continue
            if codes is None:
                codes = case.codes(row, row.uses[0][0], h.quotient, PLAIN_ROUNDING)
            if (made[0] == codes).all():
                found.append(key)
        return found

    def _classified(self, nearest: Fit, h: Hypothesis) -> Explanation:
        """Classify what the nearest hypothesis leaves, many rows at a time."""
        known = h.scale != _UNKNOWN and self.given.stored is not None
        rounding = h.rounding
        if h.rule is not None and rules()[h.rule[1]].rounding == "nearest_toward_zero":
            rounding = "nearest, ties toward zero"
        classes: dict[str, int] = {}
        evidence: dict[str, Any] = {}
        high = math.lcm(h.view.block[0], self.high([h.view]))
        for rows in self.pieces(high, 1 << 20):
            groups = np.arange(rows[0] // h.view.block[0], -(-(rows[-1] + 1) // h.view.block[0]))
            x = self.given.rows(rows)
            case = self.case(h.view, rows, groups, x)
            reading, values = self._codes(h, x, rows), h.reading.of(groups)
            found, made = reading.codes, self._make(h, case, reading, values)
            assert made is not None
            own, scales = made
            quotient = h.quotient if h.quotient in QUOTIENTS else _quotient_of(case, own, scales, rounding)
            used, amax = scales, case.floored(scales)
            if h.rule is None:
                row = self._row(h, case, values)
                used, amax = next(s for name, _, s in row.uses if name == h.use), row.amax
            shown = values if values.size else scales
            part, told = classify(
                case, found, own, shown, scales, used, amax, quotient, rounding, scales_known=known,
                scales_given=self.given.stored is not None, origin=(int(rows[0]), int(groups[0])),
                total=nearest.elements - nearest.matching,
            )  # fmt: skip
            for name, count in part.items():
                classes[name] = classes.get(name, 0) + count
            evidence = told | evidence
        if classes.get("one flipped bit", 0) > 1:  # in several pieces
            classes["flipped bits"] = classes.pop("one flipped bit") + classes.get("flipped bits", 0)
        sample = self.sample(h.view.block)
        follows = sample.likeness.get((case.info.name, h.codes_layout), np.inf)
        garbage = nearest.matching < nearest.elements // 4 and (
            follows > 0.5 or classes.get("unexplained", 0) > sum(classes.values()) // 2
        )
        if garbage:
            evidence["distance of codes from the input (log2, median; rounding gives a few hundredths)"] = (
                round(follows, 3)
            )
        return of_classes(nearest, classes, evidence, self.tried, garbage=garbage, what="codes")


@dataclass
class _Counted:
    """A hypothesis and how much of everything it reproduces."""

    h: Hypothesis
    names: list[tuple[str, str]]
    matching: int = 0
    elements: int = 0
    scales_matching: int = 0
    scales: int = 0
    fails: bool = False


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


def _equal(a: Floats, b: Floats) -> float:
    return float(same_scales(a, b).mean()) if b.size else 1.0


def _differences(fit: Fit) -> int:
    return fit.elements - fit.matching + fit.scales - fit.scales_matching


def _distance(fit: Fit) -> float:
    """Weigh what a hypothesis leaves by what it assumes: an odder one has to explain more."""
    codes = (fit.elements - fit.matching) / fit.elements
    scales = (fit.scales - fit.scales_matching) / max(fit.scales, 1)
    if scales > _CHANCE:
        scales = 1.0  # what agrees may agree by chance
    return codes * (1 + 0.5 * fit.assumptions) + scales + 1e-6 * fit.assumptions
