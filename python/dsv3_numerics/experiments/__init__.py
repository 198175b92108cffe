"""Experiments: what the papers claim about number formats and tensor cores, measured again by one command.

Each experiment is a row of `EXPERIMENTS`: jobs that measure, then tables, remarks, plots and published
figures made from the rows that they returned. The parts: `experiment` (what that is), `running` (the loop),
`files` (what is written), `draws` (synthetic activations), `wire` (what tensors are sent as), `products`
(errors of matrix products), `network` (a small one, and its training), `charts`; and the experiments. Not
here: sweeps over the tensors of a checkpoint, which are `dsv3_numerics.study`.

Examples
--------
>>> from dsv3_numerics import experiments
>>> [e.name for e in experiments.EXPERIMENTS][0]
'logfmt'
"""

from .experiment import Experiment, Job, Known, Result, Row, Setting, Shown
from .running import Progress, fill, prepare, run
from .table import EXPERIMENTS, find

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Job",
    "Known",
    "Progress",
    "Result",
    "Row",
    "Setting",
    "Shown",
    "fill",
    "find",
    "prepare",
    "run",
]
