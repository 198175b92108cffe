"""Part ``pipeline``: four schedules as event simulations, beside the closed forms of their bubbles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .checks import integer, number, one_of
from .figures import REPORT, Answer, Figure
from .measured import measured
from .orders import SCHEDULES
from .schedule import Event, Times, held, run
from .timelines import PIPELINE_PLOTS

_MOST = 40_000  # stages x chunks: what two seconds allow for


@dataclass(frozen=True)
class Closed:
    """A closed form of the largest bubble: its value, its text, and when it holds."""

    value: Callable[[int, Times], float]
    text: str
    holds: str
    parameters: int
    activations: str


CLOSED: dict[str, Closed] = {
    "1F1B": Closed(lambda p, t: (p - 1) * (t.forward + t.backward), "(PP-1)(F+B)", "always", 1, "PP"),
    "ZB1P": Closed(
        lambda p, t: (p - 1) * (t.forward + t.backward - 2 * t.weight),
        "(PP-1)(F+B-2W)",
        "W <= min(F, B-W)",
        1,
        "PP",
    ),
    "DualPipe": Closed(
        lambda p, t: (p / 2 - 1) * (t.both + t.backward - 3 * t.weight),
        "(PP/2-1)(F&B+B-3W)",
        "F = B-W, W <= F, and F&B between B and F+B",
        2,
        "PP+1",
    ),
}
CLOSED["DualPipeV"] = CLOSED["DualPipe"]


@dataclass(frozen=True)
class Timed:
    """A schedule in time: its events, span, and bubble of each rank."""

    events: list[Event]
    span: float
    bubbles: list[float]
    held: int

    @property
    def bubble(self) -> float:
        """The largest rank's."""
        return max(self.bubbles)


def timed(name: str, stages: int, chunks: int, times: Times) -> Timed:
    """Simulate a schedule.

    Raises
    ------
    ValueError
        Sizes that the schedule does not have.

    Examples
    --------
    >>> from dsv3_numerics.codesign import timed, Times
    >>> found = timed("DualPipe", 8, 20, Times(1, 2, 1, 3))
    >>> found.span, found.bubble, found.held
    (66.0, 6.0, 9)
    """
    one_of(name, "schedule", SCHEDULES)
    _sizes(name, stages, chunks)
    plan = SCHEDULES[name](stages, chunks)
    events = run(plan, times)
    span = max(event.end for event in events)
    busy = [0.0] * len(plan.orders)
    for event in events:
        busy[event.rank] += event.end - event.start
    return Timed(events, span, [span - b for b in busy], held(events))


def _sizes(name: str, stages: int, chunks: int) -> None:
    integer(stages, "stages", 1, 4096)
    integer(chunks, "chunks", 1, 1 << 20)
    if stages * chunks > _MOST:
        raise ValueError(
            f"chunks: {stages} stages x {chunks} chunks found, expected at most {_MOST} together"
        )
    if not name.startswith("Dual"):
        return
    if stages % 2:
        raise ValueError(f"stages: found {stages}, expected an even number for {name}")
    if chunks % 2 and name == "DualPipe":
        raise ValueError(f"chunks: found {chunks}, expected an even number for {name}")
    least = 2 * stages if name == "DualPipe" else stages
    if chunks < least:
        raise ValueError(f"chunks: found {chunks}, expected at least {least} for {name} of {stages} stages")


def checked_times(forward: float, backward: float, weight: float, both: float, hop: float = 0.0) -> Times:
    """Durations: none negative, W at most B."""
    times = Times(
        number(forward, "forward", positive=True),
        number(backward, "backward", positive=True),
        number(weight, "weights"),
        number(both, "both", positive=True),
        number(hop, "hop"),
    )
    if times.weight > times.backward:
        raise ValueError(f"weights: found {weight}, expected at most the full backward ({backward})")
    return times


def pipeline(
    stages: int,
    chunks: int,
    *,
    forward: float,
    backward: float,
    weight: float,
    both: float,
    hop: float = 0.0,
    schedules: Sequence[str] = tuple(SCHEDULES),
) -> Answer:
    """Part ``pipeline``: bubbles of schedules, simulated and by their closed forms.

    Parameters
    ----------
    stages, chunks : int
        PP; micro-batches a step.
    forward, backward, weight, both : float
        Durations for a chunk on a stage, in any unit: F, full B, its weight part W, F and B at once.
    hop : float
        Time of a transfer between ranks.
    schedules : sequence of str

    Raises
    ------
    ValueError
        Sizes that a schedule does not have, W above B, negative times.
    """
    times = checked_times(forward, backward, weight, both, hop)
    rows: list[dict[str, Any]] = []
    figures, timelines, notes = [], {}, []
    for name in schedules:
        found = timed(name, stages, chunks, times)
        closed = CLOSED[name]
        form = closed.value(stages, times)
        equal = math.isclose(found.bubble, form, rel_tol=1e-9, abs_tol=1e-9 * found.span)
        devices = stages // 2 if name == "DualPipeV" else stages
        rows.append(
            {
                "schedule": name,
                "span": found.span,
                "bubble": found.bubble,
                "closed_form": form,
                "equal?": equal,
                "params": closed.parameters,
                "activations": found.held,
                "devices": devices,
            }
        )
        how = f"largest of {devices} ranks, {chunks} chunks; closed form {closed.text} = {form:g}"
        figures.append(
            Figure(f"bubble, {name}", found.bubble, "time", "simulated", f"{REPORT}, table 2", how)
        )
        share = found.bubble / found.span
        how = f"{found.bubble:g} / {found.span:g}"
        figures.append(Figure(f"bubble's share, {name}", share, "", "simulated", f"{REPORT}, table 2", how))
        if not equal:
            off = "exceeded" if found.bubble > form else "not attained"
            notes.append(f"{name}: {closed.text} = {form:g} is {off}; it assumes: {closed.holds}")
        timelines[name] = [vars(event) for event in found.events]
    if both < max(forward, backward):
        notes.append(
            f"F&B ({both:g}) is below both F and B together can be: max(F, B) is {max(forward, backward):g}"
        )
    notes.append(
        "activations: chunks held at most; params: copies of a stage's parameters; DualPipeV puts all chunks "
        "through half the devices, each with two stages"
    )
    trace = measured("trace")
    span, parts = trace["span_ms"], trace["compute_ms"] + trace["communication_ms"]
    how = (
        f"kernels busy {trace['compute_ms']:g} (compute) and {trace['communication_ms']:g} ms (communication)"
    )
    figures.append(
        Figure(
            "one F&B pair, one after the other / overlapped",
            parts / span,
            "",
            "measured elsewhere",
            trace["source"],
            how,
        )
    )
    inputs: dict[str, Any] = {"stages": stages, "chunks": chunks, "forward": forward, "backward": backward}
    inputs |= {"weights": weight, "both": both, "hop": hop, "schedules": list(schedules)}
    columns = ("schedule", "span", "bubble", "closed_form", "equal?", "params", "activations", "devices")
    return Answer("pipeline", inputs, figures, columns, rows, notes, {"timelines": timelines}, PIPELINE_PLOTS)
