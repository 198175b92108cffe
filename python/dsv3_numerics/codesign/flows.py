"""Flows over one plane: a two-layer tree, its link loads under three routings, and max-min fair times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb, factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checks import integer, one_of

Array = NDArray[Any]
_MOST_FLOWS, _MOST_FAIR = 2_000_000, 2_000

ROUTINGS = ("adaptive", "static", "ecmp")
"""adaptive: split evenly over spines; static: spine by the target; ecmp: by a hash of the flow."""


def splitmix64(x: Any) -> Any:
    """Return the first output of the generator from a state; of an integer, or of an array of uint64.

    Examples
    --------
    >>> from dsv3_numerics.codesign.flows import splitmix64
    >>> splitmix64(0)
    16294208416658607535
    """
    state = np.asarray(x if isinstance(x, np.ndarray) else int(x) & ((1 << 64) - 1), np.uint64)
    with np.errstate(over="ignore"):
        z = state + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return z if isinstance(x, np.ndarray) else int(z)


@dataclass(frozen=True)
class Plane:
    """A plane: leaves of hosts, spines, each link as fast as a host's; dead spines carry nothing."""

    leaves: int
    hosts: int
    spines: int
    dead: int = 0

    def __post_init__(self) -> None:
        integer(self.leaves, "leaves", 1, 4096)
        integer(self.hosts, "hosts", 1, 4096)
        if self.count < 2:
            raise ValueError("hosts: found 1 in all, expected at least 2")
        integer(self.spines, "spines", 1, 4096)
        if integer(self.dead, "dead", 0, self.spines) == self.spines:
            raise ValueError(f"dead: found {self.dead}, expected fewer than the {self.spines} spines")

    @property
    def count(self) -> int:
        """Hosts in all."""
        return self.leaves * self.hosts

    @property
    def alive(self) -> int:
        """Spines that carry."""
        return self.spines - self.dead

    def spine(self, source: Array, target: Array, routing: str, seed: int) -> Array:
        """Return the spine of each flow: static by its target, ecmp by a hash."""
        if routing == "static":
            return target % self.alive
        n = np.uint64(self.count)
        with np.errstate(over="ignore"):
            state = np.uint64(seed) * n * n + source.astype(np.uint64) * n + target.astype(np.uint64)
        found: Array = (splitmix64(np.atleast_1d(state)) % np.uint64(self.alive)).astype(np.int64)
        return found


def pattern_all(plane: Plane) -> Array:
    """Every host to every other."""
    n = plane.count
    _few(n * (n - 1))
    source, target = np.divmod(np.arange(n * n), n)
    found: Array = np.stack([source, target], axis=1)[source != target]
    return found


def pattern_shift(plane: Plane) -> Array:
    """Every host to the host in its place under the next leaf."""
    if plane.leaves < 2:
        raise ValueError("leaves: found 1, expected at least 2: a shift goes to the next leaf")
    source = np.arange(plane.count)
    return np.stack([source, (source + plane.hosts) % plane.count], axis=1)


def _few(flows: int) -> None:
    if flows > _MOST_FLOWS:
        raise ValueError(f"hosts: {flows} flows found, expected at most {_MOST_FLOWS}")


PATTERNS: dict[str, Callable[[Plane], Array]] = {"all": pattern_all, "shift": pattern_shift}


def link_loads(plane: Plane, flows: Array, routing: str, seed: int = 0) -> dict[str, Array]:
    """Count loads of links by flows of size 1.

    Returns
    -------
    dict
        ``out``, ``in``: of hosts; ``up`` (leaf, spine), ``down`` (spine to leaf): between switches.
    """
    one_of(routing, "routing", ROUTINGS)
    source, target = flows[:, 0], flows[:, 1]
    found = {
        "out": np.bincount(source, minlength=plane.count).astype(float),
        "in": np.bincount(target, minlength=plane.count).astype(float),
    }
    here, there = source // plane.hosts, target // plane.hosts
    away = here != there
    size, spines = plane.leaves * plane.alive, plane.alive
    for name, leaf in (("up", here[away]), ("down", there[away])):
        if routing == "adaptive":
            each = np.bincount(leaf, minlength=plane.leaves) / spines
            found[name] = np.repeat(each[:, None], spines, axis=1)
        else:
            spine = plane.spine(source[away], target[away], routing, seed)
            counts = np.bincount(leaf * spines + spine, minlength=size)
            found[name] = counts.reshape(plane.leaves, spines).astype(float)
    return found


def heaviest(loads: dict[str, Array]) -> float:
    """Return the load of the heaviest link: the time of fluid flows with perfect scheduling."""
    return float(max(load.max(initial=0.0) for load in loads.values()))


def fair_time(plane: Plane, flows: Array, routing: str, seed: int = 0) -> float:
    """Time until all flows end at max-min fair rates, event by event; never below `heaviest`."""
    one_of(routing, "routing", ROUTINGS)
    if len(flows) > _MOST_FAIR:
        raise ValueError(f"fair: {len(flows)} flows found, expected at most {_MOST_FAIR}")
    n, leaves, spines = plane.count, plane.leaves, plane.alive
    source, target = flows[:, 0], flows[:, 1]
    here, there = source // plane.hosts, target // plane.hosts
    rows = np.arange(len(flows))
    use = np.zeros((len(flows), 2 * n + 2 * leaves * spines))
    use[rows, source] += 1
    use[rows, n + target] += 1
    away = here != there
    part = 1.0
    if routing == "adaptive":
        chosen = np.repeat(np.arange(spines)[None], away.sum(), axis=0)
        part = 1 / spines
    else:
        chosen = plane.spine(source[away], target[away], routing, seed)[:, None]
    for leaf in (here[away], leaves + there[away]):
        columns = 2 * n + leaf[:, None] * spines + chosen
        use[rows[away][:, None], columns] += part
    left, clock = np.ones(len(flows)), 0.0
    while len(left):
        rates = _fair_rates(use)
        step = float((left / rates).min())
        clock += step
        left = left - rates * step
        alive = left > 1e-9
        left, use = left[alive], use[alive]
    return clock


def _fair_rates(use: Array) -> Array:
    """Max-min fair rates over links of capacity 1: fill evenly until a link is full, again and again."""
    rates, room = np.zeros(len(use)), np.ones(use.shape[1])
    open_flows = np.ones(len(use), bool)
    while open_flows.any():
        demand = use[open_flows].sum(axis=0)
        busy = demand > 1e-12
        more = float((room[busy] / demand[busy]).min())
        rates[open_flows] += more
        room = room - demand * more
        full = busy & (room <= 1e-9)
        open_flows &= ~(use[:, full] > 0).any(axis=1)
    return rates


def mean_fullest(flows: int, links: int) -> float:
    """Mean of the fullest of `links` links under `flows` random flows; exact, by counting.

    Examples
    --------
    >>> from dsv3_numerics.codesign import mean_fullest
    >>> mean_fullest(4, 4)
    2.125
    """
    integer(flows, "flows", 1, 64)
    integer(links, "links", 1, 64)
    total = links**flows
    # the mean is the sum of the chances that the fullest is above 0, 1, ...
    return float(sum(total - _ways(flows, links, most) for most in range(flows)) / total)


def _ways(flows: int, links: int, most: int) -> int:
    """Ways to put flows on links with at most `most` on each."""
    ways = [1] + [0] * flows
    for _ in range(links):
        ways = [sum(comb(n, k) * ways[n - k] for k in range(min(most, n) + 1)) for n in range(flows + 1)]
    return ways[flows]


def no_collision(flows: int, links: int) -> float:
    """Chance that no two flows share a link."""
    return float(comb(links, flows) * factorial(flows) / links**flows)
