"""Part ``roofline``: a layer's operations, each bound by arithmetic, memory or the network, and whole models.

A layer's bound is the larger of its local operations and its transfers: two micro-batches hide one behind the
other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .checks import integer, number, one_of
from .figures import Answer, Figure, weakest
from .formats import check_wire
from .hardware import Hardware, read_hardware
from .measured import measured
from .operations import (
    RESOURCES,
    WIDTHS,
    Machine,
    Setup,
    layer_operations,
    layer_seconds,
    linear,
    switch_pairs,
    users_that_fit,
    weights_on_gpu,
)
from .plots import ROOFLINE_PLOTS
from .reader import read_shape
from .shape import Moe
from .sizes import kv_bytes
from .texts import human


def roofline(
    config: object,
    hardware: str | Hardware = "h800",
    *,
    batch: Sequence[int] = (128,),
    context: int = 4096,
    ep: int = 1,
    redundant: int = 0,
    phase: str = "decode",
    linears: str = "fp8",
    cache: str = "bf16",
    dispatch: str = "e4m3:1x128:f32",
    combine: str = "bf16",
    keep: float = 10e9,
    efficiency: Mapping[str, float] | None = None,
    changes: Sequence[str] = (),
) -> Answer:
    """Part ``roofline``: the operations of a layer at the first batch, and a sweep over all batches.

    Raises
    ------
    ValueError
        A batch below 1, experts that do not divide over the GPUs, a peak that the machine does not have.
    """
    shape, machine = read_shape(config), read_hardware(hardware, changes)
    one_of(phase, "phase", ("decode", "prefill"))
    one_of(linears, "linears", WIDTHS)
    check_wire(dispatch, "dispatch")
    check_wire(combine, "combine")
    share = dict(efficiency or {})
    for key, value in share.items():
        one_of(key, "efficiency", RESOURCES)
        number(value, f"efficiency {key}", positive=True, most=1.0)
    batches = [integer(b, "batch", 1, 1 << 24) for b in batch]
    context, ep = integer(context, "context", 1, 1 << 30), integer(ep, "ep", 1, 1 << 20)
    redundant, keep = integer(redundant, "redundant", 0, 1 << 20), number(keep, "keep")
    moe = shape.moe
    if moe is not None and (moe.experts + redundant) % ep:
        copies = f"{moe.experts} + {redundant} experts"
        raise ValueError(f"redundant: {copies} found, expected a multiple of {ep} GPUs (--ep)")
    local = (moe.experts + redundant) // ep if moe is not None else 0
    m = Machine(machine, share)
    weights = weights_on_gpu(shape, local, linears)
    one_user = kv_bytes(shape, context, cache)
    fit = users_that_fit(machine.need("capacity", "users"), keep, weights, one_user)
    kinds = Counter(shape.layers)
    main = next((x for x in kinds if isinstance(x.mlp, Moe)), shape.layers[0])
    sweep, lists = [], {}
    for b in batches:
        setup = Setup(b, context, phase == "decode", linears, cache, local, dispatch, combine)
        each = {layer: layer_operations(m, shape, layer, setup, ep > 1) for layer in kinds}
        head = linear(m, "head", b, shape.hidden, shape.vocab, "bf16")
        total = head.seconds + sum(max(layer_seconds(each[x])) * n for x, n in kinds.items())
        lists[b] = [*each[main], head]
        rate = (b if phase == "decode" else b * context) / total
        line: dict[str, Any] = {"batch": b, "layer_s": max(layer_seconds(each[main])), "tpot_s": total}
        sweep.append(line | {"tokens_per_second_per_gpu": rate, "users": fit, "fits": b <= fit})
    first = lists[batches[0]]
    whole = sum(o.seconds for o in first if o.name != "head")
    rows: list[dict[str, Any]] = [
        vars(o) | {"operation": o.name, "share": o.seconds / whole if o.name != "head" else None}
        for o in first
    ]
    tag = weakest("bound", "fitted") if share else "bound"
    source = f"{machine.name}: {machine.source}"
    figures = [
        Figure(
            f"{phase} {'tpot' if phase == 'decode' else 'time'}, batch {row['batch']}",
            row["tpot_s"],
            "s",
            tag,
            source,
            f"layers' max(local, transfers) and the head; {row['tokens_per_second_per_gpu']:.5g} tok/s a GPU",
        )
        for row in sweep[:1]
    ]
    how = f"{local} of {moe.experts} routed experts, all else whole" if moe else "all of them"
    figures.append(Figure("weights on a GPU", weights, "B", "formula", "config.json", how))
    capacity = machine.need("capacity", "users")
    how = f"({human(capacity, 'B')} - {human(keep, 'B')} - {human(weights, 'B')}) / {human(one_user, 'B')}"
    figures.append(Figure("users that fit", fit, "", "bound", source, how))
    figures += _ridges(machine, linears) + _beside()
    notes = list(shape.notes)
    if capacity - keep < weights:
        notes.append(
            f"the weights ({human(weights, 'B')}) do not fit: no users; more GPUs (--ep) hold fewer experts"
        )
    notes.append(
        "bounds: no machine is faster under these assumptions; measured kernels reach a part of them"
    )
    if moe is not None and phase == "decode" and ep == 1:
        notes.append("--ep 1: all experts on one GPU, nothing is sent")
    inputs = {"config": shape.name, "hardware": machine.name, "batch": batches, "context": context, "ep": ep}
    inputs |= {"redundant": redundant, "phase": phase, "linears": linears, "cache": cache, "keep": keep}
    inputs |= {"dispatch": dispatch, "combine": combine, "efficiency": share}
    columns = ("operation", "flop", "bytes", "seconds", "bound_by", "share")
    rows = [{key: row[key] for key in columns} for row in rows]
    data = {
        "sweep": sweep,
        "by_batch": {str(b): [vars(o) for o in found] for b, found in lists.items()},
        "memory": machine.need("memory", "roofline"),
        "peaks": {k: getattr(machine, k) for k in WIDTHS if getattr(machine, k) is not None},
        "linears": linears,
    }
    return Answer("roofline", inputs, figures, columns, rows, notes, data, ROOFLINE_PLOTS)


def stages_of(
    config: object,
    hardware: str | Hardware = "h800",
    *,
    batch: int = 128,
    ep: int = 1,
    redundant: int = 0,
    changes: Sequence[str] = (),
) -> list[tuple[str, float]]:
    """Stages of a decode layer for `overlap`, in us: attention, dispatch, experts, combine, by their bounds.

    Raises
    ------
    ValueError
        As for `roofline`; experts on one GPU, which send nothing.
    """
    if ep < 2:
        raise ValueError(f"ep: found {ep}, expected at least 2 GPUs, between which experts are sent for")
    answer = roofline(config, hardware, batch=[batch], ep=ep, redundant=redundant, changes=changes)
    found = {"attention": 0.0, "dispatch": 0.0, "experts": 0.0, "combine": 0.0}
    mlp = ("router", "shared", "routed", "dense")
    for row in answer.rows:
        name = row["operation"]
        if name != "head":
            key = name if name in found else "experts" if name in mlp else "attention"
            found[key] += row["seconds"] * 1e6
    return [("n" if name in ("dispatch", "combine") else "c", time) for name, time in found.items()]


def _ridges(machine: Hardware, linears: str) -> list[Figure]:
    memory = machine.need("memory", "roofline")
    ridge = machine.need("bf16", "core") / memory
    pairs = switch_pairs(machine, linears)
    how = f"{human(machine.need('bf16', 'core'), 'FLOP/s')} / {human(memory, 'B/s')}"
    return [
        Figure("ridge, BF16", ridge, "FLOP/B", "formula", machine.source, how),
        Figure("pairs an expert where compute binds", pairs, "", "bound", machine.source, "weights alone"),
    ]


def _beside() -> list[Figure]:
    row = measured("flashmla")
    text = f"{human(row['memory'], 'B/s')}, {human(row['compute'], 'FLOP/s')}"
    how = "90% of memory and 67% of the peak of h800"
    core = Figure("FlashMLA on H800, reached", text, "", "measured elsewhere", row["source"], how)
    how = "bound / measured of MLA decode, n >= 4096, batch >= 16"
    source = measured("h800_mla")["source"]
    return [core, Figure("of the bound reached", "0.45 to 0.69", "", "measured elsewhere", source, how)]
