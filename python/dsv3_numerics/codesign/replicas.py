"""Part ``eplb``: replicas of busy experts, packed to nodes and GPUs by the published algorithm.

Restated from deepseek-ai/EPLB's README: hierarchical where nodes divide the groups, else global. Ties go to
the lowest index. Loads are float64 here, float32 there: near-ties may differ, integer loads do not.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._regular import read_small_text
from .checks import integer, read_array
from .figures import Answer, Figure
from .timelines import EPLB_PLOTS

SOURCE = "deepseek-ai/EPLB"


@dataclass(frozen=True)
class Balance:
    """One layer's replicas: the expert of each slot (GPU by GPU), and the load of each GPU."""

    experts: list[int]
    count: list[int]
    gpu_load: list[float]
    hierarchical: bool

    @property
    def max_over_mean(self) -> float:
        """The heaviest GPU over the mean; 1 for no load at all."""
        total = sum(self.gpu_load)
        return max(self.gpu_load) * len(self.gpu_load) / total if total else 1.0


def _pack(weights: list[float], packs: int) -> list[list[int]]:
    """Items to packs of one size: heaviest first, each to the lightest pack that has room."""
    size = len(weights) // packs
    if size == 1:
        return [[i] for i in range(packs)]
    found: list[list[int]] = [[] for _ in range(packs)]
    lightest = [(0.0, pack) for pack in range(packs)]  # a heap: among equal loads the lowest pack comes first
    for item in sorted(range(len(weights)), key=lambda i: -weights[i]):
        load, pack = heappop(lightest)
        found[pack].append(item)
        if len(found[pack]) < size:
            heappush(lightest, (load + weights[item], pack))
    return found


def _replicate(weights: list[float], replicas: int) -> tuple[list[int], list[int]]:
    """Return each replica's expert, and replicas of each expert: one more to the largest load a replica."""
    found, count = list(range(len(weights))), [1] * len(weights)
    largest = [(-weight, expert) for expert, weight in enumerate(weights)]
    heapify(largest)
    for _ in range(replicas - len(weights)):
        _, expert = largest[0]
        found.append(expert)
        count[expert] += 1
        heapreplace(largest, (-weights[expert] / count[expert], expert))
    return found, count


def balance(
    load: ArrayLike, *, replicas: int, groups: int = 1, nodes: int = 1, gpus: int = 1, plain: bool = False
) -> Balance:
    """Place replicas of one layer's experts.

    Parameters
    ----------
    load : array_like, shape (experts,)
        Tokens of each expert.
    replicas, groups, nodes, gpus : int
        Slots in all, groups of experts, nodes, GPUs in all.
    plain : bool
        Leave the order as it is (experts in turn): what balancing is measured against.

    Raises
    ------
    ValueError
        Replicas below the experts or no multiple of the GPUs; GPUs no multiple of the nodes; a bad load.

    Examples
    --------
    >>> from dsv3_numerics.codesign import balance
    >>> found = balance([4, 1, 1, 2], replicas=6, gpus=2)
    >>> found.count, found.experts
    ([3, 1, 1, 1], [3, 0, 2, 0, 0, 1])
    """
    values = _load(load)
    experts = len(values)
    _sizes(experts, replicas, groups, nodes, gpus)
    slots = replicas // gpus
    count = [1] * experts
    hierarchical = groups % nodes == 0
    if plain or not any(values):
        placed = [i % experts for i in range(replicas)]
        count = np.bincount(placed, minlength=experts).tolist()
    else:
        g, n = (groups, nodes) if hierarchical else (1, 1)
        placed = []
        each = experts // g
        sums = [sum(values[i * each : (i + 1) * each]) for i in range(g)]
        for node in _pack(sums, n):
            members = [group * each + k for group in node for k in range(each)]
            weights = [values[m] for m in members]
            copies, counts = _replicate(weights, replicas // n)
            for pack in _pack([weights[c] / counts[c] for c in copies], gpus // n):
                placed += [members[copies[slot]] for slot in pack]
            for m, c in zip(members, counts, strict=True):
                count[m] = c
    share = [values[e] / count[e] for e in placed]
    loads = [sum(share[i * slots : (i + 1) * slots]) for i in range(gpus)]
    return Balance(placed, count, loads, hierarchical)


def _load(load: ArrayLike) -> list[float]:
    try:
        found: NDArray[np.float64] = np.asarray(load, float)
    except (TypeError, ValueError):
        raise ValueError("load: found no numbers, expected one an expert") from None
    if found.ndim != 1 or not found.size or found.size > 1 << 16:
        raise ValueError(f"load: found shape {found.shape}, expected (experts,)")
    if not np.isfinite(found).all() or (found < 0).any():
        raise ValueError("load: found NaN, infinite or negative loads, expected counts")
    values: list[float] = found.tolist()
    return values


def _sizes(experts: int, replicas: int, groups: int, nodes: int, gpus: int) -> None:
    for name, value in (("replicas", replicas), ("groups", groups), ("nodes", nodes), ("gpus", gpus)):
        integer(value, name, 1, 1 << 20)
    if replicas < experts or replicas % gpus:
        raise ValueError(
            f"replicas: found {replicas}, expected at least {experts} (experts) and a multiple of {gpus} GPUs"
        )
    if gpus % nodes:
        raise ValueError(f"gpus: found {gpus}, expected a multiple of {nodes} nodes")
    if experts % groups:
        raise ValueError(f"groups: found {groups}, expected a divisor of {experts} experts")


def eplb(load: Any, *, replicas: int, groups: int = 1, nodes: int = 1, gpus: int = 8) -> Answer:
    """Part ``eplb``: the placement of each layer's replicas, by both policies, and how even GPUs become."""
    layers = np.atleast_2d(np.asarray(load))
    if layers.ndim != 2:
        raise ValueError(f"load: found shape {layers.shape}, expected layers x experts")
    rows: list[dict[str, Any]] = []
    bars: list[dict[str, Any]] = []
    for i, layer in enumerate(layers):
        before = balance(layer, replicas=replicas, nodes=nodes, gpus=gpus, plain=True)
        found = {"global": balance(layer, groups=1, replicas=replicas, nodes=1, gpus=gpus)}
        if groups % nodes == 0 and nodes > 1:
            found = {
                "hierarchical": balance(layer, replicas=replicas, groups=groups, nodes=nodes, gpus=gpus)
            } | found
        for policy, after in found.items():
            rows.append(
                {
                    "layer": i,
                    "policy": policy,
                    "before": before.max_over_mean,
                    "after": after.max_over_mean,
                    "most_replicas": max(after.count),
                    "map": after.experts,
                    "count": after.count,
                }
            )
        bars.append({"layer": i, "before": before.gpu_load, **{p: b.gpu_load for p, b in found.items()}})
    figures = []
    for policy in dict.fromkeys(row["policy"] for row in rows):
        mine = [row for row in rows if row["policy"] == policy]
        worst, first = (max(row[key] for row in mine) for key in ("after", "before"))
        how = f"worst of {len(mine)} layers, before {first:.4g}; {replicas} replicas on {gpus} GPUs"
        figures.append(Figure(f"heaviest GPU over mean, {policy}", worst, "", "formula", SOURCE, how))
    notes = ["before: experts in turn, the replicas over as many again from the first"]
    if groups % nodes:
        notes.append(f"{nodes} nodes do not divide {groups} groups: only the global policy applies")
    inputs = {"layers": len(layers), "experts": layers.shape[1], "replicas": replicas}
    inputs |= {"groups": groups, "nodes": nodes, "gpus": gpus}
    columns = ("layer", "policy", "before", "after", "most_replicas", "map", "count")
    return Answer("eplb", inputs, figures, columns, rows, notes, {"bars": bars}, EPLB_PLOTS)


def read_load(path: str | Path) -> Any:
    """Read loads (layers x experts) from CSV, ``.npy`` or JSON.

    Raises
    ------
    ValueError
        The file holds none.
    """
    file = Path(path)
    try:
        if file.suffix == ".npy":
            return read_array(file, "load")
        text = read_small_text(file)
        if file.suffix == ".json":
            return np.array(json.loads(text), float)
        return np.array([[float(v) for v in row] for row in csv.reader(text.splitlines()) if row])
    except (ValueError, TypeError, OverflowError, EOFError, RecursionError) as error:
        raise ValueError(f"load: cannot read {file}: {error}") from None
