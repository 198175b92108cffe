"""Vectors of tests/golden/codesign.json (DSV3_VECTORS: another folder's) by the arithmetic of `codesign`.

A vector has a name, what is given, what is expected (integers exactly, numbers to 1e-9 unless it has an
`rtol`). Where nothing is given, its name says it; "the same" and "its" refer to the vector before.
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsv3_numerics.codesign import (
    Shape,
    decode_flop,
    ep_step,
    expected_nodes,
    flows,
    kv_bytes,
    mean_fullest,
    mtp_speed,
    node_distribution,
    overlaps,
    pipelines,
    prefill_flop,
    published,
    read_hardware,
    read_shape,
    routes,
    timed,
    tokens_a_step,
    topologies,
    train_flop,
)
from dsv3_numerics.codesign import replicas as eplb
from dsv3_numerics.codesign.attention import Compressed, Gqa, Mla
from dsv3_numerics.codesign.caches import chosen_format
from dsv3_numerics.codesign.formats import row_bytes
from dsv3_numerics.codesign.measured import experts_fit, fit_line
from dsv3_numerics.codesign.operations import (
    Machine,
    experts,
    linear,
    mla_core,
    switch_pairs,
    users_that_fit,
    weights_on_gpu,
)
from dsv3_numerics.codesign.schedule import Times
from dsv3_numerics.codesign.tradeoffs import front, read_seconds

OWN = Path(__file__).parents[1] / "golden" / "codesign.json"
PARTS = (
    "kv",
    "flops",
    "ep",
    "roofline",
    "mtp",
    "routing",
    "eplb",
    "pipeline",
    "overlap",
    "network",
    "paper",
    "tradeoff",
)
WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
NUMBER = r"(-?\d*\.?\d+(?:e\d+)?)"


@cache
def vectors() -> dict[str, Any]:
    folder = os.environ.get("DSV3_VECTORS")
    file = Path(folder) / "codesign.json" if folder else OWN
    return dict(json.loads((file if file.exists() else OWN).read_text()))


def shape(name: str = "V3") -> Shape:
    configs = vectors()["configs"]
    return read_shape(configs.get(name) or json.loads(OWN.read_text())["configs"][name])


def numbers(text: str) -> list[float]:
    return [float(x) for x in re.findall(NUMBER, text)]


def after(name: str, *words: str) -> float:
    """The number that follows a word of the name."""
    found = re.search(rf"(?:{'|'.join(words)})\s*=?\s*{NUMBER}", name)
    assert found, f"{name}: no number after {words}"
    return float(found[1])


def earlier(part: str, i: int, pattern: str) -> re.Match[str]:
    """The match of this vector's name, or of the nearest one before."""
    for vector in reversed(vectors()[part][: i + 1]):
        found = re.search(pattern, vector["name"])
        if found:
            return found
    raise AssertionError(f"{part} {i}: nothing matches {pattern}")


def kv(v: dict[str, Any], i: int) -> Any:
    g, name = v["given"], v["name"]
    if "config" in g:
        form = {"index": g.get("index", "bf16"), "window": g.get("window")}
        return kv_bytes(shape(g["config"]), g["tokens"], g.get("fmt", "bf16"), **form)
    if name.startswith("cache at 1M"):
        forms = {"V3.2": ("fp8", "fp8"), "V4-Pro": ("v4_fp8", "fp4"), "V4-Flash": ("v4_fp8", "fp4")}
        sizes = [kv_bytes(shape(m), 1 << 20, f, index=x) for m, (f, x) in forms.items()]
        return [*sizes, sizes[1] / sizes[0], sizes[2] / sizes[0]]
    over, under = name.split(" / ")
    aliases = {n: n for n in vectors()["configs"]} | {"LLaMA-405B": "LLaMA-405B"}
    return kv_bytes(shape(aliases[over]), 1) / kv_bytes(shape(aliases[under]), 1)


def flops(v: dict[str, Any], i: int) -> Any:
    g, name = dict(v["given"]), v["name"]
    model = shape(g.pop("config", name.split()[0]))
    if "what" in g:
        return {"total": model.total, "active": model.active, "matmul_active": model.multiplied}[g["what"]]
    if "train GFLOP" in name:
        share = 0.5 if g.get("quarter") else 1.0
        how = {"causal": g.get("causal", True), "router": g.get("router", True), "share": share}
        return train_flop(model, g.get("T", 4096), **how) / 1e9
    if "prefill GFLOP" in name:
        return prefill_flop(model, g.get("T", 4096), causal=g.get("causal", True)) / 1e9
    if "decode GFLOP" in name:
        return decode_flop(model, g.get("tokens", 4096)) / 1e9
    if "absorbed / expanded" in name:
        a = model.layers[0].attention
        return a.decoded(1) / a.expanded(1)
    if "absorbed core equals" in name:
        return 2 * model.multiplied / sum(layer.attention.decoded(1) for layer in model.layers)
    if "indexer alone" in name:
        mine = [layer.attention for layer in model.layers if isinstance(layer.attention, Mla)]
        return [model.total, sum(a.index_parameters(model.hidden) for a in mine)]
    raise AssertionError(f"not understood: {name}")


def ep(v: dict[str, Any], i: int) -> Any:
    g, name = v["given"], v["name"]
    if "format" in g:
        return row_bytes(g["format"], g["hidden"])
    if name.startswith("DeepEP"):
        table = {"dispatch": "e4m3:1x128:f32", "combine": "bf16"}
        from dsv3_numerics.codesign.measured import measured

        rows = measured("deepep_low_latency")
        at = rows["ranks"].index(g["ranks"])
        found = []
        for way, form in table.items():
            speed = g["tokens"] * 8 * row_bytes(form, 7168) / rows[f"{way}_us"][at] / 1e3
            found += [speed, speed * (1 - 8 / g["ranks"])]
        return found
    if name.startswith("figure 7"):
        return [published.FUNCTIONS["figure7"](g["ranks"], way) for way in ("dispatch", "combine")]
    if "fitted alpha" in name:
        table = vectors()["ep_measured"]
        way = "dispatch" if "dispatch" in name else "combine"
        row = row_bytes("e4m3:1x128:f32" if way == "dispatch" else "bf16", 7168)
        amount, times = [], []
        for nodes, rows in table["nodes"].items():
            amount += [t * 8 * row * (1 - 1 / int(nodes)) for t in rows["tokens"]]
            times += [us * 1e-6 for us in rows[f"{way}_us"]]
        fit = fit_line(amount, times)
        return [fit.alpha * 1e6, fit.rate / 1e9, fit.worst, fit.rms]
    model = shape(g.get("config", "V3"))
    step = ep_step(
        g.get("hidden", model.hidden),
        dispatch=g["dispatch"],
        combine=g["combine"],
        bandwidth=g["bw"],
        tokens=g.get("tokens", 32),
        destinations=g.get("dest", 9),
        remote=g.get("remote", 1),
        alpha=g.get("alpha", 0.0),
    )
    time = g.get("layers", len(model.layers)) * g.get("micro", 2) * step.seconds
    return [step.seconds * 1e6, time * 1e3, 1 / time]


def roofline(v: dict[str, Any], i: int) -> Any:
    g, name = v["given"], v["name"]
    model = shape(g.get("config", "V3"))
    a = model.layers[0].attention
    assert isinstance(a, Mla)
    machine = g.get("hardware") or (re.findall(r"\b(?:GB|[HB])\d+\b", name) or ["H800"])[0]
    m = Machine(read_hardware(machine.lower()), {})

    def told(o: Any) -> list[Any]:
        return [o.flop, o.bytes, o.seconds * 1e6, o.bound_by]

    if name.startswith("MLA core decode"):
        return told(mla_core(m, a, g["batch"], g["tokens"], chosen_format(model, g["cache"]).record(a)))
    if "flop per cache byte" in name or re.match(r"the same, (\d+) B", name):
        size = re.search(r"(\d+) B", name)
        record = int(size[1]) if size else chosen_format(model, "bf16").record(a)
        return a.decoded(1) / record
    if name.startswith("ridge of"):
        rows = [read_hardware(x.lower()) for x in re.findall(r"\b[HB]\d+\b", name)]
        return [row.need("bf16", "ridge") / row.need("memory", "ridge") for row in rows]
    if "pairs" in g:
        width = model.moe.width if model.moe else 0
        return told(experts(m, model.hidden, width, g["pairs"], g["local"]))
    if name.startswith("o_proj"):
        return told(linear(m, "o", int(after(name, "B")), a.heads * a.v, model.hidden, "fp8"))
    if name.startswith("pairs per expert"):
        return switch_pairs(m.hardware, "fp8")
    if name.startswith("weights on a GPU"):
        found = re.search(r"(\d+) routed", name)
        assert found
        return weights_on_gpu(model, int(found[1]))
    if name.startswith("users of"):
        found = re.search(r"users of ([\d+]+) tokens.* of (\S+) B, (\S+) B kept free, (\d+) B", name)
        assert found
        tokens = sum(map(int, found[1].split("+")))
        weights = weights_on_gpu(model, int(earlier("roofline", i, r"weights on a GPU.* (\d+) routed")[1]))
        cache = tokens * int(found[4]) * len(model.layers)
        return users_that_fit(float(found[2]), float(found[3]), weights, cache)
    if "fitted alpha" in name:
        rows = vectors()["roofline_measured"]["experts"]
        fit = fit_line([3 * 7168 * 2048 * n for n in rows["local"]], [us * 1e-6 for us in rows["us"]])
        assert fit == pytest.approx(experts_fit()) or os.environ.get("DSV3_VECTORS")
        return [fit.alpha * 1e6, 3 * 7168 * 2048 / fit.rate * 1e6, fit.rate / 1e12, fit.worst]
    if name.startswith("bound over measured"):
        rows = vectors()["roofline_measured"]["mla"]["batch_tokens_us"]
        record = chosen_format(model, "bf16").record(a)
        return [mla_core(m, a, b, n, record).seconds * 1e6 / us for b, n, us in rows]
    raise AssertionError(f"not understood: {name}")


def mtp(v: dict[str, Any], i: int) -> Any:
    g, name = v["given"], v["name"]
    if name.startswith("acceptances by place"):
        places = numbers(name.split("place")[1].split(",")[0])
        return tokens_a_step(places, len(places))
    p = g.get("p") or after(name, "p")
    depth = g.get("depth") or (int(after(name, "D")) if "D=" in name else 1)
    tokens = tokens_a_step([p], depth)
    cost = g.get("c", after(name, "c") if re.search(r"\bc=", name) else 0.0)
    if "tokens a step" in name:
        return tokens
    if "extra cost" in name:
        return (tokens / after(name, "by") - 1) / depth
    if "latency" in name:
        return mtp_speed(tokens, depth, cost)
    if "bytes, batch kept" in name or name.startswith("same"):
        return mtp_speed(tokens, depth, cost, 1.0)
    if "mixed" in name:
        return mtp_speed(tokens, depth, cost, g.get("s", 0.5))
    raise AssertionError(f"not understood: {name}")


def routed(v: dict[str, Any], i: int) -> Any:
    name = v["name"]
    if name.startswith("traffic"):
        trace = np.array(ast.literal_eval(name[name.index("(") + 1 : name.index(")")]))
        count, places = v["given"].get("experts", 256), v["given"].get("nodes", 8)
        touched = routes.touched(routes.checked_trace(trace, count), count, places)
        return [int(touched.sum()), int(touched.sum()), trace.size]
    top = earlier("routing", i, r"top-(\d+) of (\d+)")
    chosen, experts_ = int(top[1]), int(top[2])
    over = re.search(r"over (\d+) (?:nodes|devices)", name) or re.search(r"of (\d+)$", name)
    nodes = int(over[1]) if over else 8
    if "blindly" in name:
        word = re.match(r"(\w+) nodes chosen blindly, then top-(\d+) of their (\d+)", name)
        assert word
        limit = WORDS[word[1]]
        return routes.expected_nodes(int(word[3]), int(word[2]), limit)
    if "top-" in name:
        return expected_nodes(experts_, chosen, nodes)
    top = earlier("routing", i, r"uniform top-(\d+) of (\d+) over (\d+)")
    chosen, experts_, nodes = (int(x) for x in top.groups())
    if "distribution" in name:
        return node_distribution(experts_, chosen, nodes)
    if name.startswith("GPUs"):
        return expected_nodes(experts_, chosen, int(numbers(name)[0]))
    if "copies that leave" in name:
        nodes = int(numbers(name)[-1])
        return expected_nodes(experts_, chosen, nodes) * (1 - 1 / nodes)
    if "worst case" in name:
        limit = int(after(name, "M"))
        least = min(chosen, nodes, limit)
        return [min(chosen, nodes), least, 1 - least / min(chosen, nodes)]
    tokens = re.search(r"\(([\d,]+) tokens\)", name)
    count = int(tokens[1].replace(",", "")) if tokens else 100_000
    of = re.search(r"M=\d+ of (\d+)", name)
    nodes = int(of[1]) if of else nodes
    limits = [int(x) for x in re.findall(r"\d+", re.search(r"M=([\d, ]+)", name)[1])]  # type: ignore[index]
    drawn = [routes.simulate(experts_, chosen, nodes, limit, tokens=count, seed=7) for limit in limits]
    means = [float(routes.touched(x, experts_, nodes).mean()) for x in drawn]
    return means if len(limits) > 1 else means[0]


def balanced(v: dict[str, Any], i: int) -> Any:
    g = v["given"]
    found = eplb.balance(
        g["load"], replicas=g["replicas"], groups=g["groups"], nodes=g["nodes"], gpus=g["gpus"]
    )
    return [found.experts, found.max_over_mean]


def pipeline(v: dict[str, Any], i: int) -> Any:
    g = v["given"]
    times = Times(g["F"], g["B"], g["W"], g["FB"], g.get("hop", 0.0))
    found = {name: timed(name, g["stages"], g["chunks"], times) for name in pipelines.CLOSED}
    ours = {
        "span": [f.span for f in found.values()],
        "held": [f.held for f in found.values()],
        "closed": [c.value(g["stages"], times) for c in pipelines.CLOSED.values()],
    }
    for key in set(ours) & set(g):
        same(ours[key], g[key], v)
    return [f.bubble for f in found.values()]


def overlap(v: dict[str, Any], i: int) -> Any:
    g = v["given"]
    stages, layers = overlaps.checked_stages(g["stages"]), g["layers"]
    micro = g.get("micro", 2)
    answer = overlaps.overlap(stages, layers, micro).rows[0]
    for key, ours in (("barrier", "upper"), ("lower", "lower")):
        if key in g:
            same(answer[ours], g[key], v)
    return [answer[key] for key in ("two", "serial", "beyond_compute", "period")]


def network(v: dict[str, Any], i: int) -> Any:
    g, name = v["given"], v["name"]
    counts: Callable[[Any], list[int]] = lambda t: [t.endpoints, t.switches, t.links]  # noqa: E731
    if found := re.match(r"FT2 with (\d+) ports .*one plane and (\w+)", name):
        k = int(found[1])
        return [counts(topologies.two_layer(k)), counts(topologies.multi_plane(k, WORDS[found[2]]))]
    if found := re.match(r"(FT2|FT3) (\d+)", name):
        kind = {"FT2": topologies.two_layer, "FT3": topologies.three_layer}[found[1]]
        return counts(kind(int(found[2])))
    if found := re.match(r"MPFT (\d+) x (\d+)", name):
        return counts(topologies.multi_plane(int(found[1]), int(found[2])))
    if "prime power" in name:
        return [topologies.is_prime_power(int(q)) for q in numbers(name)]
    if found := re.match(r"SF q=(\d+)", name):
        q = int(found[1])
        fly = topologies.slim_fly(q)
        ends = fly.endpoints // fly.switches
        return [*counts(fly), fly.ports_used - ends, ends, fly.ports_used]
    if found := re.match(r"DF (?:balanced )?(?:p=(\d+) a=(\d+) h=(\d+) )?g=(\d+)", name):
        before = earlier("network", i, r"DF p=(\d+) a=(\d+) h=(\d+)")
        p, a, h = (int(x) for x in before.groups())
        fly = topologies.dragonfly(p, a, h, None if "balanced" in name else int(found[4]))
        assert "balanced" not in name or fly.switches == a * int(found[4])
        return [*counts(fly), fly.ports_used]
    if "$ a link" in name:
        switch, link = topologies.fitted_prices()
        return [switch / 1e3, link]
    if "cost by the fit" in name:
        return [published.FUNCTIONS["topology"](t, "cost") / 1e6 for t in ("FT2", "MPFT", "FT3", "SF", "DF")]
    if found := re.match(r"all-to-all of (\d+) GPUs in nodes of (\d+): .* at (\d+) GB/s", name):
        gpus, node, speed = (int(x) for x in found.groups())
        return topologies.algorithm_bandwidth(gpus, node, speed * 1e9) / 1e9
    if name.startswith("planes lost"):
        *lost, planes = [int(x) for x in numbers(name)]
        return [topologies.lost_planes(planes, j)[0] for j in lost]
    if "NVLink must carry" in name:
        planes = int(earlier("network", i, r"planes lost .* of (\d+)")[1])
        return topologies.lost_planes(planes, 1)[1]
    if "flows" in g:
        return mean_fullest(g["flows"], g["links"])
    if found := re.match(r"ECMP, (\d+) on (\d+): chance", name):
        return flows.no_collision(int(found[1]), int(found[2]))
    if "leaves" in g:
        dead = g.get("dead", 0)
        return _loads(flows.Plane(g["leaves"], g["per"], g["spines"], dead), g["pattern"], name)
    if name.startswith("the same") and "dead" in name:
        given = next(x["given"] for x in reversed(vectors()["network"][:i]) if "leaves" in x["given"])
        word = re.search(r"(\w+) spines? dead", name)
        assert word
        plane = flows.Plane(given["leaves"], given["per"], given["spines"], WORDS[word[1]])
        return _loads(plane, given["pattern"], "adaptive")[0]
    if name.startswith("max-min fair"):
        return _fair_times(name, g or _given_of(int(after(name.replace("hosts", ""), "fair:")), i))
    if name.startswith("splitmix64"):
        return [flows.splitmix64(int(x)) for x in re.findall(r"\((\d+)\)", name)]
    if name.startswith("T5"):
        return [5.6 - 3.6, 3.7 - 2.8, 4 * 61 * 3.7e-3]
    raise AssertionError(f"not understood: {name}")


def _given_of(hosts: int, i: int) -> dict[str, Any]:
    """Sizes of the last plane of so many hosts before a vector."""
    planes = [x["given"] for x in vectors()["network"][:i] if "leaves" in x["given"]]
    return next(dict(g) for g in reversed(planes) if g["leaves"] * g["per"] == hosts)


def _fair_times(name: str, g: dict[str, Any]) -> list[float]:
    """Times by patterns, each with routings and seeds: "shift, ECMP seeds 0 1 2, static; all, static"."""
    plane = flows.Plane(g["leaves"], g["per"], g["spines"], g.get("dead", 0))
    found = []
    for part in name.split("hosts,")[1].split(";"):
        pattern, *ways = (word.strip() for word in part.split(","))
        pairs = flows.PATTERNS[pattern](plane)
        for way in ways:
            routing, *seeds = way.replace("seeds", "").replace("seed", "").lower().split()
            found += [flows.fair_time(plane, pairs, routing, int(seed)) for seed in seeds or ["0"]]
    return found


def _loads(plane: flows.Plane, pattern: str, name: str) -> list[float]:
    pairs = flows.PATTERNS[pattern](plane)
    found = [
        flows.heaviest(flows.link_loads(plane, pairs, way)) for way in ("adaptive", "static") if way in name
    ]
    seeds = re.search(r"ECMP seeds? ([\d ]+)", name)
    return found + [
        flows.heaviest(flows.link_loads(plane, pairs, "ecmp", int(s)))
        for s in (seeds[1].split() if seeds else ())
    ]


def papers(v: dict[str, Any], i: int) -> Any:
    name = v["name"]
    seconds = {"MPFT": 19.926, "MRFT": 19.946}
    if found := re.match(r"T4 (MPFT|MRFT)", name):
        s = seconds[found[1]]
        rates = [published.training_rate(s, causal) for causal in (False, True)]
        return [
            published.tokens_a_day(s) / 1e9,
            *(r / 1e12 for r in rates),
            *(100 * r / published.PEAK for r in rates),
        ]
    rows = {(row.section, row.what): row.recomputed() for row in published.rows()}
    if name.startswith("T4 sums"):
        return [rows["table 4", f"{n}, seconds a step"] for n in ("MPFT", "MRFT")]
    if name.startswith("GPU-hours"):
        return [published.gpu_hours(t, 272.80e9) / 1e3 for t in (1e12, 14.8e12)]
    if name.startswith("6.2"):
        return rows["6.2", "160 lanes of PCIe 5"]
    if name.startswith("day 6"):
        return [published.service("cost"), published.service("revenue"), 100 * published.service("margin")]
    raise AssertionError(f"not understood: {name}")


def traded(v: dict[str, Any], i: int) -> Any:
    g, name = v["given"], v["name"]
    if "points" in g:
        kept = front([(x, y) for x, y, _ in g["points"]])
        return [label for (_, _, label), on in zip(g["points"], kept, strict=True) if on]
    if "cache" in g:
        batch, tokens = int(after(name, "B")), int(after(name, "N"))
        machine = name.rsplit(" ", 1)[1].lower()
        return (
            read_seconds(shape(g.get("config", "V3")), read_hardware(machine), batch, tokens, g["cache"])
            * 1e6
        )
    found = re.match(r"(\S+) layer, (\d+) tokens, (\d+) destinations, (\d+) GB/s", name)
    assert found
    model = shape(g.get("config", found[1]))
    tokens, dest, speed = (int(x) for x in found.groups()[1:])
    forms = {"dispatch": g["dispatch"], "combine": g["combine"]}
    step = ep_step(model.hidden, bandwidth=speed * 1e9, tokens=tokens, destinations=dest, **forms)
    sizes = [row_bytes(form, model.hidden) for form in forms.values()]
    return [*sizes, step.seconds * 1e6, len(model.layers) * 2 * step.seconds * 1e3]


WORK: dict[str, Callable[[dict[str, Any], int], Any]] = dict(
    zip(
        PARTS,
        (kv, flops, ep, roofline, mtp, routed, balanced, pipeline, overlap, network, papers, traded),
        strict=True,
    )
)
CASES = [(part, i) for part in PARTS for i in range(len(vectors().get(part, ())))]


def same(found: Any, expected: Any, v: dict[str, Any]) -> None:
    """Integers exactly, numbers to `rtol`, lists one by one."""
    if isinstance(expected, list):
        assert len(found) == len(expected), v["name"]
        for f, e in zip(found, expected, strict=True):
            same(f, e, v)
    elif isinstance(expected, str | bool) or (isinstance(expected, int) and "rtol" not in v):
        assert found == expected, v["name"]
    else:
        # 1e-12: sums of chances near zero
        assert math.isclose(found, expected, rel_tol=v.get("rtol", 1e-9), abs_tol=1e-12), (
            v["name"],
            found,
            expected,
        )


@pytest.mark.parametrize(("part", "i"), CASES, ids=lambda x: str(x))
def test_vector(part: str, i: int) -> None:
    vector = vectors()[part][i]
    same(WORK[part](vector, i), vector["expect"], vector)


def test_all_parts_are_there() -> None:
    known = {*PARTS, "configs", "ep_measured", "roofline_measured"}
    assert set(vectors()) <= known
    assert len(CASES) >= 90


def test_configs_have_one_kind_of_attention_each() -> None:
    """Formats of caches are by the first layer's attention."""
    for name in vectors()["configs"]:
        kinds = {type(layer.attention) for layer in shape(name).layers}
        assert len(kinds) == 1
        assert kinds <= {Gqa, Mla, Compressed}
