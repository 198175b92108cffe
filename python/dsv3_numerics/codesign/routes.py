"""Part ``routing``: nodes and GPUs that a token's experts are on, uniform, simulated, or of a trace."""

from __future__ import annotations

from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checks import integer, read_array
from .figures import ISCA, Answer, Figure
from .reader import read_shape
from .shape import Moe
from .timelines import ROUTING_PLOTS

Array = NDArray[Any]


def expected_nodes(experts: int, chosen: int, nodes: int) -> float:
    """Mean of the nodes that `chosen` of `experts` experts are on, every choice as likely.

    ``G (1 - C(E - E/G, k) / C(E, k))``; with GPUs for nodes, of GPUs.

    Examples
    --------
    >>> from dsv3_numerics.codesign import expected_nodes
    >>> round(expected_nodes(256, 8, 8), 6)
    5.294652
    """
    _checked(experts, chosen, nodes)
    return nodes * (1 - comb(experts - experts // nodes, chosen) / comb(experts, chosen))


def node_distribution(experts: int, chosen: int, nodes: int) -> list[float]:
    """Chances that the chosen experts are on exactly 0, 1, ... nodes, by inclusion and exclusion; exact."""
    _checked(experts, chosen, nodes)
    each, total = experts // nodes, comb(experts, chosen)
    found = []
    for j in range(nodes + 1):
        ways = sum((-1) ** (j - i) * comb(j, i) * comb(i * each, chosen) for i in range(j + 1))
        found.append(comb(nodes, j) * ways / total)
    return found


def _checked(experts: int, chosen: int, nodes: int) -> None:
    integer(experts, "experts", 1, 1 << 20)
    integer(chosen, "chosen", 1, experts)
    if integer(nodes, "nodes", 1, experts) and experts % nodes:
        raise ValueError(f"nodes: found {nodes}, expected a divisor of {experts} experts")


def simulate(
    experts: int, chosen: int, nodes: int, limit: int, *, tokens: int = 100_000, seed: int = 0
) -> Array:
    """Draw choices of experts: sigmoids of normals; nodes ranked by the sum of their best scores.

    Each node's score is the sum of its best ``max(1, chosen // limit)`` experts; the best `limit` nodes stay.

    Returns
    -------
    ndarray of int64, shape (tokens, chosen)
    """
    _checked(experts, chosen, nodes)
    each = experts // nodes
    if not 1 <= limit <= nodes or limit * each < chosen:
        raise ValueError(f"limit: found {limit}, expected 1 to {nodes} nodes that hold {chosen} experts")
    rng = np.random.default_rng(seed)
    best = min(each, max(1, chosen // limit))
    parts = []
    for begin in range(0, tokens, 10_000):
        # the sigmoid's order is the normal's; its sums are not
        scores = rng.standard_normal((min(10_000, tokens - begin), experts), dtype=np.float32)
        if limit < nodes:
            grouped = 1 / (1 + np.exp(-scores.reshape(-1, nodes, each)))
            sums = np.partition(grouped, each - best, axis=2)[:, :, each - best :].sum(axis=2)
            out = np.argpartition(-sums, limit - 1, axis=1)[:, limit:]
            masked = scores.reshape(-1, nodes, each)
            np.put_along_axis(masked, out[:, :, None], -np.inf, axis=1)
            scores = masked.reshape(-1, experts)
        parts.append(np.argpartition(-scores, chosen - 1, axis=1)[:, :chosen])
    return np.concatenate(parts)


def checked_trace(indices: Any, experts: int) -> Array:
    """Return a trace as (tokens, chosen): integers in range, none twice for a token.

    Raises
    ------
    ValueError
        Anything else: a real top-k has none of it.
    """
    found = np.asarray(indices)
    if found.dtype.kind not in "iu" or found.ndim < 1 or not found.size:
        raise ValueError(f"routing: found {found.dtype} of shape {found.shape}, expected indices of experts")
    if found.min() < 0 or found.max() >= experts:
        raise ValueError(f"routing: found {found.min()} to {found.max()}, expected 0 to {experts - 1}")
    flat = found.reshape(-1, found.shape[-1]).astype(np.int64)
    ordered = np.sort(flat, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    if twice.any():
        raise ValueError(f"routing: token {int(twice.argmax())} has an expert twice; a top-k never does")
    return flat


def touched(indices: Array, experts: int, places: int) -> Array:
    """Places (nodes or GPUs) that each token's experts are on."""
    ordered = np.sort(indices // (experts // places), axis=1)
    found: Array = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1)
    return found


def read_trace(path: str | Path) -> Array:
    """Read indices from an ``.npy`` file.

    Raises
    ------
    ValueError
        No such array.
    """
    return read_array(path, "routing")


def routing(
    config: object,
    nodes: int = 8,
    *,
    limit: int | None = None,
    trace: Any = None,
    gpus: int = 8,
    tokens: int = 20_000,
    seed: int = 0,
) -> Answer:
    """Part ``routing``: nodes of a token: uniform and exact, under a limit of nodes, and of a trace.

    Parameters
    ----------
    config, nodes : model, nodes that share the experts evenly
    limit : int, optional
        Most nodes a token may go to; simulated by scores, as DeepSeek-V3's gate does.
    trace : array_like of int, optional
        Indices of chosen experts, shape (..., chosen).
    gpus : int
        GPUs a node.

    Raises
    ------
    ValueError
        No experts; nodes that do not divide them; a trace that no top-k makes.
    """
    shape = read_shape(config)
    moe = shape.moe
    if moe is None:
        raise ValueError(f"config: {shape.name} has no experts to route to")
    rows = [_uniform(moe, nodes, gpus)]
    if limit is not None:
        tokens = integer(tokens, "tokens", 1, 10_000_000)
        drawn = simulate(moe.experts, moe.chosen, nodes, limit, tokens=tokens, seed=seed)
        rows.append(_counted(f"limit {limit}, simulated", drawn, moe, nodes, gpus))
    if trace is not None:
        rows.append(_counted("trace", checked_trace(trace, moe.experts), moe, nodes, gpus))
    source = f"{ISCA}, section 4.3"
    figures = []
    for row in rows:
        tag = "formula" if row["source"] == "uniform" else "simulated"
        how = f"{nodes} nodes, top-{moe.chosen} of {moe.experts}"
        if tag == "formula":
            each = moe.experts // nodes
            how += f": {nodes} (1 - C({moe.experts - each}, {moe.chosen}) / C({moe.experts}, {moe.chosen}))"
        elif limit is not None and row["source"] != "trace":
            how += f", at most {limit}; {tokens:,} tokens, seed {seed}"
        figures.append(Figure(f"nodes, {row['source']}", row["nodes_mean"], "", tag, source, how))
        figures.append(
            Figure(f"copies off the node, {row['source']}", row["remote"], "", tag, source, "x (1 - 1/G)")
        )
    if limit is not None:
        worst = min(moe.chosen, nodes, limit)
        how = f"min(k, G, M); without a limit {min(moe.chosen, nodes)}"
        figures.append(Figure("nodes at worst", worst, "", "bound", source, how))
        true = 1 - rows[1]["nodes_mean"] / rows[0]["nodes_mean"]
        how = "against uniform routing with one copy a node; against one copy an expert it reads as half"
        figures.append(Figure("saved by the limit", true, "", "simulated", source, how))
    columns: tuple[str, ...] = (
        "source",
        "nodes_mean",
        "nodes_max",
        "distribution",
        "sent",
        "sent_to_experts",
        "saved",
    )
    columns += ("remote", "gpus_mean", "imbalance")
    notes = [
        "sent: copies with the token's own node among them; remote: without it, homes even over the nodes"
    ]
    inputs = {
        "config": shape.name,
        "nodes": nodes,
        "limit": limit,
        "gpus": gpus,
        "tokens": tokens,
        "seed": seed,
    }
    return Answer("routing", inputs, figures, columns, rows, notes, {}, ROUTING_PLOTS)


def _uniform(moe: Moe, nodes: int, gpus: int) -> dict[str, Any]:
    mean = expected_nodes(moe.experts, moe.chosen, nodes)
    return {
        "source": "uniform",
        "nodes_mean": mean,
        "nodes_max": min(moe.chosen, nodes),
        "distribution": node_distribution(moe.experts, moe.chosen, nodes),
        "sent": mean,
        "sent_to_experts": moe.chosen,
        "saved": 1 - mean / moe.chosen,
        "remote": mean * (1 - 1 / nodes),
        "gpus_mean": _gpus(moe, nodes, gpus) and expected_nodes(moe.experts, moe.chosen, nodes * gpus),
        "imbalance": 1.0,
    }


def _gpus(moe: Moe, nodes: int, gpus: int) -> int | None:
    """All GPUs, where they share the experts evenly."""
    integer(gpus, "gpus", 1, 1 << 20)
    return nodes * gpus if moe.experts % (nodes * gpus) == 0 else None


def _counted(source: str, indices: Array, moe: Moe, nodes: int, gpus: int) -> dict[str, Any]:
    _checked(moe.experts, min(moe.chosen, moe.experts), nodes)
    counts = touched(indices, moe.experts, nodes)
    load = np.bincount(indices.reshape(-1), minlength=moe.experts)
    mean = float(counts.mean())
    places = _gpus(moe, nodes, gpus)
    return {
        "source": source,
        "nodes_mean": mean,
        "nodes_max": int(counts.max()),
        "distribution": (np.bincount(counts, minlength=nodes + 1) / len(counts)).tolist(),
        "sent": mean,
        "sent_to_experts": indices.shape[1],
        "saved": 1 - mean / indices.shape[1],
        "remote": mean * (1 - 1 / nodes),
        "gpus_mean": float(touched(indices, moe.experts, places).mean()) if places else None,
        "imbalance": float(load.max() / load.mean()),
    }
