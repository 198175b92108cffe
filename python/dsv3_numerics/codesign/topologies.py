"""Counts and costs of topologies: fat trees, Slim Fly, Dragonfly; planes that fail."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import integer


@dataclass(frozen=True)
class Topology:
    """Counts of a topology; links are those between switches."""

    name: str
    endpoints: int
    switches: int
    links: int
    ports_used: int


def _ports(ports: int) -> int:
    ports = integer(ports, "ports", 2, 1 << 16)
    if ports % 2:
        raise ValueError(f"ports: found {ports}, expected an even number")
    return ports


def two_layer(ports: int) -> Topology:
    """FT2, a two-layer fat tree of k-port switches: k^2/2 endpoints, 3k/2 switches, k^2/2 links."""
    k = _ports(ports)
    return Topology("FT2", k * k // 2, 3 * k // 2, k * k // 2, k)


def multi_plane(ports: int, planes: int) -> Topology:
    """MPFT: a two-layer fat tree a plane; an endpoint of the count is one port of a node's GPU."""
    one, p = two_layer(ports), integer(planes, "planes", 1, 1 << 12)
    return Topology("MPFT", p * one.endpoints, p * one.switches, p * one.links, one.ports_used)


def three_layer(ports: int) -> Topology:
    """FT3, a three-layer fat tree: k^3/4 endpoints, 5k^2/4 switches, k^3/2 links."""
    k = _ports(ports)
    return Topology("FT3", k**3 // 4, 5 * k * k // 4, k**3 // 2, k)


def slim_fly(q: int) -> Topology:
    """Slim Fly of q = 4w + delta: 2 q^2 routers with (3q - delta)/2 ports between them.

    Counts need no prime power; a Slim Fly does (`is_prime_power`).
    """
    q = integer(q, "q", 3, 10_000)
    delta = {0: 0, 1: 1, 3: -1}.get(q % 4)
    if delta is None:
        raise ValueError(f"q: found {q}, expected 4w - 1, 4w or 4w + 1")
    ports = (3 * q - delta) // 2
    ends = -(-ports // 2)
    return Topology("SF", 2 * q * q * ends, 2 * q * q, q * q * ports, ports + ends)


def is_prime_power(q: int) -> bool:
    """Tell whether a number is p^n of a prime p."""
    if q < 2:
        return False
    divisor = next((d for d in range(2, int(q**0.5) + 1) if q % d == 0), q)
    while q % divisor == 0:
        q //= divisor
    return q == 1


def dragonfly(p: int, a: int, h: int, g: int | None = None) -> Topology:
    """Dragonfly: g groups of a routers with p endpoints and h global links each; g = a h + 1 is balanced."""
    p, a, h = (integer(v, name, 1, 10_000) for v, name in ((p, "p"), (a, "a"), (h, "h")))
    g = a * h + 1 if g is None else integer(g, "g", 1, 1 << 30)
    if a * h + 1 < g:
        raise ValueError(f"g: found {g}, expected at most a h + 1 = {a * h + 1} groups")
    return Topology("DF", g * a * p, g * a, g * a * (a - 1) // 2 + g * a * h // 2, p + a - 1 + h)


TABLE3 = {
    "FT2": (2048, 96, 2048, 9e6, 4390),
    "MPFT": (16384, 768, 16384, 72e6, 4390),
    "FT3": (65536, 5120, 131072, 491e6, 7500),
    "SF": (32928, 1568, 32928, 146e6, 4400),
    "DF": (261632, 16352, 384272, 1522e6, 5800),
}
"""Table 3: endpoints, switches, links, dollars, dollars an endpoint, of 64-port switches."""


def fitted_prices() -> tuple[float, float]:
    """Dollars of a switch and of a link that give FT2's and FT3's costs.

    Table 3 prints FT2's cost by the endpoint (4.39 k$) and FT3's whole (491 M$); prices are not printed. They
    are solved for in integers: what NumPy solves ends in other bits on other CPUs.
    """
    ft2, ft3 = two_layer(64), three_layer(64)
    costs = TABLE3["FT2"][4] * ft2.endpoints, int(TABLE3["FT3"][3])
    whole = ft2.switches * ft3.links - ft2.links * ft3.switches
    switch = costs[0] * ft3.links - ft2.links * costs[1]
    link = ft2.switches * costs[1] - costs[0] * ft3.switches
    return switch / whole, link / whole


def cost(topology: Topology) -> float:
    """Dollars by the fitted prices."""
    switch, link = fitted_prices()
    return topology.switches * switch + topology.links * link


def lost_planes(planes: int, lost: int) -> tuple[float, float]:
    """Time with `lost` of `planes` planes, of all; share of a GPU's traffic that NVLink carries besides."""
    planes = integer(planes, "planes", 1, 1 << 12)
    lost = integer(lost, "lost", 0, planes - 1)
    return planes / (planes - lost), lost / planes


def algorithm_bandwidth(gpus: int, node: int = 8, network: float = 50e9) -> float:
    """Ceiling of an all-to-all, bytes a second and GPU: copies within the node need no network (figure 5)."""
    gpus, node = integer(gpus, "gpus", 2, 1 << 24), integer(node, "node", 1, 1 << 20)
    if gpus <= node:
        raise ValueError(f"gpus: found {gpus}, expected more than the {node} of a node")
    return network / (1 - node / gpus)
