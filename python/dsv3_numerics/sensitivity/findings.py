"""Sentences: what the figures say; one whose figures are missing is left out."""

from __future__ import annotations

import math

import numpy as np

from ..report.running import possible
from ..report.text import figure, share
from .metrics import Spread
from .result import SensitivityData
from .tables import dB, from_to, operation_columns, plus
from .variant import LAYERS, LOGITS


def findings(result: SensitivityData) -> list[str]:
    """Say in sentences what the figures show; one whose figures are missing is left out."""
    return possible((_recipe, _chaos, _noise_floor, _without, _alone, _operations, _hidden, _form), result)


def _recipe(result: SensitivityData) -> str:
    kl, errors = (result.spread("all", metric) for metric in ("kl_nats", "relative_error"))
    return (
        f"Under the whole recipe the logits are {figure(kl.median)} nats from float64's in the median over "
        f"{kl.n} tokens (5 to 95 %: {from_to(kl)}; worst {figure(kl.worst)}), at an SQNR of "
        f"{dB(errors.median)} dB ({dB(errors.p95)} to {dB(errors.p5)}). {share(result.agreement('all'))} of "
        f"the tokens keep their likeliest next token; {share(result.rerouted('all'))} go to another set of "
        "experts in one layer or more."
    )


def _chaos(result: SensitivityData) -> str:
    one = result.variant("one_channel")
    beside = result.part(LOGITS, one)["beside"]
    exact, own = (_error(beside[under]["relative_error"]["median"]) for under in ("float64", "recipe"))
    far = result.spread("all", "relative_error").median
    text = (
        "One channel of each token's embedding, moved by its last place, moves float64's logits by "
        f"{_percent(exact)} (median over tokens) and the recipe's by {_percent(own)}, beside the "
        f"{_percent(far)} that lie between the recipe and float64."
    )
    ranks = [np.argsort(np.argsort(result.tokens(v))) for v in (result.variant("all"), one)]
    if len(ranks[0]) > _FEW:
        correlation = np.corrcoef(ranks[0], ranks[1])[0, 1]
        text += f" Token by token, the divergences of these two runs correlate by {correlation:.2f} (ranks)."
    if own > _CHAOTIC * far:
        text += (
            " So element by element the recipe is chaotic: single tokens of single runs say little, "
            "distributions over tokens do."
        )
    return text


_CHAOTIC = 0.25  # of the distance to float64
_FEW = 2  # tokens, whose ranks mean nothing


def _error(value: float | None) -> float:
    return math.inf if value is None else float(value)


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %"


def _noise_floor(result: SensitivityData) -> str:
    floor = result.noise_floor()
    if not math.isfinite(floor.prediction_interval):
        raise LookupError("no perturbed run")
    return (
        f"Noise floor: {len(floor.values)} runs of the recipe, which differ by the last place of one channel "
        f"in eight of the embeddings{_moved(result)}, have medians of {figure(min(floor.values))} to "
        f"{figure(max(floor.values))} nats. One more falls within {figure(floor.mean)} ± "
        f"{figure(floor.prediction_interval)}, 99 times in 100; a choice whose removal changes less than "
        "that is within noise, whatever its figure."
    )


def _moved(result: SensitivityData) -> str:
    errors = [
        _error(result.part(LOGITS, v)["beside"]["float64"]["relative_error"]["median"])
        for v in result.done(LOGITS)
        if v.role == "perturbed"
    ]
    return f" (which moves float64's logits by {_percent(Spread.of(errors).median)})"


def _without(result: SensitivityData) -> str:
    costs = result.costs()
    told = {effect: [c for c in costs if c.effect == effect] for effect in ("costs", "helps")}
    inside, none = ([c.choice for c in costs if c.effect == effect] for effect in ("within noise", "nothing"))
    parts = []
    for effect, words in (("costs", "lowers"), ("helps", "raises")):
        named = sorted(told[effect], key=lambda c: -abs(c.gain))
        if named:
            each = ", ".join(f"{c.choice}{plus(c.takes)} {c.gain:+.2g}" for c in named)
            parts.append(f"going without {words} the divergence: {each}")
    if inside:
        parts.append(f"within noise: {', '.join(inside)}")
    if none:
        parts.append(f"not one token changes: {', '.join(none)}")
    if not parts:
        raise LookupError("nothing was removed")
    text = "; ".join(parts) + "."
    return (
        "One choice at a time: " + text + " Gains do not add up: what one choice spoils hides what others do."
    )


def _alone(result: SensitivityData) -> str:
    told = [(c.alone.kl.median, c.choice + plus(c.brings)) for c in result.costs() if c.alone]
    if not told:
        raise LookupError("nothing was alone")
    each = ", ".join(f"{name} {figure(median)}" for median, name in sorted(told, reverse=True))
    return f"Alone, from most to least (median KL in nats): {each}."


def _operations(result: SensitivityData) -> str:
    parts = []
    for name, errors in operation_columns(result).items():
        above = {place: error for place, error in errors.items() if error >= _LEAST}
        if name != "the recipe" and above:
            low, high = (_percent(f(above.values())) for f in (min, max))
            kinds = list(dict.fromkeys(place.kind for place in above))
            where = ", ".join(kinds) if len(kinds) <= 2 else f"{len(kinds)} kinds of operations"
            parts.append(f"{name} {low if low == high else f'{low} to {high}'} ({where})")
    if not parts:
        raise LookupError("no operation differs")
    return "Operation by operation, on the same inputs, median errors alone: " + "; ".join(parts) + "."


_LEAST = 1e-6


def _hidden(result: SensitivityData) -> str:
    rows = result.part(LAYERS, "all")["rows"]
    added, out = ([_error(row[what]["median"]) for row in rows] for what in ("increment", "output"))
    return (
        f"A layer alone, on float64's input, errs by {_percent(min(added))} to {_percent(max(added))} in "
        f"what it adds to the residual stream (median over tokens), and by {_percent(min(out))} to "
        f"{_percent(max(out))} in the stream after it: the stream hides errors, since most of it passes "
        "through."
    )


def _form(result: SensitivityData) -> str:
    form = result.variant("form")
    kl, other = result.spread("all"), result.spread(form)
    mine = "naive" if form.name == "absorbed" else "absorbed"
    return (
        f"Attention in its {form.name} form, which in exact arithmetic is the same: {figure(other.median)} "
        f"nats beside {figure(kl.median)} in the {mine} form."
    )
