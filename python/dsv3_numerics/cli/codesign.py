"""The verb ``codesign``: the paper's arithmetic for any model and any machine, one command a part."""

from __future__ import annotations

import click

from .codesign_clusters import (
    eplb_command,
    network_command,
    overlap_command,
    paper_command,
    pipeline_command,
    routing_command,
)
from .codesign_models import (
    ep_command,
    flops_command,
    kv_command,
    mtp_command,
    roofline_command,
    tradeoff_command,
)
from .console import make_console

PARTS: tuple[tuple[str, str, str], ...] = (
    ("kv", "What does the cache cost, in which format? How many tokens fit?", "section 2.1.2, table 1"),
    ("flops", "How many parameters, how much work a token?", "section 2.2, table 2"),
    ("ep", "How long do dispatch and combine take? What TPOT do they allow?", "section 2.3.2"),
    ("roofline", "What bounds each operation of a layer? How many users fit?", "sections 2.3, 4"),
    ("mtp", "Do drafts pay, where time is fixed and where it is bytes?", "section 2.3.3"),
    ("routing", "How many nodes does a token go to, with and without a limit?", "section 4.3"),
    ("eplb", "How even do replicas of experts make the GPUs?", "deepseek-ai/EPLB"),
    ("pipeline", "Which schedule leaves which bubble?", "report, section 3.2.1"),
    ("overlap", "What do two micro-batches hide of each other?", "section 2.3.1"),
    ("network", "What do topologies cost? How does routing load a plane?", "section 5, table 3"),
    ("paper", "Which numbers of the paper can be recomputed?", "all of it"),
    ("tradeoff", "What does a smaller format save, and cost in error?", "sections 2.3.2, 3.2"),
)


class Parts(click.Group):
    """Lists parts in their order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names as the table of parts has them."""
        return [name for name, *_ in PARTS]


@click.group("codesign", cls=Parts, invoke_without_command=True)
@click.pass_context
def codesign_command(context: click.Context) -> None:
    """Do the paper's arithmetic for any model and any machine.

    Every figure carries a tag (formula, bound, simulated, fitted, published, measured elsewhere), its formula
    with numbers put in, and its source. A bound is no prediction: measurements stand beside it where they are
    public.

    CONFIG is a preset (deepseek_v3, kimi_k2, qwen2.5_72b, ...), a config.json, or its folder.

    \b
    Examples:
      dsv3-numerics codesign                                the table of parts
      dsv3-numerics codesign kv deepseek_v32 --tokens 131072
      dsv3-numerics codesign ep kimi_k2 --hardware h800 --combine logfmt10
      dsv3-numerics codesign roofline kimi_k2 --ep 16 --batch 1:256 --out roofline
      dsv3-numerics codesign paper --strict
      dsv3-numerics codesign tradeoff --json
    """
    if context.invoked_subcommand is None:
        from ..report.terminal import rich_table

        make_console().print(rich_table([("part", {"no_wrap": True}), "question", "source"], PARTS))


for part in (
    kv_command,
    flops_command,
    ep_command,
    roofline_command,
    mtp_command,
    routing_command,
    eplb_command,
    pipeline_command,
    overlap_command,
    network_command,
    paper_command,
    tradeoff_command,
):
    codesign_command.add_command(part)
