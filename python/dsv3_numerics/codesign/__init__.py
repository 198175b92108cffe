"""The paper's arithmetic for any model and any machine: caches, FLOPs, time, schedules, networks, trade-offs.

Each part is a function that gives an `Answer` (figures with tag, formula and source; rows, notes, plots):
``kv, flops, ep, roofline, mtp, routing, eplb, pipeline, overlap, network_counts, network_alltoall, paper,
tradeoff``. Beside them stand the formulas that they are made of. ``families`` and ``reader`` make a `Shape`
from a ``config.json``; ``data/`` holds machines, measurements, models and the paper's numbers. Not here: a
forward (`dsv3_numerics.model`), errors of formats (`experiments`, `sensitivity`), which `tradeoff` reads.
"""

from .drafts import accepted_share, mtp, mtp_speed, tokens_a_step
from .families import FAMILIES
from .figures import Answer, Figure
from .flows import Plane, fair_time, heaviest, link_loads, mean_fullest
from .hardware import Hardware, machines, read_hardware
from .network import network_alltoall, network_counts
from .overlaps import overlap, parse_stages
from .pipelines import pipeline, timed
from .published import paper
from .reader import presets, read_shape
from .replicas import Balance, balance, eplb, read_load
from .rooflines import roofline, stages_of
from .routes import expected_nodes, node_distribution, read_trace, routing
from .schedule import Times
from .shape import Shape
from .sizes import kv, kv_bytes
from .traces import chosen_experts, expert_loads, open_model
from .tradeoffs import tradeoff
from .wire import ep, ep_step, tpot
from .work import decode_flop, flops, prefill_flop, train_flop

__all__ = [
    "FAMILIES",
    "Answer",
    "Balance",
    "Figure",
    "Hardware",
    "Plane",
    "Shape",
    "Times",
    "accepted_share",
    "balance",
    "chosen_experts",
    "decode_flop",
    "ep",
    "ep_step",
    "eplb",
    "expected_nodes",
    "expert_loads",
    "fair_time",
    "flops",
    "heaviest",
    "kv",
    "kv_bytes",
    "link_loads",
    "machines",
    "mean_fullest",
    "mtp",
    "mtp_speed",
    "network_alltoall",
    "network_counts",
    "node_distribution",
    "open_model",
    "overlap",
    "paper",
    "parse_stages",
    "pipeline",
    "prefill_flop",
    "presets",
    "read_hardware",
    "read_load",
    "read_shape",
    "read_trace",
    "roofline",
    "routing",
    "stages_of",
    "timed",
    "tokens_a_step",
    "tpot",
    "tradeoff",
    "train_flop",
]
