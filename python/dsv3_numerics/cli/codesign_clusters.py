"""Parts of ``codesign`` on many GPUs, and the paper: routing, eplb, pipeline, overlap, network, paper."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .codesign_options import finish, numbers, on_machine, outputs
from .options import PATH


@click.command("routing")
@click.argument("config", metavar="[CONFIG]", required=False)
@click.option("--nodes", type=int, default=8, show_default=True, help="Nodes that share the experts.")
@click.option("--limit", type=int, metavar="M", help="Nodes that a token may go to: simulated.")
@click.option("--uniform", is_flag=True, help="Only the exact figures of uniform routing.")
@click.option("--routing", "trace", type=PATH, metavar="FILE.npy", help="A trace.")
@click.option("--model", type=PATH, metavar="FOLDER", help="Run it, and see its gates.")
@click.option("--demo", is_flag=True, help="Run the trained model of the package.")
@click.option("--gpus", type=int, default=8, show_default=True, help="GPUs a node.")
@click.option("--tokens", type=int, default=20_000, show_default=True, help="Tokens drawn (at most 512 run).")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@outputs
def routing_command(
    config: str | None,
    uniform: bool,
    limit: int | None,
    trace: Path | None,
    model: Path | None,
    demo: bool,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Nodes and GPUs of a token's experts.

    \b
    Examples:
      dsv3-numerics codesign routing deepseek_v3 --limit 4
      dsv3-numerics codesign routing --model ./tiny-v3 --nodes 6
    """
    from ..codesign import chosen_experts, open_model, read_trace, routing

    if sum((uniform, trace is not None, model is not None, demo)) > 1:
        raise click.UsageError("give one of --uniform, --routing, --model, --demo")
    found = read_trace(trace) if trace is not None else None
    if model is not None or demo:
        opened, ids, _ = open_model(model, tokens=min(options["tokens"], 512), seed=options["seed"])
        found = chosen_experts(opened, ids)
        config = config or _content(opened)
    if config is None:
        raise click.UsageError("give CONFIG, --model or --demo")
    finish(routing(config, limit=None if uniform else limit, trace=found, **options), as_json, out)


def _content(model: Any) -> Any:
    """Tell the config of a model, as a published one."""
    return {"model_type": "deepseek_v3", **model.config.to_dict()}


@click.command("eplb")
@click.option("--load", type=PATH, metavar="FILE", help="CSV, npy or JSON.")
@click.option("--model", type=PATH, metavar="FOLDER", help="Run it, and count.")
@click.option("--demo", is_flag=True, help="Run the trained model of the package.")
@click.option("--tokens", type=int, default=512, show_default=True, help="Tokens that run.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--replicas", type=int, required=True, help="Slots for experts, on all GPUs.")
@click.option("--groups", type=int, default=1, show_default=True, help="Groups of experts.")
@click.option("--nodes", type=int, default=1, show_default=True)
@click.option("--gpus", type=int, default=8, show_default=True, help="GPUs in all.")
@outputs
def eplb_command(
    load: Path | None,
    model: Path | None,
    demo: bool,
    tokens: int,
    seed: int,
    as_json: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Replicas of experts, and how even GPUs become.

    \b
    Examples:
      dsv3-numerics codesign eplb --load loads.csv --replicas 16 --groups 4 --nodes 2 --gpus 8
      dsv3-numerics codesign eplb --model ./tiny-v3 --replicas 32 --gpus 4
    """
    from ..codesign import eplb, expert_loads, open_model, read_load

    if sum((load is not None, model is not None, demo)) != 1:
        raise click.UsageError("give one of --load, --model, --demo")
    if load is not None:
        counts = read_load(load)
    else:
        opened, ids, _ = open_model(model, tokens=tokens, seed=seed)
        counts = expert_loads(opened, ids)
    finish(eplb(counts, **options), as_json, out)


@click.command("pipeline")
@click.option("--stages", type=int, required=True, metavar="PP")
@click.option("--chunks", type=int, required=True, metavar="M", help="Micro-batches a step.")
@click.option("--forward", type=float, required=True, metavar="F", help="Time of a chunk on a stage.")
@click.option("--backward", type=float, required=True, metavar="B", help="Of the full backward.")
@click.option("--weights", "weight", type=float, required=True, metavar="W", help="Of its weight part.")
@click.option("--both", type=float, required=True, metavar="F&B", help="Of a forward and a backward at once.")
@click.option("--hop", type=float, default=0.0, show_default=True, help="Of a transfer between ranks.")
@click.option("--schedule", "schedules", multiple=True, metavar="NAME", help="Repeatable  [default: all]")
@outputs
def pipeline_command(schedules: Sequence[str], as_json: bool, out: Path | None, **options: Any) -> None:
    """Bubbles of 1F1B, ZB1P, DualPipe and DualPipeV.

    \b
    Example:
      dsv3-numerics codesign pipeline --stages 8 --chunks 20 --forward 1 --backward 2 \\
          --weights 1 --both 2.5 --out pipeline
    """
    from ..codesign import pipeline
    from ..codesign.orders import SCHEDULES

    finish(pipeline(**options, schedules=schedules or tuple(SCHEDULES)), as_json, out)


@click.command("overlap")
@click.option("--stages", metavar="c:TIME,n:TIME", help="Stages of a layer: compute and network, in turn.")
@click.option("--from", "config", metavar="CONFIG", help="Four stages from the roofline of a model instead.")
@on_machine
@click.option("--ep", type=int, default=1, show_default=True, help="GPUs that share the experts, for --from.")
@click.option("--redundant", type=int, default=0, show_default=True, help="Further copies, for --from.")
@click.option("--batch", type=int, default=128, show_default=True, help="Users a micro-batch, for --from.")
@click.option("--layers", type=int, metavar="L", help="[default: 61, or the model's]")
@click.option("--micro", type=int, default=2, show_default=True, help="Micro-batches.")
@outputs
def overlap_command(
    stages: str | None,
    config: str | None,
    hardware: str,
    changes: Sequence[str],
    ep: int,
    redundant: int,
    batch: int,
    layers: int | None,
    micro: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Micro-batches that hide each other's transfers.

    \b
    Examples:
      dsv3-numerics codesign overlap --stages c:120,n:50,c:100,n:90 --layers 20
      dsv3-numerics codesign overlap --from deepseek_v3 --ep 144 --redundant 32
    """
    from ..codesign import overlap, parse_stages, read_shape, stages_of

    if (stages is None) == (config is None):
        raise click.UsageError("give --stages or --from, and not both")
    if config is not None:
        shape = read_shape(config)
        found = stages_of(shape, hardware, batch=batch, ep=ep, redundant=redundant, changes=changes)
        layers = len(shape.layers) if layers is None else layers
    else:
        found = parse_stages(stages or "")
    finish(overlap(found, 61 if layers is None else layers, micro), as_json, out)


@click.group("network")
def network_command() -> None:
    """Topologies, their cost, and the load of links."""


@network_command.command("counts")
@click.option("--ports", type=int, default=64, show_default=True, help="Of a switch.")
@click.option("--planes", type=int, default=8, show_default=True)
@outputs
def counts_command(ports: int, planes: int, as_json: bool, out: Path | None) -> None:
    """Endpoints, switches and links of five topologies.

    \b
    Example:
      dsv3-numerics codesign network counts --ports 128
    """
    from ..codesign import network_counts

    finish(network_counts(ports, planes), as_json, out)


@network_command.command("cost")
@click.option("--ports", type=int, default=64, show_default=True, help="Of a switch.")
@click.option("--planes", type=int, default=8, show_default=True)
@click.option("--prices", metavar="SWITCH,LINK", help="Dollars  [default: fitted to table 3]")
@outputs
def cost_command(ports: int, planes: int, prices: str | None, as_json: bool, out: Path | None) -> None:
    """Dollars of five topologies, by fitted prices or yours.

    \b
    Example:
      dsv3-numerics codesign network cost --prices 50000,400
    """
    from ..codesign import network_counts

    given = tuple(numbers(prices, "prices")) if prices is not None else None
    finish(network_counts(ports, planes, prices=given), as_json, out)


@network_command.command("alltoall")
@click.option("--leaves", type=int, default=4, show_default=True)
@click.option("--hosts", type=int, default=4, show_default=True, help="Of a leaf.")
@click.option("--spines", type=int, default=4, show_default=True)
@click.option("--routing", metavar="adaptive|static|ecmp", help="[default: all three]")
@click.option("--pattern", default="all", show_default=True, metavar="all|shift")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the hashes of ECMP.")
@click.option("--dead", type=int, default=0, show_default=True, help="Spines that carry nothing.")
@click.option("--planes", type=int, default=8, show_default=True)
@click.option("--lost", type=int, default=0, show_default=True, help="Planes whose traffic moves to others.")
@click.option("--fair", is_flag=True, help="Also max-min fair rates, event by event.")
@outputs
def alltoall_command(as_json: bool, out: Path | None, **options: Any) -> None:
    """Load of the heaviest link of a plane, by routing.

    \b
    Example:
      dsv3-numerics codesign network alltoall --pattern shift --seed 1 --fair
    """
    from ..codesign import network_alltoall

    finish(network_alltoall(**options), as_json, out)


@click.command("paper")
@click.argument("section", required=False)
@click.option("--strict", is_flag=True, help="Exit 1 if a verdict is not the stored one.")
@outputs
def paper_command(section: str | None, strict: bool, as_json: bool, out: Path | None) -> None:
    """Every number of the paper beside ours.

    OK: recomputed. DIFF: it does not come out. READ: measured there, nothing to recompute. DERIVED: follows,
    but is not printed.

    \b
    Examples:
      dsv3-numerics codesign paper
      dsv3-numerics codesign paper "table 2"
    """
    from ..codesign import paper

    answer = paper(section)
    finish(answer, as_json, out)
    if strict and answer.data["changed"]:
        sys.exit(1)
