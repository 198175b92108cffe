"""Experiments: what the papers claim about number formats and tensor cores, measured again by one command.

Each experiment is a row of `EXPERIMENTS`: jobs that measure, then tables, findings, plots and published
figures made from the rows that they returned. The parts: `experiment` (what that is), `running` (the loop),
`saved` and `files` (what is written), `draws` (synthetic activations), `wire` (formats that tensors are sent
in), `products` (errors of matrix products), `network` (a small one, and its training), `units` (how
accumulators are shown); and the experiments. Not here: sweeps over the tensors of a checkpoint, which are
`dsv3_numerics.study`.

Examples
--------
>>> from dsv3_numerics import experiments
>>> [e.name for e in experiments.EXPERIMENTS][0]
'logfmt'
"""

from .experiment import Experiment, ExperimentData, Job, PublishedFigure, Row, RunConfig
from .running import execute as execute
from .running import prepare as prepare
from .running import run
from .saved import Result
from .table import EXPERIMENTS, find

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "ExperimentData",
    "Job",
    "PublishedFigure",
    "Result",
    "Row",
    "RunConfig",
    "find",
    "run",
]
