"""Properties of `codesign` over all its inputs together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dsv3_numerics import codesign as cd
from dsv3_numerics.codesign import overlaps
from dsv3_numerics.codesign.caches import INDEX_KEYS, formats
from dsv3_numerics.codesign.flows import PATTERNS
from dsv3_numerics.codesign.pipelines import CLOSED
from dsv3_numerics.codesign.reader import presets

SHAPES = {name: cd.read_shape(name) for name in presets()}
times = st.floats(0.05, 10, allow_nan=False)


@given(st.sampled_from(presets()), st.data(), st.integers(1, 1 << 21), st.integers(0, 5000))
def test_bytes_grow_with_tokens(name: str, data: st.DataObject, tokens: int, more: int) -> None:
    shape = SHAPES[name]
    cache = data.draw(st.sampled_from(list(formats(shape))))
    index = data.draw(st.sampled_from(sorted(INDEX_KEYS)))
    small = cd.kv_bytes(shape, tokens, cache, index=index)
    assert 0 < small <= cd.kv_bytes(shape, tokens + more, cache, index=index)
    assert small <= tokens * cd.kv_bytes(shape, 1, cache, index=index) or shape.family.startswith(
        "deepseek_v4"
    )
    if more == 0:
        fit = cd.kv(shape, [1], [cache], index=index, memory=small).value(f"tokens that fit, {cache}")
        assert isinstance(fit, int)
        assert fit >= tokens


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.tuples(st.sampled_from("cn"), times), min_size=n, max_size=n)
    ),
    st.integers(1, 30),
    st.integers(1, 4),
)
@settings(deadline=None)
def test_overlap_lies_between_its_bounds(stages: list[tuple[str, float]], layers: int, micro: int) -> None:
    row = cd.overlap(stages, layers, micro).rows[0]
    assert row["two"] <= row["serial"] * (1 + 1e-9)
    assert row["two"] >= layers * overlaps.lower_bound(stages, micro) / micro * (1 - 1e-9)
    if micro == 1:
        assert row["two"] == pytest.approx(row["serial"])


@given(times, times, times, times)
@settings(deadline=None)
def test_period_lies_between_its_bounds(a: float, d: float, m: float, c: float) -> None:
    """Four stages that alternate, two micro-batches."""
    stages = [("c", a), ("n", d), ("c", m), ("n", c)]
    period = overlaps.period_of(stages, 40)
    upper = overlaps.barrier_bound(stages)
    assert upper is not None
    assert overlaps.lower_bound(stages) * (1 - 1e-9) <= period <= upper * (1 + 1e-9)


@given(st.integers(1, 6), st.integers(0, 12), times, times, times, st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_bubbles_equal_closed_forms_where_these_hold(
    half: int, more: int, f: float, b: float, w: float, part: float, between: float
) -> None:
    stages, chunks = 2 * half, 4 * half + 2 * more
    any_times = cd.Times(f, max(b, w), w, max(f, b) + between)
    found = cd.timed("1F1B", stages, chunks, any_times).bubble
    assert math.isclose(found, CLOSED["1F1B"].value(stages, any_times), abs_tol=1e-6)
    w = part * f  # W <= F
    zero = cd.Times(f, max(b, 2 * w), w, f + b)  # W <= B - W
    found = cd.timed("ZB1P", stages, chunks, zero).bubble
    assert math.isclose(found, CLOSED["ZB1P"].value(stages, zero), abs_tol=1e-6)
    backward = f + w  # F = B - W
    dual = cd.Times(f, backward, w, backward + between * f)  # F&B between B and F + B
    for name in ("DualPipe", "DualPipeV"):
        found = cd.timed(name, stages, chunks, dual).bubble
        assert math.isclose(found, CLOSED[name].value(stages, dual), abs_tol=1e-6)


@given(st.integers(1, 5), st.integers(0, 10), times, times, times, times)
@settings(deadline=None)
def test_the_v_is_the_dual_pipe_folded(
    half: int, more: int, f: float, i: float, w: float, both: float
) -> None:
    """As many chunks from one end as DualPipe has from each: the same span."""
    stages, chunks = 2 * half, 4 * half + 2 * more
    spent = cd.Times(f, i + w, w, both)
    whole = cd.timed("DualPipe", stages, chunks, spent).span
    folded = cd.timed("DualPipeV", stages, chunks // 2, spent).span
    assert math.isclose(whole, folded, rel_tol=1e-9)


@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_balanced_replicas(data: st.DataObject, groups: int, nodes: int, per_node: int, each: int) -> None:
    experts = groups * each
    gpus = nodes * per_node
    slots = data.draw(st.integers(-(-experts // gpus), -(-experts // gpus) + 3))
    load = data.draw(st.lists(st.integers(0, 1000), min_size=experts, max_size=experts))
    sizes: dict[str, Any] = {"replicas": slots * gpus, "groups": groups, "nodes": nodes, "gpus": gpus}
    if groups % nodes == 0:
        assume(slots * gpus // nodes >= experts // nodes)
    found = cd.balance(load, **sizes)
    assert sorted(set(found.experts)) == list(range(experts))
    assert len(found.experts) == slots * gpus
    assert [found.experts.count(e) for e in range(experts)] == found.count
    assert sum(found.gpu_load) == pytest.approx(sum(load))
    assert len(found.gpu_load) == gpus
    assert found.max_over_mean >= 1 - 1e-9


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=12), st.integers(0, 10))
def test_more_replicas_never_raise_the_largest_share(load: list[int], more: int) -> None:
    """Shares are an expert's load over its replicas."""
    shares = []
    for extra in (more, more + 1):
        found = cd.balance(load, replicas=len(load) + extra)
        shares.append(max(x / n for x, n in zip(load, found.count, strict=True)))
    assert shares[1] <= shares[0]


@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 8))
def test_chances_of_nodes_sum_to_one(nodes: int, each: int, chosen: int) -> None:
    experts = nodes * each
    chosen = min(chosen, experts)
    chances = cd.node_distribution(experts, chosen, nodes)
    assert math.isclose(sum(chances), 1, rel_tol=1e-9)
    assert all(chance >= 0 for chance in chances)
    mean = sum(j * chance for j, chance in enumerate(chances))
    assert math.isclose(mean, cd.expected_nodes(experts, chosen, nodes), rel_tol=1e-9)


@given(st.integers(2, 5), st.integers(1, 5), st.integers(1, 5), st.data(), st.integers(0, 1 << 31))
@settings(deadline=None, max_examples=40)
def test_times_of_flows_are_ordered(
    leaves: int, hosts: int, spines: int, data: st.DataObject, seed: int
) -> None:
    """Fair rates are never faster than the heaviest link, no routing than adaptive."""
    plane = cd.Plane(leaves, hosts, spines, data.draw(st.integers(0, spines - 1)))
    flows = PATTERNS[data.draw(st.sampled_from(sorted(PATTERNS)))](plane)
    routing = data.draw(st.sampled_from(["static", "ecmp"]))
    bound = cd.heaviest(cd.link_loads(plane, flows, routing, seed))
    adaptive = cd.heaviest(cd.link_loads(plane, flows, "adaptive"))
    assert adaptive <= bound * (1 + 1e-9)
    assert cd.fair_time(plane, flows, routing, seed) >= bound * (1 - 1e-9)
    sent = sum(
        load.sum() for name, load in cd.link_loads(plane, flows, routing, seed).items() if name == "up"
    )
    assert sent == np.sum(flows[:, 0] // hosts != flows[:, 1] // hosts)


@given(st.integers(2, 4), st.integers(1, 4), st.integers(1, 4), st.integers(2, 4))
@settings(deadline=None, max_examples=30)
def test_planes_and_rails_carry_the_same(leaves: int, hosts: int, spines: int, planes: int) -> None:
    """Where NVLink forwards: planes by senders' GPUs (MPFT) or by receivers' (MRFT) have equal loads."""
    plane = cd.Plane(leaves, hosts, spines)
    nodes = np.argwhere(~np.eye(plane.count, dtype=bool))
    every = np.repeat(nodes, planes * planes, axis=0)
    pairs = np.tile(np.stack(np.divmod(np.arange(planes * planes), planes), axis=1), (len(nodes), 1))
    for choice in (0, 1):
        loads = [
            cd.heaviest(cd.link_loads(plane, every[pairs[:, choice] == p], "adaptive")) for p in range(planes)
        ]
        assert loads == [loads[0]] * planes
        if choice == 0:
            first = loads
    assert loads == first


@given(st.floats(0, 1), st.integers(1, 8), st.floats(0, 2), st.floats(0, 1))
def test_drafts(p: float, depth: int, cost: float, share: float) -> None:
    tokens = cd.tokens_a_step([p], depth)
    assert 1 <= tokens <= depth + 1 + 1e-9
    assert tokens == pytest.approx(cd.tokens_a_step([p] * depth, depth))
    low, high = sorted((cd.mtp_speed(tokens, depth, cost, 0.0), cd.mtp_speed(tokens, depth, cost, 1.0)))
    assert low * (1 - 1e-9) <= cd.mtp_speed(tokens, depth, cost, share) <= high * (1 + 1e-9)


@given(
    st.sampled_from(
        [
            n
            for n, s in SHAPES.items()
            if s.moe is not None and s.family not in ("deepseek_v4", "deepseek_v41")
        ]
    ),
    st.integers(1, 512),
    st.integers(1, 1 << 17),
    st.sampled_from(["decode", "prefill"]),
    st.sampled_from(["bf16", "fp8"]),
)
@settings(deadline=None, max_examples=30)
def test_bounds_of_layers_grow_with_the_batch(
    name: str, batch: int, context: int, phase: str, linears: str
) -> None:
    answer = cd.roofline(name, batch=[batch, batch + 7], context=context, phase=phase, linears=linears, ep=4)
    one, two = answer.data["sweep"]
    assert 0 < one["tpot_s"] <= two["tpot_s"] * (1 + 1e-9)
    for row in answer.rows:
        assert row["bound_by"] in ("compute", "memory", "network")
        assert row["seconds"] > 0
