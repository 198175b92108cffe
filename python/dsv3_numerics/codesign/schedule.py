"""The rule that times a pipeline: a piece starts when its rank is free and its inputs are there."""

from __future__ import annotations

from dataclasses import dataclass

from .orders import Piece, Plan


@dataclass(frozen=True)
class Times:
    """Durations of a chunk's pieces: forward, full backward, its weight part, both at once, a hop."""

    forward: float
    backward: float
    weight: float
    both: float
    hop: float = 0.0

    def of(self, kinds: str) -> float:
        """Return the duration of a piece."""
        whole = {"F": self.forward, "B": self.backward, "I": self.backward - self.weight, "W": self.weight}
        return whole[kinds] if len(kinds) == 1 else self.both


@dataclass(frozen=True)
class Event:
    """A piece on a rank in time."""

    rank: int
    kinds: str
    chunks: tuple[int, ...]
    directions: tuple[int, ...]
    start: float
    end: float


def run(plan: Plan, times: Times) -> list[Event]:
    """Time a plan: every rank does its order, a piece starting when its inputs are there.

    Raises
    ------
    ValueError
        Orders that wait for each other.
    """
    done: dict[tuple[str, tuple[int, int], int], tuple[float, int]] = {}
    at, free = [0] * len(plan.orders), [0.0] * len(plan.orders)
    events: list[Event] = []
    moved = True
    while moved:
        moved = False
        for rank, order in enumerate(plan.orders):
            while at[rank] < len(order):
                piece = order[at[rank]]
                start = _ready(plan, piece, rank, done, times.hop)
                if start is None:
                    break
                start = max(start, free[rank])
                free[rank] = end = start + times.of(piece.kinds)
                for kind, direction, chunk in piece.jobs:
                    key = (
                        "B" if kind in "BI" else kind,
                        plan.path(direction, chunk),
                        plan.stage(rank, direction),
                    )
                    done[key] = (end, rank)
                chunks, ways = tuple(j[2] for j in piece.jobs), tuple(j[1] for j in piece.jobs)
                events.append(Event(rank, piece.kinds, chunks, ways, start, end))
                at[rank] += 1
                moved = True
    if any(a < len(o) for a, o in zip(at, plan.orders, strict=True)):
        raise ValueError("schedule: its orders wait for each other")
    return events


def _ready(
    plan: Plan,
    piece: Piece,
    rank: int,
    done: dict[tuple[str, tuple[int, int], int], tuple[float, int]],
    hop: float,
) -> float | None:
    """When a piece's inputs are there; None while they are not."""
    ready = 0.0
    for kind, direction, chunk in piece.jobs:
        path, stage = plan.path(direction, chunk), plan.stage(rank, direction)
        needs = []
        if kind == "F" and stage:
            needs.append(("F", path, stage - 1))
        if kind in "BI":
            needs.append(("F", path, stage))
            if stage < plan.stages - 1:
                needs.append(("B", path, stage + 1))
        if kind == "W":
            needs.append(("B", path, stage))
        for key in needs:
            if key not in done:
                return None
            end, where = done[key]
            ready = max(ready, end + (hop if where != rank else 0.0))
    return ready


def held(events: list[Event]) -> int:
    """Return the most activations that a rank holds: from the start of F to the end of B (W if split)."""
    by_rank: dict[int, list[tuple[float, int]]] = {}
    split = {(e.rank, e.directions[0], e.chunks[0]) for e in events if e.kinds == "I"}
    for e in events:
        changes = by_rank.setdefault(e.rank, [])
        for kind, direction, chunk in zip(e.kinds, e.directions, e.chunks, strict=True):
            if kind == "F":
                changes.append((e.start, 1))
            elif kind == "W" or (kind == "B" and (e.rank, direction, chunk) not in split):
                changes.append((e.end, -1))
    most = 0
    for changes in by_rank.values():
        level = 0
        for _, change in sorted(changes):
            level += change
            most = max(most, level)
    return most
