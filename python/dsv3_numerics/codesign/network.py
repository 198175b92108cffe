"""Part ``network``: counts, cost, and an all-to-all over one plane."""

from __future__ import annotations

from typing import Any

import numpy as np

from .checks import integer, number, one_of
from .figures import ISCA, Answer, Figure
from .flows import PATTERNS, ROUTINGS, Plane, fair_time, heaviest, link_loads, mean_fullest
from .timelines import COST_PLOTS, FLOW_PLOTS
from .topologies import (
    TABLE3,
    Topology,
    algorithm_bandwidth,
    dragonfly,
    fitted_prices,
    is_prime_power,
    lost_planes,
    multi_plane,
    slim_fly,
    three_layer,
    two_layer,
)

TABLE = f"{ISCA}, table 3"


def topologies(ports: int = 64, planes: int = 8) -> list[Topology]:
    """Return the five of table 3 for switches of `ports` ports; Slim Fly and Dragonfly as large as they fit.

    At 64 ports the paper's own: q = 28, and 511 groups of 32 routers.
    """
    found = [two_layer(ports), multi_plane(ports, planes), three_layer(ports)]
    fits = [q for q in range(3, ports) if q % 4 != 2 and slim_fly(q).ports_used <= ports]
    if fits:
        found.append(slim_fly(28 if ports == 64 else max(fits, key=lambda q: (is_prime_power(q), q))))
    if ports >= 4:
        p = ports // 4
        found.append(dragonfly(p, 2 * p, p, 511 if ports == 64 else None))
    return found


def network_counts(ports: int = 64, planes: int = 8, *, prices: tuple[float, ...] | None = None) -> Answer:
    """Part ``network counts``: endpoints, switches, links and cost of topologies, beside table 3.

    Parameters
    ----------
    ports, planes : int
    prices : (float, float), optional
        Dollars of a switch and of a link; by default those that fit table 3.

    Raises
    ------
    ValueError
        An odd number of ports; prices that are none.
    """
    if prices is not None and len(prices) != 2:
        raise ValueError(f"prices: found {len(prices)} numbers, expected dollars of a switch and of a link")
    switch, link = fitted_prices() if prices is None else (number(p, "prices") for p in prices)
    rows: list[dict[str, Any]] = []
    for t in topologies(ports, planes):
        printed = TABLE3[t.name] if (ports, planes, prices) == (64, 8, None) else None
        counts = (t.endpoints, t.switches, t.links)
        money = t.switches * switch + t.links * link
        verdict = "-"
        if printed:
            right = printed[:3] == counts
            near = abs(money - printed[3]) <= 0.01 * printed[3]
            verdict = "OK" if right and near else "DIFF" if right else "counts DIFF"
        row = {"topology": t.name, "endpoints": t.endpoints, "switches": t.switches, "links": t.links}
        row |= {"ports_used": t.ports_used, "cost": money, "per_endpoint": money / t.endpoints}
        rows.append(row | {"printed": list(printed) if printed else None, "verdict": verdict})
    tag = "formula" if prices else "fitted"
    how = "as given" if prices else "FT2's 4.39 k$ an endpoint and FT3's 491 M$ solved for two prices"
    figures = [
        Figure("a switch", switch, "$", tag, TABLE, how),
        Figure("a link", link, "$", tag, TABLE, how),
    ]
    figures += [
        Figure(
            f"{row['topology']}, endpoints",
            row["endpoints"],
            "",
            "formula",
            TABLE,
            f"switches of {ports} ports",
        )
        for row in rows
    ]
    notes = [
        "links exclude endpoints' cables; costs by two fitted prices: the paper prints none, and Dragonfly's "
        "1522 M$ (1550 here) needs another mix of cables",
    ]
    if ports == 64:
        notes.append(
            "q = 28 is no prime power: no such Slim Fly exists; 27 gives 30,618 endpoints, 29 needs 65 ports"
        )
    columns = (
        "topology",
        "endpoints",
        "switches",
        "links",
        "ports_used",
        "cost",
        "per_endpoint",
        "printed",
        "verdict",
    )
    curves = _curves(switch, link)
    inputs = {"ports": ports, "planes": planes, "prices": [switch, link]}
    return Answer("network counts", inputs, figures, columns, rows, notes, {"curves": curves}, COST_PLOTS)


def _curves(switch: float, link: float) -> dict[str, list[list[float]]]:
    """Endpoints and dollars an endpoint by topology, for switches of 8 to 128 ports."""
    found: dict[str, list[list[float]]] = {}
    for ports in range(8, 129, 4):
        for t in topologies(ports):
            found.setdefault(t.name, []).append(
                [t.endpoints, (t.switches * switch + t.links * link) / t.endpoints, ports]
            )
    return found


def network_alltoall(
    leaves: int = 4,
    hosts: int = 4,
    spines: int = 4,
    *,
    routing: str | None = None,
    pattern: str = "all",
    seed: int = 0,
    dead: int = 0,
    planes: int = 8,
    lost: int = 0,
    fair: bool = False,
) -> Answer:
    """Part ``network alltoall``: the heaviest link of a plane under each routing.

    Raises
    ------
    ValueError
        One host; all spines dead; no planes left.
    """
    one_of(pattern, "pattern", PATTERNS)
    integer(seed, "seed", 0, (1 << 32) - 1)
    plane = Plane(leaves, hosts, spines, dead)
    slower, carried = lost_planes(planes, lost)
    flows = PATTERNS[pattern](plane)
    base = heaviest(link_loads(plane, flows, "adaptive"))
    rows, histogram, figures = [], {}, []
    wanted = ROUTINGS if routing is None else (routing,)
    for name in wanted:
        loads = link_loads(plane, flows, name, seed)
        most = heaviest(loads)
        row: dict[str, Any] = {
            "routing": name,
            "heaviest_link": most,
            "time": most * slower,
            "of_adaptive": most / base,
        }
        if fair:
            row["fair_time"] = fair_time(plane, flows, name, seed) * slower
        rows.append(row)
        values, counts = np.unique(
            np.concatenate([loads["up"].ravel(), loads["down"].ravel()]), return_counts=True
        )
        histogram[name] = [values.tolist(), counts.tolist()]
        how = f"{len(flows):,} flows of size 1 on {plane.count} hosts, {plane.alive} spines" + (
            f", seed {seed}" if name == "ecmp" else ""
        )
        figures.append(
            Figure(f"time, {name}", most * slower, "flows", "bound", f"{ISCA}, section 5.2.2", how)
        )
        if fair:
            how = "max-min fair rates, event by event"
            figures.append(Figure(f"fair time, {name}", row["fair_time"], "flows", "simulated", "own", how))
    per_leaf = min(hosts, 64)
    links = min(plane.alive, 64)
    chance = mean_fullest(per_leaf, links)
    how = f"{per_leaf} random flows on {links} links, exact; 1 without collisions"
    figures.append(Figure("fullest up-link of a leaf by chance", chance, "flows", "formula", "counting", how))
    if lost:
        how = f"{planes} / ({planes} - {lost}); NVLink carries {carried:.4g} of a GPU's traffic besides"
        figures.append(Figure("slower by lost planes", slower, "", "bound", f"{ISCA}, section 5.1.1", how))
    gpus = plane.count * planes
    if plane.count > 1:
        ceiling = algorithm_bandwidth(gpus, planes)
        how = f"50 GB/s / (1 - {planes}/{gpus}), {planes} GPUs a node, one on each plane"
        figures.append(
            Figure("all-to-all of all planes, ceiling", ceiling, "B/s", "bound", f"{ISCA}, figure 5", how)
        )
    notes = [
        "time: load of the heaviest link, exact for fluid flows with perfect scheduling; packets, incast and "
        "congestion control are not modelled",
        "many small flows hide ECMP's collisions, few large ones (rings, data parallel) show them",
    ]
    inputs = {"leaves": leaves, "hosts": hosts, "spines": spines, "pattern": pattern, "seed": seed}
    inputs |= {"dead": dead, "planes": planes, "lost": lost, "fair": fair}
    columns = ("routing", "heaviest_link", "time", "of_adaptive") + (("fair_time",) if fair else ())
    return Answer(
        "network alltoall", inputs, figures, columns, rows, notes, {"histogram": histogram}, FLOW_PLOTS
    )
