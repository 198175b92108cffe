"""Orders of pipeline schedules: which piece each rank does after which.

They restate 1F1B, zero-bubble H1 and deepseek-ai/DualPipe (DualPipe, DualPipeV). F: forward, B: full
backward, I: its input part, W: its weight part; a piece of F and B does both at once. `schedule` times them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

Job = tuple[str, int, int]
"""Kind (F, B, I or W), direction or half (0 or 1), chunk."""


@dataclass(frozen=True)
class Piece:
    """Work that occupies a rank at once: one job, or a forward and a backward together."""

    jobs: tuple[Job, ...]

    @property
    def kinds(self) -> str:
        """The letters of its jobs."""
        return "".join(job[0] for job in self.jobs)


@dataclass(frozen=True)
class Plan:
    """Orders of all ranks, and where a job's stage is.

    Attributes
    ----------
    orders : list of list of Piece
    stages : int
    stage : callable
        Stage of (rank, direction).
    path : callable
        Key of a chunk: chunks of different directions are different, those of DualPipeV's halves are one.
    """

    orders: list[list[Piece]]
    stages: int
    stage: Callable[[int, int], int]
    path: Callable[[int, int], tuple[int, int]]


def one(kind: str, direction: int, chunk: int) -> Piece:
    """Return a piece of one job."""
    return Piece(((kind, direction, chunk),))


def order_1f1b(stages: int, chunks: int) -> Plan:
    """1F1B: rank r warms up with PP - r forwards, then B and F in turn."""
    return _one_way(stages, chunks, split=False)


def order_zb1p(stages: int, chunks: int) -> Plan:
    """Zero-bubble H1: as 1F1B with B split, each rank delaying W by its number."""
    return _one_way(stages, chunks, split=True)


def _one_way(stages: int, chunks: int, *, split: bool) -> Plan:
    orders = []
    for rank in range(stages):
        ahead = min(stages - rank, chunks)
        order = [one("F", 0, i) for i in range(ahead)]
        for i in range(chunks):
            order.append(one("I" if split else "B", 0, i))
            if split and i >= rank:
                order.append(one("W", 0, i - rank))
            if ahead + i < chunks:
                order.append(one("F", 0, ahead + i))
        if split:
            order += [one("W", 0, i) for i in range(max(0, chunks - rank), chunks)]
        orders.append(order)
    return Plan(orders, stages, lambda rank, direction: rank, lambda direction, chunk: (0, chunk))


def _dual(h: int, half: int, chunks: int) -> Iterator[Piece]:
    """Yield the order of DualPipe's rank at distance h from the nearer end; `chunks` of each direction."""
    at = {"F0": 0, "F1": 0, "B0": 0, "B1": 0}
    waiting: list[tuple[int, int]] = []

    def job(kind: str, direction: int) -> Job:
        if kind == "W":
            found, chunk = waiting.pop(0)
            return ("W", found, chunk)
        key = ("F" if kind == "F" else "B") + str(direction)
        chunk = at[key]
        at[key] += 1
        if kind == "I":
            waiting.append((direction, chunk))
        return (kind, direction, chunk)

    def piece(*jobs: tuple[str, int]) -> Piece:
        return Piece(tuple(job(*j) for j in jobs))

    for _ in range(2 * (half - h - 1)):
        yield piece(("F", 0))
    for _ in range(h + 1):
        yield piece(("F", 0))
        yield piece(("F", 1))
    for _ in range(half - h - 1):
        yield piece(("I", 1))
        yield piece(("W", 1))
        yield piece(("F", 1))
    for i in range(chunks - 2 * half + h + 1):
        if i == 0 and h == half - 1:
            yield piece(("F", 0))
            yield piece(("B", 1))
        else:
            yield piece(("F", 0), ("B", 1))
        yield piece(("F", 1), ("B", 0))
    for _ in range(half - h - 1):
        yield piece(("B", 1))
        yield piece(("F", 1), ("B", 0))
    for i in range(h + 1):
        middle = (h + 1) // 2
        yield piece(("I" if i > middle or (i == middle and h % 2) else "B", 1))
        yield piece(("I" if i >= middle else "B", 0))
    for _ in range(half - h - 1):
        yield piece(("W", 0))
        yield piece(("I", 0))
    for _ in range(h + 1):
        yield piece(("W", 0))


def order_dualpipe(stages: int, chunks: int) -> Plan:
    """DualPipe: half of the chunks from each end, both directions on every rank."""
    half = stages // 2
    orders = [list(_dual(min(r, stages - 1 - r), half, chunks // 2)) for r in range(stages)]
    late = [rank >= half for rank in range(stages)]
    turned = [
        [Piece(tuple((k, d ^ late[r], c) for k, d, c in piece.jobs)) for piece in orders[r]]
        for r in range(stages)
    ]
    return Plan(turned, stages, lambda rank, d: stages - 1 - rank if d else rank, lambda d, chunk: (d, chunk))


def order_dualpipev(stages: int, chunks: int) -> Plan:
    """DualPipeV: half the devices, device r with stages r and PP - 1 - r, all chunks from one end."""
    half = stages // 2
    orders = [list(_dual(rank, half, chunks)) for rank in range(half)]
    return Plan(orders, stages, lambda rank, d: stages - 1 - rank if d else rank, lambda d, chunk: (0, chunk))


SCHEDULES: dict[str, Callable[[int, int], Plan]] = {
    "1F1B": order_1f1b,
    "ZB1P": order_zb1p,
    "DualPipe": order_dualpipe,
    "DualPipeV": order_dualpipev,
}
"""Orders by name."""
