"""Part ``overlap``: micro-batches that share one compute and one network, layer after layer.

One rule: each resource takes what was ready first, ties to the lower micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .checks import integer, number
from .figures import ISCA, Answer, Figure
from .timelines import OVERLAP_PLOTS

RESOURCES = {"c": "compute", "n": "network"}
_MOST = 200_000  # pieces: what two seconds allow for

Stages = Sequence[tuple[str, float]]


def parse_stages(text: str) -> list[tuple[str, float]]:
    """Stages as ``c:120,n:50``: resource (compute or network) and duration.

    Examples
    --------
    >>> from dsv3_numerics.codesign.overlaps import parse_stages
    >>> parse_stages("c:120,n:50")
    [('c', 120.0), ('n', 50.0)]
    """
    found = []
    for part in text.split(","):
        resource, colon, value = part.strip().partition(":")
        try:
            duration = float(value)
        except ValueError:
            duration = -1.0
        if not colon or resource not in RESOURCES or duration < 0:
            raise ValueError(f"stages: found {part.strip()!r}, expected c:TIME or n:TIME, as in c:120,n:50")
        found.append((resource, duration))
    return found


def checked_stages(stages: Stages) -> list[tuple[str, float]]:
    """Stages whose durations are numbers, none negative, not all 0."""
    if not stages:
        raise ValueError("stages: found none, expected at least one")
    for resource, duration in stages:
        if resource not in RESOURCES:
            raise ValueError(f"stages: found {resource!r}, expected c (compute) or n (network)")
        number(duration, "stages")
    if not sum(duration for _, duration in stages):
        raise ValueError("stages: found only durations of 0, expected one above")
    return [(resource, float(duration)) for resource, duration in stages]


def simulate(stages: Stages, layers: int, micro: int = 2) -> list[tuple[int, str, int, float, float]]:
    """Events (micro-batch, resource, stage, start, end) of all micro-batches through all layers."""
    count = len(stages) * layers
    if micro * count > _MOST:
        raise ValueError(f"layers: {micro * count} pieces found, expected at most {_MOST}")
    free = dict.fromkeys(RESOURCES, 0.0)
    ready, at = [0.0] * micro, [0] * micro
    events = []
    for _ in range(micro * count):
        m = min((m for m in range(micro) if at[m] < count), key=lambda m: (ready[m], m))
        resource, duration = stages[at[m] % len(stages)]
        start = max(free[resource], ready[m])
        free[resource] = ready[m] = start + duration
        events.append((m, resource, at[m], start, ready[m]))
        at[m] += 1
    return events


def span_of(stages: Stages, layers: int, micro: int = 2) -> float:
    """Return the end of the last piece."""
    return max(event[-1] for event in simulate(stages, layers, micro))


def period_of(stages: Stages, layers: int, micro: int = 2) -> float:
    """Time a layer once the start is over: of as many layers again."""
    return (span_of(stages, 2 * layers, micro) - span_of(stages, layers, micro)) / layers


def lower_bound(stages: Stages, micro: int = 2) -> float:
    """Least time a layer: a resource's work of all micro-batches, or one micro-batch's chain."""
    sums = [sum(t for r, t in stages if r == resource) for resource in RESOURCES]
    return max(*(micro * s for s in sums), sum(t for _, t in stages))


def barrier_bound(stages: Stages) -> float | None:
    """Time a layer of two micro-batches in lockstep, for four stages that alternate; None for others."""
    if "".join(resource for resource, _ in stages) != "cncn":
        return None
    a, d, m, c = (duration for _, duration in stages)
    return max(a, c) + max(a, d) + max(m, d) + max(m, c)


def overlap(stages: Stages, layers: int, micro: int = 2) -> Answer:
    """Part ``overlap``: time of micro-batches through layers, what stays exposed, and bounds.

    Raises
    ------
    ValueError
        No stages, negative times, no layers.
    """
    stages = checked_stages(stages)
    layers, micro = integer(layers, "layers", 1, 100_000), integer(micro, "micro", 1, 64)
    events = simulate(stages, layers, micro)
    two = max(event[-1] for event in events)
    chain = sum(t for _, t in stages)
    compute = sum(t for r, t in stages if r == "c")
    period = period_of(stages, layers, micro)
    lower, barrier = lower_bound(stages, micro), barrier_bound(stages) if micro == 2 else None
    row: dict[str, Any] = {
        "two": two,
        "serial": micro * layers * chain,
        "beyond_compute": two - micro * layers * compute,
    }
    row |= {"period": period, "lower": lower, "upper": barrier}
    shown = " ".join(f"{r}:{t:g}" for r, t in stages)
    source = f"{ISCA}, section 2.3.1"
    how = f"{micro} micro-batches through {layers} layers of {shown}"
    figures = [
        Figure("together", two, "time", "simulated", source, how),
        Figure(
            "one after the other", row["serial"], "time", "formula", source, f"{micro} x {layers} x {chain:g}"
        ),
        Figure(
            "exposed beyond compute",
            row["beyond_compute"],
            "time",
            "simulated",
            source,
            f"less {micro} x {layers} x {compute:g}",
        ),
        Figure("a layer", period, "time", "simulated", source, f"{lower:g} at least"),
    ]
    if barrier is not None:
        how = "max(a,c) + max(a,d) + max(m,d) + max(m,c) of attention, dispatch, experts, combine"
        figures.append(Figure("a layer, in lockstep", barrier, "time", "bound", source, how))
    notes = []
    if period > lower * (1 + 1e-9):
        notes.append(
            f"{period:g} a layer, where {lower:g} would do: stages are too uneven to hide each other; "
            "splitting the longest (attention in two, as DeepSeek's decode does) can help"
        )
    inputs = {"stages": shown, "layers": layers, "micro": micro}
    names = ("micro", "resource", "stage", "start", "end")
    shown_events = [dict(zip(names, event, strict=True)) for event in events[: 4 * micro * len(stages)]]
    data: Mapping[str, Any] = {"events": shown_events, "stages": [list(s) for s in stages]}
    return Answer("overlap", inputs, figures, tuple(row), [row], notes, dict(data), OVERLAP_PLOTS)
