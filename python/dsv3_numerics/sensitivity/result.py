"""Result of a sensitivity analysis: what was measured of each variant, and what it says of each choice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..model import Recipe
from .metrics import Floats, Spread, decibels, prediction_interval
from .variant import LAYERS, LOGITS, OPERATORS, Variant

Record = dict[str, Any]

COLUMNS = (
    "part", "variant", "role", "choice", "layer", "operation", "kind", "description", "metric",
    "n", "p5", "median", "p95", "worst", "value", "sqnr_db",
)  # fmt: skip
"""Columns of the CSV file. `value` is of all rows together: an error of all elements, a mean or a share."""


class NoiseFloor(NamedTuple):
    """Noise floor of a figure: the runs of one recipe, perturbed and not.

    Attributes
    ----------
    values : tuple of float
        The figure in each run, the one without a perturbation first.
    mean : float
    prediction_interval : float
        How far from the mean one more run falls, 99 times in 100; infinity with fewer than two runs.
    """

    values: tuple[float, ...]
    mean: float
    prediction_interval: float


class LogitDivergence(NamedTuple):
    """A free-running forward beside float64.

    Attributes
    ----------
    kl : Spread
        Over tokens, in nats.
    sqnr_db : float
        Of the logits: that of the median token.
    same_top : float
        Share of tokens whose likeliest next token is float64's.
    """

    kl: Spread
    sqnr_db: float
    same_top: float


class Cost(NamedTuple):
    """Cost of one choice, in the logits.

    Attributes
    ----------
    choice : str
    brings : tuple of str
        Choices that it cannot be alone without.
    takes : tuple of str
        Choices that go when it goes.
    alone, base, without : LogitDivergence or None
        With this choice alone, with what it brings but not itself, and with all choices but it. None: not
        measured, or nothing is brought.
    gain : float
        How much the median divergence falls when the choice is left out of the recipe; negative if it rises,
        0 where not one token changes.
    prediction_interval : float
        Half of the prediction interval of such a median.
    """

    choice: str
    brings: tuple[str, ...]
    takes: tuple[str, ...]
    alone: LogitDivergence | None
    base: LogitDivergence | None
    without: LogitDivergence | None
    gain: float
    prediction_interval: float

    @property
    def effect(self) -> str:
        """Effect of the choice, in a few words."""
        if self.without is None or not math.isfinite(self.prediction_interval):
            return "not known"
        if self.gain == 0:
            return "nothing"
        if abs(self.gain) <= self.prediction_interval:
            return "within noise"
        return "costs" if self.gain > 0 else "helps"


@dataclass
class SensitivityData:
    """Costs of the choices of a recipe.

    Attributes
    ----------
    recipe : Recipe
    variants : list of Variant
    parts : dict
        What was measured, by part and variant: see `measuring`. Numbers that are infinite are None.
    settings : dict
        How it was run: model, ids, versions, machine.
    notes : list of str
        What a reader has to know, such as random ids.
    partial : str
        Why it is not complete; empty if it is.
    seconds : float
        Time of the last run.
    """

    recipe: Recipe
    variants: list[Variant]
    parts: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    partial: str = ""
    seconds: float = 0.0

    @property
    def choices(self) -> list[str]:
        """The choices that were looked at."""
        return [v.choice for v in self.variants if v.role == "alone"]

    def variant(self, role: str, choice: str = "") -> Variant:
        """Return the variant of a role.

        Raises
        ------
        LookupError
            There is none.
        """
        for found in self.variants:
            if (found.role, found.choice) == (role, choice):
                return found
        raise LookupError(f"no variant {role!r} of {choice!r}")

    def part(self, part: str, variant: str | Variant) -> dict[str, Any]:
        """Return what was measured.

        Raises
        ------
        LookupError
            It was not, or not yet.
        """
        name = variant.name if isinstance(variant, Variant) else variant
        if (part, name) not in self.parts:
            raise LookupError(f"{part} of {name!r}: not measured")
        return self.parts[part, name]

    def done(self, part: str) -> list[Variant]:
        """Return the variants of which a part was measured."""
        return [v for v in self.variants if (part, v.name) in self.parts]

    def tokens(self, variant: str | Variant, metric: str = "kl_nats") -> Floats:
        """Return a figure of the free-running forward, token by token: infinities are back.

        Raises
        ------
        LookupError
            Not measured.
        """
        return floats(self.part(LOGITS, variant)["tokens"][metric])

    def spread(self, variant: str | Variant, metric: str = "kl_nats") -> Spread:
        """Return a figure of the free-running forward over tokens."""
        return Spread.of(self.tokens(variant, metric))

    def agreement(self, variant: str | Variant) -> float:
        """Return the share of tokens whose likeliest next token is float64's."""
        return float(self.tokens(variant, "same_top").mean())

    def rerouted(self, variant: str | Variant) -> float:
        """Return the share of tokens that go to another set of experts, in one layer or more."""
        return float((self.tokens(variant, "layers_with_other_experts") > 0).mean())

    def noise_floor(self, metric: str = "kl_nats") -> NoiseFloor:
        """Noise floor of the median of a figure over tokens.

        Raises
        ------
        LookupError
            The recipe itself was not measured.
        """
        runs = [self.variant("all"), *(v for v in self.done(LOGITS) if v.role == "perturbed")]
        values = tuple(self.spread(v, metric).median for v in runs)
        return NoiseFloor(values, float(np.mean(values)), prediction_interval(values))

    def costs(self) -> list[Cost]:
        """List what each choice costs, the dearest first; empty before the recipe was measured."""
        try:
            floor = self.noise_floor()
        except LookupError:
            return []
        there = set(self.recipe.choices())
        found = []
        for choice in self.choices:
            alone, without = self.variant("alone", choice), self.variant("without", choice)
            brings = tuple(name for name in alone.recipe.choices() if name != choice)
            left = set(without.recipe.choices())
            takes = tuple(n for n in self.recipe.choices() if n in there - left and n != choice)
            found.append(
                Cost(
                    choice,
                    brings,
                    takes,
                    self._maybe(alone),
                    self._maybe(self.variant("base", choice)) if brings else None,
                    self._maybe(without),
                    self._gain(without, floor),
                    floor.prediction_interval,
                )
            )
        return sorted(found, key=lambda cost: -cost.gain if not math.isnan(cost.gain) else math.inf)

    def _gain(self, without: Variant, floor: NoiseFloor) -> float:
        try:
            values = self.tokens(without)
        except LookupError:
            return math.nan
        if (values == self.tokens("all")).all():
            return 0.0
        return floor.mean - Spread.of(values).median

    def _maybe(self, variant: Variant) -> LogitDivergence | None:
        try:
            kl = self.spread(variant)
        except LookupError:
            return None
        error = self.spread(variant, "relative_error").median
        return LogitDivergence(kl, decibels(error), self.agreement(variant))

    def records(self) -> Iterator[Record]:
        """One flat record per figure: what the CSV file holds, in the order of `COLUMNS`.

        ``pandas.DataFrame(result.records())`` makes a data frame of them.
        """
        for variant in self.variants:
            for part in (OPERATORS, LAYERS, LOGITS):
                if (part, variant.name) in self.parts:
                    content = self.parts[part, variant.name]
                    for record in _RECORDS[part](content):
                        about = {"part": part, "variant": variant.name, "role": variant.role}
                        full = about | {"choice": variant.choice} | record
                        yield {name: full.get(name) for name in COLUMNS}


def floats(values: list[float | None]) -> Floats:
    """Numbers as a part holds them: what is None was infinite."""
    return np.array([math.inf if v is None else v for v in values], np.float64)


def _told(content: dict[str, Any], metric: str, **about: Any) -> Record:
    """Return a record of errors: their spread, that of all elements, and it in decibels."""
    value = content["pooled"]
    found = {name: content[name] for name in Spread._fields}
    sqnr = None if value is None else decibels(value)
    return {**about, "metric": metric, **found, "value": value, "sqnr_db": sqnr}


def _operator_records(content: dict[str, Any]) -> Iterator[Record]:
    for rows, metric in (("rows", "relative_error"), ("over_base", "relative_error_over_base")):
        for row in content[rows]:
            about = {name: row[name] for name in ("layer", "operation", "kind", "description")}
            yield _told(row, metric, **about)
    for row in content["kinds"]:
        layer = "all" if row["layer"] is None else row["layer"]
        yield _told(row, "relative_error", layer=layer, kind=row["kind"], operation="*")


def _layer_records(content: dict[str, Any]) -> Iterator[Record]:
    for row in content["rows"]:
        for what in ("output", "increment"):
            yield _told(row[what], f"{what}_relative_error", layer=row["layer"])
        yield from _share(row)


def _logit_records(content: dict[str, Any]) -> Iterator[Record]:
    tokens = content["tokens"]
    errors = Spread.of(floats(tokens["relative_error"]))
    yield _told({**errors._asdict(), "pooled": content["pooled"]}, "relative_error")
    kl = floats(tokens["kl_nats"])
    yield {"metric": "kl_nats", **Spread.of(kl)._asdict(), "value": float(kl.mean())}
    same, counts = tokens["same_top"], np.array(tokens["layers_with_other_experts"])
    yield {"metric": "same_top", "n": len(same), "value": float(np.mean(same))}
    yield {"metric": "experts_changed", "n": len(counts), "value": float((counts > 0).mean())}
    for row in content["layers"]:
        yield _told(row["hidden"], "hidden_relative_error", layer=row["layer"])
        yield from _share(row)
    for under, found in content.get("beside", {}).items():
        yield _told(found["relative_error"], f"perturbed_relative_error_{under}")
        yield {"metric": f"perturbed_kl_nats_{under}", **found["kl_nats"]}
        yield {"metric": f"perturbed_same_top_{under}", "value": found["same_top"]}


def _share(row: dict[str, Any]) -> Iterator[Record]:
    if row["experts_changed"] is not None:
        yield {"metric": "experts_changed", "layer": row["layer"], "value": row["experts_changed"]}


_RECORDS = {OPERATORS: _operator_records, LAYERS: _layer_records, LOGITS: _logit_records}
