"""Part ``mtp``: what drafts of multi-token prediction yield, where time is fixed and where it is bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .._regular import read_small_text
from .checks import integer, number
from .figures import ISCA, Answer, Figure
from .plots import MTP_PLOTS


def tokens_a_step(accept: Sequence[float], depth: int) -> float:
    """Tokens that a step yields: 1 + p1 + p1 p2 + ...; one p stands for every place.

    Examples
    --------
    >>> from dsv3_numerics.codesign import tokens_a_step
    >>> tokens_a_step([0.85], 1), tokens_a_step([1.0], 3)
    (1.85, 4.0)
    """
    depth = integer(depth, "depth", 1, 1000)
    places = [number(p, "accept", most=1.0) for p in accept]
    if len(places) == 1:
        places *= depth
    if len(places) != depth:
        raise ValueError(f"accept: found {len(places)} values, expected 1 or {depth} (depth)")
    total, chain = 1.0, 1.0
    for p in places:
        chain *= p
        total += chain
    return total


def accepted_share(path: str | Path) -> float:
    """Share of drafts that a run accepted: `drafted` and `accepted` of `generate`'s Speculation, as JSON.

    Raises
    ------
    ValueError
        The file holds no such counts.
    """
    try:
        found = json.loads(read_small_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"from: cannot read {path}: {error}") from None
    if isinstance(found, dict):
        found = found.get("speculation", found)
    drafted, accepted = (found.get(k) if isinstance(found, dict) else None for k in ("drafted", "accepted"))
    if type(drafted) is not int or type(accepted) is not int or not 0 <= accepted <= drafted or not drafted:
        raise ValueError(f"from: {path} has no counts drafted and accepted, expected a run's that drafted")
    return accepted / drafted


def mtp_speed(tokens: float, depth: int, cost: float = 0.0, bytes_share: float = 0.0) -> float:
    """Speed-up of drafting: tokens over the time of a step, of which a share goes by bytes."""
    return tokens / (bytes_share * (1 + depth) + (1 - bytes_share) * (1 + cost * depth))


def mtp(accept: Sequence[float], depth: int = 1, cost: float = 0.0, bytes_share: float = 0.5) -> Answer:
    """Part ``mtp``: what drafts yield where a step's time is fixed, and where it is bytes.

    Raises
    ------
    ValueError
        An acceptance outside [0, 1], a depth below 1, a negative cost.
    """
    cost = number(cost, "cost")
    share = number(bytes_share, "bytes-share", most=1.0)
    tokens = tokens_a_step(accept, depth)
    shown = " ".join(f"{p:g}" for p in accept)
    speeds = [mtp_speed(tokens, depth, cost, s) for s in (0.0, 1.0, share)]
    row = {"p": shown, "depth": depth, "tokens_a_step": tokens}
    names = ("speedup_latency", "speedup_bytes", "speedup_mixed")
    row |= dict(zip(names, speeds, strict=True))
    source = f"{ISCA}, sections 2.3.2 and 2.3.3"
    hows = (
        f"{tokens:g} / (1 + {cost:g} x {depth})",
        f"{tokens:g} / (1 + {depth}): the batch is kept, a step sends {1 + depth} times the bytes",
        f"{tokens:g} / ({share:g} x {1 + depth} + {1 - share:g} x {1 + cost * depth:g})",
    )
    figures = [Figure("tokens_a_step", tokens, "", "formula", source, f"1 + p1 + p1 p2 + ... of p = {shown}")]
    figures += [
        Figure(name, speed, "", "formula", source, how)
        for name, speed, how in zip(names, speeds, hows, strict=True)
    ]
    implied = (tokens / 1.8 - 1) / depth
    figures.append(
        Figure("cost a draft at 1.8x", implied, "", "formula", source, f"({tokens:g} / 1.8 - 1) / {depth}")
    )
    notes = [
        "1.8 times and the bound of 67 tok/s cannot both be spent: the bound's time is bytes, and a step "
        "that verifies a draft sends them twice"
    ]
    inputs = {"accept": list(accept), "depth": depth, "cost": cost, "bytes_share": share}
    chances = [i / 50 for i in range(51)]
    regimes = {"fixed": 0.0, f"{share:g} bytes": share, "bytes, batch kept": 1.0}
    speed = {
        name: [mtp_speed(tokens_a_step([p], depth), depth, cost, part) for p in chances]
        for name, part in regimes.items()
    }
    curves = {"p": chances, "speed": speed}
    return Answer("mtp", inputs, figures, tuple(row), [row], notes, {"curves": curves}, MTP_PLOTS)
