"""Measures of a variant: one operation at a time, one layer at a time, the whole forward.

Each function returns what is kept of its part: a mapping that JSON can hold. Errors are given token by token
or as a spread over tokens, never as one number alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .forward import FLOAT64, ForwardRun, Step, Subject, through
from .metrics import Errors, divergence, other_experts, pooled, row_errors, same_top, spread_record
from .variant import LAYERS, LOGITS, OPERATORS, Variant

if TYPE_CHECKING:
    from ..model import OpRecord

Part = dict[str, Any]


class OpLocation(NamedTuple):
    """Where operations stand that are told together: a layer's experts count as one.

    Attributes
    ----------
    layer : int or None
        None outside the layers.
    operation, kind : str
    """

    layer: int | None
    operation: str
    kind: str


def location_of(name: str, kind: str) -> OpLocation:
    """Return the place of an operation, by its full name.

    Examples
    --------
    >>> location_of("layer3.experts.17.gate_proj", "linear")
    OpLocation(layer=3, operation='experts.*.gate_proj', kind='linear')
    """
    found = re.match(r"layer(\d+)\.(.*)", name)
    layer, rest = (int(found[1]), found[2]) if found else (None, name)
    return OpLocation(layer, re.sub(r"(^|\.)experts\.\d+\.", r"\1experts.*.", rest), kind)


def operators(subject: Subject, variant: Variant, step: Step) -> Part:
    """Every operation of the float64 forward that the variant does otherwise, again on the same inputs.

    Returns
    -------
    dict
        ``rows``: for each place, what the variant makes of it, over how many operations, and the spread of
        the errors of their outputs' rows; ``kinds``: the same for all operations of a kind, in each layer and
        in all; ``over_base``: as ``rows``, beside what the variant's base makes of the same inputs. So an
        accumulator's own error is seen, which that of the codes that it adds hides.
    """
    planned = subject.model.operations(variant.recipe, absorbed=subject.absorbed)
    otherwise = {location_of(o.name, o.kind): o.description for o in planned}
    found: dict[OpLocation, list[Errors]] = defaultdict(list)
    own: dict[OpLocation, list[Errors]] = defaultdict(list)
    descriptions: dict[OpLocation, str] = {}
    layers: set[int | None] = set()

    def hook(record: OpRecord) -> None:
        operation = record.operation
        place = location_of(operation.name, operation.kind)
        if place.layer not in layers:
            layers.add(place.layer)
            if len(layers) > 1:
                step()
        how = otherwise.get(place, operation.description)
        if how != operation.description and record.output.size:
            descriptions[place] = how
            output = record.replay(variant.recipe)
            found[place].append(row_errors(record.output, output))
            if variant.base is not None:
                own[place].append(row_errors(record.replay(variant.base), output))

    subject.model.forward(subject.ids, recipe=FLOAT64, absorbed=subject.absorbed, hook=hook)
    rows, over_base = (
        [
            {**at._asdict(), "description": descriptions[at], "operations": len(errors), **_told(errors)}
            for at, errors in of.items()
        ]
        for of in (found, own)
    )
    kinds: dict[tuple[str, int | None], list[Errors]] = defaultdict(list)
    for place, errors in found.items():
        kinds[place.kind, place.layer] += errors
    for kind in dict.fromkeys(place.kind for place in found):
        kinds[kind, None] = [e for place, errors in found.items() if place.kind == kind for e in errors]
    return {
        "rows": rows,
        "over_base": over_base,
        "kinds": [
            {"layer": layer, "kind": kind, "operations": len(errors), **_told(errors)}
            for (kind, layer), errors in kinds.items()
        ],
    }


def _told(errors: list[Errors]) -> Part:
    """Return the spread of the errors of all rows, and of all elements together."""
    x2, e2 = (sum(getattr(e, name) for e in errors) for name in ("sum_x2", "sum_e2"))
    return {**spread_record(np.concatenate([e.relative for e in errors])), "pooled": pooled(x2, e2)}


def layers(subject: Subject, variant: Variant, step: Step) -> Part:
    """Every layer under the variant, on the input that it has in the float64 forward.

    Returns
    -------
    dict
        ``rows``: for each layer, the spread over tokens of the error of its ``output`` and of its
        ``increment`` (what it adds to its input, which passes through unharmed and hides errors), and the
        share of tokens that go to another set of experts (null in dense layers).
    """
    reference, rows = subject.reference(), []
    for layer, (x, expected) in enumerate(zip(reference.states, reference.states[1:], strict=False)):
        out, experts = through(subject.model, layer, x, variant.recipe, variant.absorbed)
        row: Part = {"layer": layer}
        # what the variant adds to the same input: the rounding of the input is an error of the layer
        for what, a, b in (("output", expected, out), ("increment", expected - x, out - x)):
            row[what] = _told([row_errors(a, b)])
        row["experts_changed"] = None
        if experts is not None:
            row["experts_changed"] = float(other_experts(reference.experts[layer], experts).mean())
        rows.append(row)
        step()
    return {"rows": rows}


def logits(subject: Subject, variant: Variant, step: Step) -> Part:
    """Return the whole forward under the variant, every layer on what the one before made.

    Returns
    -------
    dict
        ``tokens``: token by token the error of the logits, their divergence from float64 in nats, whether the
        likeliest token is the same, and in how many layers the set of experts is another; ``layers``: by
        layer the spread of the error of the hidden states, and the share of tokens with other experts;
        ``pooled``: the relative error of all logits together. Of a perturbed run also ``beside``: the same
        figures between it and the run that was not perturbed, under the recipe and in float64.
    """
    reference = subject.reference()
    run = subject.run(variant, step)
    found = _between(reference, run)
    if variant.perturbation:
        plain = variant._replace(perturbation=0)
        found["beside"] = {
            "recipe": _summary(subject.run(plain, step), run),
            "float64": _summary(reference, subject.run(variant._replace(recipe=FLOAT64), step)),
        }
    return found


def _between(reference: ForwardRun, run: ForwardRun) -> Part:
    errors = row_errors(reference.logits, run.logits)
    changed = {
        layer: other_experts(reference.experts[layer], chosen) for layer, chosen in run.experts.items()
    }
    counts = np.sum(list(changed.values()), axis=0) if changed else np.zeros(len(errors.relative), int)
    return {
        "pooled": pooled(errors.sum_x2, errors.sum_e2),
        "tokens": {
            "relative_error": errors.relative.tolist(),
            "kl_nats": divergence(reference.logits, run.logits).tolist(),
            "same_top": same_top(reference.logits, run.logits).astype(int).tolist(),
            "layers_with_other_experts": counts.tolist(),
        },
        "layers": [
            {
                "layer": layer,
                "hidden": _told([row_errors(reference.states[layer + 1], run.states[layer + 1])]),
                "experts_changed": float(changed[layer].mean()) if layer in changed else None,
            }
            for layer in range(len(reference.states) - 1)
        ],
    }


def _summary(reference: ForwardRun, run: ForwardRun) -> Part:
    errors = row_errors(reference.logits, run.logits)
    return {
        "relative_error": _told([errors]),
        "kl_nats": spread_record(divergence(reference.logits, run.logits)),
        "same_top": float(same_top(reference.logits, run.logits).mean()),
    }


MEASURES: dict[str, Callable[[Subject, Variant, Step], Part]] = {
    OPERATORS: operators,
    LAYERS: layers,
    LOGITS: logits,
}
"""How each part is measured."""
